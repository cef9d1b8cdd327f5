"""What attacks read, one signal per file; the folder is the list.

A signal is a pure function `(Outputs, labels[n]) -> float64[n]`, or [n, d] for a vector, computed in float64 and in
logit space. Probabilities are floored at half of `Outputs.resolution`, never at a constant.

A probe is a signal that takes more than one answer: it asks the model again with other inputs, or differentiates it.
Probes run where the model is, in processes that are not the gate's; attacks read what they return like any signal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from privacy_gate.catalog import Catalog
from privacy_gate.datamodel import Floats, Ints, Outputs
from privacy_gate.features import AnyFeatures, Features

Compute = Callable[[Outputs, Ints], Floats]


@dataclass(frozen=True, slots=True)
class Signal:
    """A named number, or vector, per record, with its unit. vector: whether it gives [n, d] instead of [n]."""

    name: str
    unit: str
    paper: str
    compute: Compute
    vector: bool = False


CATALOG: Catalog[Signal] = Catalog("signal", __name__)


def signal(*, name: str, unit: str, paper: str, vector: bool = False) -> Callable[[Compute], Compute]:
    """Enter a signal into the catalog."""

    def register(compute: Compute) -> Compute:
        CATALOG.add(name, Signal(name, unit, paper, compute, vector))
        return compute

    return register


def collect(outputs: Outputs, labels: Ints, names: Iterable[str]) -> dict[str, Floats]:
    """The named signals of one model on n records."""
    return {name: CATALOG[name].compute(outputs, labels) for name in sorted(names)}


# --- probes ---------------------------------------------------------------------------------------------------------


class Access(Protocol):
    """A loaded model that a probe may use."""

    @property
    def classes(self) -> int:
        """K."""

    def answers(self, features: Features) -> Outputs:
        """[n, K] what a caller of the released model sees, output defence included; columns in the gate's order."""

    def module(self) -> Any:
        """The torch module in evaluation mode, weights and all; raises NotEvaluable where the model is none."""


Ask = Callable[[Access, Features, Ints, int], Floats]


@dataclass(frozen=True, slots=True)
class Probe:
    """A named number, or vector, per record that takes a model to compute.

    needs    labels: only the top class of each answer; answers: all of it; weights: a differentiable model
    fits     the kind of records that it can change; any: it says itself where it does not fit
    queries  what it costs per record, in words
    vector   whether it gives [n, d] instead of [n]
    shadows  whether shadows are probed too; else only attacks on the target's own records can read it
    version  raised when the same model would give other numbers: stored results of shadows are then of no use
    compute  (access, features [n, ...], labels [n], seed) -> [n] or [n, d], finite; raises NotEvaluable with the
             reason where the probe does not fit the model or the data
    """

    name: str
    unit: str
    paper: str
    needs: Literal["labels", "answers", "weights"]
    queries: str
    compute: Ask
    vector: bool = False
    shadows: bool = True
    version: int = 1
    fits: Literal["any", "tables", "images"] = "any"


def misfit(probe: Probe, features: AnyFeatures, module: bool) -> str:
    """Why a probe cannot be about such records or such a model; "" where it can. Nobody's word is taken for it.

    module  whether the model is a torch module
    """
    images = features.ndim > 2
    if probe.fits == "tables" and images:
        return f"it changes the columns of tables, these records have {features.ndim} axes"
    if probe.fits == "images" and not images:
        return "it turns and moves images, these records are a table"
    if probe.needs == "weights" and not module:
        return "it differentiates the model, and this one is no torch module"
    return ""


PROBES: Catalog[Probe] = Catalog("probe", __name__)


def probe(
    *,
    name: str,
    unit: str,
    paper: str,
    needs: Literal["labels", "answers", "weights"],
    queries: str,
    fits: Literal["any", "tables", "images"] = "any",
    vector: bool = False,
    shadows: bool = True,
    version: int = 1,
) -> Callable[[Ask], Ask]:
    """Enter a probe into the catalog."""

    def register(compute: Ask) -> Ask:
        PROBES.add(name, Probe(name, unit, paper, needs, queries, compute, vector, shadows, version, fits))
        return compute

    return register
