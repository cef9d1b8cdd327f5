"""Why records are at risk: one observation per file, as aggregates. They explain; nothing is judged by them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from privacy_gate.catalog import Catalog
from privacy_gate.datamodel import AttackOutcome, Audit, Bools, Cause, Floats, RiskScores
from privacy_gate.measure import View


@dataclass(frozen=True, slots=True, eq=False)
class CauseInput:
    """What a cause may read.

    audit           the answer key over R records
    view            the adaptive attacker's: signals of target, references, pool
    attacks         outcomes of all attacks
    risk            the judged estimator's scores; None where there are none
    embedding       [R, d] log probabilities (or logits) of the target, as released
    target_correct  [R] whether the target's top class is the label
    shadow_correct  [S, R] the same for each shadow; None without shadows
    score           risk score from which a record counts as at high risk
    seed            of the run
    """

    audit: Audit
    view: View
    attacks: Sequence[AttackOutcome]
    risk: RiskScores | None
    embedding: Floats
    target_correct: Bools
    shadow_correct: Bools | None
    score: float
    seed: int


Find = Callable[[CauseInput], "Cause | None"]


@dataclass(frozen=True, slots=True)
class CauseFinder:
    """A named way of looking for causes; it answers None where it does not apply."""

    id: str
    paper: str
    find: Find


CATALOG: Catalog[CauseFinder] = Catalog("cause", __name__)


def cause(*, id: str, paper: str) -> Callable[[Find], Find]:
    """Enter a finder into the catalog."""

    def register(find: Find) -> Find:
        CATALOG.add(id, CauseFinder(id, paper, find))
        return find

    return register
