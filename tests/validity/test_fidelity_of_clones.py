"""Real models: a clone of an early-stopped LightGBM model behaves like it; shadows trained to the ceiling do not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lightgbm import LGBMClassifier

from privacy_gate import features as tables
from privacy_gate.datamodel import ShadowPlan
from privacy_gate.request import Recipe
from privacy_gate.sandbox import models
from privacy_gate.shadows.recipes import CATALOG, Context
from privacy_gate.validity import CATALOG as CHECKS
from tests.validity.worlds import circumstances

N, SHADOWS, CEILING = 1000, 4, 1000
SETTINGS = {"num_leaves": 8, "verbose": -1, "n_jobs": 1, "random_state": 0}


@pytest.fixture(scope="module")
def world():
    """N members, N others, half of both in each shadow: a noisy label, so that a long training learns by heart."""
    rng = np.random.default_rng(0)
    x = pd.DataFrame(rng.normal(size=(2 * N + 500, 4)), columns=list("abcd"))
    x["town"] = pd.Categorical(rng.choice(list("uvwxyz"), len(x)))
    y = ((x.a + x.town.isin(["u", "v"]) + rng.normal(size=len(x))) > 0.5).to_numpy().astype(int)
    rows, seen = np.arange(2 * N), np.arange(2 * N, len(x))
    clean = circumstances(n=N, shadows=SHADOWS, classes=2)
    target = LGBMClassifier(n_estimators=CEILING, early_stopping_round=10, **SETTINGS)
    target.fit(x.iloc[:N], y[:N], eval_X=x.iloc[seen], eval_y=y[seen])
    assert target.best_iteration_ < 60

    def judged(train):
        masks = clean.observations.reference_member
        shadows = [train(tables.take(x, mask), y[: 2 * N][mask], s) for s, mask in enumerate(masks)]
        records = x.iloc[rows]
        correct = np.stack([shadow.predict(records) == y[rows] for shadow in shadows])
        plan = ShadowPlan("balanced", masks, np.ones(2 * N, dtype=bool), np.arange(SHADOWS), N)
        there = replace(clean, plan=plan, train_size=N, target_correct=target.predict(records) == y[rows])
        return CHECKS["shadow_fidelity"].run(replace(there, shadow_correct=correct)), shadows

    return target, judged


def test_the_right_clone_is_like_the_target(world, monkeypatch):
    target, judged = world
    monkeypatch.setattr(models, "load", lambda folder, flavor: target)
    context = Context(Recipe(), Path(), Path(), "lightgbm", (0, 1))
    finding, shadows = judged(lambda x, y, seed: CATALOG["clone"].train(x, y, seed, context))
    assert {shadow.n_estimators_ for shadow in shadows} == {target.best_iteration_}
    assert finding.status in ("pass", "warn"), finding.reason
    assert abs(finding.value) < 0.03


def test_shadows_that_went_on_to_the_ceiling_are_not(world):
    _, judged = world
    finding, _ = judged(lambda x, y, seed: LGBMClassifier(n_estimators=CEILING, **SETTINGS).fit(x, y))
    assert finding.status == "fail"
    assert finding.value > 0.1
    assert "on training records the target is right for" in finding.reason
    assert "give them its number of rounds" in finding.reason


def test_shadows_that_hardly_began_are_not_either(world):
    _, judged = world
    finding, _ = judged(lambda x, y, seed: LGBMClassifier(n_estimators=1, **{**SETTINGS, "num_leaves": 2}).fit(x, y))
    assert finding.status == "fail"
    assert "trained less than the target" in finding.reason
