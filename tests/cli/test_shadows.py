"""`privacy-gate shadows`: the store can be looked at, checked and pruned; looking makes nothing."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from privacy_gate import pipeline
from privacy_gate.cli import run
from privacy_gate.datamodel import Outputs
from privacy_gate.shadows.store import Store, Trained

KEYS = ["a" * 64, "b" * 64, "c" * 64]
DAY = 86400.0


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRIVACY_GATE_STORE", str(tmp_path / "store"))
    return tmp_path


@pytest.fixture
def store(here):
    """Three shadows, last used now, 10 and 100 days ago."""
    made = Store(here / "store")
    for key, days in zip(KEYS, (0, 10, 100), strict=True):
        made.put(key, Trained(Outputs(np.full((3, 2), 0.5), "probabilities"), 1.0, 0.5))
        then = time.time() - days * DAY
        os.utime(made.path(key), (then, then))
    return made


def listed(capsys):
    assert run(["shadows", "list", "--json"]) == 0
    return [row["key"] for row in json.loads(capsys.readouterr().out)]


def test_list_is_in_order_of_use(store, capsys):
    assert listed(capsys) == KEYS
    assert run(["shadows", "list"]) == 0
    captured = capsys.readouterr()
    assert [line.split()[0] for line in captured.out.splitlines()] == [key[:40] for key in KEYS]
    assert max(map(len, captured.out.splitlines())) <= 80
    assert captured.err.startswith("3 shadows")


def test_looking_makes_no_store(here, capsys):
    assert listed(capsys) == []
    assert run(["shadows", "verify"]) == 0
    assert run(["shadows", "prune"]) == 0
    assert list(here.iterdir()) == []


def test_a_store_that_was_named_must_exist(here, capsys):
    assert run(["shadows", "list", "--store", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_the_config_names_the_store(here, capsys):
    Store(here / "elsewhere").put(KEYS[0], Trained(Outputs(np.ones((1, 2)), "logits"), None, None))
    (here / "privacy-gate.yaml").write_text(
        "apiVersion: privacy-gate/v1\ndata: {members: a.csv, nonmembers: b.csv}\nstore: elsewhere\n"
    )
    assert listed(capsys) == [KEYS[0]]


def test_verify_names_what_is_corrupt_and_keeps_it(store, capsys):
    assert run(["shadows", "verify"]) == 0
    path = store.path(KEYS[1])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    capsys.readouterr()
    assert run(["shadows", "verify"]) == 3
    assert capsys.readouterr().out.split() == [KEYS[1]]
    assert KEYS[1] in store
    assert run(["shadows", "verify", "--delete"]) == 3  # it was there
    assert KEYS[1] not in store
    assert KEYS[0] in store
    assert run(["shadows", "verify"]) == 0


@pytest.mark.parametrize(("age", "gone"), [("90d", KEYS[2:]), ("1w", KEYS[1:]), ("4000h", [])])
def test_prune_by_age(store, capsys, age, gone):
    assert run(["shadows", "prune", "--older-than", age, "--dry-run"]) == 0
    captured = capsys.readouterr()
    assert captured.out.split() == gone
    assert "would be removed" in captured.err
    assert len(store.list()) == 3
    assert run(["shadows", "prune", "--older-than", age]) == 0
    assert capsys.readouterr().out.split() == gone
    assert {entry.key for entry in store.list()} == set(KEYS) - set(gone)


@pytest.mark.parametrize("age", ["", "90", "-1d", "1.5d", "two weeks"])
def test_an_age_that_is_none(store, age, capsys):
    assert run(["shadows", "prune", "--older-than", age]) == 2
    assert len(store.list()) == 3


def test_train_asks_the_pipeline_for_what_check_would_train(here, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(pipeline, "train_shadows", lambda request, progress: asked.append(request) or (3, 1))
    (here / "privacy-gate.yaml").write_text("apiVersion: privacy-gate/v1\ndata: {members: a.csv, nonmembers: b.csv}\n")
    arguments = ["models:/x@c", "--store", "s", "--seed", "7", "--jobs", "2"]
    assert run(["shadows", "train", *arguments]) == 0
    (request,) = asked
    assert (request.model, str(request.store), request.seed, request.jobs) == ("models:/x@c", "s", 7, 2)
    assert request.config is not None
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "3 shadows trained, 1 were there already" in captured.err


def test_as_a_program(store):
    command = [sys.executable, "-m", "privacy_gate", "shadows", "list", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert [row["key"] for row in json.loads(done.stdout)] == KEYS
