"""From outputs to per-class log odds without cancellation; shared by the signals of this folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logsumexp

from privacy_gate.datamodel import Bools, Floats, Ints, Outputs, freeze

ODD = 0.01
"""Share of values that may be finer than the output path's step."""

_STEP32 = float(np.finfo(np.float32).eps)  # float32 softmax is often handed out in float64 arrays


def softplus(t: Floats) -> Floats:
    """log(1 + e^t), any shape; no overflow, full relative precision for very negative t."""
    return np.asarray(np.maximum(t, 0.0) + np.log1p(np.exp(-np.abs(t))))


def of_label(values: NDArray[Any], labels: Ints) -> NDArray[Any]:
    """[n] the label's column of [n, K]."""
    return np.asarray(values[np.arange(len(labels)), labels])


@dataclass(frozen=True, slots=True, eq=False)
class Odds:
    """Per class of each record, all [n, K].

    phi   log p_i - log(sum of the other classes), nats; floored, so that it is finite
    p     p_i, not floored
    rest  1 - p_i with a relative precision of its own, not floored
    """

    phi: Floats
    p: Floats
    rest: Floats


# The signals of one model are computed one after the other from the same answers. One entry: its arrays are as large
# as the answers. Outputs hash by identity and are read-only, so an entry cannot be stale.
@lru_cache(maxsize=1)
def odds(outputs: Outputs) -> Odds:
    """The odds of every class.

    Probabilities are floored at half the resolution of the output path (Outputs.resolution), or at the smallest
    normal number of their dtype where none is given.
    """
    if outputs.kind == "logits":
        phi = _from_logits(outputs.values.astype(np.float64))
        return _frozen(phi, np.asarray(expit(phi)), np.asarray(expit(-phi)))
    shares, rest = _shares(outputs)
    floor = max(outputs.resolution / 2, _tiny(outputs.values))
    phi = np.log(np.maximum(shares, floor)) - np.log(np.maximum(rest, floor))
    total = shares.sum(axis=1, keepdims=True)
    return _frozen(phi, shares / total, rest / total)


def _frozen(phi: Floats, p: Floats, rest: Floats) -> Odds:
    freeze(phi, p, rest)
    return Odds(phi, p, rest)


def resolution_of(values: NDArray[np.floating[Any]]) -> float:
    """The step that probabilities [n, K] show; half of it is the floor under an exact zero.

    10^-d (d <= 4) where all but 1 % are multiples of it: 100 trees give 0.01, rounding to three digits 0.001. Else, if
    exact zeros are common, what all but 1 % of the rest reach; else the smallest value above zero, a float softmax's
    floor that is never needed. The 1 % are for the odd leaf that holds two identical records of different classes: it
    makes values far below the step, and a floor below those would make an outlier of each zero, which ruins the spread
    that LiRA measures. Where classes are held back (top-k), the row's missing mass is looked at as the signals look at
    it; the smallest shown value alone would be of the order of 1/K there.
    """
    p = np.asarray(values, dtype=np.float64)
    if not p.size:
        return 0.0
    for digits in range(5):
        step = 10.0**-digits
        if _multiples(p[:256], step) and _multiples(p, step):
            return step
    filled = _with_hidden_mass(p, 0.0)
    above = filled[filled > 0]
    return float(np.quantile(above, ODD, method="lower") if (filled <= 0).mean() > ODD else above.min())


def _multiples(p: Floats, step: float) -> bool:
    # Exact zeros fit every grid, so they say nothing of the step; and what a confident softmax leaves to the other
    # classes is close to zero without being a multiple of anything.
    above = p[p > 0]
    if not above.size:
        return False
    nearest = np.rint(above / step)
    return bool(((np.abs(above - nearest * step) <= 2 * _STEP32) & (nearest > 0)).mean() >= 1 - ODD)


def _from_logits(z: Floats) -> Floats:
    top = z.max(axis=1, keepdims=True)
    scaled = np.exp(z - top)
    # The rest of a class below the top holds the top itself, so subtracting loses at most one bit there.
    rest = scaled.sum(axis=1, keepdims=True) - scaled
    highest = _highest(z)
    rest[highest] = 1.0
    phi = z - top - np.log(rest)
    phi[highest] = z[highest] - np.asarray(logsumexp(np.where(highest, -np.inf, z), axis=1))
    return np.asarray(phi)


def _shares(outputs: Outputs) -> tuple[Floats, Floats]:
    p = _with_hidden_mass(outputs.values.astype(np.float64), outputs.resolution)
    rest = p.sum(axis=1, keepdims=True) - p
    highest = _highest(p)
    rest[highest] = np.where(highest, 0.0, p).sum(axis=1)
    return p, rest


def _highest(values: Floats) -> Bools:
    mask = np.zeros(values.shape, dtype=np.bool_)
    mask[np.arange(len(values)), values.argmax(axis=1)] = True
    return mask


def _with_hidden_mass(p: Floats, resolution: float) -> Floats:
    # A row short of 1 by more than rounding explains holds classes back (top-k, coarse rounding). What is missing is
    # spread evenly over the zeros, but no zero may overtake a class that is shown: that would forge a top class.
    classes = p.shape[1]
    hidden = p <= 0
    count = hidden.sum(axis=1)
    missing = 1.0 - p.sum(axis=1)
    short = (missing > classes * max(_STEP32, resolution / 2)) & (count > 0)
    short |= count == classes  # rounded to nothing: says nothing of any class
    if not short.any():
        return p
    least = np.where(hidden, np.inf, p).min(axis=1)
    share = np.where(short, np.minimum(missing / np.maximum(count, 1), least), 0.0)
    return np.asarray(np.where(hidden, share[:, None], p))


def _tiny(values: NDArray[Any]) -> float:
    return float(np.finfo(values.dtype if values.dtype.kind == "f" else np.float64).tiny)
