"""The contract of a rule, and the catalog of all rules. One rule per file; the folder is the list.

A rule is a pure function `(settings, Evidence) -> Measured | Decided`. Bounds, corrections, precedence, exit codes and
wording are written once, in `judge`, and apply to all rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from privacy_gate.catalog import Catalog
from privacy_gate.datamodel import Action, Evidence, Location, Measurement, RuleStatus

Share = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
"""A number from 0 to 1; text and booleans are refused, they would become limits by accident."""

Severity = Literal["low", "medium", "high", "critical"]

_STRENGTH: Mapping[Action, int] = {"off": 0, "warn": 1, "block": 2}


class RuleSettings(BaseModel):
    """What every rule can be told in a policy file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    action: Action = Field("block", description="block: no release; warn: said, never blocks; off: not looked at")
    severity: Severity = Field("high", description="how bad a violation is; shown, decides nothing")
    reason: str = Field("", max_length=500, description="why it is set so; shown in the report")
    floor: bool = Field(False, strict=True, description="policies that extend this one may only tighten the rule")

    def loosened(self, parent: Any) -> list[str]:
        """Names of the settings that allow more than `parent`, which has the same type, did."""
        weaker = ["action"] if _STRENGTH[self.action] < _STRENGTH[parent.action] else []
        return weaker + (["floor"] if parent.floor and not self.floor else [])


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


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What a statistical rule found.

    cells      every one must be within its limit to pass; one proven beyond it is enough to fail
    withheld   why the rule cannot pass on this evidence, whatever the numbers say; "" if it can
    nothing    why there are no cells
    broken     whether there are none because something crashed: an error then, not an open question
    """

    cells: tuple[Cell, ...]
    withheld: str = ""
    nothing: str = ""
    broken: bool = False


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


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """A rule: what it is about and how it looks at the evidence.

    id            PG and three digits: 1xx attacks, 2xx risk, 5xx the evidence itself
    metric        dotted name of what is compared
    unit          how numbers are shown: 0.58 or 5.8 %
    settings      what a policy can set
    examine       the rule itself
    needed        members and non-members that decide it; {} if no number of records does
    example_*     evidence on which the rule of the standard policy passes, and does not
    always        in force with its default settings in a policy that does not mention it
    """

    id: str
    title: str
    metric: str
    unit: Literal["number", "percent"]
    settings: type[RuleSettings]
    examine: Examine
    needed: Needed
    example_pass: Evidence
    example_fail: Evidence
    always: bool = False

    @property
    def summary(self) -> str:
        """The docstring of the rule's function, as one line."""
        return " ".join((self.examine.__doc__ or "").split())


CATALOG: Catalog[Rule] = Catalog("rule", "privacy_gate.policy")


def no_records_help(settings: Any, effort: Effort) -> Mapping[str, int]:
    """For rules that no number of records decides."""
    return {}


def rule(
    *,
    id: str,
    title: str,
    metric: str,
    settings: type[RuleSettings],
    example_pass: Evidence,
    example_fail: Evidence,
    unit: Literal["number", "percent"] = "number",
    needed: Needed = no_records_help,
    always: bool = False,
) -> Callable[[Examine], Examine]:
    """Enter a rule into the catalog."""

    def register(examine: Examine) -> Examine:
        CATALOG.add(id, Rule(id, title, metric, unit, settings, examine, needed, example_pass, example_fail, always))
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
class Policy:
    """A policy with everything it extends folded in.

    name        of the file, or its `name:`
    profile     the built-in profile that it starts from; None if from none
    digest      sha256 of `resolved` in canonical form
    resolved    every setting with its value, JSON-like
    origins     dotted name of a setting -> where it was set; None: a default of the program
    equivalence whether a validity check must prove that its effect is small, not only fail to prove that it is large
    files       as read: the policy itself first, what it extends after it
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
    release_context: str | None = None
    equivalence: bool = False
    files: tuple[str, ...] = ()

    def rule(self, id: str) -> RuleInForce | None:
        """The rule of that id, if the policy has it."""
        return next((rule for rule in self.rules if rule.id == id), None)
