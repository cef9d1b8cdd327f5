"""What both controls share: a membership that is known to mean nothing, and a leak that is known to be there.

Non-members are a true null: no model was trained on any of them. Half of their persons are called members, by lot; the
same code that measures and judges the target then measures and judges this.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import norm, rankdata

from privacy_gate import metrics
from privacy_gate.attacks import CATALOG as ATTACKS
from privacy_gate.attacks import Attack
from privacy_gate.datamodel import AttackOutcome, Audit, Bools, Evidence, Ints, RuleOutcome, ThreatModel
from privacy_gate.measure import View, measure
from privacy_gate.policy import CATALOG as RULES
from privacy_gate.policy import Measured, Policy, judge
from privacy_gate.policy.contract import LimitSettings
from privacy_gate.validity import Circumstances
from privacy_gate.validity.bounds import corrected_alpha

POWER = 0.99
FEWEST = 10  # persons a side, as in a run
MOST = 10_000_000
ORDER_SIGNAL = "logit_confidence"
_STREAM = 33  # keeps the lot apart from every other use of the run's seed

ACCURACY, AUC, TPR = "attack.accuracy", "attack.auc", "attack.tpr_at_fpr_"


@dataclass(frozen=True, slots=True, eq=False)
class Null:
    """Non-members with a membership drawn by lot, laid out as in a run: members first."""

    view: View
    audit: Audit
    rows: Ints  # [n] of the run's records

    @property
    def members(self) -> int:
        """Persons called members."""
        return len(np.unique(self.audit.persons[self.audit.member]))

    @property
    def nonmembers(self) -> int:
        """Persons not called members."""
        return len(np.unique(self.audit.persons[~self.audit.member]))


def null(c: Circumstances) -> Null | None:
    """The non-members of the run under a membership that is known to mean nothing; None with too few persons."""
    assert c.view is not None
    outside = np.flatnonzero(~c.audit.member)
    people = np.random.default_rng([_STREAM, c.seed]).permutation(np.unique(c.audit.persons[outside]))
    if len(people) < 2 * FEWEST:
        return None
    called = np.isin(c.audit.persons[outside], people[: len(people) // 2])
    # Members first, as in a run: whatever reads the order of the records finds the same order here.
    rows = np.concatenate([outside[called], outside[~called]])
    _, first, index = np.unique(c.audit.persons[rows], return_index=True, return_inverse=True)
    persons: Ints = np.argsort(np.argsort(first))[index].astype(np.int64)
    audit = Audit(
        member=np.arange(len(rows)) < int(called.sum()),
        labels=c.audit.labels[rows],
        persons=persons,
        classes=c.audit.classes,
        has_persons=c.audit.has_persons,
    )
    return Null(View(c.view.seen.take(rows, persons), c.view.pool, c.view.adaptive), audit, rows)


def judged(drawn: Null, outcomes: Sequence[AttackOutcome], policy: Policy, c: Circumstances) -> tuple[RuleOutcome, ...]:
    """What the run's own policy says of attacks on the null, at the level at which a check may fire."""
    evidence = _evidence(drawn, outcomes, c.seed)
    return judge(replace(policy, alpha_fail=corrected_alpha(c)), evidence).rules


def _evidence(drawn: Null, outcomes: Sequence[AttackOutcome], seed: int) -> Evidence:
    return Evidence(
        attacks=tuple(outcomes),
        risk=None,
        findings=(),
        members=int(drawn.audit.member.sum()),
        nonmembers=int((~drawn.audit.member).sum()),
        member_persons=drawn.members,
        nonmember_persons=drawn.nonmembers,
        seed=seed,
    )


# --- a leak of known size -------------------------------------------------------------------------------------------


def simplest(suite: Sequence[str], view: View) -> Attack | None:
    """The cheapest attack of the suite that decides on the target's own records, without shadows; None without one."""
    usable = [
        replace(attack, threat_models=(ThreatModel.KNOWN_SUBSET,))
        for attack in (ATTACKS[name] for name in suite if name in ATTACKS)
        if attack.thresholded
        and ThreatModel.KNOWN_SUBSET in attack.threat_models
        and attack.requires <= set(view.seen.target)
        and all(view.seen.target[name].ndim == 1 for name in attack.requires)
        and attack.min_in == attack.min_out == 0
    ]
    return min(usable, key=lambda attack: (attack.reads_known, len(attack.requires)), default=None)


