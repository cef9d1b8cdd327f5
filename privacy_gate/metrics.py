"""Scores in, numbers out: rates, ROC and AUC, each with one-sided confidence bounds; and what follows from bounds.

Every measurement here satisfies `datamodel.Measurement` for alpha in (0, 1), is monotone in alpha and stays within
its range. Units of independence are persons, never records. Each side counts one half however many records it has:
imbalance is met by weights, never by leaving records out. With `census` every record of the members was seen, so that
only the non-members are a sample.
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
CONTINUITY = 0.5  # records
FEWEST_FOR_BOOTSTRAP = 20  # persons on a side below which resampling them says little
FEWEST_FOR_DELONG = 30  # persons on a side below which a normal approximation is not trusted

_TIES_STREAM = 1  # keeps the tie-breaking draws apart from every other use of the run's seed
_BOOTSTRAP_STREAM = 8  # and these


class Ranged(Measurement, Protocol):
    """A measurement that knows the interval its number lives in."""

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest possible value."""


def normal_deviate(alpha: float) -> float:
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
    """A share `p` known as well as from `n` independent records; n need not be whole, and is infinite for a census."""

    p: float
    n: float

    def wilson(self, deviate: float, continuity: float = 0.0) -> float:
        """The score bound `deviate` standard errors away, below p for a negative deviate (Wilson 1927).

        `continuity` 0.5 moves p by half a record first, away from what the bound is to exclude (Newcombe 1998).
        """
        away = math.copysign(continuity / self.n, deviate) if deviate else 0.0
        p = _clip(self.p + away, 0.0, 1.0)
        z2 = deviate * deviate
        spread = math.sqrt(p * (1.0 - p) / self.n + z2 / (4.0 * self.n * self.n))
        # Without the clamp, rounding could put a bound on the wrong side of p when p is 0 or 1.
        bound = (p + z2 / (2.0 * self.n) + deviate * spread) / (1.0 + z2 / self.n)
        return _clip(bound, 0.0, self.p) if deviate < 0 else _clip(bound, self.p, 1.0)

    @property
    def known(self) -> bool:
        """Whether nothing of it is left to chance."""
        return math.isinf(self.n)

    def exact_lower(self, alpha: float) -> float:
        """One-sided Clopper-Pearson lower bound at confidence 1 - alpha."""
        return self.p if self.known else clopper_pearson_lower(self.p * self.n, self.n, alpha)

    def exact_upper(self, alpha: float) -> float:
        """One-sided Clopper-Pearson upper bound at confidence 1 - alpha."""
        return self.p if self.known else clopper_pearson_upper(self.p * self.n, self.n, alpha)


def effective_size(hits: Bools | Floats, persons: Ints) -> float:
    """How many independent records tell as much about the share of hits as these n; n where nobody has two.

    Hits may be amounts from 0 to 1: steps of -1, 0 and 1, for example, as (step + 1) / 2, which changes no ratio.

    n divided by the design effect: the person-robust variance of the ratio estimator (with m/(m-1)) over that of
    independent records (with n/(n-1)), at most n. Both are taken with two pseudo-persons of mean size added, one
    all hits, one none: at 0 or 100 % hits the data say nothing of how alike one person's records are, and the
    pseudo-persons then make n the number of persons; with many persons they do not matter.

    Where sizes differ, few persons can hold most of the variance, and m of them do not estimate it. Of a variance
    that follows the squared sizes s the degrees of freedom are nu = (sum s^2)^2 / sum s^4 (Satterthwaite 1946). So it
    is taken again with nu in the place of m, and pseudo-persons of size sqrt(sum s^4 / sum s^2), of which nu have the
    same variance; the smaller result counts, but not below (sum s)^2 / sum s^2 (Kish 1965): that is the size when all
    records of a person are alike, the worst case, and needs no estimate. Equal sizes have nu = m: nothing changes.
    """
    sizes = np.bincount(persons)
    present = sizes > 0
    sizes = sizes[present]
    if len(sizes) == len(hits):
        return float(len(hits))
    caught = np.bincount(persons, weights=hits)[present].astype(np.float64)
    between = float(np.dot(hits, 1.0 - hits)) if hits.dtype != np.bool_ else 0.0
    return float(_effective_sizes(caught, sizes, np.zeros(len(sizes), dtype=np.int64), 1, between)[0])


