"""The contract of a rule, and the catalog of all rules. One rule per file; the folder is the list.

A rule is a pure function `(settings, Evidence) -> Measured | Decided`. Bounds, corrections, precedence, exit codes and
wording are written once, in `judge`, and apply to all rules.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from privacy_gate.catalog import Catalog
from privacy_gate.datamodel import Action, Estimand, Evidence, Location, Measurement, RuleStatus

Share = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
"""A number from 0 to 1; text and booleans are refused, they would become limits by accident."""

Severity = Literal["low", "medium", "high", "critical"]
ReleaseContext = Literal["open-weights", "public-api", "authenticated-api", "internal"]
Sensitivity = Literal["ordinary", "special-category", "children"]

STRENGTH: Mapping[Action, int] = {"off": 0, "warn": 1, "block": 2}


def _calendar_day(value: Any) -> Any:
    """Text as a date; numbers, times and other spellings of dates are refused, they would be guessed at."""
    if isinstance(value, str):
        if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
            raise ValueError(f"{value[:40]!r} is not a date written as YYYY-MM-DD")
        try:
            return datetime.date.fromisoformat(value)
        except ValueError as error:
            raise ValueError(f"there is no day {value}: {error}") from error
    if type(value) is not datetime.date:
        raise ValueError("a date is written as YYYY-MM-DD")
    return value


Day = Annotated[datetime.date, BeforeValidator(_calendar_day)]
"""A day of the calendar, written as YYYY-MM-DD."""


class RuleSettings(BaseModel):
    """What every rule can be told in a policy file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    action: Action = Field("block", description="block: no release; warn: said, never blocks; off: not looked at")
    severity: Severity = Field("high", description="how bad a violation is; shown, decides nothing")
    reason: str = Field("", max_length=500, description="why it is set so; shown in the report")
    floor: bool = Field(False, strict=True, description="policies that extend this one may only tighten the rule")
    enforce_from: Day | None = Field(None, description="the day (UTC) from which a rule that blocks does; warns before")

    def loosened(self, parent: Any) -> list[str]:
        """Names of the settings that allow more than `parent`, which has the same type, did."""
        weaker = ["action"] if STRENGTH[self.action] < STRENGTH[parent.action] else []
        later = self.enforce_from is not None and self.enforce_from > (parent.enforce_from or datetime.date.min)
        return weaker + (["floor"] if parent.floor and not self.floor else []) + (["enforce_from"] if later else [])

    def in_effect(self, context: ReleaseContext | None, today: datetime.date) -> Self:
        """The settings as they are on that day: a rule that does not block yet warns, and keeps its date."""
        if self.action != "block" or self.enforce_from is None or self.enforce_from <= today:
            return self.model_copy(update={"enforce_from": None})
        return self._warning(f"warns until {self.enforce_from}, blocks from then on")

    def _warning(self, why: str) -> Self:
        reason = "; ".join(part for part in (self.reason, why) if part)
        return self.model_copy(update={"action": "warn", "reason": reason})


class LimitSettings(RuleSettings):
    """A rule that compares a measurement with a limit."""

    max: Share = Field(description="the limit: to pass, the upper confidence bound must not be above it")

    def loosened(self, parent: Any) -> list[str]:
        """A higher limit allows more."""
        return super().loosened(parent) + (["max"] if self.max > parent.max else [])


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """One hypothesis of a rule: the measurement of one attack, threat model and scope must be within the limit."""

    name: str
    measurement: Measurement
    limit: float
    attack: str = ""  # id of the attack; what a waiver can be limited to
    group: str = ""  # by=value of the slice


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What a statistical rule found.

    cells      every one must be within its limit to pass; one proven beyond it is enough to fail
    withheld   why the rule cannot pass on this evidence, whatever the numbers say; "" if it can
    nothing    why there are no cells
    broken     whether there are none because something crashed: an error then, not an open question
    note       what was left out, said whatever the outcome
    burden     who must prove: `model` that the limit is kept, or `gate` that it is not (the rule passes otherwise)
    convicts   whether a proven violation fails the rule; if not, it leaves the rule undecided
    """

    cells: tuple[Cell, ...]
    withheld: str = ""
    nothing: str = ""
    broken: bool = False
    note: str = ""
    burden: Literal["model", "gate"] = "model"
    convicts: bool = True


@dataclass(frozen=True, slots=True)
class Decided:
    """What a rule found that measures nothing; `warning` is said even if it passes."""

    status: RuleStatus
    reason: str
    warning: str = ""


@dataclass(frozen=True, slots=True)
class Effort:
    """A question about sample sizes.

    assumed              what the attack truly achieves; None: as little as guessing
    alpha, power         one-sided level of the bound, and the chance that it decides
    members, nonmembers  what there is now: persons where persons are known, records elsewhere
    """

    assumed: float | None
    alpha: float
    power: float
    members: int
    nonmembers: int


Examine: TypeAlias = "Callable[[Any, Evidence], Measured | Decided]"
Needed: TypeAlias = "Callable[[Any, Effort], Mapping[str, int]]"
Unit = Literal["number", "percent", "persons"]


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """A rule: what it is about and how it looks at the evidence.

    id            PG and three digits: 1xx attacks, 2xx risk, 3xx the model, 4xx its history, 5xx the evidence itself
    metric        dotted name of what is compared
    unit          how numbers are shown: 0.58, 5.8 % or 12 (persons)
    settings      what a policy can set
    examine       the rule itself
    needed        members and non-members that decide it; {} if no number of records does; None: nobody can say
    example_*     evidence on which the rule of the standard policy passes, and does not
    always        in force with its default settings in a policy that does not mention it
    waivable      whether a waiver can excuse it, if the policy allows that
    """

    id: str
    title: str
    metric: str
    unit: Unit
    settings: type[RuleSettings]
    examine: Examine
    needed: Needed | None
    example_pass: Evidence
    example_fail: Evidence
    always: bool = False
    waivable: bool = True

    @property
    def summary(self) -> str:
        """The docstring of the rule's function, as one line."""
        return " ".join((self.examine.__doc__ or "").split())


