"""K-1: two normal distributions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from scipy.stats import norm

from privacy_gate.datamodel import AttackResult, Bools, Floats, Scope, ThreatModel
from privacy_gate.measure import View, measure
from privacy_gate.selftest import (
    ALPHA,
    Promise,
    Rng,
    answer_key,
    attack,
    halves,
    near,
    observations,
    rarely,
    result,
    world,
)
from privacy_gate.thresholds import fit

_SHIFT_POOL = 10_000  # members and non-members each, whose scores set the shadow thresholds


def gaussian(rng: Rng, n: int, shift: float) -> tuple[Floats, Bools]:
    """Scores [2 n] and membership."""
    member = halves(n)
    return rng.normal(size=2 * n) + shift * member, member


@world(id="K-01", quick=120)
def gaussian_shift(seed: int, replicates: int) -> Iterator[Promise]:
    """K-1: member scores N(d, 1), others N(0, 1); accuracy, AUC and the whole ROC curve have closed forms."""
    n, fpr = 1000, 0.01
    for shift in (0.5, 2.0):
        name = f"K-1: normal scores, members shifted by {shift:g}"
        accuracy, auc, tpr = (float(norm.cdf(x)) for x in (shift / 2, shift / np.sqrt(2), shift - norm.isf(fpr)))
        results: list[AttackResult] = []
        achieved: list[float] = []
        for r in range(replicates):
            rng = np.random.default_rng([seed, 1, int(10 * shift), r])
            scores, member = gaussian(rng, n, shift)
            pooled, pooled_member = gaussian(rng, _SHIFT_POOL, shift)
            audit, pool = answer_key(member), answer_key(pooled_member)
            transferred = replace(attack(), threat_models=(ThreatModel.SHADOW,))
            answered = observations({"simulated": pooled}, pool).reveal(pooled_member, np.ones_like(pooled_member))
            view = View(observations({"simulated": scores}, audit), answered)
            results.append(result(measure(transferred, view, audit, r)))
            # A threshold from a finite pool is not quite the best one; its true accuracy is known all the same.
            t = float(fit(pooled, pooled_member, pool.labels, 1, Scope.GLOBAL).values[0])
            achieved.append(float(norm.cdf(t) + norm.sf(t - shift)) / 2)
        # The (k+1)-th highest of n non-members has the mean rank (k+1)/(n+1), a little above k/n.
        bias = float(norm.cdf(shift - norm.isf((int(fpr * n) + 1) / (n + 1)))) - tpr
        loss = accuracy - float(np.mean(achieved))
        accuracies, tprs = [r.accuracy for r in results], [r.tpr_at_fpr[fpr] for r in results]
        id, aucs = f"K-1.{shift:g}", [_auc(r) for r in results]
        yield near(f"{id}.accuracy", name, f"accuracy is {accuracy:.5f}", [a.value for a in accuracies], accuracy, loss)
        yield near(f"{id}.auc", name, f"AUC is {auc:.5f}", aucs, auc, 0.0)
        yield near(f"{id}.tpr", name, f"TPR at 1 % FPR is {tpr:.5f}", [t.value for t in tprs], tpr, bias)
        for what, measured, truths in (("accuracy", accuracies, achieved), ("TPR", tprs, [tpr] * replicates)):
            pairs = list(zip(measured, truths, strict=True))
            too_low = [m.upper(ALPHA) < truth for m, truth in pairs]
            too_high = [m.lower(ALPHA) > truth for m, truth in pairs]
            yield rarely(f"{id}.{what.lower()}.upper", name, f"the upper bound of the {what} is wrong", too_low)
            yield rarely(f"{id}.{what.lower()}.lower", name, f"the lower bound of the {what} is wrong", too_high)


def _auc(found: AttackResult) -> float:
    assert found.auc is not None
    return found.auc.value