def _effective_sizes(caught: Floats, sizes: Ints, cell: Ints, cells: int, between: float = 0.0) -> Floats:
    """`effective_size` of many sets at once: [cells] from persons [m] with `caught` hits in `sizes` records each.

    between  sum of x (1 - x) over the records' amounts x: by so much they vary less than hits and misses of this share
    """
    n, m = (np.bincount(cell, weights=w, minlength=cells).astype(np.float64) for w in (sizes, None))
    if (m == n).all():
        return n
    squared = np.square(sizes.astype(np.float64))
    squares, fourths = (np.bincount(cell, weights=w, minlength=cells) for w in (squared, squared * squared))
    plain = _over_design_effect(caught, sizes, cell, n, m, n / m, between)
    # Divided first, so that equal sizes give m and their size to the last bit.
    typical = fourths / squares
    sparing = _over_design_effect(caught, sizes, cell, n, squares / typical, np.sqrt(typical), between)
    return np.asarray(np.where(m == n, n, np.minimum(plain, np.maximum(n * n / squares, sparing))))


def _over_design_effect(
    caught: Floats, sizes: Ints, cell: Ints, n: Floats, m: Floats, pseudo: Floats, between: float
) -> Floats:
    """[cells] n over the design effect of as good as m persons, with two pseudo-persons of size `pseudo` [cells]."""
    n_all, m_all = n + 2.0 * pseudo, m + 2.0
    p = (np.bincount(cell, weights=caught, minlength=len(n)) + pseudo) / n_all
    squares = np.bincount(cell, weights=np.square(caught - p[cell] * sizes), minlength=len(n))
    of_pseudo_persons = pseudo**2 * ((1.0 - p) ** 2 + p**2)
    clustered = m_all / (m_all - 1.0) * (squares + of_pseudo_persons) / n_all**2
    independent = (p * (1.0 - p) - between / n_all) / (n_all - 1.0)
    return np.asarray(n / np.maximum(1.0, clustered / independent))


def _proportion(hits: Bools, persons: Ints, census: bool = False) -> Proportion:
    share = float(np.count_nonzero(hits)) / len(hits)
    return Proportion(share, math.inf if census else effective_size(hits, persons))


