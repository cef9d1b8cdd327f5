"""Scores in, numbers out: rates, ROC and AUC, each with one-sided confidence bounds; and what follows from bounds.

Every measurement here satisfies `datamodel.Measurement` for alpha in (0, 1), is monotone in alpha and stays within
its range. Units of independence are persons, never records.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import special

from privacy_gate.datamodel import Bools, Floats, Ints, Measurement
from privacy_gate.errors import EvaluationFailed, NotEvaluable

SMALLEST_P = 1e-15  # p-values are not resolved below it
MOST_RECORDS = 10_000_000  # sample-size answers stop here: more means "not with this kind of evidence"
FEWEST_FOR_DELONG = 30  # persons on a side below which a normal approximation is not trusted

_TIES_STREAM = 1  # keeps the tie-breaking draws apart from every other use of the run's seed


class Ranged(Measurement, Protocol):
    """A measurement that knows the interval its number lives in."""

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest possible value."""


def _deviate(alpha: float) -> float:
    """Upper standard normal quantile of `alpha`; negative above one half."""
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha must lie in (0, 1), got {alpha}")
    return -float(special.ndtri(alpha))


def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def _need_both_sides(member: Bools) -> None:
    members = int(np.count_nonzero(member))
    if members == 0 or members == len(member):
        side = "members" if members == 0 else "non-members"
        raise NotEvaluable(f"there are no {side} to measure on", "give records of both kinds")


def _need_numbers(scores: Floats) -> None:
    if np.isnan(scores).any():
        raise EvaluationFailed(
            f"{int(np.isnan(scores).sum())} of {len(scores)} attack scores are NaN",
            "a score must be a number for every record; use infinities for certainty",
        )


# --- proportions ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Proportion:
    """A share `p` known as well as from `n` independent records; n need not be whole."""

    p: float
    n: float

    def wilson(self, deviate: float) -> float:
        """The score bound `deviate` standard errors away, below p for a negative deviate (Wilson 1927)."""
        z2 = deviate * deviate
        spread = math.sqrt(self.p * (1.0 - self.p) / self.n + z2 / (4.0 * self.n * self.n))
        # Without the clamp, rounding could put a bound on the wrong side of p when p is 0 or 1.
        bound = (self.p + z2 / (2.0 * self.n) + deviate * spread) / (1.0 + z2 / self.n)
        return _clip(bound, 0.0, self.p) if deviate < 0 else _clip(bound, self.p, 1.0)


def effective_size(hits: Bools, persons: Ints) -> float:
    """How many independent records tell as much about the share of hits as these n; n where nobody has two.

    n divided by the design effect: the person-robust variance of the ratio estimator (with m/(m-1)) over that of
    independent records (with n/(n-1)), at most n. Both are taken with two pseudo-persons of mean size added, one
    all hits, one none: at 0 or 100 % hits the data say nothing of how alike one person's records are, and the
    pseudo-persons then make n the number of persons; with many persons they do not matter.
    """
    sizes = np.bincount(persons)
    present = sizes > 0
    sizes = sizes[present]
    n, m = len(hits), len(sizes)
    if m == n:
        return float(n)
    caught = np.bincount(persons, weights=hits)[present]
    mean_size = n / m
    n_all, m_all = n + 2.0 * mean_size, m + 2.0
    p = (float(caught.sum()) + mean_size) / n_all
    squares = float(np.square(caught - p * sizes).sum()) + mean_size**2 * ((1.0 - p) ** 2 + p**2)
    clustered = m_all / (m_all - 1.0) * squares / n_all**2
    independent = p * (1.0 - p) / (n_all - 1.0)
    return n / max(1.0, clustered / independent)


def _proportion(hits: Bools, persons: Ints) -> Proportion:
    return Proportion(float(np.count_nonzero(hits)) / len(hits), effective_size(hits, persons))


