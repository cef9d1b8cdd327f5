"""One forest, three ways of training its shadows: a clone, a script that leaves models, a script that leaves answers.

The script is given other seeds than the clone, so their figures differ, as far as the forests' own chance goes. Both
scripts train the same forests, so theirs are the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sklearn.ensemble import RandomForestClassifier

from tests.e2e.conftest import FEATURES, Here, Run, Team, register

pytestmark = pytest.mark.nightly

# As a team has it: parquet in, an MLflow model out; or, where it is shown records, its answers to them.
SCRIPT = """
import sys

import pandas as pd
from sklearn.ensemble import RandomForestClassifier

FEATURES = ["trait", "age", "bmi"]

train, out, seed, *records = sys.argv[1:]
rows = pd.read_parquet(train)
forest = RandomForestClassifier(50, random_state=int(seed), n_jobs=1).fit(rows[FEATURES], rows["sick"])
if records:
    import numpy as np

    answers = forest.predict_proba(pd.read_parquet(records[0])[FEATURES])
    np.savez(f"{out}/signals.npz", probs=answers, classes=forest.classes_.astype(str))
else:
    import mlflow.sklearn

    mlflow.sklearn.save_model(forest, f"{out}/model", pip_requirements=[], serialization_format="cloudpickle")
"""
SHADOWS = 4
ATTACKS = ["correctness", "confidence", "lira", "rmia"]
WORDS = ["python", "train_forest.py", "{train}", "{out}", "{seed}"]
RECIPES = {"clone": {"clone": True}, "models": {"command": WORDS}, "answers": {"command": [*WORDS, "{records}"]}}


def figures(report: Any) -> dict[str, Any]:
    """attack, threat model and threshold -> its metrics."""
    return {f"{a['id']} {a['threat_model']} {a['threshold']}": a["metrics"] for a in report["attacks"]}


def test_the_same_model_by_command_and_by_clone(here: Here, team: Team, tmp_path: Path) -> None:
    (team.folder / "train_forest.py").write_text(SCRIPT)
    members = pd.read_csv(team.folder / "members.csv")
    forest = RandomForestClassifier(50, random_state=0, n_jobs=1).fit(members[FEATURES], members["sick"])
    version = register(team, "same", forest)

    def judged(way: str) -> Run:
        shadows = {"count": SHADOWS, "recipe": RECIPES[way]}
        config = team.write_config(f"same-{way}.yaml", shadows=shadows, attacks=ATTACKS)
        run = here(
            "check", f"models:/same/{version}", "--config", config, "--store", tmp_path / "store",
            "--no-mlflow-log", out=tmp_path / way,
        )  # fmt: skip
        assert run.code == 1, run.stderr
        assert (run.document().run.cache.trained, run.report["shadows"]["count"]) == (SHADOWS, SHADOWS)
        return run

    clone, models, answers = (figures(judged(way).report) for way in RECIPES)
    assert answers == models
    assert clone["lira reference global"] != models["lira reference global"]  # they are other forests
    assert clone.keys() == models.keys()
    for cell, metrics in clone.items():
        # TPR at a low FPR turns on one or two of 150 strangers: its intervals all begin at 0, and would tell nothing.
        for name in ("accuracy", "advantage", "auc"):
            one, other = metrics[name], models[cell][name]
            if one is None:  # who is right is no curve
                assert other is None
                continue
            assert max(one["low"], other["low"]) <= min(one["high"], other["high"]), (cell, name)
            # Without references and with thresholds of its own an attack never looks at shadows.
            assert "known-subset" not in cell or one == other, (cell, name)
