"""The sweep: for each situation of a version, whether it is asked for, and why; one that is broken stops no other."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from pathlib import Path

import pytest
import yaml

from privacy_gate.errors import CandidateNotFound, RegistryUnreachable
from privacy_gate.registry import Probe
from privacy_gate.registry.in_memory import InMemoryRegistry
from privacy_gate.service import Judged, Key, State, Terms, Wanted
from privacy_gate.service import sweep as sweeping
from privacy_gate.service.queue import Queue, open_queue
from privacy_gate.service.subscriptions import Subscribed, load
from privacy_gate.service.sweep import (
    ALIASES,
    ANEW,
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
from privacy_gate.service.writeback import Busy, Settled, settle

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
        run: str | None = None,
    ) -> None:
        """As a worker would have done it."""
        self.queue.request(Wanted(name, version, "churn*"), NOW - 100)
        job = self.queue.claim("w", {"churn*": 99}, 60.0, NOW - 90)
        assert job is not None
        assert (job.name, job.version) == (name, version)
        key = Key(self.digest(name, version), terms or self.terms)
        if kept:
            self.queue.record(Judged(key, status, code, "said", run, run and "reports/x", until, NOW - 80))
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


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Makes a world without anything in it, of what is costly to make anew."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        queue = open_queue(f"sqlite:///{folder}/queue.db")
        made = World(folder, InMemoryRegistry(), queue, None)
        made.subscribe({"name": "churn*", "config": "privacy-gate.yaml"})

        def empty() -> World:
            shutil.rmtree(folder / "models", ignore_errors=True)
            made.registry = InMemoryRegistry()
            for job in queue.jobs(limit=None):
                queue.forget(job.name, job.version)
            return made

        yield empty
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
    monkeypatch.setattr(InMemoryRegistry, "ping", lambda self: [Probe("registry", False, "no answer")])
    with pytest.raises(RegistryUnreachable):
        world.sweep(verify=True)
    assert len(asked) == UNREACHABLE
    assert world.queue.recall(SWEPT) is None
    assert world.queue.recall(FAILED) == ("no answer", NOW)


def test_where_all_is_quiet_only_the_lists_are_asked_for(world, monkeypatch):
    """With thousands of models, a sweep must not be thousands of requests every few minutes."""
    for number in range(5):
        for code, status in ((0, "pass"), (1, "fail")):
            world.register(f"churn-{number}", f"{number} {code}")
            world.judge(f"churn-{number}", str(code + 1), status, code)
    world.register("churn-none")
    world.judge("churn-none", "1", "fail", 1)
    world.sweep()
    asked = []
    for name in ("version", "alias", "resolve", "move_alias"):
        monkeypatch.setattr(InMemoryRegistry, name, lambda self, *given, name=name: asked.append(name))
    swept = world.sweep()
    assert asked == []
    assert {name: settled.after for name, settled in swept.settled.items()} == {
        "churn-none": None,
        **{f"churn-{number}": "1" for number in range(5)},
    }


@pytest.mark.parametrize("holder", [None, "1", "2"])
@pytest.mark.parametrize("codes", list(itertools.product((0, 1, None), repeat=2)))
def test_a_quiet_sweep_ends_where_settling_ends(shared, codes, holder):
    """Every state of two versions (passed, failed, parked) and of the alias."""
    world = shared()
    for version, code in enumerate(codes, 1):
        world.register("churn", f"files {code}")
        if code is None:
            world.queue.request(Wanted("churn", str(version), "churn*"), NOW - 100)
            world.queue.park(world.queue.claim("w", {}, 60.0, NOW - 90), "refused", world.terms, NOW - 80)
        else:
            world.judge("churn", str(version), "pass" if code == 0 else "fail", code)
    world.registry.move_alias("churn", "privacy-approved", holder)
    swept = world.sweep()
    expected = max((str(number) for number, code in enumerate(codes, 1) if code == 0), default=None)
    assert swept.settled["churn"].after == world.registry.alias("churn", "privacy-approved") == expected


def test_an_alias_that_another_one_has_is_no_failure(world):
    def busy(name):
        raise Busy("another worker has the alias")

    world.register("churn")
    swept = world.sweep(put_right=busy)
    assert (swept.failures, dict(swept.settled)) == (0, {})


def test_models_that_may_not_be_read_stop_no_others(world, monkeypatch):
    """A permission that was withdrawn: the registry answers, but not about these."""
    for number in range(2 * UNREACHABLE):
        world.register(f"churn-{number}")
    world.register("churn-last")
    whole = InMemoryRegistry.alias

    def alias(self, name, alias):
        if name != "churn-last":
            raise RegistryUnreachable("access denied", "ask for read permission")
        return whole(self, name, alias)

    monkeypatch.setattr(InMemoryRegistry, "alias", alias)
    swept = world.sweep()
    assert (swept.failures, set(swept.settled)) == (2 * UNREACHABLE, {"churn-last"})
    assert world.queue.recall(SWEPT) is not None
    monkeypatch.setattr("privacy_gate.service.sweep.MOST_UNREACHABLE", 2 * UNREACHABLE)
    with pytest.raises(RegistryUnreachable):
        world.sweep(verify=True)


@pytest.mark.parametrize("code", [0, 1])
@pytest.mark.parametrize("parked", [False, True])
def test_a_version_that_was_deleted_and_made_again_is_judged(world, monkeypatch, code, parked):
    """Versions of a model that is made again count from 1; the old verdict, and the old refusal, say nothing of it."""
    world.register("churn")
    world.judge("churn", "1", "pass" if code == 0 else "fail", code)
    if parked:
        world.queue.request(Wanted("churn", "1", "churn*"), NOW - 70)
        world.queue.park(world.queue.claim("w", {}, 60.0, NOW - 65), "refused", world.terms, NOW - 60)
    world.sweep()
    assert world.registry.alias("churn", "privacy-approved") == (None if code else "1")
    del world.registry.models["churn"]
    shutil.rmtree(world.folder / "models")
    world.register("churn", "other weights")
    anew(monkeypatch, NOW - 10)
    world.registry.move_alias("churn", "privacy-approved", "1")  # by hand
    assert world.reasons() == {"churn/1": ANEW}
    assert world.registry.alias("churn", "privacy-approved") is None
    job = world.queue.job("churn", "1")
    assert (job.state, job.key) == (State.QUEUED, None)
    assert world.reasons(now=NOW + 300) == {}


def test_an_alias_of_a_version_that_was_made_again_is_not_left_until_files_are_hashed(world, monkeypatch):
    world.register("churn")
    world.judge("churn", "1")
    (world.files("churn", "1") / "model.skops").write_text("other weights")
    world.registry.move_alias("churn", "privacy-approved", "1")
    anew(monkeypatch, NOW - 10)
    assert settle(world.registry, world.queue, world.subscribed, "churn", verify=False, now=NOW).after is None


def anew(monkeypatch, created: float) -> None:
    """The registry says that each version was made then."""
    listed, one = InMemoryRegistry.versions, InMemoryRegistry.version

    def versions(self):
        return (dataclasses.replace(version, created=created) for version in listed(self))

    def version(self, name, version):
        found = one(self, name, version)
        return found and dataclasses.replace(found, created=created)

    monkeypatch.setattr(InMemoryRegistry, "versions", versions)
    monkeypatch.setattr(InMemoryRegistry, "version", version)


def test_a_sweep_that_hashes_holds_up_no_other(world, monkeypatch):
    world.register("churn")
    world.judge("churn", "1")
    world.register("churn", "more")
    other, whole = [], InMemoryRegistry.resolve

    def resolve(self, uri, into):
        if not other:
            other.append("begun")
            other.append(world.reasons(now=NOW + 50))
            assert not world.sweep(verify=True, now=NOW + 50).alone
        return whole(self, uri, into)

    monkeypatch.setattr(InMemoryRegistry, "resolve", resolve)
    assert world.sweep(verify=True).alone
    assert other == ["begun", {"churn/2": "it was never judged"}]
    assert world.queue.recall(SWEPT)[1] == NOW + 50, "the later one is the last one"


def test_who_hashes_for_long_says_so(world, monkeypatch):
    world.register("churn")
    world.judge("churn", "1")
    monkeypatch.setattr("privacy_gate.service.sweep.LEASE", 0.0)
    world.sweep(verify=True)
    assert world.queue.recall(VERIFYING)[0] is True


def test_a_pass_is_renewed_before_it_ends(world):
    """So that the alias is not without a version from the midnight after its last day until there is a new verdict."""
    world.register("churn")
    world.judge("churn", "1")  # 2027-01-15 to 2027-04-01: 77 days
    day = 86400.0
    assert world.reasons(now=NOW + 68.9 * day) == {}
    assert world.reasons(now=NOW + 69.1 * day) == {"churn/1": f"its pass ends with {FAR}"}
    assert world.registry.alias("churn", "privacy-approved") == "1"


def test_a_pass_that_was_short_from_the_beginning_is_not_renewed_before_it_ends(world):
    world.register("churn")
    world.judge("churn", "1", until="2027-01-16")
    assert world.reasons(now=NOW + 40 * 3600.0 - 1) == {}  # the last second of the 16th
    assert world.reasons(now=NOW + 40 * 3600.0) == {"churn/1": "its pass ended with 2027-01-16"}


@pytest.mark.parametrize("verify", [False, True])
def test_forged_tags_of_a_verdict_are_set_right(world, verify):
    """People and other programs read them, whatever the alias says."""
    for number, (status, code, until) in enumerate((("pass", 0, FAR), ("fail", 1, None)), 1):
        version = world.register("churn", content=f"weights {number}")
        world.judge("churn", version, status, code, until)
    world.sweep()
    tags = [world.registry.version("churn", version).tags for version in "12"]
    assert [own["privacy_gate.verdict"] for own in tags] == ["pass", "fail"]
    world.registry.mark("churn", "2", tags[0] | {"owner": "b"})
    before = world.registry.version("churn", "1").tags
    swept = world.sweep(verify=verify)
    assert (swept.queued, swept.failures) == ((), 0)
    assert world.registry.version("churn", "2").tags == tags[1] | {"owner": "b"}
    assert world.registry.version("churn", "1").tags == before


def test_a_verdict_whose_evidence_is_gone_is_asked_for_anew_once_its_tags_are_touched(world):
    world.register("churn")
    world.judge("churn", "1", run="deleted")
    (world.subscribed.state / "reports" / "x").mkdir(parents=True)
    (world.subscribed.state / "reports" / "x" / "report.json").write_text("{}")
    assert world.reasons() == {"churn/1": "the evidence of its verdict is gone"}


def test_a_verdict_that_is_dated_ahead_of_now_is_asked_for_anew(world):
    """A clock that was a year ahead gave a pass that lasts a year longer than any may."""
    world.register("churn")
    world.judge("churn", "1")
    assert world.reasons(now=NOW - 80 - 299) == {}
    assert world.reasons(now=NOW - 80 - 301) == {"churn/1": "its verdict is dated ahead of now"}


def test_a_hashing_sweep_leaves_what_others_told_meanwhile(world, monkeypatch):
    told = sweeping._Sweep.run

    def run(self):
        world.queue.remember(SWEPT, {"covered": 7}, NOW + 5000)
        return told(self)

    world.sweep(now=NOW + 9000)  # by a clock that was ahead: it does not count
    world.sweep(verify=True)
    assert world.queue.recall(SWEPT)[1] == NOW
    monkeypatch.setattr(sweeping._Sweep, "run", run)
    world.sweep(verify=True)
    assert world.queue.recall(SWEPT) == ({"covered": 7}, NOW + 5000)


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
    with world.queue.hold("sweep", "another", 60.0, NOW) as mine:
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