@dataclass(frozen=True, slots=True)
class Advantage:
    """TPR - FPR in [-1, 1], bounds by MOVER of two Wilson intervals (Newcombe 1998, method 10)."""

    members: Proportion
    nonmembers: Proportion

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest possible value."""
        return -1.0, 1.0

    @property
    def value(self) -> float:
        """TPR - FPR."""
        return self.members.p - self.nonmembers.p

    def lower(self, alpha: float) -> float:
        """One-sided lower bound at confidence 1 - alpha."""
        return self._bound(-_deviate(alpha))

    def upper(self, alpha: float) -> float:
        """One-sided upper bound at confidence 1 - alpha."""
        return self._bound(_deviate(alpha))

    def _bound(self, deviate: float) -> float:
        distance = math.hypot(
            self.members.wilson(deviate) - self.members.p, self.nonmembers.wilson(-deviate) - self.nonmembers.p
        )
        return _clip(self.value + math.copysign(distance, deviate), -1.0, 1.0)


@dataclass(frozen=True, slots=True)
class BalancedAccuracy:
    """(TPR + 1 - FPR) / 2 in [0, 1]: the advantage on another scale."""

    advantage: Advantage

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest possible value."""
        return 0.0, 1.0

    @property
    def value(self) -> float:
        """The point estimate."""
        return (1.0 + self.advantage.value) / 2.0

    def lower(self, alpha: float) -> float:
        """One-sided lower bound at confidence 1 - alpha."""
        return (1.0 + self.advantage.lower(alpha)) / 2.0

    def upper(self, alpha: float) -> float:
        """One-sided upper bound at confidence 1 - alpha."""
        return (1.0 + self.advantage.upper(alpha)) / 2.0


@dataclass(frozen=True, slots=True)
class ShareExcess:
    """max(0, member share - non-member share) in [0, 1]: what can be attributed to membership."""

    advantage: Advantage

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest possible value."""
        return 0.0, 1.0

    @property
    def value(self) -> float:
        """The point estimate."""
        return max(0.0, self.advantage.value)

    def lower(self, alpha: float) -> float:
        """One-sided lower bound at confidence 1 - alpha."""
        return max(0.0, self.advantage.lower(alpha))

    def upper(self, alpha: float) -> float:
        """One-sided upper bound at confidence 1 - alpha."""
        return max(0.0, self.advantage.upper(alpha))


def advantage(decisions: Bools, member: Bools, persons: Ints) -> Advantage:
    """TPR - FPR of decisions [R], by person [R]. A person on both sides counts on both: conservative for a difference.

    Raises NotEvaluable without members or without non-members.
    """
    _need_both_sides(member)
    outside = ~member
    return Advantage(_proportion(decisions[member], persons[member]), _proportion(decisions[outside], persons[outside]))


def balanced_accuracy(decisions: Bools, member: Bools, persons: Ints) -> BalancedAccuracy:
    """(TPR + 1 - FPR) / 2 of decisions [R], by person [R]. Raises NotEvaluable without members or non-members."""
    return BalancedAccuracy(advantage(decisions, member, persons))


def _counted(hits_members: int, n_members: int, hits_nonmembers: int, n_nonmembers: int) -> Advantage:
    for name, hits, n in (("member", hits_members, n_members), ("non-member", hits_nonmembers, n_nonmembers)):
        if n <= 0:
            raise NotEvaluable(f"there are no {name}s to measure on", "give records of both kinds")
        if not 0 <= hits <= n:
            raise ValueError(f"{hits} hits among {n} {name}s")
    members = Proportion(hits_members / n_members, n_members)
    return Advantage(members, Proportion(hits_nonmembers / n_nonmembers, n_nonmembers))


def share_excess(hits_members: int, n_members: int, hits_nonmembers: int, n_nonmembers: int) -> ShareExcess:
    """Share of members hit in excess of the non-members' share, of independent units (persons)."""
    return ShareExcess(_counted(hits_members, n_members, hits_nonmembers, n_nonmembers))


