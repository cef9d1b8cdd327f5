"""--trust data: what runs code when it is loaded is refused, before anything of it is loaded."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import yaml

from privacy_gate.cli import run


class _Bomb:
    """Leaves a trace where it is loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.fixture
def team(tmp_path, monkeypatch):
    """A config, a model that is a pickle, and one that is text."""
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "PRIVACY_GATE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PRIVACY_GATE_DEBUG", "")
    monkeypatch.setenv("PRIVACY_GATE_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    pickled, text = tmp_path / "pickled", tmp_path / "text"
    pickled.mkdir()
    (pickled / "MLmodel").write_text("flavors:\n  sklearn:\n    pickled_model: model.pkl\n")
    (pickled / "model.pkl").write_bytes(pickle.dumps(_Bomb(tmp_path / "trace")))
    text.mkdir()
    flavor = "    loader_module: mlflow.lightgbm\n    data: model.lgb\n"
    (text / "MLmodel").write_text(f"flavors:\n  lightgbm:\n    data: model.lgb\n  python_function:\n{flavor}")
    (text / "model.lgb").write_text("tree\n")

    def config(**changes):
        data = {"members": "in.csv", "nonmembers": "out.csv"}
        (tmp_path / "privacy-gate.yaml").write_text(
            yaml.safe_dump({"apiVersion": "privacy-gate/v1", "data": data, "attacks": ["correctness"], **changes})
        )

    config()
    return config


def check(*arguments):
    return run(["check", *arguments, "--out", "out", "--no-mlflow-log"])


def test_a_pickle_is_refused_and_nothing_of_it_runs(team, tmp_path, capsys):
    assert check("pickled", "--trust", "data") == 2
    said = capsys.readouterr().err
    assert "runs code when it is loaded, and only data is trusted" in said
    assert "trust: code" in said
    assert not (tmp_path / "trace").exists()
    assert not (tmp_path / "out" / "report.json").exists()


def test_without_it_the_same_pickle_is_taken_on(team, capsys):
    assert check("pickled") == 2
    assert "in.csv: no such file" in capsys.readouterr().err, "it came as far as the records"


def test_a_model_that_is_data_is_taken_on(team, capsys):
    assert check("text", "--trust", "data") == 2
    assert "in.csv: no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        {"frontier": {"checkpoints": ["pickled"]}},
        {"environment": "model"},
    ],
    ids=["a checkpoint", "the model's own requirements"],
)
def test_a_model_that_is_data_brings_no_code_by_a_way_around(team, tmp_path, capsys, change):
    team(**change)
    assert check("text", "--trust", "data") == 2
    assert "which runs code, and only data" in (said := capsys.readouterr().err) or "runs code when it is" in said
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["text", "--trust", "everybody"], "--trust: Input should be 'data' or 'code'"),
        (["--observations", "x.npz", "--trust", "data"], "--observations loads no model; --trust has no meaning"),
    ],
)
def test_wrong_uses(team, capsys, arguments, message):
    assert check(*arguments) == 2
    assert message in capsys.readouterr().err