CATALOG: Catalog[Rule] = Catalog("rule", "privacy_gate.policy")


def rule(
    *,
    id: str,
    title: str,
    metric: str,
    settings: type[RuleSettings],
    example_pass: Evidence,
    example_fail: Evidence,
    unit: Unit = "number",
    needed: Needed | None = None,
    always: bool = False,
    waivable: bool = True,
) -> Callable[[Examine], Examine]:
    """Enter a rule into the catalog."""

    def register(examine: Examine) -> Examine:
        made = Rule(id, title, metric, unit, settings, examine, needed, example_pass, example_fail, always, waivable)
        CATALOG.add(id, made)
        return examine

    return register


@dataclass(frozen=True, slots=True)
class RuleInForce:
    """A rule as a policy sets it.

    location  the line that set it last; a built-in profile's if the policy file does not mention it; None: a default
    """

    id: str
    settings: RuleSettings
    location: Location | None


@dataclass(frozen=True, slots=True)
class WaiverTerms:
    """What a policy allows waivers to do.

    file       where they are; None: nowhere unless the caller names a file
    max_days   between the days on which a waiver is created and expires
    approvers  different people who must have agreed
    never      rules that cannot be waived, besides those that never can
    """

    file: Path | None = None
    max_days: int = 30
    approvers: int = 1
    never: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy with everything it extends folded in.

    name        of the file, or its `name:`
    profile     the built-in profile that it starts from; None if from none
    digest      sha256 of `resolved` in canonical form
    resolved    every setting with its value, JSON-like
    origins     dotted name of a setting -> where it was set; None: a default of the program
    equivalence whether a validity check must prove that its effect is small, not only fail to prove that it is large
    files       as read: the policy itself first, what it extends after it
    fixed_on    the day on which the file says that its limits were fixed
    estimand    what the numbers must be about
    """

    name: str
    profile: str | None
    digest: str
    resolved: Mapping[str, Any]
    origins: Mapping[str, Location | None]
    rules: tuple[RuleInForce, ...]
    alpha_pass: float = 0.05
    alpha_fail: float = 0.05
    valid_days: int = 90
    release_context: ReleaseContext | None = None
    equivalence: bool = False
    files: tuple[str, ...] = ()
    data_sensitivity: Sensitivity | None = None
    fixed_on: datetime.date | None = None
    owner: str = ""
    estimand: Estimand = Estimand.ARTEFACT
    waivers: WaiverTerms = field(default_factory=WaiverTerms)

    @property
    def validity_limits(self) -> Mapping[str, float]:
        """Validity check id -> the limit that the policy gives it, in place of the check's own."""
        rule = self.rule("PG502")
        return {} if rule is None else dict(getattr(rule.settings, "limits", {}))

    def on(self, today: datetime.date) -> Policy:
        """The policy as it is in effect on that day: rules that do not block yet, or not in this context, warn."""
        rules = tuple(replace(r, settings=r.settings.in_effect(self.release_context, today)) for r in self.rules)
        return replace(self, rules=rules)

    def rule(self, id: str) -> RuleInForce | None:
        """The rule of that id, if the policy has it."""
        return next((rule for rule in self.rules if rule.id == id), None)