def clopper_pearson_lower(hits: float, n: float, alpha: float) -> float:
    """Exact one-sided lower bound of a binomial share at confidence 1 - alpha (Clopper & Pearson 1934)."""
    return 0.0 if hits <= 0 else float(special.betaincinv(hits, n - hits + 1.0, alpha))


def clopper_pearson_upper(hits: float, n: float, alpha: float) -> float:
    """Exact one-sided upper bound of a binomial share at confidence 1 - alpha (Clopper & Pearson 1934)."""
    return 1.0 if hits >= n else float(special.betainccinv(hits + 1.0, n - hits, alpha))


@dataclass(frozen=True, slots=True)
class Precision:
    """prior TPR / (prior TPR + (1 - prior) FPR) in [0, 1]; nan when nothing was flagged.

    It rises with TPR and falls with FPR, so Clopper-Pearson bounds of the two at alpha/2 each, put in their places,
    hold jointly at 1 - alpha whatever the counts: wider than a score interval of the ratio, never too narrow.
    """

    hits_members: int
    n_members: int
    hits_nonmembers: int
    n_nonmembers: int
    prior: float

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest possible value."""
        return 0.0, 1.0

    @property
    def value(self) -> float:
        """The point estimate."""
        return self._of(self.hits_members / self.n_members, self.hits_nonmembers / self.n_nonmembers)

    def lower(self, alpha: float) -> float:
        """One-sided lower bound at confidence 1 - alpha."""
        _deviate(alpha)
        return self._of(
            clopper_pearson_lower(self.hits_members, self.n_members, alpha / 2.0),
            clopper_pearson_upper(self.hits_nonmembers, self.n_nonmembers, alpha / 2.0),
        )

    def upper(self, alpha: float) -> float:
        """One-sided upper bound at confidence 1 - alpha."""
        _deviate(alpha)
        return self._of(
            clopper_pearson_upper(self.hits_members, self.n_members, alpha / 2.0),
            clopper_pearson_lower(self.hits_nonmembers, self.n_nonmembers, alpha / 2.0),
        )

    def _of(self, tpr: float, fpr: float) -> float:
        flagged = self.prior * tpr + (1.0 - self.prior) * fpr
        return self.prior * tpr / flagged if flagged > 0 else math.nan


def precision(
    hits_members: int, n_members: int, hits_nonmembers: int, n_nonmembers: int, prior: float = 0.5
) -> Precision:
    """Which share of the flagged are members when a share `prior` of the population is; of independent units."""
    _counted(hits_members, n_members, hits_nonmembers, n_nonmembers)
    if not 0.0 < prior < 1.0:
        raise ValueError(f"prior must lie in (0, 1), got {prior}")
    return Precision(hits_members, n_members, hits_nonmembers, n_nonmembers, prior)


# --- repeats --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Averaged:
    """The mean over repeated cross-fits of the same records; bounds as far away as in the widest repeat.

    The repeats share their records, so averaging removes the noise of the split, not that of the sample.
    """

    repeats: tuple[Ranged, ...]

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest possible value."""
        return self.repeats[0].range

    @property
    def value(self) -> float:
        """The mean of the repeats' values; nan if any is."""
        return math.fsum(repeat.value for repeat in self.repeats) / len(self.repeats)

    def lower(self, alpha: float) -> float:
        """One-sided lower bound at confidence 1 - alpha."""
        if math.isnan(self.value):
            return min(repeat.lower(alpha) for repeat in self.repeats)
        return _clip(self.value - max(repeat.value - repeat.lower(alpha) for repeat in self.repeats), *self.range)

    def upper(self, alpha: float) -> float:
        """One-sided upper bound at confidence 1 - alpha."""
        if math.isnan(self.value):
            return max(repeat.upper(alpha) for repeat in self.repeats)
        return _clip(self.value + max(repeat.upper(alpha) - repeat.value for repeat in self.repeats), *self.range)


