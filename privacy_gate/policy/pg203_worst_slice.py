"""PG203: no class and no group may be much easier to attack than the whole."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from privacy_gate.datamodel import AttackResult, Evidence, RuleStatus, SliceAccuracy
from privacy_gate.policy.cells import measured, name_of, results, same_numbers
from privacy_gate.policy.contract import Cell, Decided, LimitSettings, Measured, rule
from privacy_gate.policy.examples import evidence, result, sliced


class Settings(LimitSettings):
    """Which parts of the records are looked at."""

    by: list[str] | None = Field(
        None, min_length=1, description="what slices are made by: class, difficulty, a declared group; default: all"
    )
    fewest: Annotated[int, Field(strict=True, ge=1)] = Field(
        100, description="members, and non-members, that a slice must have to be judged (persons)"
    )

    def loosened(self, parent: Any) -> list[str]:
        """Fewer slices are looked at."""
        missing = self.by is not None and (parent.by is None or bool(set(parent.by) - set(self.by)))
        larger = ["fewest"] if self.fewest > parent.fewest else []
        return super().loosened(parent) + (["by"] if missing else []) + larger


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
    """Balanced accuracy of every attack within every class and group that has `fewest` persons on each side."""
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
    small = list(dict.fromkeys(_called(part) for _, part in asked if _size(part) < settings.fewest))
    if not large:
        most = max((part for _, part in asked), key=_size)
        return Decided(
            # Slices that the policy names must be judged; those that happen to be there need not.
            RuleStatus.NOT_APPLICABLE if settings.by is None else RuleStatus.INCONCLUSIVE,
            f"no slice has {settings.fewest} persons on either side; the largest of {len(small)} is {_called(most)} "
            f"with {most.members} members and {most.nonmembers} non-members",
        )
    note = f"not judged, with fewer than {settings.fewest} persons on a side: {_few(small)}" if small else ""
    return Measured(tuple(_cells(large, settings.max)), note=note)


def _cells(large: list[tuple[AttackResult, SliceAccuracy]], limit: float) -> list[Cell]:
    """One cell per attack and slice; the same numbers under several threshold scopes are one hypothesis."""
    kept: dict[tuple[str, str, bool, str], list[Cell]] = {}
    for r, part in large:
        group = _called(part)
        cell = Cell(f"{group}: {name_of(r, scope=True)}", part.accuracy, limit, attack=r.id, group=group)
        alike = kept.setdefault((r.id, r.threat_model, r.adaptive, group), [])
        if not any(same_numbers(cell.measurement, other.measurement) for other in alike):
            alike.append(cell)
    return [cell for alike in kept.values() for cell in alike]


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
