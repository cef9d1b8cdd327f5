"""From a model's outputs to the numbers that attacks read. One signal per file; the folder is the list.

A signal is a pure function `(Outputs, labels[n]) -> float64[n]`, computed in float64 and in logit space.
Probabilities are floored at half of `Outputs.resolution`, never at a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from privacy_gate.catalog import Catalog
from privacy_gate.datamodel import Floats, Ints, Outputs

Compute = Callable[[Outputs, Ints], Floats]


@dataclass(frozen=True, slots=True)
class Signal:
    """A named number per record, with its unit."""

    name: str
    unit: str
    paper: str
    compute: Compute


CATALOG: Catalog[Signal] = Catalog("signal", __name__)


def signal(*, name: str, unit: str, paper: str) -> Callable[[Compute], Compute]:
    """Enter a signal into the catalog."""

    def register(compute: Compute) -> Compute:
        CATALOG.add(name, Signal(name, unit, paper, compute))
        return compute

    return register


def collect(outputs: Outputs, labels: Ints, names: Iterable[str]) -> dict[str, Floats]:
    """The named signals of one model on n records."""
    return {name: CATALOG[name].compute(outputs, labels) for name in sorted(names)}
