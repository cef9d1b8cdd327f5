"""Receiver, worker and MLflow server die at random while versions are registered: none lost, none judged by halves."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.e2e.conftest import people
from tests.service_world import FEATURES, World, until

pytestmark = [pytest.mark.server, pytest.mark.slow]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, service={"sweep_every": "2s", "lease": "3s", "attempts": 50})
    made.write(people, {"name": "*", "concurrency": 2})
    try:
        yield made
    finally:
        made.end()


class Chaos(threading.Thread):
    """Kills what it is told to at random, and starts it again after a while."""

    def __init__(self, world: World, seed: int) -> None:
        super().__init__(daemon=True)
        self.world, self.random, self.enough = world, random.Random(seed), threading.Event()
        self.killed: Counter[str] = Counter()

    def run(self) -> None:
        # Each of them at least once, whatever the dice say.
        orders = ["worker", "receiver", "server", "worker", "receiver"]
        while not self.enough.wait(self.random.uniform(1.0, 4.0)):
            what = orders.pop() if orders else self.random.choice(["worker", "worker", "receiver", "server"])
            self.killed[what] += 1
            if what == "worker":
                for pid in self.world.workers()[:1]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            elif what == "receiver":
                self.world.kill()
                self.enough.wait(self.random.uniform(0.0, 1.0))
                self.world.serve()
            else:
                self.world.mlflow.kill()
                self.enough.wait(self.random.uniform(0.0, 2.0))
                self.world.mlflow.start()
                self.world.mlflow.wait()


@pytest.mark.parametrize(
    ("versions", "contents", "kills"), [(12, 2, 3), pytest.param(50, 10, 12, marks=pytest.mark.nightly)]
)
def test_every_version_ends_with_one_verdict(world: World, versions: int, contents: int, kills: int) -> None:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

    world.mlflow.start()
    world.serve()
    world.mlflow.wait()
    world.wait()
    world.webhook()
    members = pd.read_csv(world.folder / "members.csv")
    x, y = members[FEATURES], members["sick"]
    # Every second content leaks. Versions share them: what is judged once is not judged again.
    sources = [
        world.log(
            (RandomForestClassifier(10, random_state=n) if n % 2 else LogisticRegression(C=1e-3 + n * 1e-5)).fit(x, y)
        )
        for n in range(contents)
    ]
    with world.client() as client:
        client.create_registered_model("m")
    began = time.monotonic()
    chaos = Chaos(world, seed=6)
    chaos.start()
    registered: dict[str, int] = {}
    for number in range(versions):
        content = number % contents

        def register(content: int = content) -> str:
            return world.register("m", sources[content])

        # The server may be gone; or gone after it wrote the version, which then is one more.
        registered[until("the registration", register)] = content
    until("the dead", lambda: len(chaos.killed) == 3 and chaos.killed.total() >= kills)
    chaos.enough.set()
    chaos.join(60)
    world.mlflow.wait()

    def versions_of() -> list[str]:
        with world.client() as client:
            return [str(v.version) for v in client.search_model_versions("name='m'", max_results=1000)]

    known = until("the registry", versions_of)
    assert set(registered) <= set(known)
    until("the service", lambda: world.get("/healthz")[0] == 200)

    def verdicts() -> dict[str, str]:
        with world.client() as client:
            tags = {str(v.version): v.tags for v in client.search_model_versions("name='m'", max_results=1000)}
        found = {version: told["privacy_gate.verdict"] for version, told in tags.items()}  # all, or not yet
        assert {job["state"] for job in world.jobs()} == {"done"}
        return found

    found = until("a verdict of every version", verdicts, 300.0 if versions < 20 else 900.0)
    for version, content in registered.items():
        assert found[version] == ("fail" if content % 2 else "pass"), version
    passing = max(int(version) for version, verdict in found.items() if verdict == "pass")
    until("the alias", lambda: world.approved("m") == str(passing))
    # One verdict for each content, one job for each version.
    with contextlib.closing(sqlite3.connect(next((world.folder / "state").glob("*.db")))) as queue:
        count = "SELECT count(*), count(DISTINCT {}) FROM privacy_gate_{}"
        assert queue.execute(count.format("model_sha256", "verdicts")).fetchone() == (contents, contents)
        assert queue.execute(count.format("version", "jobs")).fetchone() == (len(known), len(known))
    with world.client() as client:
        experiment = client.get_experiment_by_name("privacy-gate").experiment_id
        runs = len(client.search_runs([experiment], max_results=1000))
    print(
        f"{len(known)} versions of {contents} contents, kills {dict(chaos.killed)}, evidence runs {runs},"
        f" {time.monotonic() - began:.0f} s to the last verdict"
    )
