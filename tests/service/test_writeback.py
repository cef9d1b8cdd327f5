"""Where the alias ends up, whatever happened to versions, verdicts, terms and files; and what a version carries."""

from __future__ import annotations

import dataclasses
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privacy_gate.errors import EvaluationFailed, RegistryUnreachable
from privacy_gate.registry import RegisteredVersion
from privacy_gate.registry.in_memory import InMemoryRegistry
from privacy_gate.service import Judged, Key, Terms, Wanted, writeback
from privacy_gate.service.queue import Queue, open_queue
from privacy_gate.service.subscriptions import Subscribed, load
from privacy_gate.service.writeback import Settled, effective, publish, settle, tags_of

NOW = 1_800_000_000.0  # 2027-01-15
DAY = 86400.0
FAR = "2027-04-01"
ALIAS = "privacy-approved"
CONFIG = {"apiVersion": "privacy-gate/v1", "data": {"members": "in.csv", "nonmembers": "out.csv"}}


@dataclasses.dataclass
class World:
    """A registry, a queue, and one subscription."""

    folder: Path
    registry: InMemoryRegistry
    queue: Queue
    subscribed: Subscribed

    def subscribe(self, name: str = "churn*", **options: Any) -> None:
        (self.folder / "privacy-gate.yaml").write_text(yaml.safe_dump(CONFIG))
        one = {"name": name, "config": "privacy-gate.yaml", **options}
        content = {"apiVersion": "privacy-gate/subscriptions/v1", "subscriptions": [one]}
        path = self.folder / "subscriptions.yaml"
        path.write_text(yaml.safe_dump(content))
        self.subscribed = load(path)

    @property
    def terms(self) -> Terms:
        return next(iter(self.subscribed.terms.values()))

    def register(self, content: str, name: str = "churn") -> str:
        folder = self.folder / "models" / name / str(len(self.registry.models.get(name, {})) + 1)
        folder.mkdir(parents=True)
        (folder / "MLmodel").write_text("flavors:\n  sklearn:\n    pickled_model: model.skops\n")
        (folder / "model.skops").write_text(content)
        return self.registry.add(name, folder)

    def overwrite(self, version: str, content: str) -> None:
        (self.registry.models["churn"][version].folder / "model.skops").write_text(content)

    def key(self, version: str) -> Key:
        candidate = self.registry.resolve(f"models:/churn/{version}", self.folder / "work")
        return Key(candidate.digest, self.terms)

    def judge(self, version: str, code: int = 0, until: str | None = FAR, told: bool = True) -> Key:
        """As a worker does it; `told`: the queue knows what the version's verdict is about."""
        key = self.key(version)
        status = {0: "pass", 1: "fail", 4: "inconclusive"}[code]
        valid = until if code == 0 else None
        self.queue.record(Judged(key, status, code, "said", None, None, valid, NOW))
        if told:
            self.queue.request(Wanted("churn", version, "churn*"), NOW)
            job = self.queue.claim("w", {"churn*": 99}, 60.0, NOW)
            assert job is not None
            assert job.version == version
            assert self.queue.finish(job, status, key, key.terms, NOW)
        return key

    def settle(self, **options: Any) -> Settled:
        return settle(self.registry, self.queue, self.subscribed, "churn", **{"verify": False, "now": NOW, **options})

    @property
    def approved(self) -> str | None:
        return self.registry.alias("churn", ALIAS)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.chdir(tmp_path)
    queue = open_queue(f"sqlite:///{tmp_path}/queue.db")
    made = World(tmp_path, InMemoryRegistry(), queue, None)  # type: ignore[arg-type]
    made.subscribe()
    yield made
    queue.close()


# --- the alias ------------------------------------------------------------------------------------------------------


def test_it_moves_up_and_never_down_while_the_newer_one_passes(world: World) -> None:
    for content in "abc":
        world.register(content)
    world.judge("2")
    assert world.settle() == Settled(ALIAS, None, "2")
    world.judge("1")  # late: older ones are judged after newer ones
    assert not world.settle().moved
    world.judge("3")
    assert world.settle() == Settled(ALIAS, "2", "3")
    assert not world.settle().moved, "again is the same as once"
    assert world.approved == "3"


