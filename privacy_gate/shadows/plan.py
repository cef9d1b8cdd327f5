"""Which record trains which shadow. Pure: the same counts, persons and seed give the same plan on any machine.

Persons never straddle: all records of a person are in a shadow's training set, or none is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privacy_gate.datamodel import Bools, Ints, ShadowPlan
from privacy_gate.errors import NotEvaluable, UsageError

IN_AND_OUT = 2  # shadows that each person shall be in, and out of: a reference attack fits a spread on either side

_Index = NDArray[np.intp]


def shadow_seeds(seed: int, count: int) -> Ints:
    """[S] one seed per shadow, a function of (seed, s) alone: more shadows do not change the first ones."""
    draws = [np.random.SeedSequence([seed, s]).generate_state(1)[0] for s in range(count)]
    return np.array(draws, dtype=np.int64).reshape(count)


def balanced(
    persons: Ints, member: Bools, nonmember: Bools, population: Bools, count: int, train_size: int, seed: int
) -> ShadowPlan:
    """A plan in which each audited person trains some shadows and is held out of others.

    persons, member, nonmember, population  [U] person index; audited members, audited non-members, spare records
    count, train_size                       shadows S; records that the target was trained on
    Each person is in with probability q = train_size / (members + non-members), stratified: in floor(qS) or ceil(qS)
    shadows (the ranked noise of Carlini et al. 2022, section IV), at least two in and two out where q and S allow it.
    Where q is above one half, population records take the place of audited ones until it is not: a reference attack is
    as good as the rarer side of a record is known. What could not be had is in `notes`.
    Raises NotEvaluable without audited records.
    """
    _check(count, train_size, len(persons), member, nonmember, population)
    pool = member | nonmember
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    people = _People.of(persons, pool)
    if len(people.weight) == 0:
        raise NotEvaluable("no audited records: nothing to train shadows on", "name members and nonmembers in data:")
    total = int(people.weight.sum())
    notes: list[str] = []

    # Shadows smaller than the target memorise more, larger ones less. So, where size and two in, two out cannot both
    # be had, records are held back when too many are needed, but never added when too few are.
    most_in = count - IN_AND_OUT if count >= 2 * IN_AND_OUT else max(count - 1, 1)
    spare = population & ~pool & ~np.isin(persons, persons[pool])
    most = max(total / 2, float(train_size - int(spare.sum())))
    audited_size = min(float(train_size), total * (most_in / count if count > 1 else 0.5), most)
    q = audited_size / total
    if 0 < count < 2 * IN_AND_OUT:
        notes.append(f"{count} shadows cannot hold each person both in and out of {IN_AND_OUT}; use at least 4")
    elif 0 < q * count < IN_AND_OUT:
        notes.append(
            f"{train_size} of {total} audited records train each of {count} shadows: most persons are in fewer than"
            f" {IN_AND_OUT}; use at least {int(np.ceil(IN_AND_OUT / q))} shadows"
        )

    inside = _ranked(people.weight, count, audited_size, most_in, rng)
    _repair(inside, people.weight, _even_targets(audited_size, count), rng)
    members = people.spread(inside)

    wanted = np.full(count, train_size, dtype=np.int64) - members.sum(axis=1)
    if (wanted > 0).any() and spare.any():
        members |= _fill(persons, spare, wanted, seed)
    sizes = members.sum(axis=1)
    if count and sizes.min() < train_size and (train_size - sizes.min()) * 100 > train_size:
        mend = "add population records"
        if train_size < total:
            mend += f" or use at least {int(np.ceil(IN_AND_OUT / (1 - train_size / total)))} shadows"
        notes.append(f"shadows train on {sizes.min()} records where the target had {train_size}; {mend}")
    if count and sizes.max() > train_size and (sizes.max() - train_size) * 100 > train_size:
        notes.append(f"persons with many records: a shadow trains on {sizes.max()} where the target had {train_size}")
    return ShadowPlan("balanced", members, pool, shadow_seeds(seed, count), train_size, tuple(notes))


def disjoint(persons: Ints, population: Bools, count: int, train_size: int, seed: int, labels: Ints) -> ShadowPlan:
    """A plan that touches no audited record: shadows train on one half of the population, are tested on the other.

    persons, population, labels  [U] person index, spare records, class index
    The half is drawn by person, anew for each shadow, and has `train_size` records if the population has more.
    Raises UsageError without population, NotEvaluable when a half would not hold two persons and two classes.
    """
    _check(count, train_size, len(persons), population, labels)
    if not population.any():
        raise UsageError(
            "shadows.plan: disjoint trains on population records, and there are none",
            "name them in data.population, or choose shadows.plan: balanced",
        )
    people = _People.of(persons, population)
    records = int(people.weight.sum())
    half = min(records // 2, train_size)
    members = np.zeros((count, len(persons)), dtype=bool)
    for s in range(count):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2, s)))
        members[s] = people.spread(_greedy(people.weight, half, rng)[None])[0]
        for side in (members[s], population & ~members[s]):
            if len(np.unique(persons[side])) < 2 or len(np.unique(labels[side])) < 2:
                raise NotEvaluable(
                    f"the population of {records} records ({len(people.weight)} persons) is too small for a"
                    " disjoint plan: each half needs two persons and two classes",
                    "add population records, or choose shadows.plan: balanced",
                )
    notes: list[str] = []
    if count and (train_size - members.sum(axis=1).min()) * 100 > train_size:
        smallest = members.sum(axis=1).min()
        notes.append(f"shadows train on {smallest} records where the target had {train_size}; add population records")
    missing = sorted(set(labels.tolist()) - set(labels[population].tolist()))
    if missing:
        notes.append(f"the population has no record of class index {', '.join(map(str, missing))}")
    return ShadowPlan("disjoint", members, population.copy(), shadow_seeds(seed, count), train_size, tuple(notes))


def _check(count: int, train_size: int, records: int, *columns: NDArray[np.generic]) -> None:
    if count < 0 or train_size < 1 or any(column.shape != (records,) for column in columns):
        raise ValueError(f"count {count}, train_size {train_size}, columns {[c.shape for c in columns]} of {records}")


@dataclass(frozen=True, slots=True, eq=False)
class _People:
    """The persons behind the records of one pool."""

    weight: Ints  # [P] records per person
    column: _Index  # [n] person 0..P-1 of each pooled record
    where: _Index  # [n] row of each pooled record
    rows: int  # U

    @classmethod
    def of(cls, persons: Ints, pool: Bools) -> _People:
        where = np.flatnonzero(pool)
        _, column = np.unique(persons[where], return_inverse=True)
        weight = np.bincount(column).astype(np.int64) if len(where) else np.zeros(0, dtype=np.int64)
        return cls(weight, column.astype(np.intp), where, len(persons))

    def spread(self, inside: Bools) -> Bools:
        """[S, P] of persons to [S, U] of records."""
        records = np.zeros((len(inside), self.rows), dtype=bool)
        records[:, self.where] = inside[:, self.column]
        return records


def _even_targets(size: float, count: int) -> Ints:
    """[S] whole sizes that differ by at most one and sum to round(size * S)."""
    total = round(size * count)
    return np.array([total // count + (s < total % count) for s in range(count)], dtype=np.int64)


def _ranked(weight: Ints, count: int, size: float, most_in: int, rng: np.random.Generator) -> Bools:
    """[S, P] each person in the floor(qS) or ceil(qS) shadows of its lowest noise; S * size records in all."""
    total = int(weight.sum())
    expected = size / total * count
    least_in = IN_AND_OUT if expected >= IN_AND_OUT else 0
    base = min(max(int(np.floor(expected + 1e-9)), least_in), most_in)
    extra = np.zeros(len(weight), dtype=bool)
    if base < most_in:
        extra = _greedy(weight, round(size * count) - base * total, rng)
    inside = np.zeros((count, len(weight)), dtype=bool)
    block = 8192  # bounds the noise in memory
    for start in range(0, len(weight), block):
        part = slice(start, start + block)
        noise = rng.random((count, len(weight[part])))
        rank = noise.argsort(axis=0).argsort(axis=0)
        inside[:, part] = rank < base + extra[part]
    return inside


def _greedy(weight: Ints, room: int, rng: np.random.Generator) -> Bools:
    """[P] persons in random order as long as their records fit into `room`; exact where persons have one record."""
    chosen = np.zeros(len(weight), dtype=bool)
    order = rng.permutation(len(weight))
    while room > 0 and len(order):
        fits = np.cumsum(weight[order]) <= room
        taken = order[: int(fits.sum())]  # weights are positive: the ones that fit come first
        chosen[taken] = True
        room -= int(weight[taken].sum())
        order = order[len(taken) + 1 :]  # the first that did not fit is passed over
        order = order[weight[order] <= room]
    return chosen


def _repair(inside: Bools, weight: Ints, target: Ints, rng: np.random.Generator) -> None:
    """Move persons from shadows above their size to those below, in place; how often each is in stays as it was.

    Each step lowers the sum of squared deviations, so this ends. With one record per person it ends at the target.
    """
    while any(_ease(inside, weight, target, over, under, rng) for over, under in _pairs(inside, weight, target)):
        pass


def _pairs(inside: Bools, weight: Ints, target: Ints) -> Iterator[tuple[int, int]]:
    """Shadows above and below their target size, farthest apart first."""
    deviation = inside @ weight - target
    order = np.argsort(deviation, kind="stable")
    above = [int(s) for s in order[::-1] if deviation[s] > 0]
    below = [int(s) for s in order if deviation[s] < 0]
    return ((a, b) for a in above for b in below)


def _ease(inside: Bools, weight: Ints, target: Ints, over: int, under: int, rng: np.random.Generator) -> bool:
    """Bring one pair nearer to its targets; False if no move of one person, nor an exchange of two, does."""
    excess, lack = (int(inside[s] @ weight - target[s]) for s in (over, under))
    movable = np.flatnonzero(inside[over] & ~inside[under])
    room = min(excess, -lack)
    moved = movable[_greedy(weight[movable], room, rng)]
    if len(moved) == 0:
        # Moving w changes the squares by 2w(w - (excess - lack)): an improvement for 0 < w < excess - lack.
        gap = excess - lack
        back = np.flatnonzero(inside[under] & ~inside[over])
        exchange = _best_exchange(weight[movable], weight[back], gap)
        if exchange is None:
            return False
        out, returned = exchange
        moved = movable[[out]]
        if returned is not None:
            inside[over, back[returned]], inside[under, back[returned]] = True, False
    inside[over, moved], inside[under, moved] = False, True
    return True


def _best_exchange(out: Ints, back: Ints, gap: int) -> tuple[int, int | None] | None:
    """Index into `out` (and `back`) whose difference of records is nearest to gap / 2, strictly between 0 and gap."""
    best: tuple[float, int, int | None] | None = None
    sizes_out, first_out = np.unique(out, return_index=True)
    sizes_back, first_back = np.unique(back, return_index=True)
    returns: list[tuple[int, int | None]] = [(0, None), *zip(sizes_back.tolist(), first_back.tolist(), strict=True)]
    for size, i in zip(sizes_out.tolist(), first_out.tolist(), strict=True):
        for other, j in returns:
            step = size - other
            if 0 < step < gap and (best is None or abs(step - gap / 2) < best[0]):
                best = (abs(step - gap / 2), i, j)
    return None if best is None else best[1:]


def _fill(persons: Ints, spare: Bools, wanted: Ints, seed: int) -> Bools:
    """[S, U] spare records, by person, up to what each shadow still wants."""
    people = _People.of(persons, spare)
    chosen = [
        _greedy(people.weight, int(room), np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3, s))))
        for s, room in enumerate(wanted)
    ]
    return people.spread(np.array(chosen))
