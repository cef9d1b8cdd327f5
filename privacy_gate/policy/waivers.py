"""Waivers: exceptions that people grant, in a file of their own. Whatever is wrong with one leaves it without effect.

A waiver names a rule, a model, a ceiling, a reason, who approved it and when it ends. `covers: violation` excuses what
is proven to be beyond the limit, as long as the measured value is not above the ceiling. `covers: undecided` excuses
what could not be decided, as long as its substitute rule passes. What a waiver does not name is judged as ever.
"""

from __future__ import annotations

import datetime
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from privacy_gate.catalog import did_you_mean
from privacy_gate.datamodel import Location, RuleOutcome, RuleStatus, WaiverState
from privacy_gate.documents import Document, parse
from privacy_gate.errors import ConfigError, Diagnostic
from privacy_gate.policy.contract import CATALOG, Day, Policy

API_VERSION = "privacy-gate/waivers/v1"
FEWEST_WORDS = 20  # characters of a reason: "known issue" is none

Text = Annotated[str, Field(min_length=1, max_length=200)]


# --- the file -------------------------------------------------------------------------------------------------------

_COMPARISON = re.compile(r"\s*(>=|<=|==|>|<)?\s*([0-9]{1,18})\s*")


def _comparisons(versions: str) -> list[tuple[str, int]]:
    found = [_COMPARISON.fullmatch(part) for part in versions.split(",")]
    if not all(found):
        raise ValueError("versions are compared by >=, >, <, <=, ==, joined by commas: '>=12,<13'")
    return [(match[1] or "==", int(match[2])) for match in found if match]


class Scope(BaseModel):
    """What a waiver is about."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Text | None = Field(None, description="name in the registry")
    versions: Text | None = Field(None, description="versions of that model: '>=12,<13', or '12'")
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(None, description="sha256 of the model")
    group: Annotated[str, Field(pattern=r"^[^=]+=.+$")] | None = Field(None, description="one slice: class=3")
    attack: Text | None = Field(None, description="one attack: lira")

    @field_validator("versions")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        if value is not None:
            _comparisons(value)
        return value

    @model_validator(mode="after")
    def _bound(self) -> Scope:
        if (self.model is None) != (self.versions is None) or (self.model is None and self.digest is None):
            raise ValueError("name the model and its versions, or the digest of one model")
        return self


class WaiverFields(BaseModel):
    """One waiver as a person writes it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = Field(description="its name, given once")
    rule: str = Field(description="the rule that it excuses")
    covers: Literal["violation", "undecided"] = Field("violation", description="what it excuses")
    substitute: str | None = Field(None, description="the rule that must pass where `rule` could not be decided")
    scope: Scope = Field(description="the model, and the part of the rule, that it is about")
    until_value: Annotated[float, Field(strict=True, allow_inf_nan=False)] | None = Field(
        None, description="ceiling: a measured value above it is not excused"
    )
    reason: Annotated[str, Field(max_length=1000)] = Field(description=f"why; at least {FEWEST_WORDS} characters")
    approved_by: list[Text] = Field(min_length=1, description="who agreed, each a different person")
    ticket: Text = Field(description="where it is followed up")
    created: Day = Field(description="the day on which it was granted")
    expires: Day = Field(description="the last day (UTC) on which it has an effect")

    @field_validator("reason")
    @classmethod
    def _says_something(cls, value: str) -> str:
        if len(value.strip()) < FEWEST_WORDS:
            raise ValueError(f"a reason has at least {FEWEST_WORDS} characters")
        return value

    @model_validator(mode="after")
    def _fits(self) -> WaiverFields:
        if (self.covers == "undecided") != (self.substitute is not None):
            raise ValueError("`covers: undecided` needs a substitute rule that passes, and nothing else has one")
        for id in (self.rule, self.substitute):
            if id is not None and id not in CATALOG:
                raise ValueError(f"there is no rule {id} ({did_you_mean(id, CATALOG.names())})")
        if self.substitute == self.rule:
            raise ValueError("a rule cannot be its own substitute")
        measures = "max" in CATALOG[self.rule].settings.model_fields
        if measures != (self.until_value is not None):
            needs = "needs until_value, a ceiling" if measures else "measures nothing, so until_value has no meaning"
            raise ValueError(f"{self.rule} {needs}")
        if self.expires < self.created:
            raise ValueError(f"expires on {self.expires}, before it is created on {self.created}")
        return self


