"""Defences, one per file. An output defence wraps a scorer: Outputs in, Outputs out, for target and shadows alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel

from privacy_gate.catalog import Catalog
from privacy_gate.datamodel import Outputs


class OutputDefence(Protocol):
    """A configured defence (a frozen pydantic model whose fields are its settings)."""

    def protect(self, outputs: Outputs) -> Outputs:
        """What a caller of the defended model sees: [n, K] in, [n, K] out."""


@dataclass(frozen=True, slots=True)
class Defence:
    """A named defence and the settings model that builds it."""

    id: str
    paper: str
    settings: type[BaseModel]

    def configure(self, settings: dict[str, Any]) -> OutputDefence:
        """Validated settings; unknown keys are refused."""
        configured: Any = self.settings.model_validate(settings)
        return configured  # type: ignore[no-any-return]


CATALOG: Catalog[Defence] = Catalog("defence", __name__)


def defence(*, id: str, paper: str) -> Callable[[type[BaseModel]], type[BaseModel]]:
    """Enter a defence's settings model, which does the work itself, into the catalog."""

    def register(settings: type[BaseModel]) -> type[BaseModel]:
        CATALOG.add(id, Defence(id, paper, settings))
        return settings

    return register
