"""K-7: members and non-members that differ in more than membership."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from privacy_gate.errors import ExitCode
from privacy_gate.policy import resolve
from privacy_gate.selftest import Promise, mostly, rarely, world
from privacy_gate.selftest.models import Models, walk


@world(id="K-07", quick=10, heavy=True)
def shifted_members(seed: int, replicates: int) -> Iterator[Promise]:
    """K-7: members are easier or harder records; what looks like leakage, or hides it, must not decide."""
    standard = resolve("standard")

    def codes(models: Models) -> list[int]:
        draws = (np.random.default_rng([seed, 9, int(10 * models.leak), r]) for r in range(replicates))
        return [walk(models.draw(rng), standard, r)[0].exit_code for r, rng in enumerate(draws)]

    easier = codes(Models(1000, leak=0.0, shift=1.0))
    name = "K-7: members are easier records, nothing leaks"
    yield rarely("K-7.fail", name, "it fails the standard profile", [c == ExitCode.VIOLATED for c in easier])
    yield rarely("K-7.pass", name, "it passes the standard profile", [c == ExitCode.PASS for c in easier])
    undecided = [c == ExitCode.INCONCLUSIVE for c in easier]
    yield mostly("K-7.inconclusive", name, "it ends inconclusive", undecided)
    masked = codes(Models(1000, leak=1.0, shift=-1.0))
    name = "K-7: members are harder records, which hides the leak"
    yield rarely("K-7.masked", name, "it passes the standard profile", [c == ExitCode.PASS for c in masked])
