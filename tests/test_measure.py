"""From scores to judged numbers: threat models, scopes, absence, and attacks that cheat."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from privacy_gate import metrics, thresholds
from privacy_gate.attacks import CATALOG, Attack
from privacy_gate.datamodel import (
    AttackFailed,
    AttackResult,
    AttackSkipped,
    Observations,
    Scope,
    ThreatModel,
)
from privacy_gate.errors import NotEvaluable
from privacy_gate.measure import FPRS, View, measure
from tests.worlds import gaussian_world, pool_of


def view(leak: float = 2.0, shadows: int = 8, seed: int = 0, persons: int = 1) -> tuple[View, object]:
    seen, audit = gaussian_world(300, 300, classes=3, leak=leak, shadows=shadows, seed=seed)
    return View(seen, pool_of(seen) if shadows else None), audit


def probe(score, **changes) -> Attack:
    return replace(CATALOG["confidence"], id="probe", score=score, threat_models=(ThreatModel.KNOWN_SUBSET,), **changes)


def test_a_metric_attack_is_decided_under_two_threat_models_and_three_scopes() -> None:
    world, audit = view()
    results = measure(CATALOG["confidence"], world, audit, 0)
    assert [(r.threat_model, r.threshold) for r in results] == [
        (model, scope) for model in (ThreatModel.SHADOW, ThreatModel.KNOWN_SUBSET) for scope in Scope
    ]
    assert all(set(r.tpr_at_fpr) == set(FPRS) for r in results)


def test_carried_over_thresholds_by_hand() -> None:
    world, audit = view()
    (result,) = [
        r
        for r in measure(CATALOG["confidence"], world, audit, 0)
        if (r.threat_model, r.threshold) == (ThreatModel.SHADOW, Scope.CLASS)
    ]
    fitted = thresholds.fit(
        world.pool.target["logit_confidence"], world.pool.known == 1, world.pool.labels, 3, Scope.CLASS
    )
    decided = world.seen.target["logit_confidence"] >= fitted.values[world.seen.labels]
    np.testing.assert_array_equal(result.decisions, decided)
    by_hand = (decided[audit.member].mean() + (~decided)[~audit.member].mean()) / 2
    assert result.accuracy.value == pytest.approx(by_hand)
    assert result.advantage.value == pytest.approx(2 * by_hand - 1)


def test_without_leak_no_cross_fitted_accuracy_is_above_chance() -> None:
    world, audit = view(leak=0.0)
    for name in ("confidence", "modified_entropy", "lira", "rmia"):
        for r in measure(CATALOG[name], world, audit, 0):
            assert isinstance(r, AttackResult)
            # 600 records: the standard error of a balanced accuracy is 0.020; four of them for two dozen numbers.
            assert abs(r.accuracy.value - 0.5) < 0.08


@pytest.mark.parametrize("peek", ["order", "persons"])
def test_an_attack_that_reads_positions_learns_nothing(peek: str) -> None:
    """Members come first in the pipeline's arrays: without shuffling this attack has AUC 1."""
    world, audit = view(leak=0.0)

    def cheat(seen: Observations) -> np.ndarray:
        return -np.arange(seen.n, dtype=float) if peek == "order" else -seen.persons.astype(float)

    (result, *_) = measure(probe(cheat), world, audit, 0)
    assert metrics.auc(cheat(world.seen), audit.member, audit.persons).value == 1.0
    assert abs(result.auc.value - 0.5) < 0.1  # standard error 0.024


def test_no_attack_sees_the_membership_of_what_it_is_scored_on() -> None:
    world, audit = view(leak=0.0)

    def cheat(seen: Observations) -> np.ndarray:
        return seen.known.astype(float)

    results = measure(probe(cheat, reads_known=True), world, audit, 0)
    assert all(r.accuracy.value == 0.5 and r.auc.value == 0.5 for r in results)


def test_absence_is_a_value() -> None:
    bare, audit = view(shadows=0)
    shadow, known, *_ = measure(CATALOG["confidence"], bare, audit, 0)
    assert isinstance(shadow, AttackSkipped)
    assert "shadow models" in shadow.reason
    assert isinstance(known, AttackResult)
    (lira,) = measure(CATALOG["lira"], bare, audit, 0)
    assert isinstance(lira, AttackSkipped)
    (blind,) = measure(probe(lambda seen: seen.labels, requires=frozenset({"gradient_norm"})), bare, audit, 0)
    assert isinstance(blind, AttackSkipped)
    assert "gradient_norm" in blind.reason


def test_a_crash_is_an_outcome_and_a_refusal_a_skip() -> None:
    world, audit = view()

    def crash(seen: Observations) -> np.ndarray:
        raise ZeroDivisionError("boom")

    def refuse(seen: Observations) -> np.ndarray:
        raise NotEvaluable("too little")

    assert isinstance(measure(probe(crash), world, audit, 0)[0], AttackFailed)
    assert isinstance(measure(probe(refuse), world, audit, 0)[0], AttackSkipped)
    for wrong in (lambda seen: np.zeros(3), lambda seen: np.full(seen.n, np.nan)):
        assert isinstance(measure(probe(wrong), world, audit, 0)[0], AttackFailed)


def test_correctness_decides_without_a_threshold_and_once() -> None:
    world, audit = view()
    (result,) = measure(CATALOG["correctness"], world, audit, 0)
    right = world.seen.target["correctness"] > 0
    gap = right[audit.member].mean() - right[~audit.member].mean()
    assert result.accuracy.value == pytest.approx((1 + gap) / 2)  # I-5
    assert (result.threshold, result.auc, result.tpr_at_fpr) == (None, None, {})
    assert measure(CATALOG["correctness"], replace(world, adaptive=False), audit, 0) == []


def test_the_known_subset_has_no_shadows_and_so_no_non_adaptive_form() -> None:
    world, audit = view()
    models = {r.threat_model for r in measure(CATALOG["entropy"], replace(world, adaptive=False), audit, 0)}
    assert models == {ThreatModel.SHADOW}


def test_the_same_seed_gives_the_same_numbers() -> None:
    world, audit = view()
    for name in ("rmia", "entropy"):
        first, second = (measure(CATALOG[name], world, audit, 7) for _ in range(2))
        assert [r.accuracy.value for r in first] == [r.accuracy.value for r in second]
