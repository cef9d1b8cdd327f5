"""The whole street, with shadows and the profile `standard`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from privacy_gate.errors import ExitCode
from privacy_gate.policy import resolve
from privacy_gate.selftest import Promise, mostly, rarely, world
from privacy_gate.selftest.models import SHADOWS, Models, walk


@world(id="street", quick=10, heavy=True)
def whole_street(seed: int, replicates: int) -> Iterator[Promise]:
    """Target and shadows with all attacks of the suite `full`, judged by the profile `standard`."""
    standard = resolve("standard")

    def runs(leak: float, n: int) -> Iterator[tuple[int, bool]]:
        """Exit code, and whether some validity check fired."""
        for r in range(replicates):
            rng = np.random.default_rng([seed, 8, int(10 * leak), n, r])
            verdict, done = walk(Models(n, leak).draw(rng), standard, r)
            yield verdict.exit_code, any(finding.status == "fail" for finding in done.evidence.findings)

    name = f"a model that leaks nothing, 2,500 members, {SHADOWS} shadows"
    codes = [code for code, _ in runs(0.0, 2500)]
    failed, passed = ([c == wanted for c in codes] for wanted in (ExitCode.VIOLATED, ExitCode.PASS))
    yield rarely("null.fail", name, "it fails the standard profile", failed)
    yield mostly("null.pass", name, "it passes the standard profile", passed, 0.9)
    fired = [hit for _, hit in runs(0.0, 1000)]
    name = f"data without any defect, 1,000 members, {SHADOWS} shadows"
    yield rarely("null.validity", name, "a validity check fires", fired)
    name = f"training records have logits higher by 2, 1,000 members, {SHADOWS} shadows"
    failed = [code == ExitCode.VIOLATED for code, _ in runs(2.0, 1000)]
    yield mostly("leak.fail", name, "it fails the standard profile", failed)
