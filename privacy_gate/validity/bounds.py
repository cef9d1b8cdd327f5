"""What the checks share: an effect with confidence bounds, against a limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from privacy_gate.datamodel import Floats, Ints, Measurement
from privacy_gate.validity import CATALOG, Circumstances

Status = Literal["pass", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Effect:
    """The size of something that should be small, with one-sided bounds: `low` corrected, `high` not."""

    value: float
    low: float
    high: float

    def against(self, limit: float) -> Status:
        """fail: proven above the limit. pass: proven within it. warn: neither."""
        if self.low > limit:
            return "fail"
        return "pass" if self.high <= limit else "warn"


def from_one_half(auc: Measurement, c: Circumstances) -> Effect:
    """Distance of an AUC from one half, in either direction; the two directions share the corrected level."""
    each = corrected_alpha(c) / 2
    return Effect(
        abs(auc.value - 0.5),
        max(auc.lower(each) - 0.5, 0.5 - auc.upper(each)),
        max(auc.upper(c.alpha) - 0.5, 0.5 - auc.lower(c.alpha)),
    )


def corrected_alpha(circumstances: Circumstances) -> float:
    """The level at which one check may fire: all checks share one alpha (Bonferroni)."""
    return circumstances.alpha / len(CATALOG)


def limit(circumstances: Circumstances, check: str, default: float) -> float:
    """The limit of a check: the caller's, or its own."""
    return float(circumstances.limits.get(check, default))


def clustered_variance(values: Floats, persons: Ints) -> float:
    """Variance of the mean of values [n], independent between persons [n] but not within; infinite for one person."""
    _, index = np.unique(persons, return_inverse=True)
    count = int(index.max()) + 1 if len(index) else 0
    if count < 2:
        return float("inf")
    sums = np.bincount(index, weights=values - values.mean())
    return float(count / (count - 1) * np.square(sums).sum() / len(values) ** 2)
