"""A run that was killed goes on where it was; the same inputs give the same bytes, whatever the number of workers."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Here, Team

RECIPE = """
import os, time, pathlib
from sklearn.ensemble import RandomForestClassifier

def train(features, labels, *, seed):
    with open(pathlib.Path(__file__).parent / "trained.log", "a") as log:
        log.write(f"{seed}\\n")
    time.sleep(float(os.environ.get("SLOW", "0")))
    return RandomForestClassifier(10, random_state=seed % 2**32).fit(features, labels)
"""


def without_run(report: Any) -> str:
    return json.dumps({key: value for key, value in report.items() if key != "run"}, indent=1)


@pytest.fixture
def slow_team(team: Team, tmp_path: Path) -> Team:
    """The same registry and data, a recipe that takes its time and keeps a log, and a store of its own."""
    (team.folder / "slow.py").write_text(RECIPE)
    (team.folder / "trained.log").unlink(missing_ok=True)
    team.write_config("slow.yaml", shadows={"count": 6, "recipe": {"python": "slow.py:train"}})
    return team


def trained(team: Team) -> list[str]:
    log = team.folder / "trained.log"
    return log.read_text().split() if log.exists() else []


@pytest.mark.slow
def test_kill_9_half_way_then_the_same_command(slow_team: Team, here: Here, tmp_path: Path) -> None:
    store = tmp_path / "store"
    arguments = ["check", "-c", "slow.yaml", "--store", store, "--jobs", "1", "--no-mlflow-log"]
    command = [sys.executable, "-m", "privacy_gate", *map(str, arguments), "--out", str(tmp_path / "killed")]
    gate = subprocess.Popen(
        command, cwd=slow_team.folder, env=slow_team.environment(SLOW="1"), stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while len(list((store / "shadows").glob("*.npz"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(gate.pid, signal.SIGKILL)
    gate.wait()
    time.sleep(1.5)  # the workers die with the gate; one that did not would finish its shadow now
    before = len(trained(slow_team))
    kept = len(list((store / "shadows").glob("*.npz")))
    assert 2 <= kept < 6
    assert not (tmp_path / "killed" / "report.json").exists()

    resumed = slow_team.gate(*arguments, out="resumed")
    assert resumed.report["run"]["cache"] == {"trained": 6 - kept, "cached": kept}
    assert len(trained(slow_team)) == before + 6 - kept
    whole = here("check", "-c", "slow.yaml", "--store", tmp_path / "other", "--no-mlflow-log", out=tmp_path / "whole")
    assert whole.report["run"]["cache"] == {"trained": 6, "cached": 0}
    assert without_run(resumed.report) == without_run(whole.report)


@pytest.mark.nightly
def test_same_bytes_whatever_the_number_of_workers(team: Team, here: Here, tmp_path: Path) -> None:
    """Every attack of the full suite, those that learn and those that probe included."""
    team.write_config("whole.yaml", attacks=None)
    check = ("check", "-c", "whole.yaml", "--no-mlflow-log", "--store")
    # Two processes of the gate, too: the order of a set differs from one to the other.
    one = team.gate(*check, tmp_path / "a", "--jobs", 1, out="one")
    two = here(*check, tmp_path / "b", "--jobs", 2, out=tmp_path / "two")
    assert {attack["id"] for attack in one.report["attacks"]} >= {"boosting", "noise_robustness", "shokri_nn"}
    assert one.report["run"]["cache"]["trained"] == two.report["run"]["cache"]["trained"] == 4
    assert without_run(one.report) == without_run(two.report)


def test_a_second_candidate_of_the_same_recipe_trains_nothing(team: Team, here: Here, tmp_path: Path) -> None:
    from tests.e2e.conftest import register

    store = tmp_path / "store"
    first = here("check", "models:/tiny/1", "--store", store, "--no-mlflow-log", out=tmp_path / "first")
    version = register(team, "tiny", alias="again")
    second = here("check", f"models:/tiny/{version}", "--store", store, "--no-mlflow-log", out=tmp_path / "second")
    assert first.report["run"]["cache"] == {"trained": 4, "cached": 0}
    assert second.report["run"]["cache"] == {"trained": 0, "cached": 4}
    assert first.report["subject"]["digest"] != second.report["subject"]["digest"]