def leaking(drawn: Null, share: float, correct: Bools, seed: int) -> Null:
    """The same null, but this share of the members gives itself away in every signal that is a number, by lot.

    `correct` [n] is whether the target was right. A signal of such a person is moved by the whole range of the signal:
    it lies beyond everybody else's, and none becomes equal to another. Whole persons are moved, until their share of
    the persons and of the records is reached.
    """
    member, persons = drawn.audit.member, drawn.audit.persons
    sizes = np.bincount(persons[member], minlength=int(persons.max()) + 1)
    order = np.random.default_rng([_STREAM, seed, 1]).permutation(np.unique(persons[member]))
    reached = np.minimum(np.arange(1, len(order) + 1) / len(order), np.cumsum(sizes[order]) / member.sum())
    moved = member & np.isin(persons, order[: int(np.searchsorted(reached, min(share, 1.0) - 1e-12)) + 1])
    target = {
        name: values + moved * direction(drawn, name, correct) * (float(np.ptp(values)) or 1.0) * 1.01
        if values.ndim == 1
        else values
        for name, values in drawn.view.seen.target.items()
    }
    return Null(replace(drawn.view, seen=replace(drawn.view.seen, target=target)), drawn.audit, drawn.rows)


def direction(drawn: Null, name: str, correct: Bools) -> float:
    """1 where higher values of a signal go with confidence in the true class, which training raises; else -1."""
    values = drawn.view.seen.target[name]
    towards = drawn.view.seen.target.get(ORDER_SIGNAL, correct.astype(np.float64))
    if np.ptp(values) == 0 or np.ptp(towards) == 0:
        return 1.0
    return -1.0 if np.corrcoef(rankdata(values), rankdata(towards))[0, 1] < 0 else 1.0


@dataclass(frozen=True, slots=True)
class Sized:
    """The smallest leak that one rule must find: the rule's id, and the share of the members that leak."""

    rule: str
    share: float


@dataclass(frozen=True, slots=True)
class Side:
    """How much evidence a side is: persons, and independent units where persons have different numbers of records."""

    persons: int
    units: float

    @classmethod
    def of(cls, persons: Ints) -> Side:
        """Kish's effective number of persons."""
        sizes = np.bincount(persons).astype(np.float64)
        return cls(int(np.count_nonzero(sizes)), len(persons) ** 2 / float(np.square(sizes).sum()))


def blocking(policy: Policy, rules: Sequence[RuleOutcome]) -> Iterator[tuple[str, str, float]]:
    """(id, metric, limit) of the blocking rules whose closed form is known."""
    blocks = {outcome.id for outcome in rules if outcome.action == "block"}
    for in_force in policy.rules:
        metric = RULES[in_force.id].metric
        if (
            in_force.id in blocks
            and isinstance(in_force.settings, LimitSettings)
            and metric.startswith((ACCURACY, AUC, TPR))
        ):
            yield in_force.id, metric, in_force.settings.max


def hypotheses(policy: Policy, drawn: Null, outcomes: Sequence[AttackOutcome], rules: Sequence[RuleOutcome]) -> int:
    """How many hypotheses of blocking rules share the level of a failure."""
    blocks = {outcome.id for outcome in rules if outcome.action == "block"}
    evidence = _evidence(drawn, outcomes, 0)
    answers = [RULES[r.id].examine(r.settings, evidence) for r in policy.rules if r.id in blocks]
    return max(1, sum(len(answer.cells) for answer in answers if isinstance(answer, Measured)))


def sized(
    candidates: Sequence[tuple[str, str, float]], members: Side, nonmembers: Side, alpha: float, power: float = POWER
) -> Sized | None:
    """The rule that needs the smallest leak to be exceeded with that power at level `alpha`; None if none can be."""
    found = [
        Sized(id, share)
        for id, metric, limit in candidates
        if (share := _share(metric, limit, members, nonmembers, alpha, power)) is not None
    ]
    return min(found, key=lambda leak: leak.share, default=None)


