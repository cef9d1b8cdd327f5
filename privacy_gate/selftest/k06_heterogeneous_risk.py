"""K-6: classes that differ, with the true risk of every record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import expit
from scipy.stats import norm

from privacy_gate.datamodel import WITHHELD, Audit, Bools, Floats, Ints, Observations
from privacy_gate.risk import CATALOG as ESTIMATORS
from privacy_gate.risk import RiskInput
from privacy_gate.selftest import Promise, Rng, no_more, world

CLASSES, PER_CLASS = 30, 33
BETTER = 0.6  # the error of `calibrated`, as a share of that of the published estimator


@dataclass(frozen=True, slots=True, eq=False)
class Classes:
    """Per class [K]: log modified entropy of members and of others is normal, with these means and deviations."""

    inside: Floats
    outside: Floats
    spread: Floats

    @classmethod
    def draw(cls, rng: Rng) -> Classes:
        """A world of classes."""
        return cls(
            rng.normal(-6.0, 1.5, CLASSES), rng.normal(-1.5, 1.2, CLASSES), np.exp(rng.normal(0.0, 0.3, CLASSES))
        )

    def records(self, rng: Rng, each: int) -> tuple[Floats, Bools, Ints]:
        """Log modified entropy, membership and class of `each` members and others per class; members first."""
        labels = np.tile(np.repeat(np.arange(CLASSES), each), 2)
        member = np.arange(2 * CLASSES * each) < CLASSES * each
        centre = np.where(member, self.inside[labels], self.outside[labels])
        width = np.where(member, 2.0, 2.5) * self.spread[labels]
        return np.asarray(rng.normal(centre, width)), np.asarray(member), labels

    def risk(self, u: Floats, labels: Ints) -> Floats:
        """[n] the true probability of membership, at prior one half."""
        s = self.spread[labels]
        odds = norm.logpdf(u, self.inside[labels], 2.0 * s) - norm.logpdf(u, self.outside[labels], 2.5 * s)
        return np.asarray(expit(odds))


def seen(u: Floats, labels: Ints, known: Bools | None) -> Observations:
    """Signals that agree with a log modified entropy; its residual is about that of a confidence of -u / 2."""
    entropy = np.exp(u)
    told = np.full(len(u), WITHHELD, dtype=np.int8) if known is None else known.astype(np.int8)
    signals = {"modified_entropy": entropy, "modified_entropy_1e30": entropy.copy(), "logit_confidence": -u / 2}
    return Observations(signals, labels, told, np.arange(len(u)), CLASSES)


@world(id="K-06", quick=10)
def heterogeneous_risk(seed: int, replicates: int) -> Iterator[Promise]:
    """K-6: 30 unlike classes of 33 shadow records a side; the risk of every record is known."""
    ratios, errors = [], []
    for r in range(replicates):
        rng = np.random.default_rng([seed, 21, r])
        classes = Classes.draw(rng)
        u, member, labels = classes.records(rng, PER_CLASS)
        shadow_u, shadow_member, shadow_labels = classes.records(rng, PER_CLASS)
        audit = Audit(member, labels, np.arange(len(u)), tuple(str(k) for k in range(CLASSES)))
        pool = seen(shadow_u, shadow_labels, shadow_member)
        given = RiskInput(seen(u, labels, None), pool, {"modified_entropy": -u}, audit, r)
        truth = classes.risk(u, labels)
        ours, published = (
            float(np.sqrt(np.mean((ESTIMATORS[id].estimate(given) - truth) ** 2))) for id in ("calibrated", "song2021")
        )
        ratios.append(ours / published)
        errors.append(ours)
    name = f"K-6: {CLASSES} unlike classes of {PER_CLASS} shadow records a side"
    said = f"error of the calibrated risk (RMSE {np.mean(errors):.3f}) as a share of the published estimator's"
    yield no_more("K-6.rmse", name, said, ratios, BETTER)
