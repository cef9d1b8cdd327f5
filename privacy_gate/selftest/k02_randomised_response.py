"""K-2: randomised response, where the best attack is known exactly."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from privacy_gate.datamodel import Bools, Floats
from privacy_gate.errors import ExitCode
from privacy_gate.selftest import FEW, Promise, Rng, answer_key, halves, judged, mostly, rarely, world


def responses(rng: Rng, member: Bools, accuracy: float) -> Floats:
    """A truthful bit with probability `accuracy`: every attacker's best balanced accuracy is exactly that."""
    truthful = rng.random(len(member)) < accuracy
    return np.asarray(np.where(truthful, member, ~member), dtype=np.float64)


@world(id="K-02", quick=120)
def randomised_response(seed: int, replicates: int) -> Iterator[Promise]:
    """K-2: the best accuracy is known exactly, at the limit, above it and below it."""
    n, limit = 1000, 0.6
    codes: dict[float, list[int]] = {}
    for accuracy, times in ((0.55, min(FEW, replicates)), (limit, replicates), (0.65, min(FEW, replicates))):
        codes[accuracy] = []
        for r in range(times):
            rng = np.random.default_rng([seed, 2, int(100 * accuracy), r])
            audit = answer_key(halves(n))
            scores = {"simulated": responses(rng, audit.member, accuracy)}
            codes[accuracy].append(judged(scores, audit, {"PG101": limit}, r).exit_code)
    name = "K-2: randomised response of accuracy "
    at, exact = codes[limit], name + "0.60, limit 0.60"
    yield rarely("K-2.false_pass", exact, "a model at the limit passes", [c == ExitCode.PASS for c in at])
    yield rarely("K-2.false_fail", exact, "a model at the limit fails", [c == ExitCode.VIOLATED for c in at])
    fails = [c == ExitCode.VIOLATED for c in codes[0.65]]
    yield mostly("K-2.fail", name + "0.65, limit 0.60", "a model beyond the limit fails", fails)
    passes = [c == ExitCode.PASS for c in codes[0.55]]
    yield mostly("K-2.pass", name + "0.55, limit 0.60", "a model within the limit passes", passes)
