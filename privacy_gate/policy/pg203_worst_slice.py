"""PG203: no class and no group may be much easier to attack than the whole."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from privacy_gate.datamodel import AttackResult, Evidence, Measurement, RuleStatus, SliceAccuracy
from privacy_gate.policy.cells import measured, name_of, results, same_numbers
from privacy_gate.policy.contract import Cell, Decided, LimitSettings, Measured, rule
from privacy_gate.policy.examples import evidence, result, sliced


class Settings(LimitSettings):
    """Which parts of the records are looked at."""

    by: list[str] | None = Field(
        None, min_length=1, description="what slices are made by: class, difficulty, a declared group; default: all"
    )
    fewest: Annotated[int, Field(strict=True, ge=1)] = Field(
        100, description="members, and non-members, without which a slice need not be proven safe (persons)"
    )

    def loosened(self, parent: Any) -> list[str]:
        """Fewer slices are looked at."""
        missing = self.by is not None and (parent.by is None or bool(set(parent.by) - set(self.by)))
        larger = ["fewest"] if self.fewest > parent.fewest else []
        return super().loosened(parent) + (["by"] if missing else []) + larger


@dataclass(frozen=True, slots=True)
class Presumed:
    """A measurement that counts against a model where it shows something, and never for want of numbers.

    It has no upper bound to hold while its lower one is within the limit. A lower bound beyond it that is not proven,
    because many slices were looked at, still leaves the rule open.
    """

    measured: Measurement
    limit: float

    @property
    def value(self) -> float:
        """The point estimate."""
        return self.measured.value

    def lower(self, alpha: float) -> float:
        """One-sided lower bound at confidence 1 - alpha."""
        return self.measured.lower(alpha)

    def upper(self, alpha: float) -> float:
        """One-sided upper bound where the lower one is beyond the limit; else minus infinity: nothing to prove."""
        return self.measured.upper(alpha) if self.measured.lower(alpha) > self.limit else -math.inf


_SUSPICION = 0.05  # level at which small slices are worth a hearing where none is large


def _size(part: SliceAccuracy) -> int:
    return min(part.members, part.nonmembers)


def _called(part: SliceAccuracy) -> str:
    return f"{part.by}={part.value}"


@rule(
    id="PG203",
    title="attack accuracy within a class or group",
    metric="slice.accuracy",
    unit="percent",
    settings=Settings,
    example_pass=evidence([result("correctness"), sliced("lira", {"a": 0.5, "b": 0.52})]),
    example_fail=evidence([result("correctness"), sliced("lira", {"a": 0.5, "b": 0.78})]),
)
def worst_slice(settings: Settings, evidence: Evidence) -> Measured | Decided:
    """Balanced accuracy of every attack in every class and group; those below `fewest` persons a side can only fail."""
    done = results(evidence)
    if not done:
        return measured((), evidence)
    there = [(r, part) for r in done for part in r.slices]
    missing = [by for by in settings.by or () if by not in {part.by for _, part in there}]
    if missing:
        made = ", ".join(dict.fromkeys(part.by for _, part in there)) or "nothing"
        return Decided(RuleStatus.INCONCLUSIVE, f"no slices by {', '.join(missing)}; the records are sliced by {made}")
    asked = [(r, part) for r, part in there if settings.by is None or part.by in settings.by]
    if not asked:
        return Decided(RuleStatus.NOT_APPLICABLE, "the records were not sliced: accuracy within groups is not known")
    large = [(r, part) for r, part in asked if _size(part) >= settings.fewest]
    small = [(r, part) for r, part in asked if _size(part) < settings.fewest]
    cells = [*_cells(large, settings.max), *_cells(small, settings.max, presumed=True)]
    if not large:
        said = _none_is_large(small, settings.fewest)
        if any(cell.measurement.lower(_SUSPICION / len(cells)) > cell.limit for cell in cells):
            return Measured(tuple(cells), withheld=said)
        # Slices that the policy names must be judged; those that happen to be there need not.
        status = RuleStatus.NOT_APPLICABLE if settings.by is None else RuleStatus.INCONCLUSIVE
        return Decided(status, said)
    unmeasured = [f"{by}={value}" for by, value in evidence.left_out if settings.by is None or by in settings.by]
    named = list(dict.fromkeys([*(_called(part) for _, part in small), *unmeasured]))
    note = f"not proven safe, with fewer than {settings.fewest} persons on a side: {_few(named)}" if named else ""
    if named and settings.by is not None:
        return Measured(tuple(cells), withheld=f"the policy asks for slices that are {note}")
    return Measured(tuple(cells), note=note)


def _none_is_large(small: list[tuple[AttackResult, SliceAccuracy]], fewest: int) -> str:
    most = max((part for _, part in small), key=_size)
    return (
        f"no slice has {fewest} persons on either side; the largest of {len({_called(part) for _, part in small})} is "
        f"{_called(most)} with {most.members} members and {most.nonmembers} non-members"
    )


def _cells(found: list[tuple[AttackResult, SliceAccuracy]], limit: float, *, presumed: bool = False) -> list[Cell]:
    """One cell per attack and slice; the same numbers under several threshold scopes are one hypothesis."""
    kept: dict[tuple[str, str, bool, str], list[Cell]] = {}
    for r, part in found:
        group = _called(part)
        accuracy = Presumed(part.accuracy, limit) if presumed else part.accuracy
        cell = Cell(f"{group}: {name_of(r, scope=True)}", accuracy, limit, attack=r.id, group=group)
        alike = kept.setdefault((r.id, r.threat_model, r.adaptive, group), [])
        if not any(same_numbers(cell.measurement, other.measurement) for other in alike):
            alike.append(cell)
    return [cell for alike in kept.values() for cell in alike]


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