@dataclass(frozen=True, slots=True)
class Waiver:
    """A waiver that can be read; whether it has an effect is another question."""

    fields: WaiverFields
    location: Location

    @property
    def id(self) -> str:
        """Its name."""
        return self.fields.id

    def state(self, state: Literal["active", "unused", "expired", "exceeded", "refused"], note: str) -> WaiverState:
        """What became of it."""
        f = self.fields
        return WaiverState(
            id=f.id,
            rule=f.rule,
            state=state,
            reason=f.reason,
            note=note,
            approved_by=tuple(f.approved_by),
            ticket=f.ticket,
            created=f.created.isoformat(),
            expires=f.expires.isoformat(),
        )


@dataclass(frozen=True, slots=True)
class Malformed:
    """A waiver that cannot be read: it has no effect and is shown."""

    id: str
    rule: str
    findings: tuple[Diagnostic, ...]
    location: Location

    def shown(self) -> WaiverState:
        """What became of it."""
        return WaiverState(self.id, self.rule, "refused", "", "malformed: " + "; ".join(map(str, self.findings)))


Entry: TypeAlias = Waiver | Malformed


def read_waivers(path: Path, shown: str | None = None) -> tuple[Entry, ...]:
    """All waivers of a file, in its order; ConfigError if it cannot be read as a whole."""
    document = parse(path, shown)
    found = list(document.findings)
    if document.tree.get("apiVersion") != API_VERSION:
        found.append(document.finding(("apiVersion",), "apiVersion", f"must be {API_VERSION}", at_value=True))
    found += [
        document.finding((key,), "extra_forbidden", f"unknown key ({did_you_mean(key, ['apiVersion', 'waivers'])})")
        for key in document.tree
        if key not in ("apiVersion", "waivers")
    ]
    entries = document.tree.get("waivers") or []  # an empty file of waivers is one, too
    if not isinstance(entries, list):
        found.append(document.finding(("waivers",), "list_type", "must be a list of waivers", at_value=True))
    if found:
        raise ConfigError.at(sorted(found, key=lambda f: (f.line, f.column)), "`privacy-gate waiver add` writes them")
    return tuple(_once([_entry(document, index, entry) for index, entry in enumerate(entries)], document))


def _entry(document: Document, index: int, entry: Any) -> Entry:
    trail = ("waivers", index)
    place = document.location(trail)
    said = entry if isinstance(entry, dict) else {}
    id, rule = (str(said.get(key) or "?")[:64] for key in ("id", "rule"))
    try:
        return Waiver(WaiverFields.model_validate(entry), place)
    except ValidationError as error:
        found = document.explain(error.errors(include_url=False, include_input=False), WaiverFields, trail)
        return Malformed(id if id != "?" else f"number {index + 1}", rule, tuple(found), place)


def _once(entries: Sequence[Entry], document: Document) -> list[Entry]:
    """A name that is given twice names neither."""
    count = Counter(entry.id for entry in entries)
    return [
        entry
        if count[entry.id] == 1
        else Malformed(
            entry.id,
            entry.fields.rule if isinstance(entry, Waiver) else entry.rule,
            (
                document.finding(
                    ("waivers", index, "id"), "duplicate-id", f"{entry.id} is given {count[entry.id]} times"
                ),
            ),
            entry.location,
        )
        for index, entry in enumerate(entries)
    ]


# --- what the policy allows -----------------------------------------------------------------------------------------


