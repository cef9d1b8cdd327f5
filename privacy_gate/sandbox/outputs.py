"""From the raw array that a model answered with to `Outputs`, or the reason why it is none."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from privacy_gate.datamodel import Outputs
from privacy_gate.errors import ModelOutputUnusable

Kind = Literal["auto", "logits", "probabilities"]

SUM_TOLERANCE = 1e-3  # beyond it, rows are not probabilities; within it, they are rounded ones
_ROUNDING = 1e-6  # rows closer than this to 1 are left alone: dividing would break ties that attacks must see


def checked(raw: NDArray[Any], kind: Kind, rows: int) -> Outputs:
    """[rows, K] finite logits or probabilities out of `raw`.

    One column is the second class's: [rows] or [rows, 1] becomes two columns.
    kind  "auto": probabilities iff every row is non-negative and sums to 1 within 1e-3, else logits
    """
    if raw.dtype.kind not in "fiub":
        raise ModelOutputUnusable(
            f"the model answers with values of type {raw.dtype}, not with numbers",
            "log it so that it answers with one score per class (pyfunc_predict_fn='predict_proba')",
        )
    if raw.ndim == 0 or len(raw) != rows or raw.ndim > 2 or raw.size == 0:
        raise ModelOutputUnusable(
            f"the model answers with an array of shape {list(raw.shape)} to {rows} records",
            "it must answer with one row per record and one column per class",
        )
    values = raw if raw.dtype in (np.float32, np.float64) else raw.astype(np.float64)
    broken = int(np.count_nonzero(~np.isfinite(values).reshape(rows, -1).all(axis=1)))
    if broken:
        raise ModelOutputUnusable(
            f"the model answers with NaN or infinity for {broken} of {rows} records",
            "look for overflow in the model, or for missing values in the data",
        )
    if values.ndim == 1 or values.shape[1] == 1:
        values, kind = _second_class(raw, values.reshape(rows), kind)
    if kind == "auto":
        kind = "probabilities" if _stray(values) == 0 else "logits"
    if kind == "logits":
        return Outputs(values, "logits")
    return _probabilities(values)


def _second_class(raw: NDArray[Any], column: NDArray[Any], kind: Kind) -> tuple[NDArray[Any], Kind]:
    """Two columns from the probability, or the logit against class 0, of class 1."""
    if kind != "logits" and (raw.dtype.kind in "iub" or np.isin(column, (0, 1)).all()):
        raise ModelOutputUnusable(
            "the model answers with class labels only, one per record",
            "log it so that it answers with probabilities (pyfunc_predict_fn='predict_proba')",
        )
    if kind == "probabilities" or (kind == "auto" and bool(((column >= 0) & (column <= 1)).all())):
        return np.stack([1 - column, column], axis=1), "probabilities"
    return np.stack([np.zeros_like(column), column], axis=1), "logits"


def _stray(values: NDArray[Any]) -> int:
    """How many rows are not probabilities."""
    ok = (values >= 0).all(axis=1) & (np.abs(values.sum(axis=1, dtype=np.float64) - 1) <= SUM_TOLERANCE)
    return int(np.count_nonzero(~ok))


def _probabilities(values: NDArray[Any]) -> Outputs:
    stray = _stray(values)
    if stray:
        raise ModelOutputUnusable(
            f"{stray} of {len(values)} answers are not probabilities (negative, or not summing to 1 within 1e-3)",
            "say `output: logits` in the configuration if the model answers with logits",
        )
    # A float32 probability near 1 steps by 2^-24; float64 is as fine as the signals' own arithmetic.
    resolution = float(np.finfo(np.float32).epsneg) if values.dtype == np.float32 else 0.0
    total = values.sum(axis=1, keepdims=True, dtype=np.float64)
    off = np.abs(total - 1) > _ROUNDING
    if off.any():
        values = np.where(off, values / total, values).astype(values.dtype)  # a finer type would hide the resolution
    return Outputs(values, "probabilities", resolution)
