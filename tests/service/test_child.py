"""What a job's file becomes: a request by the service's own terms, or a refusal that says where the mistake is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from privacy_gate import pipeline
from privacy_gate.errors import DataError, StorageFailed, UsageError
from privacy_gate.registry.in_memory import InMemoryRegistry
from privacy_gate.service import child, run_config
from privacy_gate.service.child import Order, requested

CONFIG = {"apiVersion": "privacy-gate/v1", "data": {"members": "in.csv", "nonmembers": "out.csv"}}
RUN = "0123456789abcdef"


@pytest.fixture
def order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Order]:
    for name in ("PRIVACY_GATE_STORE", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "PRIVACY_GATE_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)

    def make(config: dict[str, Any] | None = None, **options: Any) -> Order:
        (tmp_path / "privacy-gate.yaml").write_text(yaml.safe_dump(CONFIG | (config or {})))
        given = {
            "model": "models:/churn/7",
            "config": tmp_path / "privacy-gate.yaml",
            "out": tmp_path / "job" / "out",
            "store": tmp_path / "store",
        }
        return Order.model_validate(given | options)

    return make


def test_the_services_terms_win_over_the_configs(order: Callable[..., Order], tmp_path: Path) -> None:
    found = requested(
        order(
            {"tracking_uri": "http://config", "model": "models:/other/1"},
            tracking_uri="http://service",
            registry_uri="http://registry",
            profile="strict",
            suite="fast",
            waivers=tmp_path / "waivers.yaml",
        ),
        tmp_path,
    )
    assert found.config is not None
    assert (found.config.tracking_uri, found.config.registry_uri) == ("http://service", "http://registry")
    assert (found.model, found.profile, found.suite, found.trust) == ("models:/churn/7", "strict", "fast", "data")
    assert (found.waivers, found.out) == (tmp_path / "waivers.yaml", tmp_path / "job" / "out")
    assert (found.exit_zero, found.mlflow_log, found.records, found.notes) == (False, True, "none", ())
    assert found.config.data.members.path == "in.csv"


def test_a_config_that_names_a_registry_of_its_own_keeps_it_where_the_service_names_none(
    order: Callable[..., Order], tmp_path: Path
) -> None:
    found = requested(order({"tracking_uri": "http://config"}), tmp_path)
    assert found.config is not None
    assert (found.config.tracking_uri, found.config.registry_uri) == ("http://config", None)


@pytest.mark.parametrize(
    ("config", "environment", "store"),
    [({}, None, "store"), ({"store": "own"}, None, None), ({}, "elsewhere", None)],
    ids=["the service's", "the config's", "the environment's"],
)
def test_which_store(
    order: Callable[..., Order],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: dict[str, str],
    environment: str | None,
    store: str | None,
) -> None:
    if environment:
        monkeypatch.setenv("PRIVACY_GATE_STORE", environment)
    found = requested(order(config), tmp_path).store
    assert found == (None if store is None else tmp_path / store)


def test_files_are_found_beside_the_config_even_if_that_is_a_link(order: Callable[..., Order], tmp_path: Path) -> None:
    """A mounted config map keeps its files in a folder of another name, with links to them."""
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    (mounted / "privacy-gate.yaml").symlink_to(tmp_path / "privacy-gate.yaml")
    linked = order().model_copy(update={"config": mounted / "privacy-gate.yaml"})
    assert requested(linked, tmp_path).config_dir == mounted


def test_records_of_the_run_take_the_place_of_the_configs_and_the_report_will_say_so(
    order: Callable[..., Order], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts = tmp_path / "artifacts" / "privacy_gate"
    artifacts.mkdir(parents=True)
    (artifacts / "data.yaml").write_text("members: a.csv\nnonmembers: b.csv\nlabel: sick\n")
    registry = InMemoryRegistry(runs={RUN: artifacts.parent})
    monkeypatch.setattr("privacy_gate.registry.open_registry", lambda *_: registry)
    found = requested(order(records={"run": RUN}), tmp_path / "work")
    assert found.config is not None
    assert found.config.data.members.path == f"runs:/{RUN}/privacy_gate/a.csv"
    assert found.config.data.label == "sick"
    assert found.notes == (run_config.note(RUN),)
    assert "is not checked by anybody" in found.notes[0]


@pytest.mark.parametrize("closed", ["state", "store"])
def test_the_services_own_folders_are_closed_to_a_run(
    order: Callable[..., Order], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    (tmp_path / closed).mkdir()
    (tmp_path / closed / "a.csv").write_text("y\n1\n")
    artifacts = tmp_path / "artifacts" / "privacy_gate"
    artifacts.mkdir(parents=True)
    (artifacts / "data.yaml").write_text(f"members: {tmp_path}/{closed}/a.csv\nnonmembers: b.csv\n")
    monkeypatch.setattr(
        "privacy_gate.registry.open_registry", lambda *_: InMemoryRegistry(runs={RUN: artifacts.parent})
    )
    records = {"run": RUN, "roots": [str(tmp_path)], "closed": [str(tmp_path / "state")]}
    with pytest.raises(UsageError, match="the service's own files"):
        requested(order(records=records), tmp_path / "work")


# --- what the process says ------------------------------------------------------------------------------------------


def run(order: Order, tmp_path: Path) -> int:
    (tmp_path / "job").mkdir(exist_ok=True)
    (tmp_path / "job.json").write_text(order.model_dump_json())
    return child.main(str(tmp_path / "job.json"))


def test_a_mistake_in_the_config_has_its_line(
    order: Callable[..., Order], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(order({"seeed": 5}), tmp_path) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: privacy-gate.yaml:5:1: error[extra_forbidden]: seeed:")
    assert "did you mean 'seed'" in said


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (DataError("no\x1b[2J label", "add\nit"), 2, "error: no label\nhint: add\nit\n"),
        (StorageFailed("full"), 3, "error: full\n"),
        (ValueError("patient 4711 is positive"), 3, "error: unexpected ValueError in "),
        (RecursionError("patient 4711"), 3, "error: unexpected RecursionError in "),
    ],
)
def test_errors_are_told_in_the_gates_own_words_alone(
    order: Callable[..., Order],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    code: int,
    said: str,
) -> None:
    def check(*_: object) -> None:
        raise error

    monkeypatch.setattr(pipeline, "check", check)
    assert run(order(), tmp_path) == code
    told = capsys.readouterr().err
    assert told.startswith(said)
    assert "4711" not in told


def test_a_file_that_is_no_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "job.json").write_text(json.dumps({"model": "models:/churn/7", "command": ["sh"]}))
    assert child.main(str(tmp_path / "job.json")) == 2
    assert "job.json: not a job" in capsys.readouterr().err
    assert child.main(str(tmp_path / "missing.json")) == 2