def standing(entry: Entry, policy: Policy, today: datetime.date) -> WaiverState | None:
    """Why a waiver has no effect whatever the evidence says; None if it may have one."""
    if isinstance(entry, Malformed):
        return entry.shown()
    fields, terms = entry.fields, policy.waivers
    people = {name.strip().casefold() for name in fields.approved_by}
    days = (fields.expires - fields.created).days
    refusals = (
        (not CATALOG[fields.rule].waivable, f"{fields.rule} can never be waived"),
        (fields.rule in terms.never, f"the policy does not allow {fields.rule} to be waived"),
        (len(people) < terms.approvers, f"approved by {len(people)}, the policy asks for {terms.approvers}"),
        (days > terms.max_days, f"lasts {days} days, the policy allows {terms.max_days}"),
        (fields.created > today, f"is created on {fields.created}, which is in the future"),
    )
    for refused, why in refusals:
        if refused:
            return entry.state("refused", why)
    if today > fields.expires:
        return entry.state("expired", f"expired at the end of {fields.expires} (UTC)")
    return None


# --- what a run makes of them ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Model:
    """The model under audit, as far as waivers name it."""

    name: str | None = None
    version: str | None = None
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """One hypothesis of a rule."""

    attack: str
    group: str
    value: float
    holds: bool
    exceeded: bool  # proven to be beyond the limit


@dataclass(frozen=True, slots=True)
class Contested:
    """A rule as it stands before waivers.

    withheld  why it could not pass whatever the numbers say; "" if it could
    proves    whether its pass is a proof about the model
    measures  whether it has numbers; if not, it is waived as a whole
    """

    outcome: RuleOutcome
    parts: tuple[Part, ...]
    withheld: str
    proves: bool
    measures: bool


@dataclass(frozen=True, slots=True)
class Excused:
    """What waivers take out of one rule.

    parts     indices of its hypotheses
    withheld  whether what withholds its pass is excused as well
    said      in words
    """

    parts: frozenset[int]
    withheld: bool
    said: str
    ids: tuple[str, ...]


def excuse(
    entries: Sequence[Entry],
    contested: Mapping[str, Contested],
    policy: Policy,
    model: Model | None,
    today: datetime.date,
    *,
    inadmissible: bool,
) -> tuple[tuple[WaiverState, ...], dict[str, Excused]]:
    """The state of every waiver, in the order given, and what the active ones excuse: rule id -> what."""
    states: list[WaiverState] = []
    excused: dict[str, Excused] = {}
    for entry in entries:
        if isinstance(entry, Malformed):
            states.append(entry.shown())
            continue
        refused = standing(entry, policy, today)
        if refused is not None:
            states.append(refused)
            continue
        found = _applied(entry, contested, model or Model(), inadmissible)
        states.append(found.state)
        if found.excuses:
            id = entry.fields.rule
            before = excused.get(id, Excused(frozenset(), False, "", ()))
            said = f"waived until {entry.fields.expires} ({entry.id}: {entry.fields.reason})"
            excused[id] = Excused(
                before.parts | found.parts,
                before.withheld or found.withheld,
                "; ".join(part for part in (before.said, said) if part),
                (*before.ids, entry.id),
            )
    return tuple(states), excused


@dataclass(frozen=True, slots=True)
class _Found:
    state: WaiverState
    excuses: bool = False
    parts: frozenset[int] = frozenset()
    withheld: bool = False


def _applied(waiver: Waiver, contested: Mapping[str, Contested], model: Model, inadmissible: bool) -> _Found:
    fields = waiver.fields
    elsewhere = _not_this(fields.scope, model)
    if elsewhere:
        return _Found(waiver.state("unused", elsewhere))
    case = contested.get(fields.rule)
    if case is None or case.outcome.action != "block":
        return _Found(waiver.state("unused", f"{fields.rule} does not block in this policy"))
    if fields.covers == "undecided":
        why = _no_substitute(contested, str(fields.substitute), inadmissible)
        if why:
            return _Found(waiver.state("unused", why))
    wanted = RuleStatus.FAIL if fields.covers == "violation" else RuleStatus.INCONCLUSIVE
    if not case.measures:
        return _whole(waiver, case, wanted)
    if case.outcome.status not in (RuleStatus.FAIL, RuleStatus.INCONCLUSIVE) or not case.parts:
        return _Found(waiver.state("unused", f"{fields.rule} is {case.outcome.status.value}: nothing to excuse"))
    return _in_part(waiver, case)


