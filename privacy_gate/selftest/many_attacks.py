"""Eight attacks that agree with each other: however many are tried, errors stay at their rates."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.stats import norm

from privacy_gate.errors import ExitCode
from privacy_gate.selftest import Promise, Rng, answer_key, halves, judged, mostly, rarely, world

ATTACKS, CORRELATION = 8, 0.7


def verdicts(rng: Rng, n: int, limit: float, truths: Sequence[Sequence[float]], seed: int) -> list[int]:
    """Exit codes for the same noise and several lists of the attacks' true accuracies; n records a side."""
    audit = answer_key(halves(n))
    common, own = rng.normal(size=2 * n), rng.normal(size=(ATTACKS, 2 * n))
    noise = math.sqrt(CORRELATION) * common + math.sqrt(1 - CORRELATION) * own
    codes = []
    for accuracies in truths:
        truthful = noise < np.asarray(norm.ppf(accuracies))[:, None]
        said = np.where(truthful, audit.member, ~audit.member).astype(np.float64)
        scores = {f"simulated_{i}": bits for i, bits in enumerate(said)}
        codes.append(judged(scores, audit, {"PG101": limit}, seed, thresholded=False).exit_code)
    return codes


def alone(accuracy: float) -> list[float]:
    """One attack of this accuracy, seven that guess."""
    return [accuracy] + [0.5] * (ATTACKS - 1)


@world(id="many attacks", quick=150)
def many_attacks(seed: int, replicates: int) -> Iterator[Promise]:
    """Eight correlated attacks at their limit: neither their number nor their agreement raises an error."""
    n, limit = 500, 0.6
    truths = ([limit] * ATTACKS, alone(limit))
    codes = [verdicts(np.random.default_rng([seed, 4, r]), n, limit, truths, r) for r in range(replicates)]
    name = "eight correlated attacks, limit 0.60: "
    failed = [c[0] == ExitCode.VIOLATED for c in codes]
    yield rarely("many.false_fail", name + "all at 0.60", "a model at the limit fails", failed)
    passed = [c[1] == ExitCode.PASS for c in codes]
    yield rarely("many.false_pass", name + "one at 0.60, seven guess", "a model at the limit passes", passed)


# Published operating characteristics for 8 attacks, correlation 0.7, limit 0.55, both alphas 0.05, by records a side.
SIZES = (500, 1_000, 3_000, 10_000)
PASSES = {0.50: (0.73, 0.98, 1.0, 1.0), 0.53: (0.32, 0.55, 0.92, 1.0)}
FAILS = {0.57: (0.10, 0.24, 0.70, 1.0), 0.60: (0.73, 0.98, 1.0, 1.0)}
TABLE_ERROR = 0.03  # of the table: two digits, and a simulation of its own


@world(id="many attacks power", quick=40)
def power(seed: int, replicates: int) -> Iterator[Promise]:
    """Eight correlated attacks, limit 0.55: how often the gate decides, by the number of records."""
    limit, accuracies = 0.55, (*PASSES, *FAILS)
    for column, n in enumerate(SIZES):
        rngs = [np.random.default_rng([seed, 14, n, r]) for r in range(replicates)]
        codes = [verdicts(rng, n, limit, [alone(a) for a in accuracies], r) for r, rng in enumerate(rngs)]
        for place, accuracy in enumerate(accuracies):
            passing = accuracy in PASSES
            expected = (PASSES if passing else FAILS)[accuracy][column]
            wanted = ExitCode.PASS if passing else ExitCode.VIOLATED
            decided = [c[place] == wanted for c in codes]
            word = "passes" if passing else "fails"
            name = f"eight attacks, one at {accuracy:.2f}, limit 0.55, {n:,} a side"
            yield mostly(f"power.{accuracy:.2f}.{n}", name, f"it {word}", decided, expected, TABLE_ERROR)
