"""How two numbers go together, and how sure that is: correlation with a permutation p-value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import hypergeom

from privacy_gate.datamodel import Bools, Floats, Ints
from privacy_gate.metrics import midranks

PERMUTATIONS = 2000
_STREAM = 15  # keeps these draws apart from every other use of the run's seed


def generator(seed: int, place: int) -> np.random.Generator:
    """The draws of one cause; `place` keeps causes apart."""
    return np.random.default_rng([_STREAM, place, seed])


@dataclass(frozen=True, slots=True)
class Association:
    """Pearson's and Spearman's correlation; p: chance of so large a Spearman (absolute) without any association."""

    pearson: float
    spearman: float
    p_value: float


def association(x: Floats, y: Floats, rng: np.random.Generator) -> Association | None:
    """Of x [n] and y [n]; None with fewer than 4 points or where one of them does not vary."""
    if len(x) < 4 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    ranks = midranks(x), midranks(y)
    spearman = _pearson(*ranks)
    shuffled = abs(np.array([_pearson(ranks[0], rng.permutation(ranks[1])) for _ in range(_times(len(x)))]))
    # The order seen is one of the equally likely ones, hence the 1; a shuffle that ties with it counts as larger.
    extreme = int((shuffled >= abs(spearman) - 1e-12).sum())
    return Association(_pearson(x, y), spearman, (1 + extreme) / (1 + len(shuffled)))


def _times(n: int) -> int:
    # Bounded cost: 2000 shuffles of up to 2,000 points, fewer of more.
    return max(200, min(PERMUTATIONS, PERMUTATIONS * 2000 // n))


def _pearson(x: Floats, y: Floats) -> float:
    a, b = x - x.mean(), y - y.mean()
    return float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))


def one_each(rows: Bools, persons: Ints, rng: np.random.Generator) -> Ints:
    """One row per person, drawn at random from the marked rows [R]; sorted."""
    marked = rng.permutation(np.flatnonzero(rows))
    _, first = np.unique(persons[marked], return_index=True)
    return np.sort(marked[first])


def wilson(hits: int, n: int, deviate: float = 1.96) -> tuple[float, float]:
    """Both ends of Wilson's 95 % interval of a share."""
    p, z2 = hits / n, deviate**2
    centre, spread = p + z2 / (2 * n), deviate * np.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return float(max((centre - spread) / (1 + z2 / n), 0.0)), float(min((centre + spread) / (1 + z2 / n), 1.0))


@dataclass(frozen=True, slots=True)
class Comparison:
    """A share among high-risk members against the share among all members; 95 % bounds; of persons."""

    high_hits: int
    high: int
    all_hits: int
    all: int
    p_value: float  # one-sided, of an enrichment among high-risk members (Fisher's exact test)


def compare(suspect: Bools, high: Bools, members: Bools, persons: Ints, rng: np.random.Generator) -> Comparison | None:
    """Suspects [R] among high-risk members against all members [R]; None where one of the groups is empty."""
    rows = one_each(members, persons, rng)
    chosen, flagged = high[rows], suspect[rows]
    if not chosen.any() or chosen.all():
        return None
    hits, total, marked, size = int((flagged & chosen).sum()), len(rows), int(flagged.sum()), int(chosen.sum())
    return Comparison(hits, size, marked, total, float(hypergeom.sf(hits - 1, total, marked, size)))