@pytest.mark.parametrize("code", [1, 4])
def test_a_newer_version_that_does_not_pass_takes_nothing_from_the_older_one(world: World, code: int) -> None:
    world.register("a")
    world.register("b")
    world.judge("1")
    world.settle()
    world.judge("2", code=code)
    assert not world.settle(verify=True).moved
    assert world.approved == "1"


def test_it_is_taken_from_a_version_whose_own_verdict_is_no_pass_any_more(world: World) -> None:
    world.register("a")
    world.register("b")
    world.judge("1")
    world.judge("2")
    assert world.settle().after == "2"
    world.judge("2", code=1)
    assert world.settle().after == "1", "the newest that still passes"
    world.judge("1", code=4)
    settled = world.settle()
    assert (settled.before, settled.after) == ("1", None)
    assert "version 1 has no pass for its present files and terms" in settled.notes


def test_changed_files_are_found_and_judged_again(world: World) -> None:
    world.register("a")
    world.judge("1")
    world.settle()
    world.overwrite("1", "poison")
    assert not world.settle().moved, "nothing speaks against it until its files are hashed again"
    assert world.settle(verify=True).after is None
    job = world.queue.job("churn", "1")
    assert job is not None
    assert (job.state, job.why) == ("queued", "its files changed")


def test_only_the_digest_of_the_moment_moves_it(world: World) -> None:
    world.register("a")
    world.judge("1")
    world.overwrite("1", "poison")
    assert not world.settle().moved
    assert world.approved is None


def test_a_verdict_by_other_terms_is_none(world: World) -> None:
    world.register("a")
    world.judge("1")
    world.settle()
    world.subscribe(profile="strict")
    assert world.settle().after is None
    world.judge("1")
    assert world.settle().after == "1"


def test_a_pass_ends_with_its_last_day(world: World) -> None:
    world.register("a")
    world.judge("1", until="2027-01-15")
    assert world.settle().after == "1"
    assert world.settle(now=NOW + DAY).after is None


def test_a_version_that_somebody_set_by_hand_loses_it(world: World) -> None:
    world.register("a")
    world.register("b")
    world.judge("1")
    world.registry.move_alias("churn", ALIAS, "2")
    assert world.settle() == Settled(ALIAS, "2", "1", ("version 2 has no pass for its present files and terms",))


def test_a_version_set_by_hand_whose_very_files_passed_keeps_it(world: World) -> None:
    world.register("a")
    world.register("a")
    world.judge("1")
    world.registry.move_alias("churn", ALIAS, "2")
    assert not world.settle().moved


def test_what_another_worker_judged_and_has_not_told_the_queue_yet_is_not_undone(world: World) -> None:
    world.register("a")
    world.register("b")
    newer = world.judge("2", told=False)
    assert world.settle(known={"2": newer}).after == "2"
    older = world.judge("1", told=False)
    assert not world.settle(known={"1": older}).moved
    assert world.approved == "2"


def test_who_passed_keeps_it_until_the_next_one_has_passed(world: World) -> None:
    """A new candidate must not leave a deployment without an approved version until it is judged."""
    world.subscribe(versions={"alias": "candidate"})
    world.register("a")
    world.register("b")
    world.registry.move_alias("churn", "candidate", "1")
    world.judge("1")
    assert world.settle().after == "1"
    world.registry.move_alias("churn", "candidate", "2")
    assert world.settle(verify=True).after == "1"
    world.judge("2", code=1)
    assert world.settle().after == "1"
    world.judge("2", code=0)
    assert world.settle().after == "2"


def test_a_model_that_nobody_subscribes_to_any_more_loses_it(world: World) -> None:
    world.register("a")
    world.judge("1")
    world.settle()
    world.subscribe("other*")
    assert world.settle() == Settled(ALIAS, "1", None, ("no subscription covers the model",))


def test_versions_are_numbers(world: World) -> None:
    for _ in range(10):
        world.register("a")
    world.judge("9")
    world.judge("10")
    assert world.settle().after == "10"


