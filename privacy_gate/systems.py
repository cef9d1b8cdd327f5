"""The systems of the literature, and which plug-ins answer for each; the list is a template that people can read."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from privacy_gate.documents import load_yaml
from privacy_gate.resources import template

Name = Annotated[str, Field(min_length=1)]

KINDS = ("attacks", "defences", "estimators", "causes", "checks")
"""The catalogs whose plug-ins can answer for a system, as the file names them."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class System(_Part):
    """One system: what it is, where it comes from, what it needs, and what answers for it or when that will come."""

    id: Name
    name: Name
    family: Name
    paper: Name
    requires: tuple[Name, ...] = Field(min_length=1)
    number: int | None = Field(None, ge=1, description="its row among the systems of the papers; none beyond them")
    attacks: tuple[Name, ...] = ()
    defences: tuple[Name, ...] = ()
    estimators: tuple[Name, ...] = ()
    causes: tuple[Name, ...] = ()
    checks: tuple[Name, ...] = ()
    later: Name | None = Field(None, description="what is missing, where nothing answers yet")

    @model_validator(mode="after")
    def _answered_or_not(self) -> System:
        if bool(self.answers) == (self.later is not None):
            raise ValueError(f"{self.id}: name the plug-ins that answer for it, or say `later`, and not both")
        return self

    @property
    def answers(self) -> tuple[tuple[str, str], ...]:
        """(kind, id of the plug-in) of all that answer for it; empty where it is planned."""
        return tuple((kind, name) for kind in KINDS for name in getattr(self, kind))

    @property
    def status(self) -> Literal["available", "planned"]:
        """Whether something answers for it."""
        return "available" if self.answers else "planned"


class Beyond(_Part):
    """What belongs to none of the papers' systems."""

    attacks: tuple[Name, ...] = ()
    defences: tuple[Name, ...] = ()
    planned: tuple[System, ...] = ()


class Systems(_Part):
    """The whole list."""

    api_version: Literal["privacy-gate/v1"] = Field(alias="apiVersion")
    systems: tuple[System, ...] = Field(min_length=1)
    beyond: Beyond

    @model_validator(mode="after")
    def _numbered(self) -> Systems:
        numbers = [system.number for system in self.systems]
        if numbers != list(range(1, len(numbers) + 1)):
            raise ValueError(f"systems are numbered from 1 without a gap; found {numbers}")
        ids = [system.id for system in (*self.systems, *self.beyond.planned)]
        if len(set(ids)) < len(ids):
            raise ValueError(f"two systems have the same id: {sorted(name for name in ids if ids.count(name) > 1)[0]}")
        return self

    @property
    def planned(self) -> tuple[System, ...]:
        """Those that nothing answers for yet, of the papers and beyond."""
        return (*(system for system in self.systems if system.status == "planned"), *self.beyond.planned)


@cache
def systems() -> Systems:
    """The list of `templates/systems.yaml`; ConfigError with line and column where it is not one."""
    return load_yaml(template("systems.yaml"), Systems, "templates/systems.yaml").value
