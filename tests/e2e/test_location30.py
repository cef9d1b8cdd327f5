"""Location30 end to end: the paper's classifier, trained by the example's script, registered, gated with 16 shadows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.mlflow_server import embedded_registry

pytestmark = [pytest.mark.reference, pytest.mark.slow]

EXAMPLE = Path(__file__).parents[2] / "examples" / "location30"


def run(*command: str | Path, folder: Path, uri: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
    return subprocess.run(
        [sys.executable, *map(str, command)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def gated(reference_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Reports of the classifier trained to the end (the script's default), and stopped after 8 epochs."""
    folder = tmp_path_factory.mktemp("location30")
    uri = embedded_registry(folder)
    reports = {}
    for name, options in (("full", []), ("stopped", ["--epochs", "8"])):
        trained = run(EXAMPLE / "train.py", "--out", folder / name, "--name", name, *options, folder=folder, uri=uri)
        assert trained.returncode == 0, trained.stderr
        arguments = ["-c", folder / name / "privacy-gate.yaml", "--store", folder / "store", "--out", folder / name]
        done = run("-m", "privacy_gate", "check", *arguments, "--quiet", "--no-mlflow-log", folder=folder, uri=uri)
        assert done.returncode in {0, 1, 4}, done.stderr
        reports[name] = json.loads((folder / name / "report.json").read_text())
    return reports


def best_accuracy(report: Any, attack: str) -> float:
    return max(a["metrics"]["accuracy"]["value"] for a in report["attacks"] if a["id"] == attack and a["metrics"])


def test_the_full_model_fails(gated: dict[str, Any]) -> None:
    report = gated["full"]
    assert report["verdict"]["status"] == "fail"
    assert report["verdict"]["exit_code"] == 1
    assert report["shadows"] == {**report["shadows"], "plan": "balanced", "count": 16, "train_size": 1000}


def test_modified_entropy_sees_the_leak(gated: dict[str, Any]) -> None:
    assert best_accuracy(gated["full"], "modified_entropy") >= 0.75


def test_a_reference_attack_names_members_at_one_percent(gated: dict[str, Any]) -> None:
    tprs = {
        a["id"]: a["metrics"]["tpr_at_fpr"]["0.01"]["value"]
        for a in gated["full"]["attacks"]
        if a["threat_model"] == "reference" and a["metrics"]
    }
    assert max(tprs.values()) >= 0.4
    # The lesson: thresholds alone, of the same accuracy, name next to nobody.
    metric = next(a for a in gated["full"]["attacks"] if a["id"] == "modified_entropy")
    assert metric["metrics"]["tpr_at_fpr"]["0.01"]["value"] < 0.15


def test_stopping_early_leaks_visibly_less(gated: dict[str, Any]) -> None:
    full, stopped = (best_accuracy(gated[name], "modified_entropy") for name in ("full", "stopped"))
    assert full - stopped >= 0.05


def test_the_shadows_are_like_the_target(gated: dict[str, Any]) -> None:
    for report in gated.values():
        (fidelity,) = [v for v in report["validity"] if v["check"] == "shadow_fidelity"]
        assert fidelity["status"] in {"pass", "warn"}
