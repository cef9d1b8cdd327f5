"""Repeated testing: how often a model was evaluated, and what level is left to this evaluation.

Looking again with other records or another seed until a model passes would pass any model. So the k-th look has
alpha * 6 / (pi^2 k^2) for k >= 2, and the first the whole alpha: all looks together err with probability at most
alpha * (2 - 6 / pi^2) < 1.4 alpha, however many there are and whatever made somebody look again (a union bound).

The promise is about evaluations that were recorded. One that is still under way is not: two that run at the same
time count as if the other were not there, and are put in order afterwards. One that was not logged is not known:
whoever may run the gate without logging can look in private and log the look that pleases. Where that matters, let a
service that always logs be the only one whose verdicts count.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from privacy_gate.datamodel import Attempt
from privacy_gate.errors import ExitCode

_SPENT_NOTHING = frozenset({ExitCode.USAGE, ExitCode.FAILED, ExitCode.INTERRUPTED})


def looks(attempts: Iterable[Attempt]) -> list[tuple[str, int]]:
    """The (data digest, seed) pairs that were looked at, each once, in the order of their first evaluation.

    By start time, then run id. Evaluations that broke (exit 3) or never began (2) showed nothing and do not count;
    an inconclusive one (4) does.
    """
    spent = [a for a in attempts if a.exit_code not in _SPENT_NOTHING]
    ordered = sorted(spent, key=lambda a: (a.at, a.run_id))
    return list(dict.fromkeys((a.data_digest, a.seed) for a in ordered))


def attempt_number(attempts: Iterable[Attempt], data_digest: str, seed: int) -> int:
    """Which look at this model an evaluation on these records with this seed is; counts from 1.

    attempts  earlier evaluations of the same model digest, in any order; a new version has none
    The same model, records and seed is one look however often and under whatever policy it runs: it gets the number
    that it had.
    """
    known = looks(attempts)
    look = (data_digest, seed)
    return known.index(look) + 1 if look in known else len(known) + 1


def spend(alpha: float, attempt: int) -> float:
    """The level of the attempt-th look: alpha for the first, alpha * 6 / (pi^2 k^2) for the k-th, k >= 2."""
    if attempt < 1:
        raise ValueError(f"attempts count from 1, got {attempt}")
    return alpha if attempt == 1 else alpha * 6.0 / (math.pi * attempt) ** 2