@dataclass(frozen=True, slots=True)
class Advantage:
    """TPR - FPR in [-1, 1], bounds by MOVER of two Wilson intervals with continuity correction (Newcombe 1998, 11).

    Without the correction (method 10) a bound at 5 % misses up to 6.1 % with 200 records a side and 6.8 % with 50.
    With it, where a limit can stand, it misses at most 5.0 % from 100 records on and 5.3 % with 50. The price is 2 %
    of the width with 1,000 records a side, less at smaller alphas.
    """

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
        return self._bound(-normal_deviate(alpha))

    def upper(self, alpha: float) -> float:
        """One-sided upper bound at confidence 1 - alpha."""
        return self._bound(normal_deviate(alpha))

    def _bound(self, deviate: float) -> float:
        distance = math.hypot(
            self.members.wilson(deviate, CONTINUITY) - self.members.p,
            self.nonmembers.wilson(-deviate, CONTINUITY) - self.nonmembers.p,
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


def advantage(decisions: Bools, member: Bools, persons: Ints, *, census: bool = False) -> Advantage:
    """TPR - FPR of decisions [R], by person [R]. A person on both sides counts on both: conservative for a difference.

    Raises NotEvaluable without members or without non-members.
    """
    _need_both_sides(member)
    outside = ~member
    return Advantage(
        _proportion(decisions[member], persons[member], census), _proportion(decisions[outside], persons[outside])
    )


def balanced_accuracy(decisions: Bools, member: Bools, persons: Ints, *, census: bool = False) -> BalancedAccuracy:
    """(TPR + 1 - FPR) / 2 of decisions [R], by person [R]. Raises NotEvaluable without members or non-members."""
    return BalancedAccuracy(advantage(decisions, member, persons, census=census))


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """Subsets of the records, laid out so that many decisions are counted in all of them at once: see `parts`.

    row       [L] the record of each (subset, record) pair
    unit      [L] its (subset, side, person)
    cell      [M] the (subset, side) of each unit: 2 subset + 1 for members, 2 subset for non-members
    sizes     [M] records of each unit
    count     subsets
    """

    row: Ints
    unit: Ints
    cell: Ints
    sizes: Ints
    count: int

    def advantages(self, decisions: Bools, *, census: bool = False) -> list[Advantage]:
        """`advantage` of decisions [R] within each subset, in their order; O(L)."""
        cells = 2 * self.count
        caught = np.bincount(self.unit, weights=decisions[self.row], minlength=len(self.cell)).astype(np.float64)
        records = np.bincount(self.cell, weights=self.sizes, minlength=cells)
        shares = (np.bincount(self.cell, weights=caught, minlength=cells) / records).tolist()
        effective = _effective_sizes(caught, self.sizes, self.cell, cells).tolist()
        return [
            Advantage(
                Proportion(shares[i + 1], math.inf if census else effective[i + 1]), Proportion(shares[i], effective[i])
            )
            for i in range(0, cells, 2)
        ]


def parts(subsets: Sequence[Bools], member: Bools, persons: Ints) -> Parts:
    """The layout of subsets [R] each. Raises NotEvaluable when one has no members or no non-members."""
    rows = [np.flatnonzero(subset) for subset in subsets]
    for here in rows:
        _need_both_sides(member[here])
    row = np.concatenate([*rows, np.zeros(0, dtype=np.int64)])
    subset_of = np.repeat(np.arange(len(rows)), [len(here) for here in rows])
    people = int(persons.max()) + 1
    keys, unit, sizes = np.unique(
        (2 * subset_of + member[row]) * people + persons[row], return_inverse=True, return_counts=True
    )
    return Parts(row, unit, keys // people, sizes, len(rows))


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
    hold jointly at 1 - alpha whatever the counts: wider than a score interval of the ratio, never too narrow. A side
    that is known needs no share of alpha.
    """

    members: Proportion
    nonmembers: Proportion
    prior: float

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest possible value."""
        return 0.0, 1.0

    @property
    def value(self) -> float:
        """The point estimate."""
        return self._of(self.members.p, self.nonmembers.p)

    def lower(self, alpha: float) -> float:
        """One-sided lower bound at confidence 1 - alpha; 0 when nothing can have been flagged."""
        each = self._each(alpha)
        bound = self._of(self.members.exact_lower(each), self.nonmembers.exact_upper(each))
        return 0.0 if math.isnan(bound) else bound

    def upper(self, alpha: float) -> float:
        """One-sided upper bound at confidence 1 - alpha; 1 when nothing can have been flagged."""
        each = self._each(alpha)
        bound = self._of(self.members.exact_upper(each), self.nonmembers.exact_lower(each))
        return 1.0 if math.isnan(bound) else bound

    def _each(self, alpha: float) -> float:
        normal_deviate(alpha)
        return alpha / max(1, (not self.members.known) + (not self.nonmembers.known))

    def _of(self, tpr: float, fpr: float) -> float:
        flagged = self.prior * tpr + (1.0 - self.prior) * fpr
        return self.prior * tpr / flagged if flagged > 0 else math.nan


def precision(
    hits_members: int, n_members: int, hits_nonmembers: int, n_nonmembers: int, prior: float = 0.5
) -> Precision:
    """Which share of the flagged are members when a share `prior` of the population is; of independent units."""
    return precision_of(_counted(hits_members, n_members, hits_nonmembers, n_nonmembers), prior)


def precision_of(rates: Advantage, prior: float) -> Precision:
    """Which share of the flagged are members when a share `prior` of the population is, from TPR and FPR."""
    if not 0.0 < prior < 1.0:
        raise ValueError(f"prior must lie in (0, 1), got {prior}")
    return Precision(rates.members, rates.nonmembers, prior)


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


@dataclass(frozen=True, slots=True)
class MeanOfRuns:
    """The mean of runs, bounds by Student's t with the standard error `error`.

    Runs without any spread are no proof that there is none: then Chernoff's bound for `runs` terms in the range
    (Hoeffding 1963), or nothing where the range is unbounded. nan in a run makes the mean unknown.
    """

    value: float
    error: float
    runs: int
    range: tuple[float, float]

    def lower(self, alpha: float) -> float:
        """One-sided lower bound at confidence 1 - alpha."""
        return self._bound(alpha, -1.0)

    def upper(self, alpha: float) -> float:
        """One-sided upper bound at confidence 1 - alpha."""
        return self._bound(alpha, 1.0)

    def _bound(self, alpha: float, side: float) -> float:
        normal_deviate(alpha)
        low, high = self.range
        end = low if side < 0 else high
        if math.isnan(self.value):
            return end
        if self.error > 0:
            return _clip(self.value - side * float(special.stdtrit(self.runs - 1, alpha)) * self.error, low, high)
        if math.isinf(high - low):
            return end
        # Seen from the end in question, so that one lower bound serves both sides.
        distance = abs(self.value - (high if side < 0 else low)) / (high - low)
        return end - side * (high - low) * _chernoff_lower(1.0 - distance, self.runs, alpha)


def t_interval(values: Sequence[float], within: tuple[float, float] = (0.0, 1.0), shared: float = 0.0) -> MeanOfRuns:
    """The mean of `values`, one per run, each inside `within`. Raises NotEvaluable with fewer than two.

    `shared` is the standard error of what the runs have in common, 0 when they are independent; it does not average
    out over runs, and is added to their own in quadrature. What both hold is counted twice, to the safe side (Cameron,
    Gelbach & Miller 2011 subtract it).
    """
    runs = len(values)
    if runs < 2:
        raise NotEvaluable(
            f"{runs} runs show no spread between runs", "retrain the model at least twice, better 5 times"
        )
    mean = math.fsum(values) / runs
    # Equal values must give exactly 0, which a rounded mean does not.
    alike = len(set(values)) == 1
    error = 0.0 if alike else math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (runs - 1) / runs)
    return MeanOfRuns(values[0] if alike else mean, error if alike else math.hypot(error, shared), runs, within)


# --- what each record adds ------------------------------------------------------------------------------------------


def rate_influences(decisions: Bools, member: Bools) -> tuple[Floats, Floats]:
    """[R] what each record adds to the error of TPR, and to that of FPR: each sums to 0, members only, others only."""
    return _rate_influence(decisions, member), _rate_influence(decisions, ~member)


def _rate_influence(hits: Bools, side: Bools) -> Floats:
    count = int(np.count_nonzero(side))
    return np.asarray(np.where(side, hits - np.count_nonzero(hits & side) / count, 0.0) / count)


def auc_influences(scores: Floats, member: Bools) -> Floats:
    """[R] what each record adds to the error of the AUC: DeLong's structural components, centred."""
    beaten, above = _components(scores, member)
    influences = np.empty(len(scores))
    influences[member] = (beaten - beaten.mean()) / len(beaten)
    influences[~member] = (above - above.mean()) / len(above)
    return influences


def tpr_influences(scores: Floats, member: Bools, fpr: float) -> Floats:
    """[R] what each record adds to the error of the TPR at `fpr`: by its own rate, and by moving the threshold.

    The curve's slope at `fpr` is taken between half and twice that rate.
    """
    outside = np.sort(scores[~member])[::-1]
    threshold, near, far = (
        outside[min(math.floor(r * len(outside)), len(outside) - 1)] for r in (fpr, fpr / 2, 2 * fpr)
    )
    rates = [(np.mean(scores[~member] > t), np.mean(scores[member] > t)) for t in (near, far)]
    width = float(rates[1][0] - rates[0][0])
    slope = float(rates[1][1] - rates[0][1]) / width if width > 0 else 0.0
    of_tpr, of_fpr = rate_influences(scores > threshold, member)
    return of_tpr - slope * of_fpr


def clustered_error(influences: Floats, persons: Ints) -> float:
    """Standard error of a number whose records add `influences` [R] to its error; persons are independent."""
    of_persons = np.bincount(persons, weights=influences)
    return math.sqrt(_small_sample(persons) * float(of_persons @ of_persons))


# --- anything without a formula -------------------------------------------------------------------------------------

Statistic = Callable[[Floats], float]
"""Weights [R], how often each record counts -> the number."""


@dataclass(frozen=True, slots=True, eq=False)
class Bootstrapped:
    """A number with bias-corrected and accelerated bootstrap bounds (Efron 1987).

    Beyond the level that ten replicates lie behind, the tail is taken to be normal: the distance from the median
    grows with the deviate. Without any spread among the replicates nothing is known: the bounds are the range's ends.
    """

    value: float
    replicates: Floats  # sorted
    bias: float  # z0: deviate of the value among the replicates
    acceleration: float
    range: tuple[float, float]

    def lower(self, alpha: float) -> float:
        """One-sided lower bound at confidence 1 - alpha."""
        return self._bound(-normal_deviate(alpha), self.range[0])

    def upper(self, alpha: float) -> float:
        """One-sided upper bound at confidence 1 - alpha."""
        return self._bound(normal_deviate(alpha), self.range[1])

    def _bound(self, deviate: float, end: float) -> float:
        if self.replicates[0] == self.replicates[-1]:
            return end
        resolved = normal_deviate(_RESOLVED / len(self.replicates))
        bound = self._quantile(_clip(deviate, -resolved, resolved))
        if abs(deviate) > resolved:
            median = self._quantile(0.0)
            bound = median + (bound - median) * abs(deviate) / resolved
        # A strong bias could put a bound on the wrong side of the value itself.
        low, high = (self.range[0], self.value) if deviate < 0 else (self.value, self.range[1])
        return _clip(bound, low, high)

    def _quantile(self, deviate: float) -> float:
        shifted = self.bias + deviate
        level = special.ndtr(self.bias + shifted / (1.0 - self.acceleration * shifted))
        return float(np.quantile(self.replicates, level))


_RESOLVED = 10.0  # replicates behind a quantile that is still read off
_FEWEST_REPLICATES = 100
_GROUPS = 100  # of persons per side, for the jackknife of the acceleration
_MOST_ACCELERATION = 0.15  # keeps 1 - acceleration * deviate positive at every deviate that is read off


def bootstrap(
    statistic: Statistic,
    member: Bools,
    persons: Ints,
    seed: int,
    replicates: int = 2000,
    within: tuple[float, float] = (-math.inf, math.inf),
) -> Bootstrapped:
    """Bounds for any statistic of weighted records [R]: persons are redrawn, on each side as many as there are.

    The acceleration comes from leaving out up to 100 groups of persons a side. Draws belong to persons, not to the
    order of records. At least 100 replicates. Raises NotEvaluable with fewer than 20 persons on a side, and when the
    statistic is not finite.
    """
    _need_both_sides(member)
    if replicates < _FEWEST_REPLICATES:
        raise ValueError(f"{replicates} replicates; at least {_FEWEST_REPLICATES} are needed")
    sides = [_People.of(rows, persons) for rows in (np.flatnonzero(member), np.flatnonzero(~member))]
    for name, side in zip(("member", "non-member"), sides, strict=True):
        if side.count < FEWEST_FOR_BOOTSTRAP:
            raise NotEvaluable(
                f"{side.count} {name} persons are too few to resample", f"{FEWEST_FOR_BOOTSTRAP} are the fewest"
            )
    rng = np.random.default_rng([_BOOTSTRAP_STREAM, seed])

    def of(changes: Sequence[tuple[_People, Floats]]) -> float:
        weights = np.ones(len(member))
        for side, times in changes:
            weights[side.rows] = times[side.person]
        number = float(statistic(weights))
        if not math.isfinite(number):
            raise NotEvaluable(f"the statistic is {number} on resampled persons", "give more records of both kinds")
        return number

    value = of([])
    drawn = np.sort(
        [
            of([(s, np.bincount(rng.integers(s.count, size=s.count), minlength=s.count).astype(float)) for s in sides])
            for _ in range(replicates)
        ]
    )
    behind = (np.count_nonzero(drawn < value) + 0.5 * np.count_nonzero(drawn == value)) / replicates
    bias = float(special.ndtri(_clip(behind, 0.5 / replicates, 1.0 - 0.5 / replicates)))
    influences = np.concatenate([_influences(side, rng, of) for side in sides])
    squares = float(np.square(influences).sum())
    acceleration = float((influences**3).sum()) / (6.0 * squares**1.5) if squares > 0 else 0.0
    drawn.flags.writeable = False
    return Bootstrapped(value, drawn, bias, _clip(acceleration, -_MOST_ACCELERATION, _MOST_ACCELERATION), within)


@dataclass(frozen=True, slots=True, eq=False)
class _People:
    """The persons behind one side's records."""

    rows: Ints  # [n]
    person: Ints  # [n] 0..count-1
    count: int

    @classmethod
    def of(cls, rows: Ints, persons: Ints) -> _People:
        names, person = np.unique(persons[rows], return_inverse=True)
        return cls(rows, person, len(names))


def _influences(
    side: _People, rng: np.random.Generator, of: Callable[[Sequence[tuple[_People, Floats]]], float]
) -> Floats:
    """[groups] what each group of persons adds to the statistic, from leaving it out; third moments add up alike."""
    groups = min(side.count, _GROUPS)
    group = rng.permutation(np.arange(side.count) % groups)
    without = []
    for left_out in range(groups):
        kept = group != left_out
        without.append(of([(side, kept * (side.count / np.count_nonzero(kept)))]))
    return np.asarray((groups - 1.0) / groups * (np.mean(without) - np.array(without)))


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
                       [0, 1], so Chernoff's bound holds at any size (Hoeffding 1963, section 5b); wide. With a census
                       of the members the terms are the non-members
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
        deviate = normal_deviate(alpha)
        if self.method == "chernoff":
            return _chernoff_lower(self.value, self.units, alpha)
        return self._logit_bound(-deviate)

    def upper(self, alpha: float) -> float:
        """One-sided upper bound at confidence 1 - alpha."""
        deviate = normal_deviate(alpha)
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


def _components(scores: Floats, member: Bools) -> tuple[Floats, Floats]:
    """[n1] share of non-members below each member, [n0] share of members above each non-member; ties count half."""
    ranks = midranks(scores)
    beaten = (ranks[member] - midranks(scores[member])) / np.count_nonzero(~member)
    above = 1.0 - (ranks[~member] - midranks(scores[~member])) / np.count_nonzero(member)
    return np.asarray(beaten), np.asarray(above)


def auc(scores: Floats, member: Bools, persons: Ints, *, census: bool = False) -> Auc:
    """Area under the ROC curve of scores [R], by person [R]; higher scores mean more likely a member.

    DeLong (1988) by midranks, in O(R log R), its structural components summed per person (Obuchowski 1997).
    Chernoff's bound instead when a side has fewer than 30 independent persons, or the variance is estimated as 0.
    With `census` the AUC is a mean over the non-members alone: their component is the whole variance.
    Raises NotEvaluable without members or non-members, EvaluationFailed for NaN scores.
    """
    _need_both_sides(member)
    _need_numbers(scores)
    outside = ~member
    n1, n0 = int(np.count_nonzero(member)), int(np.count_nonzero(outside))
    beaten, above = _components(scores, member)
    value = float(beaten.mean())
    units = _independent_units(persons[outside])
    if not census:
        units = min(units, _independent_units(persons[member]))
    if units < FEWEST_FOR_DELONG or not 0.0 < value < 1.0:
        return Auc(value, math.nan, units, "chernoff")
    count = int(persons.max()) + 1
    of_nonmembers = _per_person(above - value, persons[outside], count) / n0
    variance = _small_sample(persons[outside]) * float(of_nonmembers @ of_nonmembers)
    if not census:
        of_members = _per_person(beaten - value, persons[member], count) / n1
        variance += _small_sample(persons[member]) * float(of_members @ of_members)
        variance += 2.0 * _small_sample(persons) * float(of_members @ of_nonmembers)
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
    each step. In a census the members are no sample: the whole of alpha goes to the threshold, and `hits` are exact,
    the share of a tie block that would be drawn in place of a draw, hence not whole.
    """

    fpr: float
    hits: Ints | Floats  # [n_nonmembers]
    n_members: int
    n_nonmembers: int
    census: bool = False

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
        each = self._each(alpha)
        rank = rank_with_fpr_at_most(self.n_nonmembers, self.fpr, each)
        return 0.0 if rank is None else self._members(rank).exact_lower(each)

    def upper(self, alpha: float) -> float:
        """One-sided upper bound at confidence 1 - alpha; 1 with too few non-members."""
        each = self._each(alpha)
        rank = rank_with_fpr_at_least(self.n_nonmembers, self.fpr, each)
        return 1.0 if rank is None else self._members(rank).exact_upper(each)

    def _each(self, alpha: float) -> float:
        normal_deviate(alpha)
        return alpha if self.census else alpha / 2.0

    def _members(self, rank: int) -> Proportion:
        return Proportion(
            float(self.hits[rank - 1]) / self.n_members, math.inf if self.census else float(self.n_members)
        )


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


def tpr_at_fpr(
    scores: Floats, member: Bools, persons: Ints, fpr: float, seed: int, *, census: bool = False
) -> TprAtFpr:
    """TPR of scores [R] at the given FPR, by person [R]; ties are broken at random, once, from `seed`.

    One record per person and side is drawn: order statistics and binomials need independent units, and a person's
    best record would be another, larger quantity than a record's TPR. All draws belong to persons, so they know
    neither who is a member nor the order of the records. A census counts all records of the members: nothing about
    them is drawn. Raises NotEvaluable without members or non-members, EvaluationFailed for NaN scores.
    """
    if not 0.0 < fpr < 1.0:
        raise ValueError(f"a false-positive rate lies in (0, 1), got {fpr}")
    _need_both_sides(member)
    _need_numbers(scores)
    draws = np.random.default_rng([_TIES_STREAM, seed]).random((4, int(persons.max()) + 1))
    inside, outside = (
        side[_one_per_person(scores[side], persons[side], choice)]
        for side, choice in ((np.flatnonzero(member), draws[0]), (np.flatnonzero(~member), draws[1]))
    )
    hits: Ints | Floats
    if census:
        inside = np.flatnonzero(member)
        hits = _expected_hits(scores[inside], scores[outside], draws[3][persons[outside]])
    else:
        units = np.concatenate((inside, outside))
        # A person on both sides must not tie with themself, hence a draw per side.
        ties = np.concatenate((draws[2][persons[inside]], draws[3][persons[outside]]))
        is_member = np.arange(len(units)) < len(inside)
        descending = is_member[_shuffled_within_ties(scores[units], ties)]
        hits = np.cumsum(descending, dtype=np.int64)[~descending]
    hits.flags.writeable = False
    return TprAtFpr(fpr, hits, len(inside), len(outside), census)


def _expected_hits(members: Floats, nonmembers: Floats, draws: Floats) -> Floats:
    """[nonmembers] members above each non-member, highest first; of those that tie with it, the share of its draw."""
    order = _shuffled_within_ties(nonmembers, draws)
    ascending = np.sort(members)
    above = len(members) - np.searchsorted(ascending, nonmembers[order], side="right")
    level = len(members) - np.searchsorted(ascending, nonmembers[order], side="left") - above
    return np.asarray(above + draws[order] * level, dtype=np.float64)


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
    needed = 0.125 * (normal_deviate(alpha) + normal_deviate(1.0 - power)) ** 2
    return MOST_RECORDS if needed >= gap * gap * MOST_RECORDS else max(1, math.ceil(needed / (gap * gap)))


def nonmembers_for_tpr(fpr: float, alpha: float) -> int:
    """Fewest non-members with which the lower bound of the TPR at `fpr` can exceed 0: (1 - fpr)^n <= alpha / 2."""
    needed = math.ceil(math.log(alpha / 2.0) / math.log1p(-fpr))
    # The closed form may miss by one in the last digit; the bound itself decides.
    while rank_with_fpr_at_most(needed, fpr, alpha / 2.0) is None:
        needed += 1
    return max(needed, 1)


def nonmembers_to_pass_tpr(
    fpr: float, limit: float, alpha: float, n_members: int, tpr: float | None = None
) -> int | None:
    """Fewest non-members with which an attack of `tpr` at `fpr` (None: at chance) would as a rule pass `limit`.

    "As a rule": with the hits that are expected, i.e. at about even odds. None: not with 10 million either.
    """
    true = fpr if tpr is None else tpr

    def passes(n: int) -> bool:
        rank = rank_with_fpr_at_least(n, fpr, alpha / 2.0)
        if rank is None:
            return False
        hits = n_members * _binormal(rank / (n + 1.0), fpr, true)
        return clopper_pearson_upper(hits, n_members, alpha / 2.0) <= limit

    return _fewest(passes)


def nonmembers_to_fail_tpr(fpr: float, limit: float, alpha: float, n_members: int, tpr: float) -> int | None:
    """Fewest non-members with which an attack of `tpr` at `fpr` would as a rule be proven to exceed `limit`.

    The same odds; None as well where so few members cannot prove it.
    """
    if clopper_pearson_lower(n_members * tpr, n_members, alpha / 2.0) <= limit:
        return None

    def proven(n: int) -> bool:
        rank = rank_with_fpr_at_most(n, fpr, alpha / 2.0)
        if rank is None:
            return False
        hits = n_members * _binormal(rank / (n + 1.0), fpr, tpr)
        return clopper_pearson_lower(hits, n_members, alpha / 2.0) > limit

    return _fewest(proven)


def _binormal(at: float, fpr: float, tpr: float) -> float:
    """The TPR at the FPR `at` of the ROC curve through (fpr, tpr) of two normal distributions of one variance.

    The curve of a guess is the diagonal.
    """
    return at if tpr == fpr else float(special.ndtr(special.ndtri(at) + special.ndtri(tpr) - special.ndtri(fpr)))


def _fewest(enough: Callable[[int], bool]) -> int | None:
    """The fewest records that are enough, as far as more are enough too; None: not 10 million either."""
    high = 1
    while not enough(high):
        if high >= MOST_RECORDS:
            return None
        high = min(2 * high, MOST_RECORDS)
    return _smallest(high // 2, high, enough)
