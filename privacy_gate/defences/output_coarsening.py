"""Saying less: temperature, the k largest classes only, rounding, or the label alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_validator
from scipy.special import softmax

from privacy_gate.datamodel import Floats, Outputs
from privacy_gate.defences import defence
from privacy_gate.request import Settings, TorchTraining


@defence(id="output_coarsening", paper="Shokri et al., S&P 2017, section VIII (mitigations)", on="any model")
class OutputCoarsening(Settings):
    """Coarser answers, applied in this order: temperature, top_k, decimals, label_only. Answers are probabilities."""

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="divides the logits (log-probabilities where there are none); above 1 flattens the answer"
    )
    top_k: Annotated[int, Field(ge=1)] | None = Field(
        None, description="only the k largest classes are answered, as they are; the others become 0"
    )
    decimals: Annotated[int, Field(ge=0, le=15)] | None = Field(None, description="digits after the point")
    label_only: bool = Field(False, description="1 for the top class, 0 for all others")

    @model_validator(mode="after")
    def _does_something(self) -> OutputCoarsening:
        if not self.label_only and self.temperature is None and self.top_k is None and self.decimals is None:
            raise ValueError("set at least one of temperature, top_k, decimals, label_only")
        return self

    @classmethod
    def suggestions(cls, estimator: str, training: TorchTraining | None) -> Sequence[Mapping[str, Any]]:
        """One digit, or none: what it costs is next to nothing, and what it gains is little."""
        return [{"decimals": 1}, {"label_only": True}]

    def protect(self, outputs: Outputs) -> Outputs:
        """What a caller of the defended model sees: [n, K] in, probabilities [n, K] out."""
        p = _probabilities(outputs, self.temperature)
        # A temperature changes the steps between probabilities; 0 leaves it to be measured on what comes out.
        resolution = outputs.resolution if outputs.kind == "probabilities" and self.temperature is None else 0.0
        if self.top_k is not None and self.top_k < p.shape[1]:
            p = _top(p, self.top_k)
        if self.decimals is not None:
            p = np.round(p, self.decimals)
            resolution = max(resolution, 10.0**-self.decimals)
        if self.label_only:
            p = _one_hot(p)
            resolution = 1.0
        return Outputs(p, "probabilities", resolution)


def _probabilities(outputs: Outputs, temperature: float | None) -> Floats:
    values = outputs.values.astype(np.float64)
    if outputs.kind == "probabilities" and temperature is None:
        return values
    if outputs.kind == "probabilities":
        with np.errstate(divide="ignore"):
            logits = np.log(values)
        logits[values.max(axis=1) <= 0] = 0.0  # a row rounded to nothing says nothing
    else:
        logits = values
    p = np.asarray(softmax((logits - logits.max(axis=1, keepdims=True)) / (temperature or 1.0), axis=1))
    return _with_top_of(p, values)


def _with_top_of(p: Floats, values: Floats) -> Floats:
    """The label must survive: classes that differ in the last bit only can come out equal, or in another order."""
    rows, top = np.arange(len(p)), values.argmax(axis=1)
    moved = p.argmax(axis=1) != top
    p[rows[moved], top[moved]] = np.nextafter(p[moved].max(axis=1), np.inf)
    return p


def _top(p: Floats, k: int) -> Floats:
    """The k largest per row (the lower index first among equals), not renormalised: what prediction services return.

    Renormalising would also tell the caller less than such a service does, and so make the attack too weak.
    """
    kept = np.argsort(-p, axis=1, kind="stable")[:, :k]
    out = np.zeros_like(p)
    np.put_along_axis(out, kept, np.take_along_axis(p, kept, axis=1), axis=1)
    return out


def _one_hot(p: Floats) -> Floats:
    out = np.zeros_like(p)
    out[np.arange(len(p)), p.argmax(axis=1)] = 1.0
    return out
