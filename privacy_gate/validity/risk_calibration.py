"""A risk score of 0.8 must mean that four of five such records were members."""

from __future__ import annotations

import math

import numpy as np

from privacy_gate.datamodel import Bools, Finding, Floats, Ints, Invalidates
from privacy_gate.validity import Circumstances, check
from privacy_gate.validity.bounds import Effect, corrected_alpha, limit

LIMIT = 0.1
BINS = 10
DRAWS = 20_000
_STREAM = 32  # keeps this draw apart from every other use of the run's seed


@check(id="risk_calibration", title="risk scores mean what they say", invalidates=Invalidates.PASS)
def risk_calibration(c: Circumstances) -> Finding:
    """Root mean square calibration error of the judged scores at prior one half, bins weighted by their records.

    Chance alone makes an error; it is taken off (as in the debiased ECE of Kumar et al., NeurIPS 2019), and the bounds
    come from a bootstrap of persons. The expected calibration error is never larger, so one bound holds for both.
    """
    name, takes = "risk_calibration", Invalidates.PASS
    if c.risk is None:
        return Finding(name, "not_applicable", takes, None, "no risk scores are judged")
    member = c.audit.member
    sides = [len(np.unique(c.audit.persons[side])) for side in (member, ~member)]
    if min(sides) < 2 or np.isnan(c.risk.scores).any():
        return Finding(name, "warn", takes, None, "the scores cannot be compared with what happened")
    bins = binned(c.risk.scores, member, c.audit.persons)
    low, high = bounds(bins, (corrected_alpha(c), 1 - c.alpha), c.seed)
    effect = Effect(math.sqrt(max(bins.squared_error, 0.0)), low, high)
    most = limit(c, name, LIMIT)
    status = effect.against(most)
    reason = (
        f"calibration error {effect.value:.3f} (root mean square; expected calibration error {bins.ece:.3f}) "
        f"of the {c.risk.estimator} risk score, at most {effect.high:.3f}"
    )
    if status == "fail":
        reason += f"; proven to be above {most:g}: read the scores as a ranking only, and give more records"
    elif status == "warn":
        reason += f"; more records would show whether it is within {most:g}"
    return Finding(name, status, takes, effect.value, reason)


class Binned:
    """Sums of (score - membership) per bin of equal width, both sides weighted alike, and how they vary by person.

    mass        [B] weight of the bin's records; sums to 1
    gap         [B] mass times (mean score - member share)
    covariance  [B, B] of `gap`, independent between persons only
    """

    def __init__(self, mass: Floats, gap: Floats, covariance: Floats) -> None:
        self.mass, self.gap, self.covariance = mass, gap, covariance

    @property
    def noise(self) -> float:
        """What chance adds to the squared error on average."""
        return float((np.diag(self.covariance) / self.mass).sum())

    @property
    def squared_error(self) -> float:
        """Mean squared calibration error, without what chance adds; may be negative."""
        return float((self.gap**2 / self.mass).sum()) - self.noise

    @property
    def ece(self) -> float:
        """Expected calibration error, the variance of each bin taken off its square."""
        return float(np.sqrt(np.maximum(self.gap**2 - np.diag(self.covariance), 0.0)).sum())


def binned(scores: Floats, member: Bools, persons: Ints) -> Binned:
    """Calibration per bin of scores [R] in [0, 1]; empty bins are left out."""
    places = np.minimum((scores * BINS).astype(np.int64), BINS - 1)
    used, places = np.unique(places, return_inverse=True)
    weight = np.where(member, 0.5 / member.sum(), 0.5 / (~member).sum())
    mass: Floats = np.bincount(places, weights=weight).astype(np.float64)
    gap: Floats = np.bincount(places, weights=weight * (scores - member)).astype(np.float64)
    covariance = np.zeros((len(used), len(used)))
    for side in (member, ~member):
        _, who = np.unique(persons[side], return_inverse=True)
        count = int(who.max()) + 1
        sums = np.zeros((count, len(used)))
        np.add.at(sums, (who, places[side]), (weight * (scores - member))[side])
        # The side's size is given: a person's part varies around the mean of as many records.
        sums -= np.bincount(who)[:, None] / side.sum() * sums.sum(axis=0)
        covariance += count / (count - 1) * sums.T @ sums
    return Binned(mass, gap, covariance)


def bounds(bins: Binned, levels: tuple[float, ...], seed: int) -> list[float]:
    """Quantiles of the root of the squared error over a multiplier bootstrap of persons with normal multipliers.

    Given the data, such a bootstrap is exactly normal with the clustered covariance, so it is drawn from that. A draw
    carries the noise twice, the data's own and the draw's.
    """
    rng = np.random.default_rng([_STREAM, seed])
    values, vectors = np.linalg.eigh(bins.covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    drawn = bins.gap + rng.normal(size=(DRAWS, len(bins.gap))) @ root.T
    errors = (drawn**2 / bins.mass).sum(axis=1) - 2 * bins.noise
    return [math.sqrt(max(float(q), 0.0)) for q in np.quantile(errors, levels)]
