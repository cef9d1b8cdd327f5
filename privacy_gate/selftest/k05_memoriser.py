"""K-5: a model that stores a few records and betrays them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from privacy_gate.datamodel import RuleStatus
from privacy_gate.selftest import Promise, answer_key, halves, judged, mostly, status, world


@world(id="K-05", quick=25)
def memoriser(seed: int, replicates: int) -> Iterator[Promise]:
    """K-5: two members in a hundred are stored and betrayed for certain; of all others nothing is known."""
    n, share, limits = 6000, 0.02, {"PG101": 0.55, "PG104": 0.01}
    verdicts = []
    for r in range(replicates):
        rng = np.random.default_rng([seed, 6, r])
        audit = answer_key(halves(n))
        stored = audit.member & (rng.random(2 * n) < share)
        scores = np.where(stored, 1.0 + rng.random(2 * n), rng.random(2 * n))
        verdicts.append(judged({"simulated": scores}, audit, limits, r))
    name = "K-5: 2 % of the members are memorised"
    blind = [status(v, "PG101") is RuleStatus.PASS for v in verdicts]
    yield mostly("K-5.accuracy", name, "accuracy (0.51) does not see them", blind)
    seen = [status(v, "PG104") is RuleStatus.FAIL for v in verdicts]
    yield mostly("K-5.tpr", name, "the TPR at 0.1 % FPR does", seen)