def averaged(measurements: Sequence[Ranged]) -> Averaged:
    """One measurement out of repeats of the same one."""
    if not measurements:
        raise NotEvaluable("no repeat of the measurement was made", "ask for at least one")
    if len({repeat.range for repeat in measurements}) > 1:
        raise ValueError("only repeats of the same measurement can be averaged")
    return Averaged(tuple(measurements))


# --- area under the curve -------------------------------------------------------------------------------------------


def _runs(ordered: NDArray[Any]) -> Ints:
    """Where each run of equal values starts in a sorted array."""
    return np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))


def midranks(values: Floats) -> Floats:
    """Ranks from 1 of values [n], ties sharing the mean of their ranks."""
    order = np.argsort(values)
    starts = _runs(values[order])
    sizes = np.diff(starts, append=len(values))
    ranks = np.empty(len(values))
    ranks[order] = np.repeat(starts + (sizes + 1) / 2.0, sizes)
    return ranks


@dataclass(frozen=True, slots=True)
class Auc:
    """P(member scores higher) + P(tie)/2 in [0, 1].

    method `delong`    normal interval on the logit scale, with the standard error `error`
    method `chernoff`  the AUC is an average of averages of min(members, non-members) = `units` independent terms in
                       [0, 1], so Chernoff's bound holds at any size (Hoeffding 1963, section 5b); wide
    """

    value: float
    error: float
    units: float
    method: Literal["delong", "chernoff"]

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest possible value."""
        return 0.0, 1.0

    def lower(self, alpha: float) -> float:
        """One-sided lower bound at confidence 1 - alpha."""
        deviate = _deviate(alpha)
        if self.method == "chernoff":
            return _chernoff_lower(self.value, self.units, alpha)
        return self._logit_bound(-deviate)

    def upper(self, alpha: float) -> float:
        """One-sided upper bound at confidence 1 - alpha."""
        deviate = _deviate(alpha)
        if self.method == "chernoff":
            return 1.0 - _chernoff_lower(1.0 - self.value, self.units, alpha)
        return self._logit_bound(deviate)

    def _logit_bound(self, deviate: float) -> float:
        centre = special.logit(self.value)
        return float(special.expit(centre + deviate * self.error / (self.value * (1.0 - self.value))))


def _chernoff_lower(value: float, units: float, alpha: float) -> float:
    """The smallest mean q <= value with units * KL(value || q) <= log(1 / alpha)."""
    allowed = -math.log(alpha) / units
    low, high = 0.0, value
    for _ in range(80):
        middle = (low + high) / 2.0
        divergence = float(special.rel_entr(value, middle) + special.rel_entr(1.0 - value, 1.0 - middle))
        low, high = (middle, high) if divergence > allowed else (low, middle)
    return low


def _per_person(values: Floats, persons: Ints, count: int) -> Floats:
    return np.asarray(np.bincount(persons, weights=values, minlength=count), dtype=np.float64)


def _independent_units(persons: Ints) -> float:
    """Kish's effective number of persons: their number when each has as many records, fewer when one dominates."""
    sizes = np.bincount(persons).astype(np.float64)
    return len(persons) ** 2 / float(np.square(sizes).sum())


def _small_sample(persons: Ints) -> float:
    count = int(np.count_nonzero(np.bincount(persons)))
    return count / (count - 1.0)


