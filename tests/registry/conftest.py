"""Three registries with the same content: in memory, embedded sqlite, and behind a real server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from privacy_gate.registry import Registry, open_registry
from privacy_gate.registry.in_memory import Entry, InMemoryRegistry
from tests.mlflow_server import embedded_registry, mlflow_server, tracking

EVIL = "\x1b]0;owned\x07red\x1b[31m\nline\u202e"  # a title, a colour, a line break and a direction override
CLEAN = "red line"


@dataclass(frozen=True)
class World:
    """A registry with model `churn`: versions 1 and 2, alias `candidate` on 1, trained in `run`.

    database  of the real ones: for what cannot be brought about otherwise
    """

    registry: Registry
    run: str
    uri: str | None = None
    database: Path | None = None


def estimator(seed: int = 0):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, 4))
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(x, (x[:, 0] > 0).astype(int))


def populate(uri: str, folder: Path) -> str:
    """Log, register and describe `churn` in a real MLflow; returns the id of the training run."""
    import mlflow

    with tracking(uri):
        mlflow.set_experiment("training")
        split = folder / "split.npz"
        np.savez(split, x=np.arange(6.0))
        with mlflow.start_run() as run:
            mlflow.log_params({"depth": 3, "note": EVIL})
            mlflow.log_metric("accuracy", 0.75)
            mlflow.set_tags({"defence": "none", "stage": "from run"})
            mlflow.log_input(mlflow.data.from_numpy(np.eye(3), name="train set"), context="training")
            mlflow.log_artifact(str(split), "privacy_gate")
            mlflow.sklearn.log_model(estimator(), name="model", pip_requirements=[], registered_model_name="churn")
        with mlflow.start_run():
            mlflow.sklearn.log_model(estimator(1), name="model", pip_requirements=[], registered_model_name="churn")
        client = mlflow.MlflowClient()
        client.set_registered_model_alias("churn", "candidate", "1")
        client.set_model_version_tag("churn", "1", "stage", "from version")
        client.set_model_version_tag("churn", "1", "evil", EVIL)
        client.copy_model_version("models:/churn/1", "churn-copy")
        mlflow.set_experiment("Default")
    return run.info.run_id


@pytest.fixture(scope="session")
def in_memory(tmp_path_factory) -> World:
    import mlflow.sklearn

    folder = tmp_path_factory.mktemp("in_memory")
    registry = InMemoryRegistry()
    for seed in (0, 1):
        mlflow.sklearn.save_model(estimator(seed), str(folder / f"v{seed}"), pip_requirements=[])
    tags = {"defence": "none", "stage": "from version", "evil": EVIL}
    registry.add("churn", folder / "v0", "candidate", Entry(folder / "v0", tags, {"note": EVIL}, {"accuracy": 0.75}))
    registry.add("churn", folder / "v1")
    registry.add("churn-copy", folder / "v0")
    run = folder / "run"
    (run / "privacy_gate").mkdir(parents=True)
    np.savez(run / "privacy_gate" / "split.npz", x=np.arange(6.0))
    (run / "model").symlink_to(folder / "v0")
    registry.runs["0" * 32] = run
    return World(registry, "0" * 32)


@pytest.fixture(scope="session")
def embedded(tmp_path_factory) -> World:
    folder = tmp_path_factory.mktemp("embedded")
    uri = embedded_registry(folder)
    run = populate(uri, folder)
    return World(open_registry(uri, None), run, uri, folder / "mlflow.db")


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("server")
    with mlflow_server(folder) as uri:
        run = populate(uri, folder)
        yield World(open_registry(uri, None), run, uri, folder / "server.db")


@pytest.fixture(params=["in_memory", "embedded", pytest.param("server", marks=[pytest.mark.server, pytest.mark.slow])])
def world(request) -> World:
    return request.getfixturevalue(request.param)
