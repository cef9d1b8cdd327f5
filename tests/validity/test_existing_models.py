"""Shadows that the gate did not draw itself: proxies, models of one side, and references that tell the answer."""

from dataclasses import replace

import numpy as np
import pytest

from privacy_gate.datamodel import Invalidates
from privacy_gate.validity import CATALOG
from privacy_gate.validity.reference_membership import effects
from privacy_gate.validity.shadow_fidelity import trained
from tests.validity.worlds import circumstances, without_shadows

CLEAN = circumstances()


def run(check, world):
    return CATALOG[check].run(world)


def with_references(inside):
    """The clean world with other references, loaded ones."""
    observations = replace(CLEAN.observations, reference_member=inside)
    return replace(CLEAN, observations=observations, plan=replace(CLEAN.plan, kind="loaded"))


# --- proxies ----------------------------------------------------------------------------------------------------------


def test_a_proxy_takes_the_pass_and_leaves_the_failure():
    found = run("proxy_shadows", replace(CLEAN, plan=replace(CLEAN.plan, proxy="trained by another recipe")))
    assert (found.status, found.invalidates) == ("fail", Invalidates.PASS)
    assert "trained by another recipe" in found.reason


def test_without_shadows_there_is_no_proxy():
    assert run("proxy_shadows", without_shadows()).status == "not_applicable"


# --- references that tell the answer ----------------------------------------------------------------------------------


def test_references_of_one_side_fire_though_all_records_are_in_as_many():
    member = CLEAN.audit.member
    world = with_references(np.array([member, member, ~member, ~member]))
    assert np.ptp(world.observations.reference_member.sum(axis=0)) == 0
    found = run("reference_membership", world)
    assert found.status == "fail"
    assert "one reference" in found.reason


def test_fold_models_as_references_fire():
    rng = np.random.default_rng(0)
    member = CLEAN.audit.member
    inside = np.array([member & (rng.random(len(member)) < 0.8) for _ in range(5)])
    assert run("reference_membership", with_references(inside)).status == "fail"


@pytest.mark.parametrize("seed", range(10))
def test_references_that_others_drew_by_lot_do_not_fire(seed):
    rng = np.random.default_rng(seed)
    inside = rng.random((16, len(CLEAN.audit.member))) < 0.5
    assert run("reference_membership", with_references(inside)).status in ("pass", "warn")


def test_a_reference_of_all_records_or_of_none_says_nothing():
    n = len(CLEAN.audit.member)
    inside = np.array([np.ones(n, bool), np.zeros(n, bool)])
    found = effects(inside, CLEAN.audit.member, CLEAN.audit.persons, corrected=0.05, plain=0.05)
    assert [effect.value for effect in found] == [0.0, 0.0, 0.0]


def test_effects_of_a_binary_reference_are_half_the_difference_of_its_shares():
    rng = np.random.default_rng(3)
    member, persons = CLEAN.audit.member, CLEAN.audit.persons
    inside = rng.random((1, len(member))) < np.where(member, 0.6, 0.4)
    shares = [inside[0, side].mean() for side in (member, ~member)]
    found = effects(inside, member, persons, corrected=0.05, plain=0.05)
    # The AUC of a yes or no is (1 + share among members - share among the others) / 2.
    assert found[1].value == pytest.approx(abs(shares[0] - shares[1]) / 2, abs=1e-12)
    assert found[1].low < found[1].value < found[1].high


# --- models that set thresholds alone ---------------------------------------------------------------------------------


def folds(share, size, accuracy_out=None):
    """Fold models of the clean world's members: each holds `share` of them."""
    member = CLEAN.audit.member
    rng = np.random.default_rng(1)
    inside = np.array([member & (rng.random(len(member)) < share) for _ in range(10)])
    shadow_correct = np.where(inside, rng.random(inside.shape) < right(True), rng.random(inside.shape) < right(False))
    if accuracy_out is not None:
        shadow_correct = np.where(inside, shadow_correct, rng.random(inside.shape) < accuracy_out)
    plan = replace(
        CLEAN.plan,
        kind="loaded",
        member=inside,
        pool=member.copy(),
        by_lot=False,
        sizes=(size,) * 10,
        seeds=np.arange(10),
    )
    observations = replace(CLEAN.observations, references={}, reference_member=None)
    return replace(CLEAN, plan=plan, observations=observations, shadow_correct=shadow_correct)


def right(members):
    side = CLEAN.audit.member if members else ~CLEAN.audit.member
    return CLEAN.target_correct[side].mean()


def test_fold_models_are_compared_on_what_they_held_out():
    world = folds(0.95, CLEAN.train_size)
    assert trained(world) is not None
    assert run("shadow_fidelity", world).status in ("pass", "warn")
    worse = folds(0.95, CLEAN.train_size, accuracy_out=right(False) - 0.2)
    assert run("shadow_fidelity", worse).status == "fail"
    for check in ("reference_membership", "persons_in_references", "out_model_placebo"):
        assert run(check, world).status == "not_applicable"


def test_fold_models_of_too_few_records_take_the_pass():
    found = run("shadow_fidelity", folds(0.8, round(0.8 * CLEAN.train_size)))
    assert (found.status, found.invalidates) == ("fail", Invalidates.PASS)
    assert "80 %" in found.reason
    assert "folds" in found.reason


def test_models_of_half_and_of_twice_the_records_are_not_of_the_targets_size_on_average():
    world = folds(0.95, CLEAN.train_size)
    mixed = (CLEAN.train_size // 2, CLEAN.train_size + CLEAN.train_size // 2) * 5
    assert run("shadow_fidelity", replace(world, plan=replace(world.plan, sizes=mixed))).status == "fail"


def test_ten_folds_are_enough_whatever_the_number_of_records():
    world = folds(0.9, CLEAN.train_size)
    for records in (1000, 1001, 1007, 4999):
        held = [len(part) for part in np.array_split(np.arange(records), 10)]
        plan = replace(world.plan, sizes=tuple(records - part for part in held))
        found = run("shadow_fidelity", replace(world, plan=plan, train_size=records))
        assert "were trained on" not in found.reason
