"""Every kind of model gets its verdict, from an embedded registry and from a server's, and the same from both."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from privacy_gate.registry.snapshot import digest
from tests.e2e.conftest import Examine, Run, spare_processes
from tests.e2e.matrix_models import FILES, KINDS, SCHEMA, records, write
from tests.mlflow_server import embedded_registry, mlflow_server, tracking

pytestmark = [pytest.mark.slow, pytest.mark.server]

SHADOWS = 4


def register(uri: str, name: str, folder: Path) -> None:
    """Version 1 of `name` is the folder as it is: a model that is logged anew is given another id, inside its files."""
    import mlflow

    with tracking(uri):
        mlflow.set_experiment("training")
        with mlflow.start_run() as run:
            mlflow.log_artifacts(str(folder), "model")
        client = mlflow.MlflowClient()
        client.create_registered_model(name)
        client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id)
        client.set_registered_model_alias(name, "candidate", "1")


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The team's folder with its data and its files, which can be imported while models are trained."""
    folder = tmp_path_factory.mktemp("matrix")
    write(records(1), folder / "members.parquet")
    write(records(2), folder / "nonmembers.parquet")
    for name, text in FILES.items():
        (folder / f"{name}.py").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        importlib.invalidate_caches()
        yield folder
    for name in FILES:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def registries(team: Path) -> Iterator[dict[str, str]]:
    """URI of an empty embedded registry, and of a server that hands out the artifacts itself."""
    (team / "server").mkdir()
    with mlflow_server(team / "server") as server:
        yield {"embedded": embedded_registry(team), "server": server}


@pytest.fixture
def registered(team: Path, registries: dict[str, str], name: str) -> Path:
    """The model folder of this kind, after it was registered in both."""
    folder = team / "saved" / name
    KINDS[name].save(records(1), team, folder)
    for uri in registries.values():
        register(uri, name, folder)
    return folder


def config(name: str, uri: str) -> dict[str, Any]:
    """What the team writes down for this kind."""
    kind = KINDS[name]
    asked = {
        "apiVersion": "privacy-gate/v1",
        "model": f"models:/{name}@candidate",
        "tracking_uri": uri,
        "data": {
            "members": "members.parquet",
            "nonmembers": "nonmembers.parquet",
            "label": kind.label,
            "schema": SCHEMA,
            **kind.data,
        },
        "shadows": {"count": SHADOWS, "recipe": dict(kind.recipe)},
        "attacks": ["correctness", "confidence", "lira"],
    }
    return asked if kind.output is None else {**asked, "output": kind.output}


def same(report: dict[str, Any]) -> dict[str, Any]:
    """All of a report but what tells when and where it was made."""
    return {key: value for key, value in report.items() if key not in ("run", "seal")}


@pytest.mark.parametrize("name", KINDS)
def test_it_fails_and_is_told_why_wherever_it_is_registered(
    name: str,
    team: Path,
    registries: dict[str, str],
    registered: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    examine_once: Examine,
) -> None:
    from privacy_gate.cli import run

    monkeypatch.chdir(team)
    for variable in [n for n in os.environ if n.startswith(("MLFLOW_", "PRIVACY_GATE_"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    # Whichever registry it comes from, a model of this digest is the same bytes: its process starts once.
    spare_processes(monkeypatch, examine_once)

    def check(where: str) -> Run:
        path = team / f"{name}.yaml"  # the same name for both: messages may quote it
        path.write_text(yaml.safe_dump(config(name, registries[where]), sort_keys=False))
        out = tmp_path / where
        capfd.readouterr()
        code = run(["check", "--config", str(path), "--store", str(team / "store"), "--out", str(out)])
        told = capfd.readouterr()
        return Run(code, told.out, told.err, out)

    runs = {where: check(where) for where in registries}
    kind, reports = KINDS[name], {where: run.report for where, run in runs.items()}
    for where, run_ in runs.items():
        assert run_.code == 1, (where, run_.stderr)
        run_.document()
        report = reports[where]
        import json
        (team / f"{name}-{where}.json").write_text(json.dumps(report, indent=1))
    assert same(reports["embedded"]) == same(reports["server"])
