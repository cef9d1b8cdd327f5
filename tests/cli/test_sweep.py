"""`privacy-gate sweep`: once over all versions; its exit code is the worst verdict."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from privacy_gate import registry as registries
from privacy_gate.cli import run
from privacy_gate.errors import RegistryUnreachable
from privacy_gate.registry.in_memory import InMemoryRegistry
from privacy_gate.service import Judged, Key, State, Terms, worker
from privacy_gate.service.queue import Queue, open_queue
from privacy_gate.service.subscriptions import Subscribed, terms
from privacy_gate.service.writeback import settle

CONFIG = {"apiVersion": "privacy-gate/v1", "data": {"members": "in.csv", "nonmembers": "out.csv"}}
Clock = Callable[[], float]
VERDICTS = {  # what a model's file says -> status, exit code, last day
    "good": ("pass", 0, "9999-12-31"),
    "leaky": ("fail", 1, None),
    "small": ("inconclusive", 4, None),
}


@pytest.fixture
def registry(tmp_path, monkeypatch) -> InMemoryRegistry:
    """In a folder with subscriptions; a worker takes the word of a model's file for its verdict."""
    made = InMemoryRegistry()
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("PRIVACY_GATE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(registries, "open_registry", lambda *_: made)
    monkeypatch.setattr(worker, "work_one", work_one)
    Path("privacy-gate.yaml").write_text(yaml.safe_dump(CONFIG))
    content = {"apiVersion": "privacy-gate/subscriptions/v1", "service": {"attempts": 2}}
    content["subscriptions"] = [{"name": "churn*", "config": "privacy-gate.yaml"}]
    Path("subscriptions.yaml").write_text(yaml.safe_dump(content))
    return made


def register(registry: InMemoryRegistry, *kinds: str, name: str = "churn") -> None:
    for kind in kinds:
        folder = Path("models", f"{name}-{len(registry.models.get(name, {})) + 1}").absolute()
        folder.mkdir(parents=True)
        (folder / "MLmodel").write_text("flavors:\n  sklearn:\n    pickled_model: kind\n")
        (folder / "kind").write_text(kind)
        registry.add(name, folder)


def work_one(
    subscribed: Subscribed, registry: InMemoryRegistry, queue: Queue, name: str, clock: Clock = time.time, **_: object
) -> bool:
    """In the place of the real one, which takes a process and seconds."""
    job = queue.claim(name, {}, 60.0, clock(), subscribed.value.service.attempts)
    if job is None:
        return False
    version = registry.version(job.name, job.version)
    assert version is not None
    by: Terms = terms(subscribed, subscribed.value.subscriptions[0], version)
    assert queue.tries(job, by, clock())
    folder = registry.models[job.name][job.version].folder
    kind = (folder / "kind").read_text()
    if kind == "refused":
        return queue.park(job, "it runs code \x1b[31mwhen it is loaded", None, clock())
    if kind == "broken":
        return queue.fail(job, "the recipe raised", None, subscribed.value.service.attempts, 0.0, clock()) is not None
    key = Key(registry.resolve(job.uri, Path("work").absolute()).digest, by)
    status, code, until = VERDICTS[kind]
    queue.record(Judged(key, status, code, f"it is {kind}", "r1", None, until, clock()))
    settle(registry, queue, subscribed, job.name, verify=False, now=clock(), known={job.version: key})
    return queue.finish(job, status, key, by, clock())


@pytest.mark.parametrize(
    ("kinds", "code"),
    [
        (["good"], 0),
        (["good", "small"], 4),
        (["good", "small", "broken"], 3),
        (["good", "small", "broken", "leaky"], 1),
        (["good", "small", "broken", "leaky", "refused"], 2),
        ([], 4),
    ],
)
def test_the_exit_code_is_the_worst_verdict(registry, capsys, kinds, code):
    register(registry, *kinds)
    assert run(["sweep"]) == code
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == len(kinds)
    assert "\x1b" not in told.out + told.err
    assert f"{len(kinds)} versions are covered" in told.err
    if kinds:
        assert "✔ models:/churn/1  pass" in told.out
        assert run(["sweep"]) == code  # what is known is not judged again
        assert "0 were asked for" in capsys.readouterr().err
    else:
        assert "no version is covered" in told.err


def test_without_subscriptions_it_says_how_to_begin(registry, capsys):
    assert run(["sweep", "--subscriptions", "none.yaml"]) == 2
    assert "privacy-gate serve --example" in capsys.readouterr().err


def test_exit_zero_turns_1_into_0_and_nothing_else(registry, capsys):
    register(registry, "leaky")
    assert run(["sweep", "--exit-zero"]) == 0
    assert "because you asked for it" in capsys.readouterr().err
    register(registry, "refused")
    assert run(["sweep", "--exit-zero"]) == 2


def test_no_run_only_queues(registry, capsys, tmp_path):
    register(registry, "leaky", "good")
    assert run(["sweep", "--no-run"]) == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert "models:/churn/1: it was never judged" in told.err
    queue = open_queue(f"sqlite:///{tmp_path}/privacy-gate-service/queue.db")
    assert queue.counts()[State.QUEUED] == 2
    queue.close()
    assert run(["sweep"]) == 1


def test_for_machines(registry, capsys):
    register(registry, "good", "leaky")
    register(registry, "good", name="fraud")
    assert run(["sweep", "--json", "--jobs", "2"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["exit_code"] == 1
    assert [(row["version"], row["status"], row["exit_code"]) for row in told["versions"]] == [
        ("1", "pass", 0),
        ("2", "fail", 1),
    ]
    assert (told["covered"], told["unknown_models"], told["failures"]) == (2, 1, 0)
    assert (told["queued"], told["broken"], told["errors"], told["moved"]) == (2, 0, [], [])
    assert [row["why"] for row in told["asked"]] == ["it was never judged"] * 2


def test_files_are_hashed_anew_unless_told_otherwise(registry, capsys):
    register(registry, "good")
    assert run(["sweep"]) == 0
    Path("models/churn-1/kind").write_text("leaky")
    assert run(["sweep", "--quick"]) == 0
    assert run(["sweep"]) == 1
    told = capsys.readouterr()
    assert "its files changed" in told.err
    assert "privacy-approved of churn: 1 -> nothing" in told.err


def test_a_registry_that_does_not_answer_is_3(registry, capsys, monkeypatch):
    register(registry, "good")

    def versions(self):
        raise RegistryUnreachable("no answer", "is it up?")

    monkeypatch.setattr(InMemoryRegistry, "versions", versions)
    assert run(["sweep"]) == 3
    assert "no answer" in capsys.readouterr().err


def test_one_version_that_cannot_be_looked_at_is_3_beside_a_pass(registry, capsys, monkeypatch):
    register(registry, "good")
    register(registry, "good", name="churn-eu")
    assert run(["sweep"]) == 0
    whole = InMemoryRegistry.resolve

    def resolve(self, uri, into):
        if "churn-eu" in uri:
            raise RegistryUnreachable("no answer", "")
        return whole(self, uri, into)

    monkeypatch.setattr(InMemoryRegistry, "resolve", resolve)
    assert run(["sweep"]) == 3
    assert "error: models:/churn-eu/1: no answer" in capsys.readouterr().err
    assert run(["sweep", "--no-run"]) == 3


def test_a_file_that_is_wrong_is_2(registry, capsys):
    Path("subscriptions.yaml").write_text("apiVersion: nothing\n")
    assert run(["sweep"]) == 2
    assert "subscriptions.yaml:1:13" in capsys.readouterr().err
