"""The load that the benchmark makes: no delivery is lost, and what it prints is what it promises."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "ci" / "bench"


def test_no_delivery_is_lost_when_the_receiver_is_killed_after_its_answers():
    done = subprocess.run(
        [sys.executable, str(BENCH), "service", "--seconds", "2", "--json"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["results"]
    assert [row["name"] for row in rows] == ["p50 of the 202", "p95 of the 202", "p99 of the 202", "longest of the 202"]
    for row in rows:
        assert (row["lost"], row["size"]) == (0, 10)
        assert row["ratio"] == pytest.approx(row["baseline_ms"] / row["ours_ms"])
        assert 0 < row["ours_ms"] <= rows[-1]["ours_ms"]
