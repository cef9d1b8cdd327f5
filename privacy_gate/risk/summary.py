"""From scores per record to what the report shows and the policy judges: counts of persons, and calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from privacy_gate import metrics
from privacy_gate.datamodel import Audit, Bools, Floats, HighRisk, Ints, RiskScores
from privacy_gate.errors import NotEvaluable
from privacy_gate.risk.ranking import Top, attributable

CUTS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
PRIORS = (0.5, 0.1, 0.01)
_DRAW_STREAM, _BOOTSTRAP_STREAM = 3, 14  # keep these draws apart from every other use of the run's seed

BINS = 10  # for calibration
CERTAIN = 1e-3  # scores are clipped to [CERTAIN, 1 - CERTAIN] in the log loss: a score of 0 or 1 would make it infinite
REPLICATES = 200  # of the bootstrap
_CHUNK = 2_000_000  # draws held at a time


def summarise(
    estimator_id: str,
    scores: Floats,
    audit: Audit,
    seed: int = 0,
    interval: tuple[Floats, Floats] | None = None,
    rankings: Sequence[Floats] = (),
) -> RiskScores:
    """What an estimator's scores [R] come to, given the answer key. Raises NotEvaluable without both kinds of records.

    The upper bounds of the attributable shares count whom the scores may have missed at the top of `rankings`, [R]
    each; without any they hold for those alone whose score reaches the cut.

    A person is high-risk when one of its records, drawn at random, reaches the cut: with "any of its records", persons
    with more records would be flagged more often, and the excess over non-members would measure that. Calibration
    weighs members and non-members alike, whatever their numbers, because scores are stated at prior one half.
    """
    member = audit.member
    if member.all() or not member.any():
        raise NotEvaluable("risk: records of one kind only", "members and non-members are both needed")
    drawn = _one_record_each(audit, seed)
    wide, even = Bins.of(scores, audit, _equal_width(scores)), Bins.of(scores, audit, equal_mass(scores, member))
    return RiskScores(
        estimator=estimator_id,
        scores=scores,
        high=tuple(_high_risk(scores, audit, drawn, cut, interval, rankings) for cut in CUTS),
        calibration=_calibration(scores, member, wide, even),
        reliability=wide.reliability(),
        interval=interval,
        errors={
            "rmse_weighted": squared_error(wide, seed),
            "ece_debiased": squared_error(even, seed, debiased=True),
        },
    )


# --- high risk ------------------------------------------------------------------------------------------------------


def _high_risk(
    scores: Floats,
    audit: Audit,
    drawn: Bools,
    cut: float,
    interval: tuple[Floats, Floats] | None,
    rankings: Sequence[Floats],
) -> HighRisk:
    reached = scores >= cut
    members, others = drawn & audit.member, drawn & ~audit.member
    hits_in, in_total = int((members & reached).sum()), int(members.sum())
    hits_out, out_total = int((others & reached).sum()), int(others.sum())
    counts = hits_in, in_total, hits_out, out_total
    tops = tuple(Top.ranked(ranking[drawn], audit.member[drawn], cut) for ranking in rankings)
    return HighRisk(
        score=cut,
        members=hits_in,
        nonmembers=hits_out,
        attributable=attributable(metrics.share_excess(*counts), tops),
        precision=metrics.precision(*counts, prior=0.5),
        precision_at={prior: metrics.precision(*counts, prior=prior) for prior in PRIORS},
        sure=None if interval is None else int((members & (interval[0] >= cut)).sum()),
    )


def recall(high: HighRisk, member_persons: int) -> Share:
    """Share of all member persons that are at or above the score: the recall of Song & Mittal 2021, table 6."""
    return Share(high.members, member_persons)


@dataclass(frozen=True, slots=True)
class Share:
    """A binomial share in [0, 1] of independent units, bounds by Clopper and Pearson."""

    hits: int
    n: int

    @property
    def value(self) -> float:
        """hits / n."""
        return self.hits / self.n

    def lower(self, alpha: float) -> float:
        """One-sided lower bound at confidence 1 - alpha."""
        return metrics.clopper_pearson_lower(self.hits, self.n, alpha)

    def upper(self, alpha: float) -> float:
        """One-sided upper bound at confidence 1 - alpha."""
        return metrics.clopper_pearson_upper(self.hits, self.n, alpha)


def _one_record_each(audit: Audit, seed: int) -> Bools:
    """[R] one random record of each person and side."""
    order = np.random.default_rng([_DRAW_STREAM, seed]).permutation(len(audit.member))
    _, first = np.unique(audit.persons[order] * 2 + audit.member[order], return_index=True)
    drawn = np.zeros(len(order), dtype=np.bool_)
    drawn[order[first]] = True
    return drawn


# --- calibration ----------------------------------------------------------------------------------------------------


def _equal_width(scores: Floats) -> Ints:
    """[R] the bin of each score, of BINS bins of equal width."""
    return np.minimum((scores * BINS).astype(np.int64), BINS - 1)


def equal_mass(scores: Floats, member: Bools) -> Ints:
    """[R] the bin of each score, of at most BINS bins of equal weight at prior one half; equal scores stay together."""
    order = np.argsort(scores, kind="stable")
    weight = np.where(member, 0.5 / member.sum(), 0.5 / (~member).sum())[order]
    # The slack keeps an edge in its place when the sum of weights misses a tenth by rounding.
    places = np.searchsorted(np.cumsum(weight), np.arange(1, BINS) / BINS + 1e-9, side="left")
    return np.searchsorted(np.unique(scores[order][places]), scores, side="right")


@dataclass(frozen=True, slots=True, eq=False)
class Bins:
    """Sums per person and bin, from which every calibration error follows for any draw of persons.

    counts  [P, 2, B] records of the person: members, non-members
    totals  [P, 2, B] sums of their scores
    """

    counts: Floats
    totals: Floats

    @classmethod
    def of(cls, scores: Floats, audit: Audit, places: Ints) -> Bins:
        """From scores [R] and their bins [R]; bins without records are left out."""
        _, bins = np.unique(places, return_inverse=True)
        _, persons = np.unique(audit.persons, return_inverse=True)
        shape = int(persons.max()) + 1, 2, int(bins.max()) + 1
        cells = np.ravel_multi_index((persons, np.where(audit.member, 0, 1), bins), shape)
        size = math.prod(shape)
        counts = np.asarray(np.bincount(cells, minlength=size), dtype=np.float64)
        totals = np.asarray(np.bincount(cells, weights=scores, minlength=size), dtype=np.float64)
        return cls(counts.reshape(shape), totals.reshape(shape))

    def sums(self) -> tuple[Floats, Floats]:
        """[2, B] records and sums of scores of all persons."""
        return self.counts.sum(axis=0), self.totals.sum(axis=0)

    def reliability(self) -> tuple[tuple[float, float, int], ...]:
        """Per bin: mean score, member share at prior one half, records."""
        counts, totals = self.sums()
        mass, said, share = _weighed(counts, totals)
        records = counts.sum(axis=0)
        return tuple(
            (float(a / m), float(b / m), int(n)) for m, a, b, n in zip(mass, said, share, records, strict=True)
        )

    def gaps(self) -> tuple[Floats, Floats]:
        """[B] weight of each bin (sums to 1), and mean score minus member share in it."""
        mass, said, share = _weighed(*self.sums())
        return mass, (said - share) / mass

    def noise(self) -> Floats:
        """[B] sampling variance of the gaps, by person."""
        counts, _ = self.sums()
        sizes = counts.sum(axis=1, keepdims=True)
        mass, gaps = self.gaps()
        # A record adds weight (score - member - gap): of the member rows score - 1 - gap, of the others score - gap.
        target = np.array([1.0, 0.0])[:, None] + gaps
        each = (self.totals - target * self.counts) * (0.5 / sizes)  # [P, 2, B]
        # Sides are drawn in fixed numbers of persons: what is common to a side does not vary.
        people = (self.counts.sum(axis=2) > 0).sum(axis=0)[:, None]
        fixed = (each.sum(axis=0) ** 2 / people).sum(axis=0)
        variance = (each.sum(axis=1) ** 2).sum(axis=0) - fixed
        n = float(people.min())
        return np.asarray(np.maximum(variance, 0.0) / mass**2 * n / max(n - 1.0, 1.0))


def _weighed(counts: Floats, totals: Floats) -> tuple[Floats, Floats, Floats]:
    """[..., B] weight of each bin, weighted sums of scores and of members; members and non-members weigh one half."""
    weight = 0.5 / np.maximum(counts.sum(axis=-1, keepdims=True), 1e-300)
    return (
        np.asarray((weight * counts).sum(axis=-2)),
        np.asarray((weight * totals).sum(axis=-2)),
        np.asarray((weight * counts)[..., 0, :]),
    )


def _calibration(scores: Floats, member: Bools, wide: Bins, even: Bins) -> Mapping[str, float]:
    """Errors of the scores; Murphy's parts over the bins of equal width, `uncertainty` being 1/4 at prior one half."""
    weight = np.where(member, 0.5 / member.sum(), 0.5 / (~member).sum())
    mass, gap = wide.gaps()
    share = np.array([share for _, share, _ in wide.reliability()])
    even_mass, even_gap = even.gaps()
    truth = np.where(member, np.clip(scores, CERTAIN, 1 - CERTAIN), 1 - np.clip(scores, CERTAIN, 1 - CERTAIN))
    squares = float((even_mass * (even_gap**2 - even.noise())).sum())
    return {
        "rmse": float(np.sqrt(np.mean(gap**2))),
        "rmse_weighted": float(np.sqrt((mass * gap**2).sum())),
        "ece": float((mass * np.abs(gap)).sum()),
        "ece_equal_mass": float((even_mass * np.abs(even_gap)).sum()),
        "ece_debiased": math.sqrt(max(squares, 0.0)),
        "brier": float((weight * (scores - member) ** 2).sum()),
        "log_loss": float(-(weight * np.log(truth)).sum()),
        "reliability": float((mass * gap**2).sum()),
        "resolution": float((mass * (share - 0.5) ** 2).sum()),
        "uncertainty": 0.25,
    }


