"""The evidence ladder: which evidence costs how much, and what it can decide.

Nothing here is a list of names. Which attacks run on a rung is asked of the code that runs them, which rules can pass
and fail of the policy's own judge: once with attacks that find nothing, once with attacks that name every member.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from privacy_gate import metrics
from privacy_gate.attacks import CATALOG as ATTACKS
from privacy_gate.attacks import Attack
from privacy_gate.datamodel import (
    AttackFailed,
    AttackOutcome,
    AttackResult,
    AttackSkipped,
    Bools,
    Description,
    Evidence,
    Finding,
    Floats,
    HighRisk,
    Invalidates,
    Measurement,
    Observations,
    RiskScores,
    RuleOutcome,
    RuleStatus,
    Scope,
    ThreatModel,
)
from privacy_gate.measure import FPRS, View, missing
from privacy_gate.observe import GIVEN, LABELS_ALONE, of_labels
from privacy_gate.policy import CATALOG as RULES
from privacy_gate.policy import Policy, decidability, judge, suite
from privacy_gate.policy.contract import Effort
from privacy_gate.policy.judge import POWER
from privacy_gate.shadows.plan import IN_AND_OUT
from privacy_gate.signals import PROBES
from privacy_gate.validity.few_references import FEWEST, enough
from privacy_gate.validity.shadow_fidelity import SIZE

COUNTS = (4, 16, 64)
FOLDS = 5  # models of a cross-validation, as most people do it
HEADS = 16
RISK_SIGNAL = "logit_confidence"  # without it nothing is known of single persons
_SHOWN_RISK = 0.8
_SIZE = "shadow_fidelity.size"
_SMALLER = "trained on too few of the records: they may fail the candidate, never pass it"
_ROWS = 2  # records of a view that stands for all others

Kind = Literal["none", "folds", "versions", "heads", "shadows"]


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """What is known before anything is trained.

    attacks           ids that were asked for
    policy            as it is in effect
    members, nonmembers  [R] persons of the audited records on either side
    records           (members, non-members) audited
    train_size        records the target was trained on
    jobs              workers
    run_seconds       how long the training run of the candidate took; None: it did not say
    shadow_seconds    how long one shadow took one worker, measured on those in the store; None: there are none
    score_seconds     how long scoring the records takes; None: not measured
    absent, failed, unfit  signals that the candidate does not give, as in `measure.View`
    flavor, description    of the candidate
    plan              how shadows are drawn
    chosen            the rung that the config asks for, and how many shadows are wanted there
    cached            how many of these are in the store
    proxy             why those shadows are not of the candidate's kind
    by_lot            whether who trained them was drawn by lot
    sizes             records that each of them was trained on; (): as many as the target, as far as is known
    problem           why no shadow can be trained as the config is; "" if one can
    heads_own         whether refitted heads are the candidate's own kind
    """

    attacks: Sequence[str]
    policy: Policy
    members: int
    nonmembers: int
    records: tuple[int, int]
    train_size: int
    jobs: int = 1
    run_seconds: float | None = None
    shadow_seconds: float | None = None
    score_seconds: float | None = None
    absent: Mapping[str, str] = field(default_factory=dict)
    failed: frozenset[str] = frozenset()
    unfit: frozenset[str] = frozenset()
    flavor: str = "sklearn"
    description: Description | None = None
    plan: Literal["balanced", "disjoint"] = "balanced"
    chosen: tuple[Kind, int] = ("shadows", 16)
    cached: int = 0
    proxy: str = ""
    by_lot: bool = True
    sizes: tuple[int, ...] = ()
    problem: str = ""
    heads_own: bool = False


@dataclass(frozen=True, slots=True)
class Rung:
    """One step of the ladder.

    shadows   models beside the candidate
    attacks   that run there, in the order of the suite, by where their threshold or score comes from; those that need
              no threshold are among the known-subset ones
    passes    rules that an innocent model would pass there
    fails     rules that a model which gives every member away would be proven to violate
    leaves    blocking rules that no model passes there
    decides   whether an innocent model would pass the policy as a whole
    minutes   of training and scoring beyond the candidate's own; None: unknown
    note      what else there is to say; "" for nothing
    chosen    whether the config asks for it
    proxy     whether its models are of another kind than the candidate
    short     rules that an innocent model would pass there with more records than there are
    fires     validity checks that fire there, whatever the records are
    """

    id: str
    title: str
    kind: Kind
    shadows: int
    attacks: Mapping[ThreatModel, tuple[str, ...]]
    passes: tuple[str, ...]
    fails: tuple[str, ...]
    leaves: tuple[str, ...]
    decides: bool
    minutes: float | None
    note: str = ""
    chosen: bool = False
    proxy: bool = False
    short: tuple[str, ...] = ()
    fires: tuple[str, ...] = ()

    @property
    def runs(self) -> tuple[str, ...]:
        """Attacks that run there in any way."""
        return tuple(dict.fromkeys(id for ids in self.attacks.values() for id in ids))


def rungs(facts: Facts) -> list[Rung]:
    """All rungs from the cheapest up; the one that the config asks for is among them."""
    kind, count = facts.chosen
    steps: dict[Kind, int] = {"none": 0, "folds": FOLDS, "versions": 1, "heads": HEADS}
    if kind in steps:
        steps[kind] = count
    persons = _Persons.of(facts)
    found = [_rung(one, many, facts, persons, chosen=one == kind) for one, many in steps.items()]
    if kind == "shadows" and facts.proxy:
        # Beside those of the candidate's own kind: they decide more.
        found.append(_rung(kind, count, facts, persons, chosen=True))
    own = kind == "shadows" and not facts.proxy
    counts = sorted({*COUNTS, *([count] if own else [])})
    return [*found, *(_rung("shadows", many, facts, persons, chosen=own and many == count) for many in counts)]


def _rung(kind: Kind, count: int, facts: Facts, persons: _Persons, *, chosen: bool) -> Rung:
    proxy = facts.proxy if chosen else "" if kind != "heads" or facts.heads_own else "heads alone are refitted"
    by_lot = facts.by_lot if chosen else kind in ("heads", "shadows")
    view, thin = _view(count if kind != "none" else 0, facts, by_lot=by_lot, probed=kind in ("heads", "shadows"))
    if kind == "heads" and facts.flavor != "pytorch":
        nothing: tuple[str, ...] = ()
        note = "PyTorch candidates only"
        return Rung(kind, _title(kind, count), kind, 0, {}, nothing, nothing, nothing, False, None, note, chosen)
    findings = tuple(_findings(kind, count, proxy, facts, chosen))
    nothing_found = _evidence(view, thin, findings, facts, None)
    innocent = judge(facts.policy, nothing_found)
    guilty = judge(facts.policy, _evidence(view, thin, findings, facts, persons.perfect))
    held = [r.id for r in innocent.rules if r.status is RuleStatus.PASS]
    passes = tuple(id for id in held if id not in persons.lacking)
    blocking = [r.id for r in innocent.rules if r.action == "block" and r.status is not RuleStatus.NOT_APPLICABLE]
    leaves = tuple(id for id in blocking if id not in passes)
    return Rung(
        id=kind if kind != "shadows" else "proxies" if proxy else str(count),
        title=_title(kind, count) if kind != "shadows" or not proxy else f"{count} proxies",
        kind=kind,
        shadows=count,
        attacks=_attacks(view, facts),
        passes=passes,
        fails=tuple(r.id for r in guilty.rules if r.status is RuleStatus.FAIL),
        leaves=leaves,
        decides=innocent.exit_code == 0 and not leaves,
        minutes=_minutes(kind, count, facts, chosen),
        note=_note(kind, facts, findings, chosen),
        chosen=chosen,
        proxy=bool(proxy),
        short=tuple(id for id in held if persons.lacking.get(id)),
        fires=tuple(finding.check for finding in nothing_found.findings if _fires(finding, facts.policy)),
    )


def _findings(kind: Kind, count: int, proxy: str, facts: Facts, chosen: bool) -> Iterator[Finding]:
    """What validity checks would find wherever the records are sound."""
    yield Finding("records", "pass", Invalidates.PASS, None, "taken to be sound")
    if proxy:
        yield Finding("proxy_shadows", "fail", Invalidates.PASS, None, proxy)
    away = [1 / count] if kind == "folds" else []
    if chosen:
        away = [abs(size / facts.train_size - 1) for size in facts.sizes]
    # As in the check: ten folds of a number of records that ten does not divide are ten folds.
    if away and sum(away) / len(away) > facts.policy.validity_limits.get(_SIZE, SIZE) + 1e-9:
        yield Finding("shadow_fidelity", "fail", Invalidates.PASS, None, _SMALLER)


def _fires(finding: Finding, policy: Policy) -> bool:
    """Whether it takes the pass, as the policy reads it."""
    if finding.status == "warn":
        return policy.equivalence and not finding.informs
    return finding.status == "fail" and finding.invalidates is not None


def _title(kind: Kind, count: int) -> str:
    return {
        "none": "0 shadows",
        "folds": f"{count} fold models",
        "versions": "1 earlier version" if count == 1 else f"{count} earlier versions",
        "heads": f"{count} refitted heads",
        "shadows": f"{count} shadow{'s' if count != 1 else ''}",
    }[kind]


def _note(kind: Kind, facts: Facts, findings: Sequence[Finding], chosen: bool) -> str:
    fired = {finding.check: finding.reason for finding in findings if finding.status == "fail"}
    if "proxy_shadows" in fired:
        return "proxies may fail the candidate, never pass it"
    if fired:
        return next(iter(fired.values()))
    return {
        "none": "",
        "folds": "" if chosen else "if a cross-validation kept them",
        "versions": "" if chosen else "with the lists of their members",
        "heads": "",
        "shadows": "needs a recipe" if facts.problem else "",
    }[kind]


def _minutes(kind: Kind, count: int, facts: Facts, chosen: bool) -> float | None:
    """Training, as far as somebody measured it: a shadow, or else the candidate; scoring, for models that exist."""
    if kind == "none":
        return 0.0
    if kind in ("folds", "versions"):
        # Those that the config names have been asked by now.
        return 0.0 if chosen else None if facts.score_seconds is None else count * facts.score_seconds / 60
    to_train = count - (facts.cached if chosen else 0)
    if to_train <= 0:
        return 0.0
    measured = facts.shadow_seconds if chosen or kind == "shadows" else None
    if measured is None and kind == "shadows":
        measured = facts.run_seconds
    return None if measured is None else to_train / facts.jobs * measured / 60


# --- what runs ------------------------------------------------------------------------------------------------------


def _view(count: int, facts: Facts, *, by_lot: bool, probed: bool) -> tuple[View, int]:
    """What the attacker would see, by name: all signals are 0. And how many records are in or out of too few models."""
    signals = set[str]().union(*(ATTACKS[id].requires for id in facts.attacks)) - set(facts.absent)
    inside = _times(count, facts) if count and by_lot else None
    seen = Observations(
        target={name: np.zeros(_ROWS) for name in sorted(signals)},
        labels=np.zeros(_ROWS, dtype=np.int64),
        known=np.full(_ROWS, -1, dtype=np.int8),
        persons=np.arange(_ROWS),
        classes=2,
        references={} if inside is None else {RISK_SIGNAL: np.zeros((count, _ROWS))},
        reference_member=inside,
    )
    answered = {name for name in signals - GIVEN if name not in PROBES.names() or (probed and PROBES[name].shadows)}
    pool = None
    if count:
        known = np.array([1, 0], dtype=np.int8)
        pool = replace(
            seen,
            target={name: np.zeros(_ROWS) for name in sorted(answered)},
            known=known,
            references={},
            reference_member=None,
        )
    few = 0
    if inside is not None:
        times = inside.sum(axis=0)
        few = int(((count - times < IN_AND_OUT) | ((times < IN_AND_OUT) & bool(inside.any()))).sum())
    return View(seen, pool, True, facts.absent, facts.failed, facts.unfit, by_lot), few


def _times(count: int, facts: Facts) -> Bools:
    """[S, 2] who trains the shadows: the record that is in the fewest of them, and the one that is in the most."""
    least = most = 0
    if facts.plan == "balanced":
        limit = count - IN_AND_OUT if count >= 2 * IN_AND_OUT else max(count - 1, 1)
        expected = min(facts.train_size / max(sum(facts.records), 1) * count, limit)
        least, most = math.floor(expected + 1e-9), math.ceil(expected - 1e-9)
        if expected >= IN_AND_OUT:
            least = max(least, IN_AND_OUT)
    return np.arange(count)[:, None] < np.array([[least, most]])


def _models(attack: Attack) -> tuple[ThreatModel, ...]:
    return attack.threat_models if attack.thresholded else attack.threat_models[:1]


def _attacks(view: View, facts: Facts) -> dict[ThreatModel, tuple[str, ...]]:
    """Attacks by where their threshold comes from; those without one ask no shadow, as those of known records."""
    found: dict[ThreatModel, tuple[str, ...]] = {}
    for id in facts.attacks:
        attack = ATTACKS[id]
        for model in _models(attack):
            if not missing(attack, model, view):
                place = model if attack.thresholded else ThreatModel.KNOWN_SUBSET
                found[place] = (*found.get(place, ()), id)
    return {model: found[model] for model in (ThreatModel.KNOWN_SUBSET, *ThreatModel) if model in found}


# --- what it decides ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Sure:
    """A number without an error."""

    value: float

    def lower(self, alpha: float) -> float:
        """Itself."""
        return self.value

    def upper(self, alpha: float) -> float:
        """Itself."""
        return self.value


@dataclass(frozen=True, slots=True, eq=False)
class _Remembered:
    """A measurement that many hypotheses share: each bound is worked out once."""

    of: Measurement
    lows: dict[float, float] = field(default_factory=dict)
    highs: dict[float, float] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """The point estimate."""
        return self.of.value

    def lower(self, alpha: float) -> float:
        """One-sided lower bound at confidence 1 - alpha."""
        if alpha not in self.lows:
            self.lows[alpha] = self.of.lower(alpha)
        return self.lows[alpha]

    def upper(self, alpha: float) -> float:
        """One-sided upper bound at confidence 1 - alpha."""
        if alpha not in self.highs:
            self.highs[alpha] = self.of.upper(alpha)
        return self.highs[alpha]


@dataclass(frozen=True, slots=True, eq=False)
class _Perfect:
    """What attacks measure that name every member and nobody else, with as many persons as there are."""

    accuracy: Measurement
    advantage: Measurement
    auc: Measurement
    tprs: Mapping[float, Measurement]
    share: Measurement
    precision: Measurement

    @classmethod
    def of(cls, facts: Facts) -> _Perfect:
        member = np.arange(facts.members + facts.nonmembers) < facts.members
        persons = np.arange(len(member), dtype=np.int64)
        scores: Floats = member.astype(np.float64)
        inside, outside = facts.members, facts.nonmembers
        return cls(
            accuracy=_Remembered(metrics.balanced_accuracy(member, member, persons)),
            advantage=_Remembered(metrics.advantage(member, member, persons)),
            auc=_Remembered(metrics.auc(scores, member, persons)),
            tprs={fpr: _Remembered(metrics.tpr_at_fpr(scores, member, persons, fpr, 0)) for fpr in FPRS},
            share=_Remembered(metrics.share_excess(inside, inside, 0, outside)),
            precision=_Remembered(metrics.precision(inside, inside, 0, outside)),
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Persons:
    """What follows from the number of persons alone, and so is the same on every rung.

    perfect  what attacks measure that find everything
    lacking  rules that guessing attacks do not pass with so few: members and non-members that they take; {}: no number
    """

    perfect: _Perfect
    lacking: Mapping[str, Mapping[str, int]]

    @classmethod
    def of(cls, facts: Facts) -> _Persons:
        policy = facts.policy
        guessing = Effort(None, policy.alpha_pass, POWER, facts.members, facts.nonmembers)
        lacking: dict[str, Mapping[str, int]] = {}
        for id, can, _ in decidability(policy, facts.members, facts.nonmembers):
            in_force, needed = policy.rule(id), RULES[id].needed
            if not can and in_force is not None and needed is not None:
                lacking[id] = needed(in_force.settings, guessing)
        return cls(_Perfect.of(facts), lacking)


def _evidence(view: View, thin: int, sound: Sequence[Finding], facts: Facts, perfect: _Perfect | None) -> Evidence:
    """What the policy would judge if every attack found nothing, or (`perfect`) everything."""
    outcomes = [outcome for id in facts.attacks for outcome in _outcomes(ATTACKS[id], view, perfect)]
    findings = list(sound)
    if any(isinstance(o, AttackResult) and o.threat_model is ThreatModel.REFERENCE for o in outcomes):
        findings.append(enough(view.seen.shadows, thin, facts.policy.validity_limits.get("few_references", FEWEST)))
    return Evidence(
        attacks=tuple(outcomes),
        risk=None if RISK_SIGNAL in facts.absent else _risk(facts, perfect),
        findings=tuple(findings),
        members=facts.records[0],
        nonmembers=facts.records[1],
        member_persons=facts.members,
        nonmember_persons=facts.nonmembers,
        estimand=facts.policy.estimand,
        description=facts.description,
        train_size=facts.train_size,
    )


def _outcomes(attack: Attack, view: View, perfect: _Perfect | None) -> Iterator[AttackOutcome]:
    for model in _models(attack):
        reason = missing(attack, model, view)
        if not reason:
            for scope in Scope if attack.thresholded else (None,):
                yield _result(attack, model, scope, perfect)
        elif attack.requires & view.failed:
            yield AttackFailed(attack.id, attack.family, model, reason, refused=True)
        else:
            yield AttackSkipped(attack.id, attack.family, model, reason, applies=not attack.requires & view.unfit)


def _result(attack: Attack, model: ThreatModel, scope: Scope | None, perfect: _Perfect | None) -> AttackResult:
    ranks = attack.thresholded
    tprs: Mapping[float, Measurement] = {fpr: _Sure(fpr) for fpr in FPRS} if perfect is None else perfect.tprs
    return AttackResult(
        id=attack.id,
        family=attack.family,
        threat_model=model,
        threshold=scope,
        adaptive=True,
        accuracy=_Sure(0.5) if perfect is None else perfect.accuracy,
        advantage=_Sure(0.0) if perfect is None else perfect.advantage,
        auc=None if not ranks else _Sure(0.5) if perfect is None else perfect.auc,
        tpr_at_fpr=tprs if ranks else {},
        scores=np.zeros(0),
        decisions=np.zeros(0, dtype=np.bool_),
    )


def _risk(facts: Facts, perfect: _Perfect | None) -> RiskScores:
    asked = (getattr(rule.settings, "score", None) for rule in facts.policy.rules)
    scores = {_SHOWN_RISK, *(score for score in asked if isinstance(score, float))}
    high = tuple(
        HighRisk(
            score,
            0 if perfect is None else facts.members,
            0,
            _Sure(0.0) if perfect is None else perfect.share,
            _Sure(1.0) if perfect is None else perfect.precision,
        )
        for score in sorted(scores)
    )
    return RiskScores("calibrated", np.zeros(0), high, {}, errors={"ece": _Sure(0.0)})


# --- what would decide ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Way:
    """Evidence that there could be, beside more records.

    rung     with the changes that are named here
    models   whether it is another rung than the config asks for
    attacks  added to those that were asked for
    scores   whether the candidate gives scores, which it does not now
    """

    rung: Rung
    models: bool = False
    attacks: tuple[str, ...] = ()
    scores: bool = False

    @property
    def can_pass(self) -> frozenset[str]:
        """Rules that an innocent model would pass, with as many records as that takes."""
        return frozenset((*self.rung.passes, *self.rung.short))

    @property
    def cost(self) -> tuple[int, ...]:
        """For sorting: as few changes as can be; attacks cost less than models, and models less than other outputs."""
        changes = self.models + bool(self.attacks) + self.scores
        return changes, self.scores, self.models, self.rung.shadows, len(self.attacks)


def would_decide(facts: Facts, outcomes: Sequence[RuleOutcome], findings: Sequence[Finding] = ()) -> tuple[str, ...]:
    """What evidence would decide the blocking rules that stay open, cheapest first; () if there is nothing to say.

    Numbers of records are named only where they, with what else is named, let an innocent model pass.

    findings  of the validity checks
    """
    open_ = {o.id: o for o in outcomes if o.action == "block" and o.status is RuleStatus.INCONCLUSIVE}
    if not open_:
        return ()
    persons = _Persons.of(facts)
    ways = _ways(facts, persons, open_)
    here = ways[0]
    best = {id: next((way for way in ways if id in way.can_pass), None) for id in open_}
    said = [*_inadmissible(facts, here, findings)]
    gains = ((way, [id for id in open_ if best[id] is way]) for way in ways[1:])
    said += [_changes(way, gained, ways) for way, gained in gains if gained]
    if facts.problem and any(way is not None and way.models for way in best.values()):
        said.append(f"for that the config needs a recipe under shadows.recipe: {facts.problem}")
    for id, outcome in open_.items():
        if (way := best[id]) is None:
            continue
        # What other evidence would measure is not known: the number is then that of attacks that only guess.
        guessing = persons.lacking[id] if id in way.rung.short else {}
        needed = outcome.needed or guessing if way is here else guessing
        if {"members", "nonmembers"} <= set(needed):
            also = "" if way is here else "also "
            said.append(f"{id}: {also}about {needed['members']:,} members and {needed['nonmembers']:,} non-members")
    if stuck := [id for id in here.rung.leaves if id in open_ and best[id] is None]:
        said.append(f"no evidence of this kind lets {_listed(stuck)} pass: the finding says why")
    return tuple(said)


def _ways(facts: Facts, persons: _Persons, open_: Container[str]) -> list[_Way]:
    """The evidence at hand, and what could be had instead without losing a rule that passes now, the cheapest first."""
    kind, count = facts.chosen
    fewer = count if kind == "shadows" and not facts.proxy else 0
    found = []
    for scores in (False, True) if LABELS_ALONE in facts.absent.values() else (False,):
        for attacks in _additions(facts, open_):
            then = _changed(facts, attacks, scores=scores)
            found.append(_Way(_rung(kind, count, then, persons, chosen=True), False, attacks, scores))
            more = [_rung("shadows", many, then, persons, chosen=False) for many in COUNTS if many > fewer]
            found += [_Way(rung, True, attacks, scores) for rung in more]
    # More can be less: a reference attack on two shadows makes the whole evidence inadmissible.
    return sorted((way for way in found if found[0].can_pass <= way.can_pass), key=lambda way: way.cost)


def _additions(facts: Facts, open_: Container[str]) -> list[tuple[str, ...]]:
    """Attacks that could be added: none, those that the policy requires, and one with references if there is none."""
    required = [
        id
        for rule in facts.policy.rules
        if rule.id in open_
        for id in getattr(rule.settings, "attacks", None) or ()
        if id in ATTACKS and id not in facts.attacks
    ]
    wanted = tuple(dict.fromkeys(required))
    found = [(), wanted]
    if not any(_refers(id) for id in (*facts.attacks, *wanted)):
        found.append((*wanted, next(id for id in suite("full") if _refers(id))))
    return list(dict.fromkeys(found))


def _refers(attack: str) -> bool:
    return ThreatModel.REFERENCE in ATTACKS[attack].threat_models


def _changed(facts: Facts, attacks: Sequence[str], *, scores: bool) -> Facts:
    """With more attacks; and with scores, where there are labels alone."""
    absent = dict(facts.absent)
    if LABELS_ALONE in absent.values():
        absent |= {name: LABELS_ALONE for id in attacks for name in ATTACKS[id].requires if not of_labels(name)}
    if scores:
        absent = {name: why for name, why in absent.items() if why != LABELS_ALONE}
    return replace(facts, attacks=(*facts.attacks, *attacks), absent=absent)


def _inadmissible(facts: Facts, here: _Way, findings: Sequence[Finding]) -> Iterator[str]:
    """Checks that fired, and would fire on any rung; those that only ask for more records are told by their number."""
    fired = [f.check for f in findings if _fires(f, facts.policy) and not f.informs and f.check not in here.rung.fires]
    if fired:
        yield f"nothing passes before that is mended which {_listed(fired)} found"


def _changes(way: _Way, gained: Sequence[str], ways: Sequence[_Way]) -> str:
    """What to change, and what that decides; and a comfortable number of shadows."""
    rung, named = way.rung, []
    if way.attacks:
        named.append(f"{_listed(way.attacks)} added to attacks")
    if way.scores:
        named.append("one score per class instead of labels")
    text = " and ".join(named)
    if way.models:
        beside = f", with {text}," if text else ""
        text = f"{rung.title} of the candidate's own recipe ({_duration(rung.minutes)}){beside}"
    text += f" can decide {_listed(gained)}, which no number of records alone lets pass"
    if new := [id for id in rung.runs if id not in (*ways[0].rung.runs, *way.attacks)]:
        text += f": {_listed(new)} would run"
    if not way.models:
        return text
    alike = [other for other in ways if (other.attacks, other.scores) == (way.attacks, way.scores)]
    larger = [o.rung for o in alike if o.models and o.rung.shadows > rung.shadows and set(gained) <= o.can_pass]
    if larger:
        text += f"; {larger[0].title} ({_duration(larger[0].minutes)}) find noticeably more"
    return f"{text}; say so in shadows.count"


def _duration(minutes: float | None) -> str:
    if minutes is None:
        return "minutes unknown"
    return "under a minute" if minutes < 1 else f"about {minutes:,.0f} minute{'s' if round(minutes) != 1 else ''}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]
