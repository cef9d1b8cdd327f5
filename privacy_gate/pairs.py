"""Two models on the same records: what one attack achieves against either, in pairs.

Pairs tell small differences apart: what a record contributes to both cancels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from privacy_gate import thresholds
from privacy_gate.attacks import Attack
from privacy_gate.datamodel import Audit, Bools, Ints, Measurement, Observations, Scope, ThreatModel, threat_told
from privacy_gate.errors import GateError
from privacy_gate.metrics import Proportion, averaged, effective_size, normal_deviate

_REPEATS = 5


@dataclass(frozen=True, slots=True)
class Gain:
    """Share of records that only the first of two decisions calls members, less the share that only the second does.

    only_first, only_second  shares, each known as well as from n independent records
    correlation              of the two shares' errors, at most 0
    """

    only_first: Proportion
    only_second: Proportion
    correlation: float

    @property
    def value(self) -> float:
        """The point estimate."""
        return self.only_first.p - self.only_second.p

    def reach(self, deviate: float) -> float:
        """How far from the value the bound `deviate` standard errors away lies: MOVER of two correlated shares.

        Zou & Donner (2008) with Wilson's bounds, which leave room where no record tells the decisions apart.
        """
        a = abs(self.only_first.wilson(deviate) - self.only_first.p)
        b = abs(self.only_second.wilson(-deviate) - self.only_second.p)
        return math.sqrt(a * a + b * b - 2.0 * self.correlation * a * b)


def gain(first: Bools, second: Bools, persons: Ints) -> Gain:
    """What the decisions `first` [n] call members beyond `second` [n], clustered by person [n]."""
    n = len(first)
    index = np.unique(persons, return_inverse=True)[1]
    sizes = np.bincount(index).astype(np.float64)
    only = [(first & ~second).astype(np.float64), (second & ~first).astype(np.float64)]
    shares = [float(o.sum()) / n for o in only]
    sums = [np.bincount(index, weights=o) - p * sizes for o, p in zip(only, shares, strict=True)]
    norm = math.sqrt(float(sums[0] @ sums[0]) * float(sums[1] @ sums[1]))
    # A positive one would narrow the interval on the word of a few people; it is not believed.
    correlation = min(0.0, float(sums[0] @ sums[1]) / norm) if norm > 0 else 0.0
    size = effective_size((1.0 + only[0] - only[1]) / 2.0, index)
    return Gain(Proportion(shares[0], size), Proportion(shares[1], size), max(correlation, -1.0))


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Balanced accuracy of one model less that of another, on the same records, in [-1, 1]; MOVER of the two sides."""

    members: Gain
    nonmembers: Gain

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest possible value."""
        return -1.0, 1.0

    @property
    def value(self) -> float:
        """(gain in TPR - gain in FPR) / 2."""
        return (self.members.value - self.nonmembers.value) / 2.0

    def lower(self, alpha: float) -> float:
        """One-sided lower bound at confidence 1 - alpha."""
        return self._bound(-normal_deviate(alpha))

    def upper(self, alpha: float) -> float:
        """One-sided upper bound at confidence 1 - alpha."""
        return self._bound(normal_deviate(alpha))

    def _bound(self, deviate: float) -> float:
        distance = math.hypot(self.members.reach(deviate), self.nonmembers.reach(-deviate)) / 2.0
        return min(max(self.value + math.copysign(distance, deviate), -1.0), 1.0)


def paired_difference(first: Bools, second: Bools, member: Bools, persons: Ints) -> PairedDifference:
    """Balanced accuracy of decisions `first` [R] less that of `second` [R] on the same records, by person [R]."""
    return PairedDifference(
        gain(first[member], second[member], persons[member]), gain(first[~member], second[~member], persons[~member])
    )


def alone(attack: Attack) -> bool:
    """Whether an attack needs the answers of one model and nothing else."""
    decides = not attack.thresholded or ThreatModel.KNOWN_SUBSET in attack.threat_models
    return decides and not attack.reads_known and attack.min_in == attack.min_out == 0


def decisions(attack: Attack, seen: Observations, audit: Audit, seed: int) -> dict[str, list[Bools]]:
    """Cell name -> decisions [C] per repeat. The folds follow from persons and seed: both models have the same."""
    withheld = seen.reveal(audit.member, np.zeros(seen.n, dtype=np.bool_))
    scores = np.asarray(attack.score(withheld), dtype=np.float64)
    if not attack.thresholded:
        return {", ".join([attack.id, *threat_told(attack.threat_models[0], None)]): [scores > 0]}
    folds = thresholds.person_folds(audit.member, audit.persons, seed, repeats=_REPEATS)
    return {
        f"{attack.id}, {ThreatModel.KNOWN_SUBSET.value}, {scope.value}": thresholds.cross_fit(
            scores, audit.member, audit.labels, audit.persons, len(audit.classes), scope, folds
        )
        for scope in Scope
    }


def differences(
    attacks: Sequence[Attack], first: Observations, second: Observations, audit: Audit, seed: int, notes: list[str]
) -> Iterator[tuple[str, Measurement]]:
    """Cell name, and the first model's balanced accuracy less the second's; what cannot be compared is noted.

    Thresholds are each model's own, fitted on the same half of the people as the other's.
    """
    for attack in attacks:
        try:
            mine, theirs = decisions(attack, first, audit, seed), decisions(attack, second, audit, seed)
        except (GateError, ArithmeticError, ValueError, LookupError, TypeError) as error:
            notes.append(f"{attack.id} could not be compared ({type(error).__name__})")
            continue
        for name, repeats in mine.items():
            pairs = zip(repeats, theirs[name], strict=True)
            yield name, averaged([paired_difference(a, b, audit.member, audit.persons) for a, b in pairs])
