"""Features that memory would not hold are read in blocks, by the gate and by the model's process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.large_features import GIB, check, team

pytestmark = pytest.mark.slow

FEATURES = 1.25  # GiB; `ci/bench memory` does the same with 20


def test_scoring_and_signals_do_not_hold_the_features(tmp_path: Path) -> None:
    team(tmp_path, FEATURES)
    done, peak = check(tmp_path)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert done.returncode == report["verdict"]["exit_code"] == 1, done.stderr
    assert report["data"]["members"]["n"] == report["data"]["nonmembers"]["n"] == FEATURES * 512
    # One copy of them in any process would be more than this: libraries alone take more than half of the rest.
    assert peak < FEATURES * GIB
