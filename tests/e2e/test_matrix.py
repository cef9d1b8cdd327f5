"""Every kind of model gets its verdict, from an embedded registry and from a server's, and the same from both.

At each commit: one of each family from both registries; its relatives from the embedded one, with shadows where these
are trained by code of their own, else on what the records tell alone. At night: all fourteen kinds with shadows from
both. What a registry hands out is the same, byte for byte; that each kind is loaded, asked and judged is not.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from privacy_gate import inputs
from privacy_gate.cli import run as command_line
from privacy_gate.registry.snapshot import digest
from tests.e2e.conftest import Examine, Run, spare_processes
from tests.e2e.matrix_models import FILES, KINDS, SCHEMA, records, write
from tests.mlflow_server import embedded_registry, mlflow_server, tracking

pytestmark = [pytest.mark.slow, pytest.mark.server]

SHADOWS = 4
# (trained, from the store): what comes second finds all of them, and some kinds share theirs with an earlier one.
TRAINED = {"embedded": {(SHADOWS, 0), (0, SHADOWS)}, "server": {(0, SHADOWS)}}


def register(uri: str, name: str, folder: Path) -> None:
    """Version 1 of `name` is the folder as it is: a model that is logged anew is given another id, inside its files.

    Nothing is done where it is registered already.
    """
    import mlflow

    with tracking(uri):
        if mlflow.MlflowClient().search_registered_models(f"name = '{name}'"):
            return
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
def embedded(team: Path) -> str:
    """URI of an empty embedded registry."""
    return embedded_registry(team)


@pytest.fixture(scope="module")
def server(team: Path) -> Iterator[str]:
    """URI of an empty server, which hands out the artifacts itself."""
    (team / "server").mkdir()
    with mlflow_server(team / "server") as uri:
        yield uri


def saved(name: str, team: Path) -> Path:
    """The model folder of this kind; it is saved once, whoever asks."""
    folder = team / "saved" / name
    if not folder.exists():
        KINDS[name].save(records(1), team, folder)
    return folder


def config(name: str, uri: str, shadows: int) -> dict[str, Any]:
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
        "shadows": {"count": shadows, "recipe": dict(kind.recipe)} if shadows else {"count": 0},
        "attacks": ["correctness", "confidence", *(["lira"] if shadows else [])],
    }
    return asked if kind.output is None else {**asked, "output": kind.output}


def beside_the_run(report: Any) -> Any:
    """All of a report but what tells when it was made, and of which registry's run the model is."""
    kept = {key: value for key, value in report.items() if key not in ("run", "integrity")}
    return {**kept, "subject": {key: value for key, value in kept["subject"].items() if key != "run_id"}}


def blocking(report: Any, status: str) -> set[str]:
    """The rules that block with this status."""
    return {rule["id"] for rule in report["rules"] if (rule["status"], rule["action"]) == (status, "block")}


def verdict_tag(uri: str, name: str) -> str:
    """What the registry itself says of version 1."""
    from mlflow import MlflowClient

    version = MlflowClient(tracking_uri=uri, registry_uri=uri).get_model_version(name, "1")
    return str(version.tags["privacy_gate.verdict"])


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """What it returns the first time, for ever."""
    known: list[Any] = []

    def ask(*given: Any) -> Any:
        known[:] = known or [function(*given)]
        return known[0]

    return ask


Check = Callable[[str, str, str, int], Run]


@pytest.fixture
def check(
    team: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    examine_once: Examine,
) -> Check:
    """Run `privacy-gate check` of a kind in a registry: in this process, with all that it does in others."""
    monkeypatch.chdir(team)
    for variable in [n for n in os.environ if n.startswith(("MLFLOW_", "PRIVACY_GATE_"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    # A model of one digest is the same bytes wherever it is registered: it is asked once.
    spare_processes(monkeypatch, examine_once)
    # What the records tell without any model: the same both times.
    monkeypatch.setattr("privacy_gate.pipeline.look", once(inputs.look))

    def run(name: str, where: str, uri: str, shadows: int) -> Run:
        path, out = team / f"{name}.yaml", tmp_path / where
        path.write_text(yaml.safe_dump(config(name, uri, shadows), sort_keys=False))
        capfd.readouterr()
        code = command_line(["check", "--config", str(path), "--store", str(team / "store"), "--out", str(out)])
        told = capfd.readouterr()
        return Run(code, told.out, told.err, out)

    return run


RELATIVES = {
    "random-forest", "histogram-boosting", "lightgbm-booster", "xgboost", "lightning", "pytorch-pickle",
    "pyfunc-logits", "pyfunc-probabilities", "pyfunc-column",
}  # fmt: skip
# Their shadows come from a function or a factory, as those of pyfunc-labels and pytorch-pt2 do. The others are clones,
# which are made of each kind by code of its own.
NO_CLONES = {"lightning", "pytorch-pickle", "pyfunc-logits", "pyfunc-probabilities", "pyfunc-column"}


def test_each_kind_has_its_time() -> None:
    assert set(KINDS) > RELATIVES > NO_CLONES
    assert {name for name in RELATIVES if "clone" not in KINDS[name].recipe} == NO_CLONES
    recipes = [KINDS[name].recipe.keys() for name in KINDS if name not in RELATIVES]
    assert all(KINDS[name].recipe.keys() in recipes for name in NO_CLONES)


def require_failed(name: str, uri: str, folder: Path, run: Run) -> None:
    """It got its verdict, for what it is, and the registry says so."""
    kind = KINDS[name]
    assert run.code == 1, run.stderr
    assert "✖ FAIL PG101 attack accuracy" in run.said
    report = run.document()
    assert report.subject.flavor == kind.flavor
    assert report.subject.digest == digest(folder)  # byte for byte what was saved
    assert report.run.mlflow is not None
    assert verdict_tag(uri, name) == "fail"
    assert blocking(run.report, "fail") >= kind.violated
    assert blocking(run.report, "inconclusive") >= kind.undecided


def require_shadows(where: str, run: Run) -> None:
    """They were trained, and behave as the candidate does, among other things."""
    cache = run.document().run.cache
    assert (cache.trained, cache.cached) in TRAINED[where]
    assert run.report["shadows"]["count"] == SHADOWS
    assert "PG502" in blocking(run.report, "pass")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.nightly] if name in RELATIVES else []) for name in KINDS]
)
def test_it_fails_wherever_it_is_registered(name: str, team: Path, embedded: str, server: str, check: Check) -> None:
    folder, runs = saved(name, team), {}
    for where, uri in {"embedded": embedded, "server": server}.items():
        register(uri, name, folder)
        runs[where] = check(name, where, uri, SHADOWS)
        require_failed(name, uri, folder, runs[where])
        require_shadows(where, runs[where])
    assert beside_the_run(runs["server"].report) == beside_the_run(runs["embedded"].report)


@pytest.mark.parametrize("name", [name for name in KINDS if name in RELATIVES])
def test_a_relative_fails(name: str, team: Path, embedded: str, check: Check) -> None:
    folder, shadows = saved(name, team), 0 if name in NO_CLONES else SHADOWS
    register(embedded, name, folder)
    run = check(name, "embedded", embedded, shadows)
    require_failed(name, embedded, folder, run)
    if shadows:
        require_shadows("embedded", run)
