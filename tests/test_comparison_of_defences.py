"""What is compared, under which name, and what a row of the comparison says: everything but the training."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from privacy_gate.comparison import _alone, _alternative, described, in_place, suggested
from privacy_gate.datamodel import (
    AttackResult,
    AttackSkipped,
    Description,
    Evidence,
    HighRisk,
    Role,
    Scope,
    ThreatModel,
    Verdict,
    VerdictStatus,
)
from privacy_gate.defences import NOTHING, configure
from privacy_gate.errors import UsageError
from privacy_gate.observe import Observed
from privacy_gate.preparation import Prepared
from privacy_gate.reports import assemble
from privacy_gate.request import Config
from privacy_gate.shadows.plan import shadow_seeds
from tests.reports.samples import Measured

COARSE = {"output_coarsening": {"decimals": 1}}
LEAVES = {"tree_limits": {"min_samples_leaf": 20}}
INSIDE = {"dp_sgd": {"noise_multiplier": 1.0, "in_recipe": True}}


# --- suggestions --------------------------------------------------------------------------------------------------


def suggestions(recipe: Any = None, shadows: Any = None, own: Any = NOTHING) -> list[str]:
    description = Description("sklearn", "classifier", ("a", "b"), recipe)
    ready = cast(Prepared, SimpleNamespace(description=description, task=None, defences=own))
    data = {"members": "a.csv", "nonmembers": "b.csv"}
    return [described(one) for one in suggested(ready, Config(data=data, shadows=shadows or {}))]


def estimator(name: str, **params: Any) -> dict[str, Any]:
    return {"class": f"sklearn.ensemble.{name}", "params": params}


ALWAYS = ["output_coarsening (decimals 1)", "output_coarsening (label_only)"]
FOREST = [f"tree_limits (min_samples_leaf {n})" for n in (20, 50, 100, 200)]


def test_a_forest_gets_larger_leaves_wherever_it_is() -> None:
    forest = estimator("RandomForestClassifier")
    assert suggestions(forest) == ALWAYS + FOREST
    assert suggestions({"class": "sklearn.pipeline.Pipeline", "params": {"steps": [["a", {}], ["b", forest]]}}) == (
        ALWAYS + FOREST
    )


def test_boosting_also_gets_fewer_rounds() -> None:
    told = suggestions(estimator("GradientBoostingClassifier"))
    assert told[:2] == ["early_stopping (epochs 10)", "early_stopping (epochs 30)"]
    assert set(FOREST) < set(told)


def test_a_module_gets_what_its_training_has_room_for() -> None:
    training = {"optimizer": "adam", "learning_rate": 0.001, "epochs": 40}
    told = suggestions(None, {"recipe": {"model": "net.py:make", "training": training}})
    assert {f"early_stopping (epochs {n})" for n in (4, 10, 20)} <= set(told)
    assert {"label_smoothing (epsilon 0.2)", "weight_decay (decay 0.01)", *ALWAYS} <= set(told)
    assert not [name for name in told if "tree_limits" in name]
    # Those that need records of their own are not suggested: only people can say which records may be spent on them.
    assert not [name for name in told if "memguard" in name or "adversarial" in name]


@pytest.mark.parametrize("recipe", [{"python": "own.py:train"}, {"load": "finished.npz"}])
def test_what_cannot_be_trained_otherwise_is_not_suggested(recipe: dict[str, str]) -> None:
    assert suggestions(estimator("RandomForestClassifier"), {"recipe": recipe}) == ALWAYS


def test_a_candidate_with_a_defence_is_also_tried_without_and_never_with_the_same() -> None:
    forest = estimator("RandomForestClassifier")
    told = suggestions(forest, own=configure(LEAVES))
    assert told == ["no defence", *ALWAYS, *(name for name in FOREST if name != described(configure(LEAVES)))]
    # What is in the recipe cannot be taken off: "no defence" would be the candidate again.
    assert suggestions(own=configure(INSIDE)) == ALWAYS


# --- in place of the candidate's own --------------------------------------------------------------------------------


def placed(own: dict[str, Any], other: dict[str, Any]) -> str:
    return described(in_place(configure(own), configure(other)))


@pytest.mark.parametrize(
    ("own", "other", "name"),
    [
        ({}, LEAVES, "tree_limits (min_samples_leaf 20)"),
        (LEAVES, {}, "no defence"),
        (LEAVES, COARSE, "output_coarsening (decimals 1)"),
        (LEAVES, {**LEAVES, **COARSE}, "tree_limits (min_samples_leaf 20) + output_coarsening (decimals 1)"),
        (INSIDE, COARSE, "dp_sgd (noise_multiplier 1.0) + output_coarsening (decimals 1)"),
        # The registered model answers through its own noise; one that is trained again does not.
        ({"output_noise": {"scale": 0.5, "in_model": True}}, COARSE, "output_noise (scale 0.5) + " + ALWAYS[0]),
        ({"output_noise": {"scale": 0.5, "in_model": True}}, LEAVES, "tree_limits (min_samples_leaf 20)"),
    ],
)
def test_what_the_other_model_has(own: dict[str, Any], other: dict[str, Any], name: str) -> None:
    assert placed(own, other) == name


@pytest.mark.parametrize(
    ("own", "other", "told"),
    [
        ({}, {}, "like already"),
        (COARSE, COARSE, "like already"),
        (INSIDE, {}, "like already"),
        ({}, {"tree_limits": {"min_samples_leaf": 20, "in_recipe": True}}, "nothing would be put on"),
        ({}, {"output_noise": {"scale": 0.5, "in_model": True}}, "nothing would be put on"),
        (INSIDE, {"dp_sgd": {"noise_multiplier": 2.0}}, "has dp_sgd inside already"),
    ],
)
def test_what_would_be_no_other_model_is_refused(own: dict[str, Any], other: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        placed(own, other)


def test_a_name_holds_what_was_chosen_and_no_defaults() -> None:
    assert described(NOTHING) == "no defence"
    assert described(configure({"output_coarsening": {"top_k": 3, "decimals": 2, "label_only": False}})) == (
        "output_coarsening (top_k 3, decimals 2)"
    )
    assert described(configure({"memguard": {}})) == "memguard"


# --- the retrained target -----------------------------------------------------------------------------------------


def test_the_target_is_trained_again_on_its_members_alone() -> None:
    roles = {Role.MEMBERS: [1, 1, 0, 0, 0], Role.NONMEMBERS: [0, 0, 1, 1, 0]}  # the last one is in the population
    dataset = SimpleNamespace(role_mask=lambda role: np.array(roles[role], dtype=bool))
    plan = _alone(cast(Prepared, SimpleNamespace(dataset=dataset)), seed=3)
    assert plan.member.tolist() == [[True, True, False, False, False]]
    assert plan.pool.tolist() == [True, True, True, True, False]
    assert not set(plan.seeds) & set(shadow_seeds(3, 1024))
    assert plan.train_size == 2


# --- one row --------------------------------------------------------------------------------------------------------


def outcome(id: str, accuracy: float, tpr: dict[float, float]) -> AttackResult:
    return AttackResult(
        id=id,
        family="metric",
        threat_model=ThreatModel.KNOWN_SUBSET,
        threshold=Scope.GLOBAL,
        adaptive=True,
        accuracy=Measured(accuracy, 0.0),
        advantage=Measured(2 * accuracy - 1, 0.0),
        auc=None,
        tpr_at_fpr={rate: Measured(value, 0.0) for rate, value in tpr.items()},
        scores=np.zeros(6),
        decisions=np.zeros(6, dtype=bool),
    )


def row(*attacks: Any, high: HighRisk | None = None) -> Any:
    risk = None if high is None else SimpleNamespace(high=(high,))
    evidence = cast(Evidence, SimpleNamespace(attacks=attacks, risk=risk, members=3))
    seen = cast(Observed, SimpleNamespace(target_correct=np.array([1, 1, 1, 1, 0, 0], dtype=bool)))
    before = cast(Observed, SimpleNamespace(target_correct=np.array([0, 0, 0, 1, 1, 1], dtype=bool)))
    verdict = Verdict(VerdictStatus.PASS, 0, "", (), {})
    return _alternative("x", NOTHING, evidence, verdict, seen, True, before)


def test_a_row_takes_each_figure_from_the_attack_that_is_strongest_there() -> None:
    found = row(
        outcome("lira", 0.6, {0.01: 0.3, 0.001: 0.02}),
        AttackSkipped("rmia", "reference", ThreatModel.REFERENCE, "no references"),
        outcome("entropy", 0.7, {0.01: 0.1, 0.001: 0.04}),
    )
    assert found.attack.startswith("entropy")
    assert found.accuracy.value == 0.7
    assert {rate: one.value for rate, one in found.tpr_at_fpr.items()} == {0.01: 0.3, 0.001: 0.04}
    assert list(found.tpr_at_fpr) == [0.01, 0.001]


def test_utility_is_of_the_nonmembers() -> None:
    found = row()
    assert (found.train_accuracy, found.test_accuracy) == (1.0, pytest.approx(1 / 3))
    assert found.gain == pytest.approx(1 / 3 - 1)
    assert (found.attack, found.accuracy, found.high_risk) == ("", None, None)


def test_a_row_hides_few_people_as_the_rest_of_the_report_does() -> None:
    share = Measured(0.0123, 0.001)
    shown = {count: assemble.alternative(row(high=HighRisk(0.8, count, 0, share, share))) for count in (5, 50)}
    assert shown[50].high_risk.value == 0.0123
    assert shown[5].high_risk.value is None
    assert shown[5].high_risk.low is None
    # Of so few only an upper bound is told, in tenths of a per cent: from the share one could count the people.
    assert round(1000 * shown[5].high_risk.high, 9).is_integer()
