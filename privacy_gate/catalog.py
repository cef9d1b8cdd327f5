"""A catalog: plug-ins found by importing the modules of one package. Adding one is adding a file."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

from privacy_gate.errors import UsageError


def did_you_mean(name: str, known: list[str]) -> str:
    """A suggestion sentence for a misspelt name, or the list of the known ones."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(sorted(known))}"


T = TypeVar("T")


class Catalog(Generic[T]):
    """Named plug-ins of one kind, imported from `package` at first use, in alphabetical order."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._items: dict[str, T] = {}
        self._complete = False
        self._searching = False
        self._turn = threading.RLock()

    def add(self, name: str, item: T) -> None:
        """Enter a plug-in under its name; a name stands for one thing only."""
        if name in self._items:
            raise ValueError(f"two {self.kind}s are called {name!r}")
        self._items[name] = item

    def _discover(self) -> None:
        if not self._complete:
            with self._turn:  # a second thread waits until all are there; one that comes back from an import does not
                self._import_all()

    def _import_all(self) -> None:
        if self._complete or self._searching:
            return
        self._searching = True
        try:
            for module in pkgutil.iter_modules(importlib.import_module(self._package).__path__):
                importlib.import_module(f"{self._package}.{module.name}")
            self._complete = True
        finally:
            self._searching = False

    def names(self) -> list[str]:
        """All names, sorted."""
        self._discover()
        return sorted(self._items)

    def __getitem__(self, name: str) -> T:
        self._discover()
        if name not in self._items:
            raise UsageError(f"no {self.kind} is called {name!r}", did_you_mean(name, list(self._items)))
        return self._items[name]

    def __contains__(self, name: object) -> bool:
        self._discover()
        return name in self._items

    def __iter__(self) -> Iterator[T]:
        return (self._items[name] for name in self.names())

    def __len__(self) -> int:
        return len(self.names())
