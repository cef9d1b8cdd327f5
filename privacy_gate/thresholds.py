"""Decision rules: thresholds fitted on some records, applied to others. Scores are higher for members."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_gate.datamodel import Bools, Floats, Ints, Scope
from privacy_gate.errors import EvaluationFailed, NotEvaluable

ScoreFor = Callable[[int, int], tuple[Floats, Floats]]
"""(fold, repeat) -> scores [R] to fit thresholds on, scores [R] to decide by; made without that fold's membership."""

_FOLDS_STREAM = 2  # keeps the fold draws apart from every other use of the run's seed
_LARGEST = np.finfo(np.float64).max


@dataclass(frozen=True, slots=True, eq=False)
class Thresholds:
    """A record of class c is called a member when its score is at least values[c]; +inf calls nobody a member."""

    scope: Scope
    values: Floats  # [K]
    pooled: tuple[int, ...] = ()  # classes without both kinds of records: they got the global threshold

    def decide(self, scores: Floats, labels: Ints) -> Bools:
        """Whether each record [n] of class labels [n] is called a member. Raises EvaluationFailed for NaN scores."""
        if np.isnan(scores).any():
            raise _nan(scores)
        return np.minimum(scores, _LARGEST) >= self.values[labels]


def _nan(scores: Floats) -> EvaluationFailed:
    return EvaluationFailed(
        f"{int(np.isnan(scores).sum())} of {len(scores)} attack scores are NaN",
        "a score must be a number for every record; use infinities for certainty",
    )


def _best(scores: Floats, gains: Ints, starts: Ints) -> Floats:
    """The best threshold of each segment of records sorted by score within segments; the largest among equals.

    `gains` [n], used up, is what the objective wins when a record falls below the threshold, as an exact integer: with
    floats, thresholds of equal worth would differ in the last bit, and the tie rule would be a matter of rounding.
    """
    # In place throughout: on large arrays the page faults of temporaries cost more than the arithmetic.
    last = np.append(starts[1:], len(scores)) - 1
    firsts = gains[starts]
    worth = np.cumsum(gains, out=gains)  # of a threshold just behind each record
    all_members = worth[starts] - firsts
    # A threshold can stand behind a record only if the next one of its segment has another score.
    between_equals = np.zeros(len(scores), dtype=np.bool_)
    np.equal(scores[1:], scores[:-1], out=between_equals[:-1])
    between_equals[last] = False
    np.copyto(worth, np.iinfo(np.int64).min, where=between_equals)
    best = np.maximum(np.maximum.reduceat(worth, starts), all_members)
    places = np.flatnonzero(worth == np.repeat(best, last + 1 - starts))
    behind = starts - 1  # the threshold stands before the segment's first record, unless
    behind[np.searchsorted(last, places)] = places  # of several places in a segment the last is assigned last
    return np.where(behind == last, np.inf, scores[np.minimum(behind + 1, last)])


