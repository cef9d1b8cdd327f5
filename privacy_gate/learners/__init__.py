"""What trained attacks share: records in an order of their own, and scores by models that did not learn from them.

Whoever learns draws: batches, starting weights, folds. So that no draw depends on where a record stands or what its
class and its person are called, records are first brought into an order that comes from their content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from threadpoolctl import threadpool_limits

from privacy_gate.datamodel import Bools, Floats, Ints, Observations, freeze
from privacy_gate.errors import NotEvaluable
from privacy_gate.thresholds import person_folds

FOLDS = 3
CAP = 20_000
"""Most records to learn from, so that costs stay bounded; the persons beyond are drawn out."""

FEWEST = 10
"""Persons that must be known on each side: with fewer, a fold has nothing to learn from or to stop at."""

_SEED = 0  # an attack is a function of what it sees: its draws have one seed, whatever the run's is
_SAMPLE_STREAM = 21  # keeps this draw apart from the folds


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """What a trained attack learns from and what it scores: all records, in canonical order.

    signals  signal name -> [R] or [R, d]
    member   [R] False where membership is withheld: such records are scored and never learned from
    persons  [R] dense index of the person
    group    [R] number of the class, 0..groups-1 by first appearance among known records; `groups` where it is none
             of theirs
    groups   classes with known records
    classes  K
    """

    signals: Mapping[str, Floats]
    member: Bools
    persons: Ints
    group: Ints
    groups: int
    classes: int

    def __post_init__(self) -> None:
        freeze(*self.signals.values(), self.member, self.persons, self.group)


Learn = Callable[[Material, Sequence[Ints], Sequence[Ints]], Sequence[Floats]]
"""(material, per fold the rows to learn from, per fold the rows to score) -> per fold the scores of the latter."""


def cross_fitted(
    seen: Observations,
    names: Iterable[str],
    learn: Learn,
    *,
    one_model: bool = False,
    folds: int = FOLDS,
    cap: int = CAP,
) -> Floats:
    """[R] scores: a record of a person that was learned from is scored by the fold that left the person out, every
    other record by the mean over all folds.

    Of the signals only `names` are read. `one_model`: learn from the answers of a single shadow. At most `cap` records
    are learned from, of persons drawn at random. Raises NotEvaluable with fewer than 10 known persons on either side.
    """
    seen = replace(seen, target={name: seen.target[name] for name in sorted(names)})
    order = canonical_order(seen)
    material, teachers = _material(seen, order, one_model)
    known = np.flatnonzero(teachers)
    _require_enough(material, known)
    known = _capped(material, known, cap)
    names, persons = np.unique(material.persons[known], return_inverse=True)
    ((*left_out,),) = person_folds(material.member[known], persons, _SEED, repeats=1, folds=folds)
    fold_of = np.full(int(material.persons.max()) + 1, -1)
    for fold, here in enumerate(left_out):
        fold_of[names[persons[here]]] = fold
    mine = fold_of[material.persons]  # -1: nobody learned from this person
    asked = [np.flatnonzero((mine == fold) | (mine < 0)) for fold in range(folds)]
    total = np.zeros(seen.n)
    # Many small products: threads would wait for each other longer than they work.
    with threadpool_limits(limits=1):
        given = learn(material, [known[~here] for here in left_out], asked)
    for rows, scores in zip(asked, given, strict=True):
        total[rows] += scores
    scores = np.empty(seen.n)
    scores[order] = np.where(mine < 0, total / folds, total)
    return scores


def canonical_order(seen: Observations) -> Ints:
    """[R] an order of the records that depends on their signals and on what is known of them.

    Not on their places, nor on the names of persons and classes. Records of equal content and knowledge are told
    apart by how the records of their person, then of their class, rank; the order of what is then still equal is left
    as it is.
    """
    columns = _columns(seen)
    rank = _dense([seen.known.astype(np.int64), *columns])
    if rank.max(initial=-1) == seen.n - 1:
        return np.argsort(rank)
    of_person = _standing(seen.persons, rank)
    of_class = _standing(seen.labels, rank)
    return np.lexsort((*of_class, *of_person, rank))


def _columns(seen: Observations) -> list[Floats]:
    return [
        column
        for _, values in sorted(seen.target.items())
        for column in (values.T if values.ndim == 2 else values[None, :])
    ]


def _dense(keys: Sequence[Floats | Ints]) -> Ints:
    """[n] dense rank of rows by their keys, the last key first; equal rows share a rank."""
    # One key orders nearly everything that is not saturated, and many keys are slow to sort by.
    order = np.argsort(keys[-1], kind="stable")
    if (np.diff(keys[-1][order]) == 0).any():
        order = np.lexsort(tuple(keys))
    new = np.zeros(len(order), dtype=np.bool_)
    for key in keys:
        new[1:] |= np.diff(key[order]) != 0
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.cumsum(new)
    return rank


def _standing(names: Ints, rank: Ints) -> tuple[Ints, Ints]:
    """[n] twice: how many records bear the same name, and the sum of their ranks. Integers: the order is exact."""
    count = np.bincount(names)
    total = np.zeros(len(count), dtype=np.int64)
    np.add.at(total, names, rank)
    return total[names], count[names]


def first_seen(names: Ints, among: Ints) -> tuple[Ints, int]:
    """[n] names numbered by first appearance in the rows `among`, and how many there are; others get that number."""
    found, first = np.unique(names[among], return_index=True)
    number = np.full(int(names.max(initial=-1)) + 1, len(found))
    number[found[np.argsort(first)]] = np.arange(len(found))
    return number[names], len(found)


def _material(seen: Observations, order: Ints, one_model: bool) -> tuple[Material, Bools]:
    """The records in canonical order, and [R] which of them may be learned from."""
    known = seen.known[order] >= 0
    teachers = known & _typical_model(seen)[order] if one_model else known
    rows = np.flatnonzero(teachers)
    # Persons nobody learns from keep numbers of their own, behind the others; which is of no matter.
    number, count = first_seen(seen.persons[order], rows)
    others = number == count
    number[others] += np.unique(seen.persons[order][others], return_inverse=True)[1]
    group, groups = first_seen(seen.labels[order], rows)
    material = Material(
        signals={name: values[order] for name, values in seen.target.items()},
        member=seen.known[order] == 1,
        persons=number,
        group=group,
        groups=groups,
        classes=seen.classes,
    )
    return material, teachers


def _typical_model(seen: Observations) -> Bools:
    """[R] the known answers of one model: the one whose median answer is the median of those of all.

    Of models with known members and non-members. The choice comes from the answers, not from how the models are
    numbered; an extreme one would teach what is true of it alone.
    """
    known = seen.known >= 0
    if seen.answered_by is None:
        return known
    first = seen.target[min(seen.target)].reshape(seen.n, -1)[:, 0]
    usable = np.intersect1d(seen.answered_by[seen.known == 1], seen.answered_by[seen.known == 0])
    if not len(usable):
        return known
    middle = np.array([np.median(first[known & (seen.answered_by == model)]) for model in usable])
    chosen = usable[np.argsort(middle, kind="stable")[(len(usable) - 1) // 2]]
    return np.asarray(known & (seen.answered_by == chosen))


def _require_enough(material: Material, known: Ints) -> None:
    for side, inside in (("members", True), ("non-members", False)):
        persons = len(np.unique(material.persons[known[material.member[known] == inside]]))
        if persons < FEWEST:
            raise NotEvaluable(
                f"{persons} persons among the known {side} are too few to learn from; {FEWEST} are needed",
                "give records of more persons",
            )


def _capped(material: Material, known: Ints, cap: int) -> Ints:
    """The known rows of as many persons, drawn at random, as have at most `cap` records together."""
    if len(known) <= cap:
        return known
    persons = material.persons[known]
    records = np.bincount(persons)
    drawn = np.random.default_rng([_SAMPLE_STREAM, _SEED]).permutation(len(records))
    kept = np.zeros(len(records), dtype=np.bool_)
    kept[drawn[np.cumsum(records[drawn]) <= cap]] = True
    rows = known[kept[persons]]
    _require_enough(material, rows)
    return rows


def standardised(values: Floats, rows: Ints) -> Floats:
    """[R, d] to mean 0 and standard deviation 1 over `rows`; a column that is constant there becomes 0."""
    part = values[rows]
    centre, spread = part.mean(axis=0), part.std(axis=0)
    # What a sum's rounding leaves of a constant is no spread.
    constant = spread <= 1e-9 * (1 + np.abs(centre))
    return np.asarray(np.where(constant, 0.0, (values - centre) / np.where(constant, 1.0, spread)))
