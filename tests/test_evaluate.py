"""A plug-in that breaks takes nothing else with it, and is never silent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from privacy_gate import evaluate as module
from privacy_gate.datamodel import Invalidates
from privacy_gate.evaluate import evaluate
from privacy_gate.measure import View
from privacy_gate.observe import Observed
from privacy_gate.risk.ranking import AtRisk
from tests.worlds import gaussian_world, pool_of

ATTACKS = ["correctness", "confidence", "modified_entropy", "lira"]


def observed() -> tuple[Observed, object]:
    seen, audit = gaussian_world(200, 200, classes=3, leak=2.0, shadows=8, seed=0)
    correct = seen.target["correctness"] > 0
    world = Observed(
        views=(View(seen, pool_of(seen)),),
        saturated=0.0,
        resolution=0.0,
        embedding=seen.target["logit_confidence"][:, None],
        target_correct=correct,
        shadow_correct=seen.references["correctness"] > 0,
    )
    return world, audit


def test_risk_is_judged_by_one_estimator_and_shown_by_others() -> None:
    world, audit = observed()
    found = evaluate(world, audit, ATTACKS, 0, candidates=400)
    assert found.evidence.risk is not None
    assert found.evidence.risk.estimator == "calibrated"
    assert [risk.estimator for risk in found.shown_risk] == ["song2021"]
    assert found.warnings == ()


def test_whom_the_estimate_misses_and_what_no_slice_holds_reach_the_rules() -> None:
    world, audit = observed()
    wards = np.where(np.arange(400) < 3, "small", "large")
    evidence = evaluate(world, replace(audit, groups={"ward": wards}), ATTACKS, 0, candidates=400).evidence
    assert evidence.left_out == (("ward", "small"),)
    assert evidence.risk is not None
    for high in evidence.risk.high:
        assert isinstance(high.attributable, AtRisk)
        assert len(high.attributable.tops) == 2


def test_an_estimator_that_breaks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    world, audit = observed()

    def broken(given: object) -> None:
        raise ZeroDivisionError("quotes a record")

    monkeypatch.setattr(module, "ESTIMATORS", [replace(e, assess=broken) for e in module.ESTIMATORS])
    found = evaluate(world, audit, ATTACKS, 0, candidates=400)
    assert found.evidence.risk is None
    assert len(found.warnings) == 2
    assert "calibrated failed (ZeroDivisionError)" in found.warnings[0]
    assert "quotes" not in " ".join(found.warnings)


def test_a_check_that_breaks_takes_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    world, audit = observed()

    def broken(circumstances: object) -> None:
        raise ValueError("quotes a record")

    monkeypatch.setattr(module, "CHECKS", [replace(check, run=broken) for check in module.CHECKS])
    for finding in evaluate(world, audit, ATTACKS, 0, candidates=400).evidence.findings:
        assert (finding.status, finding.invalidates) == ("fail", Invalidates.PASS)
        assert "quotes" not in finding.reason
