"""`environment:` and `--device` on the command line."""

import importlib.util
import json
import os
import time
from pathlib import Path

import pytest

from privacy_gate.cli import doctor as verb
from privacy_gate.cli import run
from privacy_gate.request import Config, DataManifest, Source
from privacy_gate.shadows.store import Store
from tests.sandbox import elsewhere


def configured(environment):
    return Config(data=DataManifest(members=Source(path="a"), nonmembers=Source(path="b")), environment=environment)


def test_doctor_looks_at_the_interpreter(tmp_path):
    python = elsewhere.make(tmp_path / "env")
    [found] = verb._environment(configured("env/bin/python"), tmp_path)
    assert found.status == "ok"
    assert str(python) in found.detail
    [found] = verb._environment(configured("nothing/python"), tmp_path)
    assert (found.status, int(found.code)) == ("fail", 2)
    assert "No such file" in found.detail
    assert verb._environment(configured("current"), tmp_path) == []


def test_doctor_knows_whether_environments_can_be_built(tmp_path, monkeypatch):
    [found] = verb._environment(configured("model"), tmp_path)
    assert found.status == "ok"
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ensurepip" else real(name))
    [found] = verb._environment(configured("model"), tmp_path)
    assert found.status == "fail"
    assert "ensurepip" in found.detail
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [["check"], ["plan"], ["shadows", "train"], ["defences", "compare"]])
def test_an_unknown_device_is_refused(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("privacy-gate.yaml").write_text("apiVersion: privacy-gate/v1\ndata: {members: a.csv, nonmembers: b.csv}\n")
    assert run([*command, "--device", "tpu"]) == 2
    assert "--device" in capsys.readouterr().err


def test_prune_removes_environments_that_were_not_used(tmp_path, capsys):
    root = Store(tmp_path / "store").root
    folder = root / "environments" / "aaaa"
    folder.mkdir(parents=True)
    (folder / "complete.json").write_text("{}")
    long_ago = time.time() - 100 * 86400
    os.utime(folder / "complete.json", (long_ago, long_ago))
    assert run(["shadows", "prune", "--store", str(root), "--dry-run"]) == 0
    said = capsys.readouterr()
    assert said.out == "environments/aaaa\n"
    assert "0 shadows and 1 environments would be removed" in said.err
    assert folder.exists()
    assert run(["shadows", "prune", "--store", str(root)]) == 0
    assert not folder.exists()
    capsys.readouterr()
    assert run(["shadows", "prune", "--store", str(root)]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.strip() == "0 shadows removed"


def test_finished_shadows_are_listed_as_before(tmp_path, capsys):
    assert run(["shadows", "list", "--store", str(Store(tmp_path / "store").root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
