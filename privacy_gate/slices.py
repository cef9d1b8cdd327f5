"""Parts of the audited records that are looked at one by one: classes, declared groups, the hardest records.

No part is chosen by what the target answered: a part picked because the target leaks on it would leak by selection.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from privacy_gate.datamodel import Audit, Bools, Floats, Observations, Slice

CLASS, DIFFICULTY = "class", "difficulty"
HARDEST = "hardest tenth"
SIGNAL = "logit_confidence"
FEWEST = 10  # persons on a side; of fewer a shared report does not speak


def slices(audit: Audit, observations: Observations, fewest: int = FEWEST) -> tuple[Slice, ...]:
    """All parts with at least `fewest` member and non-member persons, sorted by what they are parts of and by name.

    A part that holds all records is none. A declared group called `class` or `difficulty` is named `group class`, ...
    """
    return tuple(part for part in _parts(audit, observations) if min(part.members, part.nonmembers) >= fewest)


def left_out(audit: Audit, observations: Observations, fewest: int = FEWEST) -> tuple[Slice, ...]:
    """The parts with members that `slices` leaves out, in the same order: nothing is known of how they leak."""
    parts = _parts(audit, observations)
    return tuple(part for part in parts if part.members and min(part.members, part.nonmembers) < fewest)


def _parts(audit: Audit, observations: Observations) -> list[Slice]:
    """All parts, sorted by what they are parts of and by name; one that holds all records is none."""
    found = (
        Slice(by, value, rows, *_persons(audit, rows))
        for by, value, rows in _candidates(audit, observations)
        if not rows.all()
    )
    return sorted(found, key=lambda part: (part.by, part.value))


def _candidates(audit: Audit, observations: Observations) -> Iterator[tuple[str, str, Bools]]:
    for index, name in enumerate(audit.classes):
        yield CLASS, name, audit.labels == index
    for group, values in audit.groups.items():
        by = f"group {group}" if group in (CLASS, DIFFICULTY) else group
        for value in np.unique(values):
            yield by, str(value), values == value
    hardest = _hardest(observations)
    if hardest is not None:
        yield DIFFICULTY, HARDEST, hardest


def _persons(audit: Audit, rows: Bools) -> tuple[int, int]:
    """Persons with records in `rows` [R]: members, non-members."""
    inside, outside = (len(np.unique(audit.persons[rows & side])) for side in (audit.member, ~audit.member))
    return inside, outside


def difficulty(observations: Observations) -> Floats | None:
    """[R] mean logit confidence of the references that never saw the record, higher = easier; None without references.

    nan where no reference left the record out, or its mean is not a number.
    """
    answers, member = observations.references.get(SIGNAL), observations.reference_member
    if answers is None or member is None:
        return None
    out = ~member
    times = out.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):  # nan is the answer where nobody left the record out
        return np.asarray(np.where(out, answers, 0.0).sum(axis=0) / times)


def _hardest(observations: Observations) -> Bools | None:
    """[R] the tenth of the records with a difficulty that is hardest, and all records as hard as its easiest one."""
    ease = difficulty(observations)
    if ease is None:
        return None
    ranked = np.sort(ease[~np.isnan(ease)])
    count = len(ranked) // 10
    # By value, not by place: members come first, and a tie broken by place would pick them.
    return np.asarray(ease <= ranked[count - 1]) if count else None
