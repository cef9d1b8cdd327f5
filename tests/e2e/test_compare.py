"""`privacy-gate defences compare` on a tiny candidate: every row is what a check of that model would say."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from privacy_gate.cli import run
from privacy_gate.shadows.plan import shadow_seeds
from privacy_gate.shadows.recipes.clone import seeded
from tests.e2e.conftest import FEATURES, Examine, Here, Run, Team, spare_processes

ATTACKS = ["correctness", "modified_entropy", "lira"]  # the families; a tiny model teaches the others nothing new
COARSE = {"output_coarsening": {"decimals": 1}}
LEAVES = {"tree_limits": {"min_samples_leaf": 20}}
SHADOWS = 4


def compared(here: Here, team: Team, store: Path, out: Path, **changes: Any) -> Run:
    config = team.write_config(f"{out.name}.yaml", attacks=ATTACKS, **changes)
    return here("defences", "compare", "-c", config, "--store", store, "--out", out, "--jobs", 1, out=out)


def rows(run: Run) -> dict[str, Any]:
    return {row["name"]: row for row in run.report["alternatives"]}


@pytest.fixture(scope="module")
def first(team: Team, store: Path, examine_once: Examine) -> Run:
    """On a terminal of 80 columns, in this process."""
    compare = [COARSE, LEAVES, {"weight_decay": {"decay": 0.1}}, {}, COARSE]
    config = team.write_config("first.yaml", attacks=ATTACKS, compare=compare)
    folder, out, err = team.folder / "first", io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(team.folder)
        patch.setenv("COLUMNS", "80")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        spare_processes(patch, examine_once)
        code = run(["defences", "compare", "-c", str(config), "--store", str(store), "--out", str(folder)])
    return Run(code, out.getvalue(), err.getvalue(), folder)


def test_the_table(first: Run) -> None:
    found = rows(first)
    assert list(found) == ["as it is", "output_coarsening (decimals 1)", "tree_limits (min_samples_leaf 20)"]
    assert [row["retrained"] for row in found.values()] == [False, False, True]
    for name in found:
        assert name.split()[0] in first.stdout
    assert max(map(len, first.stdout.splitlines())) <= 80
    # The candidate's row is the report's verdict.
    candidate, verdict = found["as it is"], first.report["verdict"]
    assert (candidate["exit_code"], candidate["headline"]) == (verdict["exit_code"], verdict["headline"])
    assert candidate["gain"] == 0
    for row in found.values():
        assert row["gain"] == pytest.approx(row["test_accuracy"] - candidate["test_accuracy"], abs=1e-12)


def test_what_cannot_be_compared_is_a_warning(first: Run) -> None:
    assert "weight_decay (decay 0.1) could not be compared" in first.said
    assert "no defence could not be compared: that is what the candidate is like already" in first.said
    assert first.code == (0 if 0 in (codes := {r["exit_code"] for r in rows(first).values()}) else min(codes - {1}))
    assert {path.name for path in first.out.iterdir()} == {"report.json", "report.html", "report.md"}


def test_a_second_run_trains_nothing_and_says_the_same(
    first: Run, here: Here, team: Team, store: Path, tmp_path: Path
) -> None:
    out = tmp_path / "again"
    arguments = ["-c", team.folder / "first.yaml", "--store", store, "--out", out, "--json"]
    again = here("defences", "compare", *arguments, out=out)
    assert again.report["run"]["cache"]["trained"] == 0
    assert json.loads(again.stdout) == again.report["alternatives"] == first.report["alternatives"]


def test_an_output_defence_has_the_numbers_of_a_check_with_it(
    first: Run, here: Here, team: Team, store: Path, tmp_path: Path
) -> None:
    config = team.write_config("coarse.yaml", attacks=ATTACKS, defence=COARSE)
    done = here("check", "-c", config, "--store", store, out=tmp_path / "coarse")
    row, report = rows(first)["output_coarsening (decimals 1)"], done.report
    assert report["run"]["cache"]["trained"] == 0
    assert (row["exit_code"], row["headline"]) == (report["verdict"]["exit_code"], report["verdict"]["headline"])
    blocking = [rule for rule in report["rules"] if rule["action"] == "block"]
    assert row["violated"] == [rule["id"] for rule in blocking if rule["status"] == "fail"]
    assert row["undecided"] == [rule["id"] for rule in blocking if rule["status"] == "inconclusive"]
    measured = [attack["metrics"] for attack in report["attacks"] if attack["metrics"]]
    assert row["accuracy"] == max((m["accuracy"] for m in measured), key=lambda found: found["value"])
    for rate, found in row["tpr_at_fpr"].items():
        assert found["value"] == max(m["tpr_at_fpr"][rate]["value"] for m in measured if rate in m["tpr_at_fpr"])
    high = [one for one in report["risk"]["high"] if one["score"] == 0.8] if report["risk"] else []
    assert row["high_risk"] == (high[0]["attributable"] if high else None)


def test_a_retrained_model_is_the_recipe_on_the_members_with_a_seed_of_its_own(first: Run, team: Team) -> None:
    from sklearn.ensemble import RandomForestClassifier

    row = rows(first)["tree_limits (min_samples_leaf 20)"]
    members, others = (pd.read_csv(team.folder / f"{name}.csv") for name in ("members", "nonmembers"))
    seed = int(shadow_seeds(0, 1)[0]) + 2**20
    assert seed not in shadow_seeds(0, SHADOWS)
    forest = seeded(RandomForestClassifier(10, min_samples_leaf=20), seed)
    model = forest.fit(members[FEATURES], members["sick"])
    assert row["train_accuracy"] == pytest.approx(model.score(members[FEATURES], members["sick"]), abs=1e-12)
    assert row["test_accuracy"] == pytest.approx(model.score(others[FEATURES], others["sick"]), abs=1e-12)


def test_loaded_shadows_can_stand_behind_an_output_defence_only(
    here: Here, team: Team, store: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    count = sum(len(pd.read_csv(team.folder / f"{name}.csv")) for name in ("members", "nonmembers"))
    probs = rng.dirichlet([1, 1], (SHADOWS, count))
    np.savez(
        team.folder / "finished.npz",
        probs=probs,
        member=rng.permuted(np.arange(SHADOWS * count) % 2).reshape(SHADOWS, count),
    )
    shadows = {"recipe": {"load": "finished.npz"}}
    done = compared(here, team, store, tmp_path / "loaded", shadows=shadows, compare=[COARSE, LEAVES])
    assert list(rows(done)) == ["as it is", "output_coarsening (decimals 1)"]
    assert "min_samples_leaf 20) could not be compared: the shadows were loaded" in done.said


def test_without_shadows_the_model_alone_is_trained_again(here: Here, team: Team, store: Path, tmp_path: Path) -> None:
    done = compared(here, team, store, tmp_path / "alone", shadows={"count": 0}, compare=[LEAVES])
    found = rows(done)["tree_limits (min_samples_leaf 20)"]
    assert found["retrained"]
    assert found["accuracy"] is not None
    assert "PG501" in found["undecided"]
    assert done.code == 4


def test_a_training_function_cannot_be_defended_from_outside(
    here: Here, team: Team, store: Path, tmp_path: Path
) -> None:
    (team.folder / "own.py").write_text("def train(features, labels, *, seed):\n    raise RuntimeError\n")
    shadows = {"count": 0, "recipe": {"python": "own.py:train"}}
    done = compared(here, team, store, tmp_path / "own", shadows=shadows, compare=[LEAVES])
    assert list(rows(done)) == ["as it is"]
    assert "cannot be put on your training function" in done.said


def test_records_that_a_defence_needs_are_missed_before_anything_is_trained(
    here: Here, team: Team, tmp_path: Path
) -> None:
    done = compared(here, team, tmp_path / "none", tmp_path / "memguard", compare=[{"memguard": {}}])
    assert done.code == 2
    assert "data.seen" in done.said
    assert not list((tmp_path / "none").rglob("*.npz"))
