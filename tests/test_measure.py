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
from privacy_gate.measure import FPRS, PRIORS, View, measure
from privacy_gate.slices import slices
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


def test_a_probe_that_broke_is_a_crash_and_one_that_does_not_fit_a_skip() -> None:
    world, audit = view()
    attack = probe(lambda seen: seen.labels, requires=frozenset({"gradient_norm"}))
    unfit = replace(world, absent={"gradient_norm": "these are images"})
    for given, kind in ((unfit, AttackSkipped), (replace(unfit, failed=frozenset({"gradient_norm"})), AttackFailed)):
        outcomes = measure(attack, given, audit, 0)
        assert {type(outcome) for outcome in outcomes} == {kind}
        assert outcomes[0].reason.endswith("these are images")


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


def by_hand(decided: np.ndarray, member: np.ndarray, rows: np.ndarray) -> float:
    return float((decided[rows & member].mean() + (~decided)[rows & ~member].mean()) / 2)


@pytest.mark.parametrize("persons", [1, 3])
def test_slices_are_counted_on_the_same_decisions(persons: int) -> None:
    seen, audit = gaussian_world(300, 300, classes=3, leak=2.0, shadows=8, seed=0, records_per_person=persons)
    world, parts = View(seen, pool_of(seen)), slices(audit, seen, fewest=5)
    (result, *_) = measure(CATALOG["confidence"], world, audit, 0, slices=parts)
    assert [(s.by, s.value, s.members, s.nonmembers) for s in result.slices] == [
        (p.by, p.value, p.members, p.nonmembers) for p in parts
    ]
    for found, part in zip(result.slices, parts, strict=True):
        assert found.accuracy.value == pytest.approx(by_hand(result.decisions, audit.member, part.rows))
        alone = metrics.balanced_accuracy(
            result.decisions[part.rows], audit.member[part.rows], audit.persons[part.rows]
        )
        assert found.accuracy.lower(0.01) == pytest.approx(alone.lower(0.01))
        assert found.accuracy.upper(0.05) == pytest.approx(alone.upper(0.05))


def test_slices_are_the_mean_of_the_repeats_as_the_whole_is() -> None:
    world, audit = view()
    whole = np.ones(world.seen.n, dtype=bool)
    part = slices(audit, world.seen)[0]
    everything = replace(part, rows=whole)
    for result in measure(CATALOG["confidence"], world, audit, 0, slices=[part, everything]):
        assert result.slices[1].accuracy.value == pytest.approx(result.accuracy.value)
        assert result.slices[1].accuracy.upper(0.05) == pytest.approx(result.accuracy.upper(0.05))
        if result.threat_model is ThreatModel.KNOWN_SUBSET and result.threshold is Scope.GLOBAL:
            folds = thresholds.person_folds(audit.member, audit.persons, 0)
            scores = world.seen.target["logit_confidence"]
            decided = thresholds.cross_fit(scores, audit.member, audit.labels, audit.persons, 3, Scope.GLOBAL, folds)
            mean = np.mean([by_hand(d, audit.member, part.rows) for d in decided])
            assert result.slices[0].accuracy.value == pytest.approx(mean)


def test_slices_change_nothing_else_and_need_both_sides() -> None:
    world, audit = view()
    plain = measure(CATALOG["lira"], world, audit, 0)
    sliced = measure(CATALOG["lira"], world, audit, 0, slices=slices(audit, world.seen))
    assert [r.accuracy for r in plain] == [r.accuracy for r in sliced]
    assert all(r.slices == () for r in plain)
    one_kind = replace(slices(audit, world.seen)[0], rows=audit.member.copy())
    with pytest.raises(NotEvaluable, match="non-members"):
        measure(CATALOG["lira"], world, audit, 0, slices=[one_kind])


def test_precision_at_each_prior_by_hand() -> None:
    world, audit = view()
    (result, *_) = measure(CATALOG["confidence"], world, audit, 0)  # carried over: one decision
    tpr, fpr = (result.decisions[side].mean() for side in (audit.member, ~audit.member))
    assert set(result.precision) == set(PRIORS) == {0.5, 0.1, 0.01}
    for prior, found in result.precision.items():
        assert found.value == pytest.approx(prior * tpr / (prior * tpr + (1 - prior) * fpr))
        assert found.lower(0.05) < found.value < found.upper(0.05)
    (right,) = measure(CATALOG["correctness"], world, audit, 0)
    assert set(right.precision) == set(PRIORS)


def test_a_census_is_the_same_numbers_with_narrower_bounds() -> None:
    world, audit = view()
    parts = slices(audit, world.seen)
    for name in ("confidence", "correctness", "lira"):
        pairs = zip(
            measure(CATALOG[name], world, audit, 0, slices=parts),
            measure(CATALOG[name], world, audit, 0, slices=parts, census=True),
            strict=True,
        )
        for sample, census in pairs:
            for one, other in [
                (sample.accuracy, census.accuracy),
                (sample.advantage, census.advantage),
                *((sample.precision[p], census.precision[p]) for p in PRIORS),
                *((a.accuracy, b.accuracy) for a, b in zip(sample.slices, census.slices, strict=True)),
                *([(sample.auc, census.auc)] if sample.auc else []),
            ]:
                assert one.value == pytest.approx(other.value)
                assert one.lower(0.05) < other.lower(0.05) <= other.value
                assert other.value <= other.upper(0.05) < one.upper(0.05)
            for fpr in sample.tpr_at_fpr:
                assert census.tpr_at_fpr[fpr].census
