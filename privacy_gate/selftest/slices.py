"""Eight attacks and ten slices on a world without leakage: looking in many places finds nothing that is not there."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from privacy_gate.datamodel import Slice
from privacy_gate.errors import ExitCode
from privacy_gate.measure import View, measure
from privacy_gate.policy import judge
from privacy_gate.selftest import Promise, answer_key, attack, evidence, halves, observations, policy, rarely, world

_ATTACKS, _SLICES, _CORRELATION = 8, 10, 0.7


@world(id="slices", quick=60)
def slices(seed: int, replicates: int) -> Iterator[Promise]:
    """Eight attacks that guess, in ten slices each: limits of one half, the truth, are not violated by chance."""
    n = 1500  # rule PG203 judges slices of 100 and more on either side
    failed = []
    for r in range(replicates):
        rng = np.random.default_rng([seed, 25, r])
        audit = answer_key(halves(n))
        part = rng.integers(0, _SLICES, 2 * n)
        rows = [np.asarray(part == k) for k in range(_SLICES)]
        sizes = [(int((here & audit.member).sum()), int((here & ~audit.member).sum())) for here in rows]
        parts = [Slice("group", str(k), rows[k], *sizes[k]) for k in range(_SLICES)]
        common, own = rng.normal(size=2 * n), rng.normal(size=(_ATTACKS, 2 * n))
        noise = np.sqrt(_CORRELATION) * common + np.sqrt(1 - _CORRELATION) * own
        scores = {f"simulated_{i}": values for i, values in enumerate(noise)}
        view = View(observations(scores, audit), None)
        found = [
            outcome for id in scores for outcome in measure(attack(id, thresholded=False), view, audit, r, slices=parts)
        ]
        verdict = judge(policy({"PG101": 0.5, "PG203": 0.5}), evidence(found, audit, r))
        failed.append(verdict.exit_code == ExitCode.VIOLATED)
    name = f"{_ATTACKS} attacks that guess, {_SLICES} slices, limits 0.50"
    yield rarely("slices.false_fail", name, "a model at the limit fails", failed)
