"""What makes reference models other ones, and what only makes them again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from privacy_gate.datamodel import Outputs, ShadowPlan
from privacy_gate.policy.attempts import NO_REFERENCES
from privacy_gate.request import Recipe
from privacy_gate.sandbox.outputs import AUTO
from privacy_gate.sandbox.runtime import HERE
from privacy_gate.shadows import plan as plans
from privacy_gate.shadows.draw import draw
from privacy_gate.shadows.recipes import Context
from privacy_gate.shadows.train import TrainingTask

RECORDS = 60


def planned(count: int = 6, seed: int = 0) -> ShadowPlan:
    member = np.arange(RECORDS) < RECORDS // 2
    nobody = np.zeros(RECORDS, dtype=np.bool_)
    return plans.balanced(np.arange(RECORDS), member, ~member, nobody, count, RECORDS // 2, seed)


def a_task() -> TrainingTask:
    context = Context(Recipe(), Path("/config"), None, "sklearn", (0, 1), {})
    features = np.arange(RECORDS, dtype=np.float64)[:, None]
    labels = np.arange(RECORDS, dtype=np.int64) % 2
    identity = {"class": "sklearn.Tree", "params": {"depth": 3}}
    return TrainingTask("clone", context, identity, features, labels, AUTO, {"cpu": "a"}, {"OMP_NUM_THREADS": "1"})


def test_without_shadows_there_is_no_draw():
    assert draw(None, None) == NO_REFERENCES


def test_the_same_is_the_same():
    assert draw(planned(), a_task()) == draw(planned(), a_task())
    assert len(draw(planned(), a_task())) == 64


OTHER_TASKS = {
    "recipe": {"recipe": "head"},
    "parameters": {"identity": {"class": "sklearn.Tree", "params": {"depth": 4}}},
    "weights": {"weights": np.ones(RECORDS)},
    "persons": {"persons": np.arange(RECORDS)},
    "validation set": {"reference": np.arange(RECORDS) < 3},
    "defence": {"context": replace(a_task().context, defences={"dropout": {"rate": 0.5}})},
}


@pytest.mark.parametrize("other", list(OTHER_TASKS.values()), ids=list(OTHER_TASKS))
def test_other_training_is_another_draw(other):
    assert draw(planned(), replace(a_task(), **other)) != draw(planned(), a_task())


def test_other_plans_are_another_draw():
    found = [
        draw(plan, a_task()) for plan in (planned(), planned(7), planned(seed=1), replace(planned(), kind="disjoint"))
    ]
    assert len(set(found)) == len(found)
    longer = planned(7)
    beginning = replace(longer, member=longer.member[:6], seeds=longer.seeds[:6])
    assert draw(beginning, a_task()) != draw(longer, a_task())


SAME_SHADOWS = {
    "machine": {"numeric_path": {"cpu": "b"}},
    "threads": {"environment": {"OMP_NUM_THREADS": "8"}},
    "device": {"context": replace(a_task().context, runtime=replace(HERE, device="cuda", gpu="H"))},
    "suite": {"probes": ("augmented",), "trace": True},
    "folder": {"context": replace(a_task().context, folder=Path("/elsewhere"))},
}


@pytest.mark.parametrize("other", list(SAME_SHADOWS.values()), ids=list(SAME_SHADOWS))
def test_where_and_how_fast_they_are_trained_is_no_draw(other):
    assert draw(planned(), replace(a_task(), **other)) == draw(planned(), a_task())


def test_loaded_shadows_are_told_by_their_models_or_their_answers():
    rng = np.random.default_rng(0)
    answers = [Outputs(rng.dirichlet([1.0, 1.0], RECORDS), "probabilities") for _ in range(6)]
    others = [replace(answers[0], values=np.flip(answers[0].values, 1)), *answers[1:]]
    plan = replace(planned(), kind="loaded")
    assert draw(plan, None, answers) == draw(plan, None, list(answers))
    assert draw(plan, None, answers) != draw(plan, None, others)
    # A model's answers differ in their last digits from machine to machine: the model is what counts.
    assert draw(plan, None, answers, ["a" * 64] * 6) == draw(plan, None, others, ["a" * 64] * 6)
    assert draw(plan, None, answers, ["a" * 64] * 6) != draw(plan, None, answers, ["b" * 64] * 6)