def test_a_registry_that_fails_leaves_it_where_it_is(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.register("a")
    world.register("b")
    world.judge("1")
    world.settle()
    world.judge("2")

    def gone(self: object, uri: str, into: Path) -> None:
        raise RegistryUnreachable("gone")

    with monkeypatch.context() as patch:
        patch.setattr(InMemoryRegistry, "resolve", gone)
        with pytest.raises(RegistryUnreachable):
            world.settle()
    assert world.approved == "1"
    assert world.settle().after == "2"


def test_files_that_are_no_model_any_more_pass_nothing(world: World) -> None:
    world.register("a")
    world.judge("1")
    world.settle()
    shutil.rmtree(world.registry.models["churn"]["1"].folder)
    assert world.settle(verify=True).after is None


def test_one_worker_at_a_time(world: World) -> None:
    world.register("a")
    world.judge("1")
    waits: list[float] = []
    with world.queue.hold("alias:churn", "other", 60.0, NOW) as mine:
        assert mine
        with pytest.raises(writeback.Busy):
            world.settle(wait=waits.append)
    assert sum(waits) == pytest.approx(writeback.PATIENCE, abs=0.5)
    assert world.approved is None
    with world.queue.hold("alias:fraud", "other", 60.0, NOW):
        assert world.settle().after == "1", "of another model it may"


def test_hashing_may_take_longer_than_an_alias_is_held(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a large model on a slow store would never be approved, and be downloaded again and again."""
    world.register("a")
    world.judge("1")
    monkeypatch.setattr(writeback, "HOLD", 0.3)
    resolve = InMemoryRegistry.resolve

    def slow(self: InMemoryRegistry, uri: str, into: Path) -> Any:
        ends = time.monotonic() + 1.0  # three times as long as it is held
        while time.monotonic() < ends:
            with world.queue.hold("alias:churn", "other", 60.0, NOW + 1.0 - (ends - time.monotonic())) as mine:
                assert not mine
            time.sleep(0.05)
        return resolve(self, uri, into)

    monkeypatch.setattr(InMemoryRegistry, "resolve", slow)
    assert world.settle().after == "1"


def test_a_worker_that_slept_while_another_took_the_alias_moves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.register("a")
    world.judge("1")
    resolve = InMemoryRegistry.resolve

    def slept(self: InMemoryRegistry, uri: str, into: Path) -> Any:
        with world.queue.hold("alias:churn", "other", 60.0, NOW + 1000) as mine:
            assert mine
        return resolve(self, uri, into)

    monkeypatch.setattr(InMemoryRegistry, "resolve", slept)
    with pytest.raises(writeback.Busy):
        world.settle()
    assert world.approved is None


def test_scratch_folders_of_the_dead_are_removed_and_those_of_the_living_are_not(tmp_path: Path) -> None:
    with writeback.own_scratch(tmp_path) as alive:
        dead = alive.parent / "worker-dead"
        (dead / "job-1").mkdir(parents=True)
        with writeback.own_scratch(tmp_path) as other:
            assert not dead.exists()
            assert alive.is_dir()
            assert other != alive
            assert other.stat().st_mode & 0o777 == 0o700
    assert not alive.exists()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("judge"), st.integers(1, 3), st.sampled_from([0, 1, 4])),
        st.tuples(st.just("change"), st.integers(1, 3), st.integers(0, 3)),
        st.tuples(st.just("hand"), st.integers(1, 3), st.just(0)),
        st.tuples(st.just("settle"), st.just(0), st.booleans()),
    ),
    max_size=8,
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One queue for all examples; each has models with a content of their own."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("world")
        patch.chdir(folder)
        queue = open_queue(f"sqlite:///{folder}/queue.db")
        world = World(folder, InMemoryRegistry(), queue, None)  # type: ignore[arg-type]
        world.subscribe()
        yield world
        queue.close()


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS)
def test_after_verifying_it_is_where_the_definition_puts_it(shared: World, steps: list[tuple[str, int, Any]]) -> None:
    """The slow twin: of all versions, the highest whose present files have a pass; but nobody is moved to unjudged."""
    world, queue = shared, shared.queue
    for job in queue.jobs(limit=None):
        queue.forget(job.name, job.version)
    example = uuid.uuid4().hex
    world.registry = InMemoryRegistry()
    shutil.rmtree(world.folder / "models", ignore_errors=True)
    versions = [world.register(f"{example} {content}") for content in "abc"]
    passed: dict[str, int] = {}
    for step, number, value in steps:
        version = str(number)
        if step == "judge":
            key = world.key(version)
            world.judge(version, code=value, told=False)
            passed[key.model_sha256] = value
            world.queue.request(Wanted("churn", version, "churn*"), NOW)
            while (job := world.queue.claim("w", {"churn*": 99}, 60.0, NOW)) is not None:
                about = world.key(job.version)
                known = about if about.model_sha256 in passed else None
                world.queue.finish(job, "", known, about.terms, NOW)
        elif step == "change":
            world.overwrite(version, f"{example} {'abcd'[value]}")
        elif step == "hand":
            world.registry.move_alias("churn", ALIAS, version)
        else:
            world.settle(verify=value)
    holder = world.approved
    world.settle(verify=True)
    told = {job.version for job in queue.jobs(name="churn", limit=None) if job.key}
    fits = [v for v in versions if passed.get(world.key(v).model_sha256) == 0 and v in told | {holder}]
    # A version whose files changed is known by what was judged before, and is asked for again.
    sure = [v for v in fits if v == holder or passed.get(_told(queue, v)) == 0]
    assert world.approved == (max(sure, key=int) if sure else None)


def _told(queue: Queue, version: str) -> str:
    job = queue.job("churn", version)
    return job.key.model_sha256 if job is not None and job.key is not None else ""


# --- tags and files -------------------------------------------------------------------------------------------------

TERMS = Terms("c" * 64, "d" * 64)


def judged(**changes: Any) -> Judged:
    pass_ = Judged(Key("a" * 64, TERMS), "pass", 0, "said", "r1", "reports/x", FAR, NOW, "e" * 64)
    return dataclasses.replace(pass_, **changes)


class Recording:
    """Remembers what it was told to write, in order."""

    def __init__(self) -> None:
        self.said: list[tuple[str, Any]] = []

    def attach(self, run_id: str, files: list[Path]) -> None:
        self.said.append((run_id, [file.name for file in files]))

    def mark(self, name: str, version: str, tags: dict[str, str]) -> None:
        self.said.append((f"{name}/{version}", tags))


def test_files_come_before_tags_and_nothing_is_written_twice(tmp_path: Path) -> None:
    (tmp_path / "reports" / "x").mkdir(parents=True)
    for name in ("report.json", "attestation.json", "report.md"):
        (tmp_path / "reports" / "x" / name).write_text("x")
    registry: Any = Recording()
    version = RegisteredVersion("churn", "7", tags={"privacy_gate.verdict": "fail"})
    assert publish(registry, judged(), version, tmp_path)
    assert registry.said == [
        ("r1", ["report.json", "attestation.json"]),
        ("churn/7", tags_of(judged())),
    ]
    marked = dataclasses.replace(version, tags={**tags_of(judged()), "stage": "ready"})
    assert not publish(registry, judged(), marked, tmp_path)
    assert len(registry.said) == 2


def test_tags_say_all_of_a_verdict_and_nothing_of_the_one_before() -> None:
    passed, failed = tags_of(judged()), tags_of(judged(status="fail", exit_code=1, valid_until=None, attestation=None))
    assert passed == {
        "privacy_gate.verdict": "pass",
        "privacy_gate.run_id": "r1",
        "privacy_gate.model_sha256": "a" * 64,
        "privacy_gate.policy_sha256": "c" * 64,
        "privacy_gate.valid_until": FAR,
        "privacy_gate.attestation": "e" * 64,
    }
    assert passed.keys() == failed.keys()
    assert failed["privacy_gate.valid_until"] == ""


def test_a_version_that_vanished_is_tried_again_and_not_parked(world: World) -> None:
    with pytest.raises(EvaluationFailed, match="not written back"):
        publish(world.registry, judged(run_id=None), RegisteredVersion("churn", "7"), world.folder)


@pytest.mark.parametrize(
    ("changes", "stands"),
    [
        ({}, True),
        ({"valid_until": "2027-01-15"}, True),
        ({"valid_until": "2027-01-14"}, False),
        ({"valid_until": None}, False),
        ({"exit_code": 1, "status": "fail", "valid_until": None}, True),
        ({"exit_code": 4, "status": "inconclusive", "valid_until": None}, True),
        ({"status": "fail"}, False),
        ({"at": NOW + 301}, False),
        ({"at": NOW + 301, "exit_code": 1, "status": "fail", "valid_until": None}, False),
        ({"at": NOW + 299}, True),
    ],
)
def test_which_verdicts_stand(changes: dict[str, Any], stands: bool) -> None:
    assert effective(judged(**changes), NOW) is stands


def test_no_verdict_does_not_stand() -> None:
    assert not effective(None, NOW)
