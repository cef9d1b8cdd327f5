"""K-2 with persons who have several records."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from privacy_gate.errors import ExitCode
from privacy_gate.selftest import Promise, answer_key, halves, judged, rarely, world
from privacy_gate.selftest.k02_randomised_response import responses


@world(id="K-02 persons", quick=120)
def persons(seed: int, replicates: int) -> Iterator[Promise]:
    """K-2 with several records per person, all saying the same: persons are the evidence, not records."""
    people, each, limit = 600, 5, 0.6
    codes = []
    for r in range(replicates):
        rng = np.random.default_rng([seed, 3, r])
        audit = answer_key(np.repeat(halves(people), each), np.repeat(np.arange(2 * people), each))
        scores = np.repeat(responses(rng, halves(people), limit), each)
        codes.append(judged({"simulated": scores}, audit, {"PG101": limit}, r).exit_code)
    name = "K-2: five equal records per person, accuracy 0.60, limit 0.60"
    passed, failed = [c == ExitCode.PASS for c in codes], [c == ExitCode.VIOLATED for c in codes]
    yield rarely("K-2.persons.false_pass", name, "a model at the limit passes", passed)
    yield rarely("K-2.persons.false_fail", name, "a model at the limit fails", failed)
