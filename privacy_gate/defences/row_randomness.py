"""Randomness that is a function of an answer and a seed: the same row draws the same in any batch, at any time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from privacy_gate.datamodel import Floats, Outputs

_Words = NDArray[np.uint64]
_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def uniforms(outputs: Outputs, seed: int, count: int) -> Floats:
    """[n, count] draws from (0, 1), by row from its answer and the seed (SplitMix64; Steele et al., OOPSLA 2014)."""
    with np.errstate(over="ignore"):  # sums and products of 64 bits wrap around by design
        key = _mixed(np.full(len(outputs.values), seed % 2**64, dtype=np.uint64) + _STEP)
        # Adding 0.0 makes one zero of the two.
        for column in (outputs.values.astype(np.float64) + 0.0).T:
            key = _mixed((key ^ np.ascontiguousarray(column).view(np.uint64)) + _STEP)
        counter = np.arange(1, count + 1, dtype=np.uint64) * _STEP
        words = _mixed(key[:, None] + counter[None, :])
    return np.asarray(((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52)


def _mixed(words: _Words) -> _Words:
    words = (words ^ (words >> np.uint64(30))) * _FIRST
    words = (words ^ (words >> np.uint64(27))) * _SECOND
    return np.asarray(words ^ (words >> np.uint64(31)))
