"""The benchmark prints what the interface promises; how fast things are is not a matter for tests."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "ci" / "bench"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(BENCH), *arguments], capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, object]]:
    done = run("kernels", "--json", "--sizes", "2000")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert list(printed) == ["results"]
    return list(printed["results"])


def test_every_row_has_the_promised_fields(rows):
    for row in rows:
        assert {"name", "size", "ratio", "baseline", "unit", "ours_seconds", "baseline_seconds", "note"} == set(row)
        assert row["size"] == 2000
        assert row["ours_seconds"] > 0
        assert row["ratio"] == pytest.approx(row["baseline_seconds"] / row["ours_seconds"])


def test_thresholds_roc_and_signals_are_measured(rows):
    names = " ".join(str(row["name"]) for row in rows)
    assert all(word in names for word in ("thresholds", "ROC", "modified entropy"))


def test_an_unknown_benchmark_and_sizes_too_small_are_refused():
    assert run("nothing").returncode == 2
    assert run("kernels", "--sizes", "100").returncode == 2
