"""The sweep: for each situation of a version, whether it is asked for, and why; one that is broken stops no other."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import yaml

from privacy_gate.errors import CandidateNotFound, RegistryUnreachable
from privacy_gate.registry.in_memory import InMemoryRegistry
from privacy_gate.service import Judged, Key, State, Terms, Wanted
from privacy_gate.service.queue import Queue, open_queue
from privacy_gate.service.subscriptions import Subscribed, load
from privacy_gate.service.sweep import (
    ALIASES,
    FAILED,
    MOST_SHOWN,
    SWEPT,
    UNREACHABLE,
    VERIFIED,
    VERIFY_AGAIN,
    VERIFYING,
    Looked,
    Standing,
    Swept,
    due,
    looks,
    sweep,
    told,
    verify_due,
)
from privacy_gate.service.writeback import Settled

NOW = 1_800_000_000.0  # 2027-01-15
FAR, PAST = "2027-04-01", "2027-01-14"
CONFIG = {"apiVersion": "privacy-gate/v1", "data": {"members": "in.csv", "nonmembers": "out.csv"}}
OLD_POLICY, OLD_CONFIG = "0" * 64, "1" * 64


@dataclasses.dataclass
class World:
    """A registry, a queue, and the subscriptions of a team."""

    folder: Path
    registry: InMemoryRegistry
    queue: Queue
    subscribed: Subscribed

    def subscribe(self, *subscriptions: dict) -> None:
        (self.folder / "privacy-gate.yaml").write_text(yaml.safe_dump(CONFIG))
        content = {"apiVersion": "privacy-gate/subscriptions/v1", "subscriptions": list(subscriptions)}
        path = self.folder / "subscriptions.yaml"
        path.write_text(yaml.safe_dump(content))
        self.subscribed = load(path)

    def register(self, name: str, content: str = "weights", **options) -> str:
        folder = self.folder / "models" / f"{name}-{len(self.registry.models.get(name, {})) + 1}"
        folder.mkdir(parents=True)
        (folder / "MLmodel").write_text("flavors:\n  sklearn:\n    pickled_model: model.skops\n")
        (folder / "model.skops").write_text(content)
        return self.registry.add(name, folder, **options)

    def files(self, name: str, version: str) -> Path:
        return self.registry.models[name][version].folder

    def digest(self, name: str, version: str) -> str:
        return self.registry.resolve(f"models:/{name}/{version}", self.folder / "work").digest

    @property
    def terms(self) -> Terms:
        return next(iter(self.subscribed.terms.values()))

    def judge(
        self,
        name: str,
        version: str,
        status: str = "pass",
        code: int = 0,
        until: str | None = FAR,
        terms: Terms | None = None,
        kept: bool = True,
    ) -> None:
        """As a worker would have done it."""
        self.queue.request(Wanted(name, version, "churn*"), NOW - 100)
        job = self.queue.claim("w", {"churn*": 99}, 60.0, NOW - 90)
        assert job is not None
        assert (job.name, job.version) == (name, version)
        key = Key(self.digest(name, version), terms or self.terms)
        if kept:
            self.queue.record(Judged(key, status, code, "said", None, None, until, NOW - 80))
        self.queue.finish(job, status, key, key.terms, NOW - 80)

    def sweep(self, *, verify: bool = False, now: float = NOW, **options) -> Swept:
        return sweep(self.subscribed, self.registry, self.queue, verify=verify, now=now, **options)

    def reasons(self, **options) -> dict[str, str]:
        return {f"{wanted.name}/{wanted.version}": wanted.why for wanted in self.sweep(**options).queued}


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    queue = open_queue(f"sqlite:///{tmp_path}/queue.db")
    made = World(tmp_path, InMemoryRegistry(), queue, None)
    made.subscribe({"name": "churn*", "config": "privacy-gate.yaml"})
    yield made
    queue.close()


def test_a_version_that_nobody_told_of_is_asked_for_once(world):
    world.register("churn")
    world.register("fraud")
    swept = world.sweep()
    assert [(w.name, w.version, w.subscription, w.why) for w in swept.queued] == [
        ("churn", "1", "churn*", "it was never judged")
    ]
    assert swept.unknown == 1
    assert world.queue.job("fraud", "1") is None
    again = world.sweep()
    assert again.queued == ()
    assert again.counts == {Standing.WAITING: 1}
    assert world.queue.job("churn", "1").requests == 1


SITUATIONS = [
    ("passes", {}, None),
    ("fails", {"status": "fail", "code": 1, "until": None}, None),
    ("is inconclusive", {"status": "inconclusive", "code": 4, "until": None}, None),
    ("ends today", {"until": "2027-01-15"}, None),
    ("ended", {"until": PAST}, f"its pass ended with {PAST}"),
    ("failed long ago", {"status": "fail", "code": 1, "until": PAST}, None),
    ("lost its verdict", {"kept": False}, "its verdict is lost"),
]


@pytest.mark.parametrize(("judged", "why"), [case[1:] for case in SITUATIONS], ids=[case[0] for case in SITUATIONS])
def test_a_version_that_was_judged(world, judged, why):
    world.register("churn")
    world.judge("churn", "1", **judged)
    assert world.reasons() == ({} if why is None else {"churn/1": why})
    assert world.queue.job("churn", "1").state is (State.DONE if why is None else State.QUEUED)


@pytest.mark.parametrize(
    ("policy", "config", "why"),
    [
        (OLD_POLICY, None, "the policy changed"),
        (None, OLD_CONFIG, "the configuration changed"),
        (OLD_POLICY, OLD_CONFIG, "the policy and the configuration changed"),
    ],
)
@pytest.mark.parametrize("status", ["pass", "fail"])
def test_other_terms(world, policy, config, why, status):
    world.register("churn")
    old = Terms(policy or world.terms.policy_sha256, config or world.terms.config_sha256)
    world.judge("churn", "1", status=status, code=int(status == "fail"), terms=old)
    assert world.reasons() == {"churn/1": why}


def test_the_policy_file_is_what_changes_them(world):
    (world.folder / "policy.yaml").write_text("apiVersion: privacy-gate/v1\nextends: standard\n")
    world.subscribe({"name": "churn*", "config": "privacy-gate.yaml", "policy": "policy.yaml"})
    world.register("churn")
    world.judge("churn", "1")
    assert world.reasons() == {}
    (world.folder / "policy.yaml").write_text("apiVersion: privacy-gate/v1\nextends: strict\n")
    world.subscribed = load(world.subscribed.path)
    assert world.reasons() == {"churn/1": "the policy changed"}


def parked(world, terms):
    world.register("churn")
    world.queue.request(Wanted("churn", "1", "churn*"), NOW - 100)
    job = world.queue.claim("w", {}, 60.0, NOW - 90)
    world.queue.park(job, "the recipe is wrong", terms, NOW - 80)


def test_a_parked_version_waits_for_other_terms(world):
    parked(world, world.terms)
    swept = world.sweep()
    assert (swept.queued, swept.counts) == ((), {Standing.PARKED: 1})
    assert [looked.why for looked in looks(world.subscribed, world.registry, world.queue, NOW)] == [
        "the recipe is wrong"
    ]
    world.subscribe({"name": "churn*", "config": "privacy-gate.yaml", "suite": "fast"})
    assert world.reasons() == {"churn/1": "the configuration changed"}


def test_what_was_parked_by_unknown_terms_waits_for_a_person(world):
    parked(world, None)
    assert world.reasons() == {}


def test_a_running_version_is_left_alone(world):
    world.register("churn")
    world.queue.request(Wanted("churn", "1", "churn*"), NOW)
    job = world.queue.claim("w", {}, 60.0, NOW)
    swept = world.sweep()
    assert swept.counts == {Standing.RUNNING: 1}
    assert world.queue.finish(job, "pass", Key("a" * 64, world.terms), world.terms, NOW)
    assert world.queue.job("churn", "1").state is State.DONE  # not asked for while it ran


def test_a_version_that_ended_without_a_verdict_because_it_was_not_covered(world):
    world.register("churn")
    world.queue.request(Wanted("churn", "1", "churn*"), NOW)
    job = world.queue.claim("w", {}, 60.0, NOW)
    world.queue.finish(job, "not covered any more", None, world.terms, NOW)
    assert world.reasons() == {"churn/1": "it has no verdict"}


def test_what_is_not_covered_is_not_asked_for(world):
    world.subscribe({"name": "churn*", "config": "privacy-gate.yaml", "versions": {"alias": "candidate"}})
    world.register("churn")
    world.register("churn", alias="candidate")
    assert world.reasons() == {"churn/2": "it was never judged"}


def test_a_version_that_is_gone_is_forgotten(world):
    world.register("churn")
    world.register("churn")
    world.queue.request(Wanted("churn", "1", "churn*"), NOW)
    world.queue.request(Wanted("churn-eu", "7", "churn*"), NOW)
    del world.registry.models["churn"]["1"]
    assert world.sweep().forgotten == 2
    assert {(job.name, job.version) for job in world.queue.jobs()} == {("churn", "2")}


def test_a_version_that_came_while_the_others_were_listed_is_not_forgotten(world, monkeypatch):
    world.register("churn")
    world.queue.request(Wanted("churn", "1", "churn*"), NOW)
    monkeypatch.setattr(InMemoryRegistry, "versions", lambda self: iter(()))
    assert world.sweep().forgotten == 0
    assert world.queue.job("churn", "1") is not None


# --- the files ------------------------------------------------------------------------------------------------------


def test_files_that_changed_are_found_when_it_is_their_turn(world):
    world.register("churn")
    world.register("churn", content="others")
    world.judge("churn", "1", "fail", 1, None)
    world.judge("churn", "2")
    world.sweep()  # which gives 2 the alias
    for version in ("1", "2"):
        (world.files("churn", version) / "model.skops").write_text("something else")
    assert world.reasons() == {}
    assert world.queue.recall(VERIFIED) is None
    assert world.reasons(verify=True) == {"churn/1": "its files changed", "churn/2": "its files changed"}
    assert world.queue.recall(VERIFIED)[1] == NOW
    assert list(world.folder.glob("privacy-gate-service/scratch/*")) == []


def test_files_that_are_the_same_are_not_asked_for(world):
    world.register("churn")
    world.judge("churn", "1")
    assert world.sweep(verify=True).counts == {Standing.JUDGED: 1}


def test_files_that_are_gone(world):
    world.register("churn")
    world.judge("churn", "1")
    shutil.rmtree(world.files("churn", "1"))
    assert world.reasons(verify=True)["churn/1"].startswith("its files are gone: ")


# --- the alias ------------------------------------------------------------------------------------------------------


def test_the_alias_is_put_where_it_belongs(world):
    world.register("churn")
    world.register("churn", content="others")
    world.judge("churn", "1")
    world.judge("churn", "2", "fail", 1, None)
    swept = world.sweep()
    assert (swept.settled["churn"].before, swept.settled["churn"].after) == (None, "1")
    assert world.registry.alias("churn", "privacy-approved") == "1"
    assert world.queue.recall(ALIASES)[0] == {"churn": "1"}


def test_the_alias_is_taken_from_a_version_whose_policy_changed(world):
    world.register("churn")
    world.judge("churn", "1")
    world.sweep()
    world.subscribe({"name": "churn*", "config": "privacy-gate.yaml", "profile": "strict"})
    swept = world.sweep()
    assert [wanted.why for wanted in swept.queued] == ["the policy changed"]
    assert world.registry.alias("churn", "privacy-approved") is None


def test_an_alias_that_somebody_set_by_hand_is_taken_away(world):
    """Nothing was ever judged of this model, and no version of it is covered."""
    world.subscribe({"name": "churn*", "config": "privacy-gate.yaml", "versions": {"alias": "candidate"}})
    world.register("churn", alias="privacy-approved")
    world.sweep()
    assert world.registry.alias("churn", "privacy-approved") is None


def test_aliases_of_models_that_nobody_subscribed_to_are_left_alone(world):
    world.register("fraud", alias="privacy-approved")
    world.sweep()
    assert world.registry.alias("fraud", "privacy-approved") == "1"


# --- what is broken -------------------------------------------------------------------------------------------------


def test_one_broken_version_stops_no_other(world, monkeypatch):
    for name in ("churn-a", "churn-b", "churn-c"):
        world.register(name)
        world.judge(name, "1")
        (world.files(name, "1") / "model.skops").write_text("something else")
    whole = InMemoryRegistry.resolve

    def resolve(self, uri, into):
        if "churn-b" in uri:
            raise RegistryUnreachable("\x1b[31mno answer", "")
        return whole(self, uri, into)

    monkeypatch.setattr(InMemoryRegistry, "resolve", resolve)
    swept = world.sweep(verify=True)
    assert {wanted.name for wanted in swept.queued} == {"churn-a", "churn-c"}
    assert swept.counts[Standing.BROKEN] == 1
    assert {broken.uri for broken in swept.broken} <= {"models:/churn-b/1", "models:/churn-b"}
    assert swept.failures == len(swept.broken) > 0
    assert "\x1b" not in str(told(swept))
    assert world.queue.recall(SWEPT)[0]["failures"] == swept.failures


def test_a_registry_that_is_gone_is_not_asked_version_by_version(world, monkeypatch):
    for number in range(20):
        world.register(f"churn-{number}")
        world.judge(f"churn-{number}", "1")
    asked = []

    def resolve(self, uri, into):
        asked.append(uri)
        raise RegistryUnreachable("no answer", "is it up?")

    monkeypatch.setattr(InMemoryRegistry, "resolve", resolve)
    monkeypatch.setattr(InMemoryRegistry, "alias", lambda self, name, alias: resolve(self, name, None))
    with pytest.raises(RegistryUnreachable):
        world.sweep(verify=True)
    assert len(asked) == UNREACHABLE
    assert world.queue.recall(SWEPT) is None
    assert world.queue.recall(FAILED) == ("no answer", NOW)


def test_a_registry_that_does_not_list_is_told(world, monkeypatch):
    def versions(self):
        raise RegistryUnreachable("no answer", "is it up?")

    monkeypatch.setattr(InMemoryRegistry, "versions", versions)
    world.queue.request(Wanted("churn", "1", "churn*"), NOW)
    with pytest.raises(RegistryUnreachable):
        world.sweep()
    assert world.queue.job("churn", "1") is not None  # nothing was concluded from an empty answer


def test_an_alias_that_cannot_be_settled_stops_no_other(world):
    world.register("churn-a")
    world.register("churn-b")
    done = []

    def put_right(name):
        if name == "churn-a":
            raise CandidateNotFound("gone meanwhile", "")
        done.append(name)
        return Settled("privacy-approved", None, None)

    swept = world.sweep(put_right=put_right)
    assert done == ["churn-b"]
    assert [broken.uri for broken in swept.broken] == ["models:/churn-a"]
    assert len(swept.queued) == 2


# --- all of it ------------------------------------------------------------------------------------------------------


def test_one_sweep_at_a_time(world):
    world.register("churn")
    with world.queue.alone("sweep", "another", 60.0, NOW) as mine:
        assert mine
        assert not world.sweep().alone
        assert world.queue.jobs() == []
    assert world.sweep().alone


def test_what_is_told_by_name_is_bounded(world):
    for _ in range(MOST_SHOWN + 5):
        world.register("churn")
    swept = world.sweep()
    assert (len(swept.queued), swept.counts) == (MOST_SHOWN, {Standing.QUEUED: MOST_SHOWN + 5})
    assert world.queue.counts()[State.QUEUED] == MOST_SHOWN + 5


def test_hostile_names_are_told_cleanly(world):
    world.subscribe({"name": "*", "config": "privacy-gate.yaml"})
    world.register("evil")
    world.registry.models["\x1b[31mevil\u202e"] = world.registry.models.pop("evil")
    swept = world.sweep()
    assert [row["model"] for row in told(swept)["asked"]] == ["evil"]
    assert world.queue.job("\x1b[31mevil\u202e", "1") is not None


def test_looking_changes_nothing(world):
    world.register("churn")
    seen = list(looks(world.subscribed, world.registry, world.queue, NOW))
    assert [(looked.standing, looked.why) for looked in seen] == [(Standing.QUEUED, "it was never judged")]
    assert isinstance(seen[0], Looked)
    assert world.queue.jobs() == []


def test_due_of_a_job_is_a_function_of_what_is_given(world):
    assert due(None, None, world.terms, NOW) == "it was never judged"


def test_when_files_are_hashed_anew(world):
    """A day after the last time; an hour after one that began and did not end."""
    service = world.subscribed.value.service
    assert verify_due(world.queue, service, NOW)
    world.queue.remember(VERIFYING, "w", NOW)
    assert not verify_due(world.queue, service, NOW + VERIFY_AGAIN - 1)
    assert verify_due(world.queue, service, NOW + VERIFY_AGAIN)
    world.sweep(verify=True)
    assert not verify_due(world.queue, service, NOW + service.verify_every - 1)
    assert verify_due(world.queue, service, NOW + service.verify_every)