def _share(metric: str, limit: float, members: Side, nonmembers: Side, alpha: float, power: float) -> float | None:
    """The smallest share of leaking members at which the rule's lower bound exceeds its limit with that power."""

    def exceeds(share: float) -> bool:
        if metric == ACCURACY:
            return _accuracy_low(share, members, nonmembers, alpha, 1 - power) > limit
        if metric == AUC:
            return _auc_low(share, members, nonmembers, alpha, 1 - power) > limit
        return _tpr_low(share, float(metric.removeprefix(TPR)), members, nonmembers, alpha) > limit

    if not exceeds(1.0):
        return None
    low, high = 0.0, 1.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if exceeds(middle) else (middle, high)
    return high


def _tpr_low(share: float, fpr: float, members: Side, nonmembers: Side, alpha: float) -> float:
    """The bound itself: those who leak are above every non-member, so chance has no part in it."""
    if metrics.rank_with_fpr_at_most(nonmembers.persons, fpr, alpha / 2) is None:
        return 0.0
    hits = math.floor(share * members.persons + 1e-9)
    return metrics.clopper_pearson_lower(hits, members.persons, alpha / 2)


def _auc_low(share: float, members: Side, nonmembers: Side, alpha: float, beta: float) -> float:
    """The bound when chance is as unkind as `beta` allows, in two ways, each with half of it.

    A member beats all non-members with probability `share`, else a uniform share of them. DeLong's variance counts
    who leaks as chance; the AUC does not stray by it, since the share is given. The variance itself is estimated, and
    strays as that of a normal sample does.
    """
    auc, units, deviate = (1 + share) / 2, min(members.units, nonmembers.units), float(norm.isf(beta / 2))
    of_nonmembers = (1 - share) ** 2 / 12 / nonmembers.units
    unkind = auc - deviate * math.sqrt((1 - share) / 12 / members.units + of_nonmembers)
    if unkind <= 0.5:
        return 0.0
    if share < 1 and (1 - share) * members.persons < FEWEST:
        return 0.0  # the place of a handful of others decides on the bound: no formula says how
    if units < metrics.FEWEST_FOR_DELONG or share >= 1:
        return metrics.Auc(unkind, math.nan, units, "chernoff").lower(alpha)
    of_members = (share + (1 - share) / 3 - auc**2) / members.units
    variance = (of_members + of_nonmembers) * (1 + deviate * math.sqrt(2 / (units - 1)))
    return metrics.Auc(unkind, math.sqrt(variance), units, "delong").lower(alpha)


def _accuracy_low(share: float, members: Side, nonmembers: Side, alpha: float, beta: float) -> float:
    """The bound when chance is as unkind as `beta` allows, in two ways, each with half of it.

    The threshold should stand just below those who leak. Fitted on half of the persons it strays down to a share q of
    the others: their excess there is a Brownian motion of variance s² q against a drift of -share q, and it is never
    positive beyond q with probability 1 - 2 Phi(-share sqrt(q) / s). Then the counts stray as well.
    """
    variance = 2 * ((1 - share) / members.units + 1 / nonmembers.units)  # of half of the persons
    if share <= 0:
        return 0.0
    strays = min((float(norm.isf(beta / 4)) / share) ** 2 * variance, 1.0)
    tpr, fpr = share + (1 - share) * strays, strays
    spread = strays * (1 - strays) * ((1 - share) / members.units + 1 / nonmembers.units)
    advantage = metrics.Advantage(metrics.Proportion(tpr, members.units), metrics.Proportion(fpr, nonmembers.units))
    return (1 + advantage.lower(alpha) - float(norm.isf(beta / 2)) * math.sqrt(spread)) / 2


def nonmembers_needed(candidates: Sequence[tuple[str, str, float]], alpha: float) -> int | None:
    """Non-member persons, all in all, with which a control can be sized; None if no number is enough."""
    half = FEWEST
    while half <= MOST:
        if sized(candidates, Side(half, half), Side(half, half), alpha) is not None:
            return 2 * half
        half = math.ceil(half * 1.1)
    return None


def measured(attacks: Sequence[Attack], drawn: Null, seed: int) -> list[AttackOutcome]:
    """All outcomes of the attacks on the null."""
    return [outcome for attack in attacks for outcome in measure(attack, drawn.view, drawn.audit, seed)]
