"""Features that memory would not hold are read in blocks, by the gate and by the model's process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.large_features import GIB, check, team

pytestmark = pytest.mark.slow

BENCH = Path(__file__).parents[2] / "ci" / "bench"
FEATURES = 1.25  # GiB; at night it is 20


def test_scoring_and_signals_do_not_hold_the_features(tmp_path: Path) -> None:
    team(tmp_path, FEATURES)
    done, peak = check(tmp_path)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert done.returncode == report["verdict"]["exit_code"] == 1, done.stderr
    assert report["data"]["members"]["n"] == report["data"]["nonmembers"]["n"] == FEATURES * 512
    # One copy of them in any process would be more than this: libraries alone take more than half of the rest.
    assert peak < FEATURES * GIB


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCH), "memory", "--json", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.nightly
def test_twenty_gibibytes_are_judged_within_three() -> None:
    done = bench("--sizes", "20", "--limit", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads(done.stdout)["results"]
    assert row["baseline_bytes"] == 20 * GIB
    assert row["ours_bytes"] <= 3 * GIB


@pytest.mark.nightly
def test_more_than_the_limit_is_told_by_the_exit_code() -> None:
    done = bench("--sizes", "0.125", "--limit", "0.1")
    assert done.returncode == 1, done.stderr
    (row,) = json.loads(done.stdout)["results"]
    assert row["ours_bytes"] > 0.1 * GIB


@pytest.mark.nightly
def test_of_a_typed_frame_there_are_few_copies() -> None:
    done = bench("--frames", "--limit", "2.5")
    assert done.returncode == 0, done.stdout + done.stderr
