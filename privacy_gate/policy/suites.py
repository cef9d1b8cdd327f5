"""Suites: named lists of attacks, kept as templates so that people can read them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from privacy_gate.catalog import did_you_mean
from privacy_gate.documents import load_yaml
from privacy_gate.errors import UsageError
from privacy_gate.resources import template

SUITES = ("fast", "full", "deep")


class Suite(BaseModel):
    """A suite file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    api_version: Literal["privacy-gate/v1"] = Field(alias="apiVersion")
    description: str
    attacks: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1)


def suite(name: str) -> list[str]:
    """Ids of the attacks of a suite, in the order of its file; UsageError for an unknown name."""
    if name not in SUITES:
        raise UsageError(f"no suite is called {name!r}", did_you_mean(name, list(SUITES)))
    shown = f"templates/suites/{name}.yaml"
    return list(load_yaml(template("suites", f"{name}.yaml"), Suite, shown).value.attacks)
