"""Shadows in the target's place: means over runs, and references that do not give the answer away."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from privacy_gate.attacks import CATALOG, Attack
from privacy_gate.datamodel import AttackFailed, AttackResult, AttackSkipped, Observations, ThreatModel
from privacy_gate.errors import NotEvaluable
from privacy_gate.measure import FPRS, PRIORS, View, measure
from privacy_gate.procedure import FEWEST_RUNS, in_its_place, procedure
from privacy_gate.slices import slices
from tests.worlds import gaussian_world, pool_of


def view(leak: float = 2.0, shadows: int = 8, seed: int = 0, n: int = 200, persons: int = 1) -> tuple[View, object]:
    seen, audit = gaussian_world(n, n, 3, leak, shadows, seed, persons)
    return View(seen, pool_of(seen) if shadows else None), audit


def probe(score, **changes) -> Attack:
    return replace(CATALOG["confidence"], id="probe", score=score, threat_models=(ThreatModel.KNOWN_SUBSET,), **changes)


def by_name(outcomes):
    return {(o.id, o.threat_model, getattr(o, "threshold", None)): o for o in outcomes}


def test_correctness_run_by_run() -> None:
    """An attack without thresholds and draws: the mean over shadows can be written out."""
    world, audit = view()
    (found,) = procedure([CATALOG["correctness"]], world, audit, 0)
    right, member = world.seen.references["correctness"] > 0, world.seen.reference_member
    gaps = np.array([r[m].mean() - r[~m].mean() for r, m in zip(right, member, strict=True)])
    assert found.advantage.value == pytest.approx(gaps.mean())
    assert found.accuracy.value == pytest.approx((1 + gaps.mean()) / 2)
    # What the runs share, record by record: the mean of each record's part in the error of each run.
    parts = np.zeros(world.seen.n)
    for r, m in zip(right, member, strict=True):
        for i in range(len(parts)):
            side = m if m[i] else ~m
            parts[i] += (1 if m[i] else -1) * (r[i] - r[side].mean()) / side.sum() / 8
    shared = np.sqrt(400 / 399 * np.sum(parts**2))
    low, high = stats.t.interval(0.9, 7, gaps.mean(), np.hypot(stats.sem(gaps), shared))
    assert (found.advantage.lower(0.05), found.advantage.upper(0.05)) == pytest.approx((low, high))
    np.testing.assert_array_equal(found.decisions, right[0])
    assert (found.threshold, found.auc, found.tpr_at_fpr) == (None, None, {})


def test_auc_run_by_run() -> None:
    world, audit = view()
    found = by_name(procedure([CATALOG["confidence"]], world, audit, 0))
    signal, member = world.seen.references["logit_confidence"], world.seen.reference_member
    areas = [
        np.mean(s[m][:, None] > s[~m][None]) + np.mean(s[m][:, None] == s[~m][None]) / 2
        for s, m in zip(signal, member, strict=True)
    ]
    assert len(found) == 6
    for result in found.values():
        assert result.auc.value == pytest.approx(np.mean(areas))
        np.testing.assert_array_equal(result.scores, signal[0])
        assert set(result.tpr_at_fpr) == set(FPRS)
        assert set(result.precision) == set(PRIORS)


def test_the_audited_model_and_its_membership_take_no_part() -> None:
    world, audit = view()
    rng = np.random.default_rng(0)
    other = replace(world.seen, target={k: rng.permutation(v) for k, v in world.seen.target.items()})
    key = replace(audit, member=rng.permutation(audit.member))
    attacks = [CATALOG[name] for name in ("modified_entropy", "lira", "rmia")]
    one = by_name(procedure(attacks, world, audit, 0))
    two = by_name(procedure(attacks, View(other, None), key, 0))
    assert one.keys() == two.keys()
    assert all(one[k].accuracy == two[k].accuracy and one[k].auc == two[k].auc for k in one)


def test_a_shadow_in_the_targets_place_stands_nowhere_else() -> None:
    world, _ = view(persons=2)
    answers = {name: values.copy() for name, values in world.seen.references.items()}
    for values in answers.values():
        values[3] = 1e6  # would be seen anywhere
    marked = replace(world, seen=replace(world.seen, references=answers))
    one = in_its_place(marked, 3, np.random.default_rng(0))
    assert (one.seen.target["logit_confidence"] == 1e6).all()
    assert all((values < 1e6).all() for values in one.seen.references.values())
    assert all((values < 1e6).all() for values in one.pool.target.values())
    assert (one.seen.known == -1).all()


def test_a_person_is_the_same_in_all_rows_of_the_pool() -> None:
    """Else an attack that learns would be scored on people whom it knows from another shadow."""
    whole, _ = view(persons=2)
    one = in_its_place(whole, 0, np.random.default_rng(0))
    assert one.pool is not None
    rows = one.pool.persons.reshape(-1, one.seen.n)
    assert len(rows) > 1
    assert (rows == one.seen.persons).all()


@pytest.mark.parametrize("persons", [1, 4])
def test_references_keep_their_answers_and_tell_nothing_by_their_number(persons: int) -> None:
    world, audit = view(persons=persons)
    seen = world.seen
    one = in_its_place(world, 2, np.random.default_rng(1)).seen
    # 8 shadows, every record in 4: without one of them 3 with and 3 without are left to all.
    assert one.reference_member.sum(axis=0).tolist() == [3] * seen.n
    assert (~one.reference_member).sum(axis=0).tolist() == [3] * seen.n
    signal = seen.references["logit_confidence"]
    for r in range(seen.n):
        for inside in (True, False):
            kept = one.references["logit_confidence"][one.reference_member[:, r] == inside, r]
            there = signal[(seen.reference_member[:, r] == inside) & (np.arange(8) != 2), r]
            assert len(set(kept.tolist())) == 3
            assert set(kept.tolist()) <= set(there.tolist())
    # All records of a person are in the same rows.
    first = np.searchsorted(audit.persons, audit.persons)
    np.testing.assert_array_equal(one.reference_member, one.reference_member[:, first])
    assert not one.reference_member.all(axis=1).any()  # rows are models, each with and without some


def test_counting_references_does_not_find_members() -> None:
    """In a balanced plan, without the evening out, this attack has AUC 1: a member is in one reference fewer."""
    world, audit = view(leak=0.0)

    def cheat(seen: Observations) -> np.ndarray:
        return -seen.reference_member.sum(axis=0).astype(float)

    found = procedure([probe(cheat)], world, audit, 0)
    assert all(r.auc.value == 0.5 for r in found)
    left = np.delete(world.seen.reference_member, 0, axis=0)
    assert np.array_equal(left.sum(axis=0) == 3, world.seen.reference_member[0])


def test_without_leakage_the_intervals_cover_chance() -> None:
    """Also for lira, whose densities depend on the number of references: uneven ones give it an AUC of 0.46 here."""
    missed, cells = 0, 0
    for seed in range(12):
        world, audit = view(leak=0.0, seed=seed, n=150)
        found = procedure([CATALOG["confidence"], CATALOG["lira"]], world, audit, seed)
        for r in (found[0], found[-1]):
            missed += r.auc.lower(0.05) > 0.5
            missed += r.auc.upper(0.05) < 0.5
            cells += 2
            assert abs(r.auc.value - 0.5) < 0.03  # standard error 0.033 / sqrt(8) = 0.012 at most
    # 48 one-sided bounds at 5 %; the runs of a world share records, so that theirs come in pairs.
    assert missed <= stats.binom.ppf(1 - 1e-4, cells, 0.05)


@pytest.mark.slow
def test_lira_is_not_moved_by_the_shadow_that_is_left_out() -> None:
    values = []
    for seed in range(20):
        world, audit = view(leak=0.0, seed=100 + seed, n=300)
        values.append(procedure([CATALOG["lira"]], world, audit, seed)[0].auc.value)
    # Uneven references move it by 0.03 to 0.04, always down.
    assert abs(np.mean(values) - 0.5) < 4 * np.std(values, ddof=1) / np.sqrt(20) < 0.01


@pytest.mark.slow
def test_bounds_hold_though_runs_share_records_and_references() -> None:
    """t over runs alone misses one half in a third of these worlds with lira, and hence so would a gate."""
    worlds, missed, alone = 30, 0, 0
    for seed in range(worlds):
        world, audit = view(leak=0.0, shadows=16, seed=300 + seed, n=60)
        auc = procedure([CATALOG["lira"]], world, audit, seed)[0].auc
        missed += (auc.lower(0.05) > 0.5) + (auc.upper(0.05) < 0.5)
        areas = []
        for s in range(16):
            key = replace(audit, member=world.seen.reference_member[s].copy())
            one = in_its_place(world, s, np.random.default_rng(s))
            areas.append(measure(CATALOG["lira"], one, key, 0)[0].auc.value)
        low, high = stats.t.interval(0.9, 15, np.mean(areas), stats.sem(areas))
        alone += not low <= 0.5 <= high
    assert missed <= stats.binom.ppf(1 - 1e-4, worlds, 0.1)
    assert alone > missed


def test_a_leak_of_the_procedure_is_found() -> None:
    world, audit = view(leak=2.0)
    for r in procedure([CATALOG["confidence"], CATALOG["lira"]], world, audit, 0):
        assert r.accuracy.lower(0.05) > 0.55
        assert r.auc.lower(0.05) > 0.6


def test_fewer_than_five_runs_say_nothing() -> None:
    for shadows in (0, 4):
        world, audit = view(shadows=shadows)
        found = procedure([CATALOG["confidence"], CATALOG["correctness"]], world, audit, 0)
        assert all(isinstance(o, AttackSkipped) and f"{FEWEST_RUNS} are needed" in o.reason for o in found)
        assert [(o.id, o.threat_model) for o in found] == [
            ("confidence", ThreatModel.SHADOW),
            ("confidence", ThreatModel.KNOWN_SUBSET),
            ("correctness", CATALOG["correctness"].threat_models[0]),
        ]
    world, audit = view(shadows=8)
    member = world.seen.reference_member.copy()
    member[:4] = False  # shadows that trained on other records altogether
    unusable = replace(world, seen=replace(world.seen, reference_member=member))
    assert all(isinstance(o, AttackSkipped) for o in procedure([CATALOG["confidence"]], unusable, audit, 0))


def test_absence_and_crashes_are_outcomes() -> None:
    world, audit = view()
    (blind,) = procedure([probe(lambda s: s.labels, requires=frozenset({"gradient_norm"}))], world, audit, 0)
    assert isinstance(blind, AttackSkipped)
    assert "gradient_norm" in blind.reason
    calls = []

    def crash_once(seen: Observations) -> np.ndarray:
        calls.append(1)
        if len(calls) == 6:
            raise ZeroDivisionError("boom")
        return seen.target["logit_confidence"].copy()

    (crashed,) = procedure([probe(crash_once)], world, audit, 0)
    assert isinstance(crashed, AttackFailed)
    calls.clear()

    def refuse_often(seen: Observations) -> np.ndarray:
        calls.append(1)
        if len(calls) > 4:
            raise NotEvaluable("too little")
        return seen.target["logit_confidence"].copy()

    (skipped,) = procedure([probe(refuse_often)], world, audit, 0)
    assert isinstance(skipped, AttackSkipped)
    assert "4 of 8" in skipped.reason
    assert "too little" in skipped.reason


def test_slices_are_chosen_in_each_run() -> None:
    world, audit = view(n=600)
    found = procedure([CATALOG["correctness"]], world, audit, 0, slices)[0]
    assert [(s.by, s.value) for s in found.slices] == sorted((s.by, s.value) for s in found.slices)
    named = {(s.by, s.value): s for s in found.slices}
    assert ("difficulty", "hardest tenth") in named
    right, member = world.seen.references["correctness"] > 0, world.seen.reference_member
    here = audit.labels == 0
    values = [(r[here & m].mean() + (~r)[here & ~m].mean()) / 2 for r, m in zip(right, member, strict=True)]
    part = named["class", "class 0"]
    assert part.accuracy.value == pytest.approx(np.mean(values))
    assert part.members == min((here & m).sum() for m in member)


def test_one_run_is_what_measure_says_of_that_view() -> None:
    world, audit = view(persons=2)
    found = by_name(procedure([CATALOG["confidence"]], world, audit, 3))
    rng = np.random.default_rng([9, 3, 0])
    own = int(rng.integers(2**32))
    key = replace(audit, member=world.seen.reference_member[0].copy())
    for r in measure(CATALOG["confidence"], in_its_place(world, 0, rng), key, own):
        assert isinstance(r, AttackResult)
        np.testing.assert_array_equal(found[r.id, r.threat_model, r.threshold].decisions, r.decisions)
