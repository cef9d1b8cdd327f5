"""Every kind of model gets its verdict, from an embedded registry and from a server's, and the same from both."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from privacy_gate import inputs
from tests.e2e.conftest import Examine, Run, Team, spare_processes
from tests.e2e.matrix_models import KINDS, SCHEMA, records, written
import tests.e2e.matrix_models as M
from tests.mlflow_server import embedded_registry, mlflow_server, tracking

pytestmark = pytest.mark.slow


def cpu():
    import resource
    a, b = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return a.ru_utime + a.ru_stime+b.ru_utime + b.ru_stime

@dataclass(frozen=True)
class World:
    folder: Path
    embedded: str
    server: str


def register(uri: str, name: str, folder: Path) -> None:
    """Version 1 of `name` is the folder as it is: a model that is logged twice has two ids in its MLmodel file."""
    import mlflow

    with tracking(uri):
        client = mlflow.MlflowClient()
        experiment = client.get_experiment_by_name("training")
        run = client.create_run(experiment.experiment_id if experiment else client.create_experiment("training"))
        client.log_artifacts(run.info.run_id, str(folder), "model")
        client.set_terminated(run.info.run_id)
        client.create_registered_model(name)
        client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id)
        client.set_registered_model_alias(name, "candidate", "1")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("matrix")
    (folder / "server").mkdir()
    members = records(1)
    written(members, folder / "members.parquet")
    written(records(2), folder / "nonmembers.parquet")
    for n, c in {"nets": M.TEAM, "lightning": M.LIGHTNING, "pipeline": M.PIPELINE, "late": M.PYFUNC}.items():
        (folder / f"{n}.py").write_text(c)
    import sys
    sys.path.insert(0, str(folder))
    with mlflow_server(folder / "server") as server:
        embedded = embedded_registry(folder)
        for name, kind in KINDS.items():
            t = cpu()
            kind.save(members, folder, folder / name)
            t1 = cpu()
            register(embedded, name, folder / name)
            t2 = cpu()
            register(server, name, folder / name)
            print(name, "save", t1 - t, "embedded", t2 - t1, "server", cpu() - t2)
        yield World(folder, embedded, server)


@pytest.mark.parametrize("name", KINDS)
def test_a_verdict(world, name, monkeypatch, capfd):
    from privacy_gate.cli import run
    import yaml
    monkeypatch.chdir(world.folder)
    monkeypatch.setattr("privacy_gate.shadows.train.usable_cores", lambda: 1)
    kind = KINDS[name]
    reports = []
    for uri in (world.embedded, world.server):
        config = {
            "apiVersion": "privacy-gate/v1", "model": f"models:/{name}@candidate", "tracking_uri": uri,
            "data": {"members": "members.parquet", "nonmembers": "nonmembers.parquet", "label": kind.label, "schema": SCHEMA, **kind.data},
            "shadows": {"count": 4, "recipe": dict(kind.recipe)},
            "attacks": ["correctness", "confidence", "lira"],
        }
        if kind.output is not None:
            config["output"] = kind.output
        (world.folder / "c.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        t = cpu()
        code = run(["check", "-c", "c.yaml", "--store", "store", "--out", "out", "--no-mlflow-log"])
        told = capfd.readouterr()
        print(name, code, cpu() - t)
        print(told.err[-3000:])
        if code > 1: continue
        report = json.loads((world.folder / "out/report.json").read_text())
        print([(r["id"], r["status"], r.get("value"), r.get("source")) for r in report["rules"]])
        print(report["run"])
        reports.append(report)
    assert reports