def auc(scores: Floats, member: Bools, persons: Ints) -> Auc:
    """Area under the ROC curve of scores [R], by person [R]; higher scores mean more likely a member.

    DeLong (1988) by midranks, in O(R log R), its structural components summed per person (Obuchowski 1997).
    Chernoff's bound instead when a side has fewer than 30 independent persons, or the variance is estimated as 0.
    Raises NotEvaluable without members or non-members, EvaluationFailed for NaN scores.
    """
    _need_both_sides(member)
    _need_numbers(scores)
    outside = ~member
    n1, n0 = int(np.count_nonzero(member)), int(np.count_nonzero(outside))
    ranks = midranks(scores)
    beaten = (ranks[member] - midranks(scores[member])) / n0  # [n1] share of non-members below each member
    above = 1.0 - (ranks[outside] - midranks(scores[outside])) / n1  # [n0] share of members above each non-member
    value = float(beaten.mean())
    units = min(_independent_units(persons[member]), _independent_units(persons[outside]))
    if units < FEWEST_FOR_DELONG or not 0.0 < value < 1.0:
        return Auc(value, math.nan, units, "chernoff")
    count = int(persons.max()) + 1
    of_members = _per_person(beaten - value, persons[member], count) / n1
    of_nonmembers = _per_person(above - value, persons[outside], count) / n0
    variance = (
        _small_sample(persons[member]) * float(of_members @ of_members)
        + _small_sample(persons[outside]) * float(of_nonmembers @ of_nonmembers)
        + 2.0 * _small_sample(persons) * float(of_members @ of_nonmembers)
    )
    # Constant scores have no estimated variance at all; that is ignorance, not precision.
    if variance <= np.finfo(np.float64).eps ** 2:
        return Auc(value, math.nan, units, "chernoff")
    return Auc(value, math.sqrt(variance), units, "delong")


# --- true-positive rate at a low false-positive rate ----------------------------------------------------------------


