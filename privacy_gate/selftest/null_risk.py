"""Many small classes and nothing to find: nobody may be called exposed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from privacy_gate.datamodel import Audit, RuleStatus
from privacy_gate.policy import judge
from privacy_gate.risk import CATALOG as ESTIMATORS
from privacy_gate.risk import RiskInput
from privacy_gate.risk.summary import summarise
from privacy_gate.selftest import ALPHA, Promise, evidence, halves, policy, rarely, status, world
from privacy_gate.selftest.k06_heterogeneous_risk import seen

_CLASSES, _SHADOW_RECORDS = 100, 10
_HIGH = 0.8
_TOLERANCE = 0.1  # of a verified score, as in rule PG201


@world(id="null risk", quick=12)
def null_risk(seed: int, replicates: int) -> Iterator[Promise]:
    """100 classes with 10 shadow records a side each, and no leak: no person may be found at high risk."""
    n = 1000
    proven, verified, failed, published = [], [], [], []
    for r in range(replicates):
        rng = np.random.default_rng([seed, 22, r])
        labels = np.tile(np.repeat(np.arange(_CLASSES), n // _CLASSES), 2)
        audit = Audit(halves(n), labels, np.arange(2 * n), tuple(str(k) for k in range(_CLASSES)))
        shadow_labels = np.tile(np.repeat(np.arange(_CLASSES), _SHADOW_RECORDS), 2)
        u, shadow_u = (rng.normal(-3.0, 2.0, len(of)) for of in (labels, shadow_labels))
        pool = replace(seen(shadow_u, shadow_labels, halves(_CLASSES * _SHADOW_RECORDS)), classes=_CLASSES)
        target = replace(seen(u, labels, None), classes=_CLASSES)
        given = RiskInput(target, pool, {"modified_entropy": -u}, audit, r)
        found = ESTIMATORS["calibrated"].assess(given)
        risk = summarise("calibrated", found.scores, audit, r, found.interval)
        high = [h for h in risk.high if h.score >= _HIGH and h.members]
        proven.append(any(h.attributable.lower(ALPHA) > 0 for h in high if h.score == _HIGH))
        verified.append(
            any(h.attributable.lower(ALPHA) > 0 and h.precision.lower(ALPHA) >= h.score - _TOLERANCE for h in high)
        )
        verdict = judge(policy({"PG201": 0.0}), replace(evidence([], audit, r), risk=risk))
        failed.append(status(verdict, "PG201") is RuleStatus.FAIL)
        flagged = ESTIMATORS["song2021"].estimate(given)[audit.member] >= _HIGH
        published.append(float(flagged.mean()))
    name = f"{_CLASSES} classes, {_SHADOW_RECORDS} + {_SHADOW_RECORDS} shadow records each, no leak"
    aside = f"(the published estimator flags {100 * np.mean(published):.0f} % of the members)"
    said = f"persons at risk {_HIGH:g} or more are attributed to membership {aside}"
    yield rarely("null.risk.attributable", name, said, proven, ALPHA)
    yield rarely("null.risk.verified", name, "a member is verified to be at high risk", verified, 0.0, 0.0)
    yield rarely("null.risk.fail", name, "a limit of 0 on attributable members is violated", failed, 0.0, 0.0)
