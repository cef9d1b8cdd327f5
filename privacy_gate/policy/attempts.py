"""Repeated testing: how often a model was evaluated, and what level is left to this evaluation.

Looking again with other records, another seed or other reference models until a model passes would pass any model. So
the k-th look has alpha * 6 / (pi^2 k^2) for k >= 2, and the first the whole alpha: all looks together err with
probability at most alpha * (2 - 6 / pi^2) < 1.4 alpha, however many there are and whatever made somebody look again (a
union bound).

A look without reference models and the first one with them, on the same records and seed, are one look: most of their
numbers are the same, and no reference model is drawn twice. A policy that asks for reference attacks cannot pass the
former, so its wrong passes keep to the bound above; what else can err in either errs at most twice as often.

The promise is about evaluations that were recorded. One that is still under way is not: two that run at the same
time count as if the other were not there, and are put in order afterwards. One that was not logged is not known:
whoever may run the gate without logging can look in private and log the look that pleases. Where that matters, let a
service that always logs be the only one whose verdicts count.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from privacy_gate.datamodel import Attempt
from privacy_gate.errors import ExitCode

NO_REFERENCES = "none"  # what says of an evaluation that it had no shadows
_SPENT_NOTHING = frozenset({ExitCode.USAGE, ExitCode.FAILED, ExitCode.INTERRUPTED})


class Look(NamedTuple):
    """What was looked at: the digest of the records, the seed, and what the reference models were drawn from."""

    data_digest: str
    seed: int
    references: str


def looks(attempts: Iterable[Attempt]) -> list[Look]:
    """What was looked at, each once, in the order of the first evaluation.

    By start time, then run id. Evaluations that broke (exit 3) or never began (2) showed nothing and do not count;
    an inconclusive one (4) does. One without reference models is named by the first with them on the same records and
    seed. Runs that do not say what their references were drawn from are of one kind, which is none of the others.
    """
    spent = [a for a in attempts if a.exit_code not in _SPENT_NOTHING]
    known: list[Look] = []
    for a in sorted(spent, key=lambda a: (a.at, a.run_id)):
        look = Look(a.data_digest, a.seed, a.references)
        place = _place(known, look)
        if place == len(known):
            known.append(look)
        elif look.references != NO_REFERENCES:
            known[place] = look
    return known


def _place(known: list[Look], look: Look) -> int:
    """Where a look stands among those that are known; their number if it is none of them."""
    if look in known:
        return known.index(look)
    if look.references == NO_REFERENCES:
        nested = [i for i, k in enumerate(known) if k[:2] == look[:2] and k.references]
        return nested[0] if nested else len(known)
    bare = look._replace(references=NO_REFERENCES)
    return known.index(bare) if look.references and bare in known else len(known)


def attempt_number(attempts: Iterable[Attempt], data_digest: str, seed: int, references: str) -> int:
    """Which look at this model an evaluation on these records, with this seed and these references is; counts from 1.

    attempts    earlier evaluations of the same model digest, in any order; a new version has none
    references  what the reference models are drawn from; NO_REFERENCES for none
    The same model, records, seed and references are one look however often and under whatever policy it runs: it gets
    the number that it had.
    """
    return _place(looks(attempts), Look(data_digest, seed, references)) + 1


def spend(alpha: float, attempt: int) -> float:
    """The level of the attempt-th look: alpha for the first, alpha * 6 / (pi^2 k^2) for the k-th, k >= 2."""
    if attempt < 1:
        raise ValueError(f"attempts count from 1, got {attempt}")
    return alpha if attempt == 1 else alpha * 6.0 / (math.pi * attempt) ** 2