def _whole(waiver: Waiver, case: Contested, wanted: RuleStatus) -> _Found:
    """A rule without numbers is excused as a whole, by a waiver that names no part."""
    fields = waiver.fields
    if fields.scope.group or fields.scope.attack:
        return _Found(waiver.state("unused", f"{fields.rule} has neither groups nor attacks"))
    if case.outcome.status is not wanted:
        return _Found(waiver.state("unused", f"{fields.rule} is {case.outcome.status.value}: nothing to excuse"))
    return _Found(waiver.state("active", f"excuses {fields.rule}"), excuses=True)


def _in_part(waiver: Waiver, case: Contested) -> _Found:
    """The hypotheses in scope that do not hold; all of them must be below the ceiling, or none is excused."""
    fields = waiver.fields
    scope = {i: part for i, part in enumerate(case.parts) if _in_scope(fields.scope, part)}
    open_ = {i: part for i, part in scope.items() if not part.holds}
    proven = {i: part for i, part in open_.items() if part.exceeded}
    whole = not (fields.scope.group or fields.scope.attack)
    if not scope:
        return _Found(waiver.state("unused", f"nothing of {fields.rule} is in its scope"))
    if fields.covers == "violation" and case.outcome.status is not RuleStatus.FAIL:
        return _Found(waiver.state("unused", f"{fields.rule} is not violated"))
    if fields.covers == "violation" and not proven:
        return _Found(waiver.state("unused", "nothing in its scope is violated"))
    # An undecided waiver excuses no violation, and what a proven one accepts, its unproven neighbours may reach too.
    taken = open_ if fields.covers == "violation" else {i: p for i, p in open_.items() if not p.exceeded}
    withheld = whole and bool(case.withheld) and fields.covers == "undecided"
    if not taken and not withheld:
        return _Found(waiver.state("unused", "nothing in its scope is undecided"))
    ceiling = -math.inf if fields.until_value is None else fields.until_value
    above = [part.value for part in taken.values() if not part.value <= ceiling]
    if above:
        return _Found(waiver.state("exceeded", f"measured {max(above):.4g}, the ceiling is {ceiling:g}"))
    note = f"excuses {len(taken)} of {len(case.parts)} measurements" if taken else "excuses what withholds the pass"
    return _Found(waiver.state("active", note), excuses=True, parts=frozenset(taken), withheld=withheld)


def _in_scope(scope: Scope, part: Part) -> bool:
    return scope.group in (None, part.group) and scope.attack in (None, part.attack)


def _no_substitute(contested: Mapping[str, Contested], id: str, inadmissible: bool) -> str:
    """Why the substitute does not stand in; "" if it does."""
    if inadmissible:
        return "the evidence is not admissible: nothing can stand in for it"
    other = contested.get(id)
    if other is None or other.outcome.status is not RuleStatus.PASS:
        became = "not in the policy" if other is None else other.outcome.status.value
        return f"its substitute {id} is {became}, and has to pass"
    return "" if other.proves else f"its substitute {id} proves nothing about the model"


def _not_this(scope: Scope, model: Model) -> str:
    """Why a waiver is about another model; "" if it is about this one."""
    if scope.digest is not None and scope.digest != model.digest:
        return "is about a model of another digest"
    if scope.model is None:
        return ""
    if scope.model != model.name:
        return f"is about the model {scope.model}, this is {model.name or 'a model without a name'}"
    version = model.version or ""
    if not version.isdecimal():
        return f"is about versions {scope.versions}, this model has no number"
    compare = {
        ">=": lambda a, b: a >= b,
        "<=": lambda a, b: a <= b,
        "==": lambda a, b: a == b,
        ">": lambda a, b: a > b,
        "<": lambda a, b: a < b,
    }
    fits = all(compare[sign](int(version), other) for sign, other in _comparisons(scope.versions or ""))
    return "" if fits else f"is about versions {scope.versions}, this is {version}"