# --- how sure -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SquaredError:
    """The root of a mean squared error in [0, 1], with bounds from a bootstrap over persons.

    Squares of noisy gaps are too large by the noise, and those of a bootstrap by as much again: that excess is taken
    off. The bounds are normal on the scale of squares, so that they exist at any level.
    """

    raw: float  # mean squared gap as seen
    excess: float  # by which the bootstrap's mean exceeds it
    deviation: float  # of the bootstrap's mean squared gaps
    debiased: bool  # whether `value` is without the excess

    @property
    def value(self) -> float:
        """The root mean squared gap."""
        return math.sqrt(max(self.raw - self.excess * self.debiased, 0.0))

    def lower(self, alpha: float) -> float:
        """One-sided lower bound at confidence 1 - alpha; never above the value."""
        return min(self.value, self._bound(float(ndtri(alpha))))

    def upper(self, alpha: float) -> float:
        """One-sided upper bound at confidence 1 - alpha; never below the value."""
        return max(self.value, self._bound(-float(ndtri(alpha))))

    def _bound(self, deviate: float) -> float:
        return math.sqrt(min(max(self.raw - self.excess + deviate * self.deviation, 0.0), 1.0))


def squared_error(bins: Bins, seed: int, *, debiased: bool = False) -> SquaredError:
    """Root mean squared gap over bins, its sampling error from REPLICATES draws of persons."""
    counts, totals = bins.sums()
    raw = float(_squares(counts, totals))
    persons, _, width = bins.counts.shape
    rng = np.random.default_rng([_BOOTSTRAP_STREAM, seed])
    table = np.concatenate([bins.counts, bins.totals], axis=1).reshape(persons, -1).astype(np.float32)
    drawn = []
    chunk = max(_CHUNK // persons, 1)
    for begin in range(0, REPLICATES, chunk):
        # Exponential weights (Rubin's Bayesian bootstrap) have the mean and variance of counts of draws, and are
        # much faster to make; the weights of bins divide by each side's total.
        times = rng.standard_exponential((min(chunk, REPLICATES - begin), persons), dtype=np.float32)
        sums = (times @ table).astype(np.float64).reshape(-1, 4, width)
        drawn.append(_squares(sums[:, :2], sums[:, 2:]))
    replicates = np.concatenate(drawn)
    return SquaredError(raw, float(replicates.mean()) - raw, float(replicates.std(ddof=1)), debiased)


def _squares(counts: Floats, totals: Floats) -> Floats:
    mass, said, share = _weighed(counts, totals)
    return np.asarray(((said - share) ** 2 / np.maximum(mass, 1e-300)).sum(axis=-1))