def _middle(scores: Floats, gains: Ints) -> float:
    """The middle one of the best thresholds of records sorted by score; the smaller of two. `gains` as in `_best`."""
    worth = np.concatenate([[0], np.cumsum(gains)])  # of a threshold before the first record, behind each record
    worth[np.flatnonzero(scores[1:] == scores[:-1]) + 1] = np.iinfo(np.int64).min  # none stands between equals
    best = np.flatnonzero(worth == worth.max())
    place = best[(len(best) - 1) // 2]
    return float(scores[place]) if place < len(scores) else np.inf


def fit(scores: Floats, member: Bools, labels: Ints, classes: int, scope: Scope) -> Thresholds:
    """Thresholds for scores [n] of records with membership [n] and class labels [n] in 0..classes-1; O(n log n).

    GLOBAL maximises TPR + TNR. CLASS maximises TPR_c + TNR_c in each class (Song & Mittal 2021, section 3).
    CLASS_WEIGHTED maximises n1c/n1 TPR_c + n0c/n0 TNR_c, so that on these records it is never worse than GLOBAL.
    All are sums of rates: each side weighs the same however many records it has, and none is left out for balance.
    Candidates are the scores and +inf; of several best, GLOBAL takes the middle, a class the largest. A class without
    members or without non-members gets the global threshold. Raises NotEvaluable without members or non-members,
    EvaluationFailed for NaN.
    """
    members = int(np.count_nonzero(member))
    nonmembers = len(member) - members
    if members == 0 or nonmembers == 0:
        side = "members" if members == 0 else "non-members"
        raise NotEvaluable(f"there are no {side} to fit a threshold on", "give records of both kinds")
    order = np.argsort(scores)
    ordered = scores[order]
    if np.isnan(ordered[-1]):  # NaN sort last
        raise _nan(scores)
    np.minimum(ordered, _LARGEST, out=ordered)  # as in `decide`: +inf as a score stays below +inf as "nobody"
    inside = member[order]
    alike = np.array([members, -nonmembers])  # what letting a non-member, a member fall wins

    def pooled() -> float:
        # On the published predictions the middle of equals gives the published global figures, as the largest does
        # for class thresholds.
        return _middle(ordered, alike[inside.view(np.uint8)])

    if scope is Scope.GLOBAL:
        return Thresholds(scope, _frozen(np.full(classes, pooled())))

    # Class and membership in one small unsigned integer: one gather for both, and a radix sort, linear in n. Arrays of
    # n that are done with lend their memory to the next ones, for the reason given in `_best`.
    kind: NDArray[Any] = (labels.astype(np.min_scalar_type(2 * classes))[order] << 1) | inside
    by_class = np.argsort(kind >> 1, kind="stable")
    kind = kind[by_class]
    grouped = np.take(ordered, by_class, out=order.view(np.float64), mode="clip")
    starts = np.flatnonzero(np.diff(kind >> 1, prepend=kind.dtype.type(classes)))  # no class is called `classes`
    present = kind[starts] >> 1
    members_of, nonmembers_of = np.zeros((2, classes), dtype=np.int64)
    members_of[present] = np.add.reduceat(kind & 1, starts, dtype=np.int64)
    nonmembers_of[present] = np.diff(starts, append=len(kind)) - members_of[present]
    own = np.stack((members_of, -nonmembers_of), axis=1)  # [K, 2]
    gains = own if scope is Scope.CLASS else np.broadcast_to(alike, own.shape)
    values = np.full(classes, np.inf)
    values[present] = _best(grouped, np.take(gains.ravel(), kind, out=by_class, mode="clip"), starts)
    lacking = np.flatnonzero((members_of == 0) | (nonmembers_of == 0))
    if len(lacking):
        values[lacking] = pooled()
    return Thresholds(scope, _frozen(values), tuple(int(c) for c in lacking))


def _frozen(values: Floats) -> Floats:
    values.flags.writeable = False
    return values


def person_folds(member: Bools, persons: Ints, seed: int, repeats: int = 5, folds: int = 2) -> list[list[Bools]]:
    """Per repeat, the masks [R] of its folds: a partition of the records that keeps every person in one fold.

    Persons with members only, with non-members only and with both are dealt out separately, the largest first, so
    that the folds are alike. A function of persons and seed, not of the order of the records. Raises NotEvaluable
    when a side has fewer persons than there are folds.
    """
    count = int(persons.max()) + 1
    records = np.bincount(persons, minlength=count)
    of_members = np.bincount(persons[member], minlength=count)
    for name, having in (("members", of_members), ("non-members", records - of_members)):
        if np.count_nonzero(having) < folds:
            raise NotEvaluable(
                f"{np.count_nonzero(having)} persons among the {name} are too few for {folds} folds",
                "give records of more persons",
            )
    kind = (of_members > 0) + 2 * (of_members < records)
    strata = [np.flatnonzero(kind == k) for k in (1, 2, 3)]
    return [
        _deal(strata, records, persons, np.random.default_rng([_FOLDS_STREAM, seed, repeat]), folds)
        for repeat in range(repeats)
    ]


def _deal(strata: list[Ints], records: Ints, persons: Ints, rng: np.random.Generator, folds: int) -> list[Bools]:
    fold_of = np.full(len(records), -1)
    for stratum in strata:
        shuffled = rng.permutation(stratum)
        largest_first = shuffled[np.argsort(-records[shuffled], kind="stable")]
        # Each round of `folds` persons is dealt in an order of its own, so that no fold always gets the largest.
        rounds = -(-len(stratum) // folds)
        seats = rng.permuted(np.tile(np.arange(folds), (rounds, 1)), axis=1).ravel()
        fold_of[largest_first] = seats[: len(stratum)]
    return [fold_of[persons] == fold for fold in range(folds)]


def cross_fit(
    scores: Floats | ScoreFor,
    member: Bools,
    labels: Ints,
    persons: Ints,
    classes: int,
    scope: Scope,
    folds: Sequence[Sequence[Bools]],
) -> list[Bools]:
    """Decisions [R] per repeat: those on a fold use thresholds fitted on the repeat's other folds only.

    `scores` [R] do not depend on membership; scores that do are given as a function (`ScoreFor`). Raises ValueError
    when the folds of a repeat are no partition of the records, or a person is in two of them: no number may reach a
    verdict from a threshold fitted on the person that it is about.
    """
    decisions = []
    for repeat, masks in enumerate(folds):
        _check_partition(masks, persons)
        decided = np.zeros(len(member), dtype=np.bool_)
        for fold, here in enumerate(masks):
            to_fit, to_apply = scores(fold, repeat) if callable(scores) else (scores, scores)
            there = ~here
            rule = fit(to_fit[there], member[there], labels[there], classes, scope)
            decided[here] = rule.decide(to_apply[here], labels[here])
        decisions.append(decided)
    return decisions


def _check_partition(masks: Sequence[Bools], persons: Ints) -> None:
    if not np.array_equal(np.sum(masks, axis=0), np.ones(len(persons))):
        raise ValueError("the folds are no partition of the records")
    fold_of = np.argmax(masks, axis=0)
    first = np.zeros(int(persons.max()) + 1, dtype=np.int64)
    first[persons] = fold_of
    if not np.array_equal(first[persons], fold_of):
        raise ValueError("a person is in two folds")
