"""Is this evidence admissible at all? One check per file; each declares what it takes away when it fires."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from privacy_gate.catalog import Catalog
from privacy_gate.datamodel import (
    AttackOutcome,
    Audit,
    Bools,
    Description,
    Finding,
    Floats,
    Ints,
    Invalidates,
    Observations,
    RiskScores,
    ShadowPlan,
)
from privacy_gate.measure import View
from privacy_gate.policy import Policy


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """What the records themselves tell, without any model under audit.

    scores   [n] how much a classifier, fitted on other persons, takes each record for a member, from input and label
    member   [n]
    persons  [n]
    near     non-members that have a near duplicate among the members; None: not looked for
    expected near duplicates to expect: members that have one among the other members, scaled to the non-members
    compared non-members that were compared
    note     what was compared how, for people
    """

    scores: Floats
    member: Bools
    persons: Ints
    near: int | None = None
    expected: float = 0.0
    compared: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Circumstances:
    """All that a validity check may read.

    audit            answer key over R records
    observations     of the target (and references) on the R records
    plan             which record trained which shadow; None without shadows
    attacks          outcomes of all attacks
    duplicates       exact duplicates found across members and non-members: records dropped from both
    candidates       records before duplicates were dropped
    deterministic    whether the target answered the same batch twice the same
    saturated        share of target outputs whose true-class probability rounds to 0 or 1
    declared_defence what the registry tag `defence` names, if there is one
    declared_digest  sha256 of the declared settings; "" where only a name is declared
    defence          the defences that the shadows went through, "" for none
    defence_digest   sha256 of their settings
    target_correct   [R] whether the target's top class is the label
    shadow_correct   [S, R] the same for each shadow; None without shadows
    train_size       records the target was trained on
    model            what loading the candidate told; None when predictions are judged alone
    seed             of the run
    alpha            level shared by all checks
    limits           check id -> limit of the policy
    view             the adaptive attacker's; None where only observations are known
    suite            ids of the attacks that were asked for
    policy           that will judge; None where none is known
    risk             the judged estimator's scores
    inputs           None where the records are not known (predictions judged alone)
    """

    audit: Audit
    observations: Observations
    plan: ShadowPlan | None
    attacks: Sequence[AttackOutcome]
    duplicates: int
    candidates: int
    deterministic: bool
    saturated: float
    declared_defence: str | None
    defence: str
    declared_digest: str = field(default="", kw_only=True)
    defence_digest: str = field(default="", kw_only=True)
    target_correct: Bools
    shadow_correct: Bools | None
    train_size: int
    model: Description | None
    seed: int
    alpha: float
    limits: Mapping[str, float] = field(default_factory=dict)
    view: View | None = None
    suite: Sequence[str] = ()
    policy: Policy | None = None
    risk: RiskScores | None = None
    inputs: Inputs | None = None


Check = Callable[[Circumstances], Finding]


@dataclass(frozen=True, slots=True)
class ValidityCheck:
    """A named check and what it invalidates when it fires."""

    id: str
    title: str
    invalidates: Invalidates
    run: Check


CATALOG: Catalog[ValidityCheck] = Catalog("validity check", __name__)


def check(*, id: str, title: str, invalidates: Invalidates) -> Callable[[Check], Check]:
    """Enter a check into the catalog."""

    def register(run: Check) -> Check:
        CATALOG.add(id, ValidityCheck(id, title, invalidates, run))
        return run

    return register