def _smallest(low: int, high: int, holds: Callable[[int], bool]) -> int | None:
    """The smallest k in [low, high] at which `holds`, which once true stays true; None if never."""
    if low > high or not holds(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def rank_with_fpr_at_least(n: int, fpr: float, alpha: float) -> int | None:
    """Smallest k for which flagging down to the k-th highest of n non-members has FPR >= fpr, sure to 1 - alpha.

    That FPR is Beta(k, n+1-k) distributed, whatever the scores' distribution. None: no k is large enough.
    """
    return _smallest(1, n, lambda k: bool(special.betainc(k, n + 1.0 - k, fpr) <= alpha))


def rank_with_fpr_at_most(n: int, fpr: float, alpha: float) -> int | None:
    """Largest k for which flagging down to the k-th highest of n non-members has FPR <= fpr, sure to 1 - alpha.

    None: even the highest non-member is not rare enough.
    """
    beyond = _smallest(1, n, lambda k: bool(special.betaincc(k, n + 1.0 - k, fpr) > alpha))
    last = n if beyond is None else beyond - 1
    return last if last >= 1 else None


@dataclass(frozen=True, slots=True, eq=False)
class TprAtFpr:
    """TPR at the false-positive rate `fpr`, in [0, 1], by order statistics of the non-members.

    `hits[k]` member units can be flagged with k non-member units: those above the (k+1)-th highest non-member.
    The upper bound takes a threshold at a non-member whose FPR is surely not below `fpr`, the lower bound one whose
    FPR is surely not above; then Clopper-Pearson on the members, which are independent of the threshold; alpha/2 for
    each step.
    """

    fpr: float
    hits: Ints  # [n_nonmembers]
    n_members: int
    n_nonmembers: int

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest possible value."""
        return 0.0, 1.0

    @property
    def rank(self) -> int:
        """Non-members flagged at the threshold of `value`."""
        return min(math.floor(self.fpr * self.n_nonmembers + 1e-9), self.n_nonmembers - 1)  # 0.29 * 100 is below 29

    @property
    def realised(self) -> float:
        """The empirical FPR at the threshold of `value`; at most `fpr`."""
        return self.rank / self.n_nonmembers

    @property
    def value(self) -> float:
        """The empirical TPR at the lowest threshold that flags floor(fpr n) non-members: the ROC curve's at `fpr`."""
        return float(self.hits[self.rank]) / self.n_members

    def lower(self, alpha: float) -> float:
        """One-sided lower bound at confidence 1 - alpha; 0 with too few non-members."""
        _deviate(alpha)
        rank = rank_with_fpr_at_most(self.n_nonmembers, self.fpr, alpha / 2.0)
        return 0.0 if rank is None else clopper_pearson_lower(float(self.hits[rank - 1]), self.n_members, alpha / 2.0)

    def upper(self, alpha: float) -> float:
        """One-sided upper bound at confidence 1 - alpha; 1 with too few non-members."""
        _deviate(alpha)
        rank = rank_with_fpr_at_least(self.n_nonmembers, self.fpr, alpha / 2.0)
        return 1.0 if rank is None else clopper_pearson_upper(float(self.hits[rank - 1]), self.n_members, alpha / 2.0)


def _one_per_person(scores: Floats, persons: Ints, draws: Floats) -> Ints:
    """Index of one record per person: the one at share `draws[person]` of that person's records sorted by score."""
    if np.bincount(persons).max() == 1:
        return np.arange(len(persons))
    order = np.lexsort((scores, persons))
    starts = _runs(persons[order])
    sizes = np.diff(starts, append=len(persons))
    return order[starts + (draws[persons[order[starts]]] * sizes).astype(np.int64)]


def _shuffled_within_ties(scores: Floats, draws: Floats) -> Ints:
    """The order of descending scores, ties in the order of `draws`."""
    descending = np.argsort(-scores)
    if len(_runs(scores[descending])) == len(scores):
        return descending
    shuffled = np.argsort(draws)
    return shuffled[np.argsort(-scores[shuffled], kind="stable")]


def tpr_at_fpr(scores: Floats, member: Bools, persons: Ints, fpr: float, seed: int) -> TprAtFpr:
    """TPR of scores [R] at the given FPR, by person [R]; ties are broken at random, once, from `seed`.

    One record per person and side is drawn: order statistics and binomials need independent units, and a person's
    best record would be another, larger quantity than a record's TPR. All draws belong to persons, so they know
    neither who is a member nor the order of the records. Raises NotEvaluable without members or non-members,
    EvaluationFailed for NaN scores.
    """
    if not 0.0 < fpr < 1.0:
        raise ValueError(f"a false-positive rate lies in (0, 1), got {fpr}")
    _need_both_sides(member)
    _need_numbers(scores)
    draws = np.random.default_rng([_TIES_STREAM, seed]).random((4, int(persons.max()) + 1))
    sides = [
        side[_one_per_person(scores[side], persons[side], choice)]
        for side, choice in ((np.flatnonzero(member), draws[0]), (np.flatnonzero(~member), draws[1]))
    ]
    units = np.concatenate(sides)
    # A person on both sides must not tie with themself, hence a draw per side.
    ties = np.concatenate((draws[2][persons[sides[0]]], draws[3][persons[sides[1]]]))
    is_member = np.arange(len(units)) < len(sides[0])
    descending = is_member[_shuffled_within_ties(scores[units], ties)]
    hits = np.cumsum(descending, dtype=np.int64)[~descending]
    hits.flags.writeable = False
    return TprAtFpr(fpr, hits, len(sides[0]), len(sides[1]))


# --- curves ---------------------------------------------------------------------------------------------------------


def roc(scores: Floats, member: Bools) -> tuple[Floats, Floats]:
    """FPR and TPR of `score >= t` for all t from above the maximum down: (0, 0) to (1, 1), a tie block is one step.

    Raises NotEvaluable without members or non-members, EvaluationFailed for NaN scores.
    """
    _need_both_sides(member)
    order = np.argsort(scores)
    ordered = scores[order]
    if np.isnan(ordered[-1]):  # NaN sort last
        _need_numbers(scores)
    starts = _runs(ordered)
    below = np.concatenate(([0], np.cumsum(member[order], dtype=np.int64)))[starts]  # members below each step
    members = int(np.count_nonzero(member))
    true = np.concatenate((members - below, [0]))[::-1]
    flagged = np.concatenate((len(scores) - starts, [0]))[::-1]
    return (flagged - true) / (len(scores) - members), true / members


def thin_roc(fpr: Floats, tpr: Floats, points: int = 160) -> tuple[Floats, Floats]:
    """At most `points` points of a curve for plotting, evenly spaced in log FPR; both ends and FPR 0 are kept."""
    if len(fpr) <= points:
        return fpr, tpr
    positive = fpr[fpr > 0]
    grid = np.geomspace(positive[0], 1.0, points - 2)
    kept = np.searchsorted(fpr, np.concatenate(([0.0], grid)), side="right") - 1
    chosen = np.unique(np.concatenate(([0], kept, [len(fpr) - 1])))
    return fpr[chosen], tpr[chosen]


# --- tests ----------------------------------------------------------------------------------------------------------


def p_value(measurement: Measurement, limit: float) -> float:
    """Smallest alpha at which the lower bound exceeds `limit`; 1 if it does at no alpha up to one half.

    Resolved to nine digits from above, and not below 1e-15, so that `lower(p) > limit` always holds for p < 1.
    """
    if not measurement.lower(0.5) > limit:
        return 1.0
    if measurement.lower(SMALLEST_P) > limit:
        return SMALLEST_P
    low, high = math.log(SMALLEST_P), math.log(0.5)
    while high - low > 1e-9:
        middle = (low + high) / 2.0
        low, high = (low, middle) if measurement.lower(math.exp(middle)) > limit else (middle, high)
    return min(math.exp(high), 0.5)


def holm(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Which hypotheses are rejected with family-wise error at most alpha (Holm 1979), in the order given."""
    if any(math.isnan(p) for p in p_values):
        raise ValueError("a p-value is nan; a hypothesis that was not tested must be left out")
    rejected = [False] * len(p_values)
    for step, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[index] > alpha / (len(p_values) - step):
            break
        rejected[index] = True
    return rejected


# --- how many records -----------------------------------------------------------------------------------------------


def records_for_accuracy(limit: float, assumed: float, alpha: float, power: float) -> int:
    """Independent records per side that decide on which side of `limit` an accuracy of `assumed` lies.

    n = ((z_alpha + z_beta) / (limit - assumed))^2 / 8 at the worst-case variance; at most 10 million.
    """
    gap = abs(limit - assumed)
    needed = 0.125 * (_deviate(alpha) + _deviate(1.0 - power)) ** 2
    return MOST_RECORDS if needed >= gap * gap * MOST_RECORDS else max(1, math.ceil(needed / (gap * gap)))


def nonmembers_for_tpr(fpr: float, alpha: float) -> int:
    """Fewest non-members with which the lower bound of the TPR at `fpr` can exceed 0: (1 - fpr)^n <= alpha / 2."""
    needed = math.ceil(math.log(alpha / 2.0) / math.log1p(-fpr))
    # The closed form may miss by one in the last digit; the bound itself decides.
    while rank_with_fpr_at_most(needed, fpr, alpha / 2.0) is None:
        needed += 1
    return max(needed, 1)


def nonmembers_to_pass_tpr(fpr: float, limit: float, alpha: float, n_members: int) -> int | None:
    """Fewest non-members with which an attack at chance (TPR = fpr) would as a rule pass `limit`.

    "As a rule": with the hits that are expected, i.e. at about even odds. None: not with 10 million either.
    """

    def passes(n: int) -> bool:
        rank = rank_with_fpr_at_least(n, fpr, alpha / 2.0)
        return rank is not None and clopper_pearson_upper(n_members * rank / (n + 1.0), n_members, alpha / 2.0) <= limit

    high = 1
    while not passes(high):
        if high >= MOST_RECORDS:
            return None
        high = min(2 * high, MOST_RECORDS)
    return _smallest(high // 2, high, passes)
