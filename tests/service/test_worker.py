"""A worker and its children: real processes, a real queue; the child is the gate, or a program that misbehaves."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from privacy_gate import closing
from privacy_gate.attestation import new_key, opened, private_key, public_keys
from privacy_gate.errors import DataError, EvaluationFailed, RegistryUnreachable, StorageFailed
from privacy_gate.registry import Probe, RegisteredVersion
from privacy_gate.registry.in_memory import InMemoryRegistry
from privacy_gate.registry.mlflow import MlflowRegistry
from privacy_gate.reports import document
from privacy_gate.service import Job, Judged, Key, State, Wanted, run_config, worker, writeback
from privacy_gate.service.queue import Queue, open_queue
from privacy_gate.service.subscriptions import Subscribed, load
from privacy_gate.service.worker import backoff, work_one
from privacy_gate.storage import sha256_of_file
from tests.mlflow_server import embedded_registry, tracking

NOW = 1_800_000_000.0  # 2027-01-15
FAR = "2027-04-01"
ALIAS = "privacy-approved"
CONFIG = {"apiVersion": "privacy-gate/v1", "data": {"members": "in.csv", "nonmembers": "out.csv"}}
TEMPLATE = Path(__file__).parents[1] / "reports" / "golden" / "error.json"

# What stands in for the gate: told by a file what to do, it leaves a report as the gate would, or something else.
STAND_IN = """
import hashlib, json, os, pathlib, subprocess, sys, time

job = json.loads(pathlib.Path(sys.argv[1]).read_text())
plan = json.loads(pathlib.Path(os.environ["STAND_IN"]).read_text())
folder, out = pathlib.Path(os.environ["STAND_IN"]).parent, pathlib.Path(job["out"])
with (folder / "began").open("a") as stream:
    stream.write(json.dumps({"pid": os.getpid(), "job": job, "environment": dict(os.environ)}) + "\\n")
print(plan.get("prints", ""), file=sys.stderr, flush=True)
if "forks" in plan:
    subprocess.Popen([sys.executable, "-S", "-c", plan["forks"]], start_new_session=True)
if plan.get("kills"):
    os.kill(int((folder / "worker").read_text()), 9)
if "hangs" in plan:
    (folder / "hangs").write_text(str(os.getpid()))
    time.sleep(3600)
report = json.loads(pathlib.Path(plan["template"]).read_text())
name, _, version = job["model"].removeprefix("models:/").rpartition("/")
report["verdict"] |= {"status": plan["status"], "exit_code": plan["code"], "valid_until": plan.get("until")}
report["verdict"]["headline"] = plan.get("headline", "said")
report["subject"] |= {"name": name, "version": version, "digest": plan["digests"][job["model"]]}
report["policy"] |= {"digest": plan["policy"]}
report["suite"], report["run"]["mlflow"] = job["suite"], {"run_id": plan.get("run"), "warning": None}
for trail, value in plan.get("changes", {}).items():
    *inner, last = trail.split(".")
    part = report
    for key in inner:
        part = part[key]
    part[last] = value
content = {k: v for k, v in report.items() if k not in ("run", "integrity")}
text = json.dumps(content, sort_keys=True, separators=(",", ":"))
report["integrity"]["report_sha256"] = hashlib.sha256(text.encode()).hexdigest()
raw = json.dumps(report, indent=2).encode() + b"\\n"
raw = raw.replace(b'"said"', b'"SAID"') if plan.get("flips") else raw
raw = raw[: len(raw) // 2] if plan.get("halves") else raw
if plan.get("links"):
    (folder / "elsewhere.json").write_bytes(raw)
    (out / "report.json").symlink_to(folder / "elsewhere.json")
elif plan.get("pipes"):
    os.mkfifo(out / "report.json")
elif not plan.get("forgets"):
    (out / "report.json").write_bytes(raw)
(out / "report.html").write_text("<script>alert(1)</script>")
sys.exit(plan.get("exits", plan["code"]))
"""


@dataclasses.dataclass
class World:
    """A registry in memory, a queue, one subscription, and what the next child does."""

    folder: Path
    registry: InMemoryRegistry
    queue: Queue
    subscribed: Subscribed
    now: float = NOW

    def subscribe(self, service: dict[str, Any] | None = None, **options: Any) -> None:
        (self.folder / "privacy-gate.yaml").write_text(yaml.safe_dump(CONFIG))
        one = {"name": "churn*", "config": "privacy-gate.yaml", "timeout": "60s", **options}
        content = {
            "apiVersion": "privacy-gate/subscriptions/v1",
            "service": {"state": "state", **(service or {})},
            "subscriptions": [one],
        }
        (self.folder / "subscriptions.yaml").write_text(yaml.safe_dump(content))
        self.subscribed = load(self.folder / "subscriptions.yaml")

    def register(self, content: str = "a", name: str = "churn") -> str:
        folder = self.folder / "models" / name / str(len(self.registry.models.get(name, {})) + 1)
        folder.mkdir(parents=True)
        (folder / "MLmodel").write_text("flavors:\n  sklearn:\n    pickled_model: model.skops\n")
        (folder / "model.skops").write_text(content)
        version = self.registry.add(name, folder)
        self.ask(version, name)
        return version

    def ask(self, version: str = "1", name: str = "churn") -> None:
        self.queue.request(Wanted(name, version, "churn*", why="test"), self.now)

    def overwrite(self, version: str, content: str) -> None:
        (self.registry.models["churn"][version].folder / "model.skops").write_text(content)

    def digest(self, version: str, name: str = "churn") -> str:
        return self.registry.resolve(f"models:/{name}/{version}", self.folder / "work").digest

    def key(self, version: str) -> Key:
        return Key(self.digest(version), self.subscribed.terms["churn*"])

    def plan(self, code: int = 0, **options: Any) -> None:
        """What children do from now on."""
        digests = {
            f"models:/{name}/{version}": self.digest(version, name)
            for name, versions in self.registry.models.items()
            for version in versions
        }
        status = {0: "pass", 1: "fail", 2: "error", 3: "error", 4: "inconclusive"}[code]
        plan = {
            "template": str(self.folder / "template.json"),
            "code": code,
            "status": status,
            "until": FAR if code == 0 else None,
            "digests": digests,
            "policy": self.subscribed.terms["churn*"].policy_sha256,
        }
        (self.folder / "plan.json").write_text(json.dumps(plan | options))

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-S", str(self.folder / "stand_in.py")]

    def work(self, **options: Any) -> bool:
        given = {"command": self.command, "clock": lambda: self.now, **options}
        return work_one(self.subscribed, self.registry, self.queue, "w", **given)

    def job(self, version: str = "1") -> Job:
        found = self.queue.job("churn", version)
        assert found is not None
        return found

    @property
    def began(self) -> list[dict[str, Any]]:
        """Every child there was."""
        file = self.folder / "began"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    @property
    def state(self) -> Path:
        return self.subscribed.state


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with made(tmp_path, monkeypatch) as world:
        yield world


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """For tests that each bring a version of their own."""
    with pytest.MonkeyPatch.context() as patch, made(tmp_path_factory.mktemp("world"), patch) as world:
        yield world


@contextlib.contextmanager
def made(tmp_path: Path, patch: pytest.MonkeyPatch) -> Iterator[World]:
    patch.chdir(tmp_path)
    patch.setenv("STAND_IN", str(tmp_path / "plan.json"))
    template = json.loads(TEMPLATE.read_text())
    template["errors"], template["policy"] = (
        [],
        {"name": "standard", "profile": "standard", "digest": "", "resolved": {}},
    )
    (tmp_path / "template.json").write_text(json.dumps(template))
    (tmp_path / "stand_in.py").write_text(textwrap.dedent(STAND_IN))
    queue = open_queue(f"sqlite:///{tmp_path}/queue.db")
    world = World(tmp_path, InMemoryRegistry(), queue, None)  # type: ignore[arg-type]
    world.subscribe()
    yield world
    queue.close()


def until(question: Callable[[], Any], seconds: float = 30.0) -> Any:
    """The first answer that is true."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if answer := question():
            return answer
        time.sleep(0.02)
    raise AssertionError("not in time")


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


# --- verdicts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "status"), [(0, "pass"), (1, "fail"), (4, "inconclusive")])
def test_a_verdict_is_kept_told_and_followed(world: World, code: int, status: str) -> None:
    world.register()
    world.plan(code)
    assert world.work()
    job, key = world.job(), world.key("1")
    assert (job.state, job.key, job.terms) == (State.DONE, key, key.terms)
    assert job.outcome.startswith(f"{status}: said")
    judged = world.queue.verdict(key)
    assert judged is not None
    assert (judged.status, judged.exit_code, judged.valid_until) == (status, code, FAR if code == 0 else None)
    assert judged.report is not None
    folder = world.state / judged.report
    assert sorted(file.name for file in folder.iterdir()) == ["report.html", "report.json", "report.md"]
    assert "<script" not in (folder / "report.html").read_text(), "made of report.json, not what the child left"
    assert document.read((folder / "report.json").read_bytes()).verdict.status == status
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in folder.iterdir())
    assert world.registry.alias("churn", ALIAS) == ("1" if code == 0 else None)
    assert world.registry.models["churn"]["1"].tags["privacy_gate.verdict"] == status
    assert not world.work(), "nothing is left to do"
    assert list((world.state / "scratch").iterdir()) == []


def test_an_older_pass_stays_approved_when_a_newer_version_fails(world: World) -> None:
    world.register("a")
    world.plan(0)
    world.work()
    world.register("b")
    world.plan(1)
    world.work()
    assert world.registry.alias("churn", ALIAS) == "1"


def test_where_runs_name_the_records_the_same_files_by_another_run_are_judged_on_their_own(world: World) -> None:
    """A stranger's run may name records that the model never saw: his pass is not the owner's, nor the other way."""
    world.subscribe(data="run")
    for run in ("theirs", "ours", "ours"):
        version, versions = world.register(), world.registry.models["churn"]
        versions[version] = dataclasses.replace(versions[version], run_id=run)
    world.plan(0)
    assert world.work()
    assert world.registry.alias("churn", ALIAS) == "1"
    world.plan(1)
    assert world.work()
    assert world.job("2").outcome.startswith("fail: said")
    assert world.work()
    assert world.job("3").outcome.startswith("the same files were judged by the same terms before: fail")
    assert [each["job"]["records"]["run"] for each in world.began] == ["theirs", "ours"]
    assert world.registry.alias("churn", ALIAS) == "1"
    swept = writeback.settle(world.registry, world.queue, world.subscribed, "churn", verify=True, now=world.now)
    assert (swept.after, swept.notes) == ("1", ())
    world.registry.move_alias("churn", ALIAS, "3")  # by hand
    swept = writeback.settle(world.registry, world.queue, world.subscribed, "churn", verify=False, now=world.now)
    assert (swept.before, swept.after) == ("3", "1")


def test_a_copy_is_not_judged_again(world: World) -> None:
    world.register()
    world.plan(0)
    world.work()
    world.register()
    assert world.work(command=["/bin/false"])
    assert len(world.began) == 1
    job = world.job("2")
    assert job.state is State.DONE
    assert job.outcome.startswith("the same files were judged by the same terms before: pass")
    assert world.registry.models["churn"]["2"].tags["privacy_gate.valid_until"] == FAR
    assert world.registry.alias("churn", ALIAS) == "2"


@pytest.mark.parametrize("why", ["expired", "terms"])
def test_what_does_not_stand_any_more_is_judged_again(world: World, why: str) -> None:
    world.register()
    world.plan(0)
    world.work()
    first = world.key("1")
    if why == "expired":
        world.now = NOW + 365 * 86400
        world.plan(0, until="2028-03-01")
    else:
        world.subscribe(profile="strict")
        world.plan(1)
    world.ask()
    assert world.work()
    assert len(world.began) == 2
    assert world.registry.alias("churn", ALIAS) == ("1" if why == "expired" else None)
    assert world.queue.verdict(first) is not None
    reports = list((world.state / "reports").iterdir())
    assert len(reports) == (1 if why == "expired" else 2), "one folder per key, renewed in place"


def test_a_verdict_whose_evidence_was_deleted_is_judged_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.register()
    world.plan(0)
    world.work()
    judged = world.queue.verdict(world.key("1"))
    assert judged is not None
    world.queue.record(dataclasses.replace(judged, run_id="deleted"))
    world.ask()
    assert world.work()
    assert len(world.began) == 2
    assert world.job().outcome.startswith("pass: said")
    assert world.queue.verdict(world.key("1")) == judged


def test_what_is_gone_or_not_covered_ends_without_a_verdict(world: World) -> None:
    world.register()
    world.plan(1)
    world.work()
    world.ask()
    world.subscribe(versions={"tag": {"stage": "ready"}})
    assert world.work()
    # What was found out about its files stands: should it be covered again, nothing is judged twice.
    assert (world.job().state, world.job().key) == (State.DONE, world.key("1"))
    assert world.job().outcome == "no subscription covers it any more"
    world.ask("7")
    assert world.work()
    assert (world.job("7").outcome, world.job("7").key) == ("there is no such version any more", None)
    assert len(world.began) == 1


def test_who_is_approved_stays_covered_when_its_trigger_moves_on(world: World) -> None:
    world.register()
    world.plan(0)
    world.work()
    world.ask()
    world.subscribe(versions={"tag": {"stage": "ready"}})
    assert world.work()
    assert world.job().outcome.startswith("the same files were judged by the same terms before: pass")
    assert world.registry.alias("churn", ALIAS) == "1"


# --- what a child sees ----------------------------------------------------------------------------------------------


def test_a_child_knows_no_secret_and_is_told_the_services_terms(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (world.folder / "key").write_text("hush")
    names = ["WEBHOOK_SECRET", "SERVICE_TOKEN", "QUEUE_URL", "SIGNING_PASSWORD"]
    for name in names:
        monkeypatch.setenv(f"PRIVACY_GATE_{name}", "hush hush")
    monkeypatch.setenv("PRIVACY_GATE_SIGNING_KEY_FILE", str(world.folder / "key"))
    monkeypatch.delenv("PRIVACY_GATE_REFERENCE_DATA", raising=False)  # of these tests
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "the registry's own")
    roots = ["records", "s3://bucket/team"]
    world.subscribe(profile="strict", suite="fast", data="run", data_roots=roots)
    world.register()
    world.plan(1)
    world.work()
    (child,) = world.began
    assert "hush" not in json.dumps(child["environment"])
    assert not [name for name in child["environment"] if name.startswith("PRIVACY_GATE_")]
    assert child["environment"]["MLFLOW_TRACKING_TOKEN"] == "the registry's own", "it writes the evidence"
    job = child["job"]
    assert (job["model"], job["profile"], job["suite"], job["trust"]) == ("models:/churn/1", "strict", "fast", "data")
    assert job["config"] == str(world.folder / "privacy-gate.yaml")
    expected = {"run": "", "roots": [str(world.folder / "records"), "s3://bucket/team"], "closed": [str(world.state)]}
    assert job["records"] == expected
    assert Path(job["out"]).is_relative_to(world.state / "scratch")


# --- children that misbehave ----------------------------------------------------------------------------------------

STRANGE: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({"forgets": True}, "there is no report.json"),
    "half a report": ({"halves": True}, "report.json: not a report"),
    "a changed report": ({"flips": True}, "report.json was changed after it was written"),
    "a link": ({"links": True}, "there is no report.json"),
    "a pipe": ({"pipes": True}, "no plain file"),
    "a pass that ends with 1": ({"exits": 1}, "is not that of this job: exit code, status, valid_until"),
    "a violation that ends with 0": ({"status": "fail"}, "is not that of this job: status"),
    "a violation that is excused": (
        {"status": "fail", "changes": {"verdict.exit_zero": True}},
        "is not that of this job: status, exit_zero",
    ),
    "a pass for ever": ({"until": None}, "is not that of this job: valid_until"),
    "a pass until whenever": ({"until": "whenever"}, "valid_until is no date"),
    "another model": ({"changes": {"subject.name": "other"}}, "is not that of this job: model"),
    "another version": ({"changes": {"subject.version": "9"}}, "is not that of this job: model"),
    "other files": ({"changes": {"subject.digest": "0" * 64}}, "its files changed between hashing and judging"),
    "another policy": ({"changes": {"policy.digest": "0" * 64}}, "is not that of this job: policy"),
    "no policy": ({"changes": {"policy": None}}, "is not that of this job: policy"),
    "another suite": ({"changes": {"suite": "fast"}}, "is not that of this job: suite"),
    "an evidence run of somebody else": ({"run": "f" * 32}, "names an evidence run that is not this model's"),
    "a crash": ({"exits": 3}, "its process ended with exit code 3"),
    "a crash that is explained": (
        {"exits": 3, "prints": "x\nerror: the disk\x1b[2J is full\nhint: free some"},
        "the disk is",
    ),
    "a signal": ({"forks": f"import os; os.kill({os.getpid()}, 0)", "exits": 137}, "exit code 137"),
}


@pytest.mark.parametrize("case", STRANGE)
def test_no_verdict_comes_of_a_report_that_cannot_be_the_gates(shared: World, case: str) -> None:
    options, message = STRANGE[case]
    version = shared.register(case)
    shared.plan(**options)
    assert shared.work()
    job = shared.job(version)
    assert job.state is State.QUEUED
    assert message in job.outcome
    assert "\x1b" not in job.outcome
    assert job.due == pytest.approx(NOW + backoff(dataclasses.replace(job, attempts=1)))
    assert shared.queue.verdict(shared.key(version)) is None
    assert shared.registry.alias("churn", ALIAS) is None
    assert not (shared.state / "reports").exists()
    assert not shared.work(), "not before it is due"


def test_a_report_beyond_any_size_is_not_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_MOST_REPORT", 100)
    world.register()
    world.plan(0)
    world.work()
    assert "too large" in world.job().outcome


def test_a_poison_job_is_parked_after_its_attempts_and_shown(world: World) -> None:
    world.register()
    world.plan(0, exits=3, prints="error: broken for good")
    for attempt in range(1, 4):
        assert world.work()
        assert world.job().attempts == attempt
        world.now += 3600
    assert world.job().state is State.PARKED
    assert world.job().outcome == "broken for good"
    assert not world.work()
    assert [job.uri for job in world.queue.jobs(State.PARKED)] == ["models:/churn/1"]
    assert len(world.began) == 3


def test_what_trying_again_cannot_mend_is_parked_at_once_with_what_was_said(world: World) -> None:
    world.register()
    refusal = (
        "RunsCode: warning of a library\nerror: models:/churn/1 runs code\nhint: trust: code\x07 in the subscription"
    )
    world.plan(2, prints=refusal)
    assert world.work()
    assert world.job().state is State.PARKED
    assert world.job().outcome == "models:/churn/1 runs code (trust: code in the subscription)"
    assert world.job().terms == world.subscribed.terms["churn*"], "other terms release it"
    log = world.state / "logs" / f"{worker.log_name('churn', '1')}.log"
    assert "warning of a library" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_child_that_says_nothing_of_people(world: World) -> None:
    world.register()
    world.plan(0, exits=3, prints="Traceback\nValueError: patient 4711 is positive")
    world.work()
    assert world.job().outcome == "its process ended with exit code 3"


def test_a_child_that_takes_too_long_is_ended_with_all_that_it_started(world: World) -> None:
    world.subscribe(timeout="1s")
    world.register()
    world.plan(0, hangs=True, forks="import time; time.sleep(3600)")
    before = set(psutil.pids())
    assert world.work()
    assert world.job().outcome.startswith("not done after 1 seconds")
    assert is_gone(world.began[0]["pid"])
    left = [p for p in psutil.process_iter(["cmdline"]) if p.pid not in before and "3600" in str(p.info["cmdline"])]
    assert left == []


def test_a_child_that_never_stops_talking_is_ended(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_MOST_LOG", 1000)
    world.register()
    world.plan(0, hangs=True, prints="blah " * 1000)
    assert world.work()
    assert "said more than anybody reads" in world.job().outcome
    assert is_gone(world.began[0]["pid"])


def test_a_model_that_changes_between_hashing_and_judging_is_queued_again(world: World) -> None:
    world.register()
    world.plan(0)
    world.overwrite("1", "b")  # the plan's digest is that of before: as if it had been put back meanwhile
    assert world.work()
    assert world.job().state is State.QUEUED
    assert "its files changed" in world.job().outcome
    world.plan(0)
    world.now += 60
    assert world.work()
    assert world.job().state is State.DONE


def test_files_of_the_service_that_change_meanwhile_make_no_verdict(world: World) -> None:
    world.register()
    world.plan(0)
    (world.folder / "privacy-gate.yaml").write_text(yaml.safe_dump({**CONFIG, "seed": 7}))
    assert world.work()
    assert "the service's files changed" in world.job().outcome
    assert world.queue.verdict(world.key("1")) is None
    assert (world.job().state, world.job().attempts, world.began) == (State.QUEUED, 0, []), "nobody is to blame"


@pytest.mark.parametrize("broken", [False, True])
def test_what_changes_for_others_costs_no_work(world: World, broken: bool) -> None:
    """Another team's lines, also broken ones, must not throw away what took hours."""
    world.register()
    world.plan(0)
    path = world.folder / "subscriptions.yaml"
    content = yaml.safe_load(path.read_text())
    content["subscriptions"].append({"name": "other", "config": "missing.yaml" if broken else "privacy-gate.yaml"})
    path.write_text(yaml.safe_dump(content))
    assert world.work()
    assert (world.job().state, world.queue.verdict(world.key("1")) is not None) == (State.DONE, True)


def test_subscriptions_that_drop_the_model_while_it_is_judged_make_no_verdict(world: World) -> None:
    world.register()
    world.plan(0)
    path = world.folder / "subscriptions.yaml"
    path.write_text(path.read_text().replace("churn*", "other*"))
    assert world.work()
    assert world.job().state is State.QUEUED
    assert world.queue.verdict(world.key("1")) is None


def test_own_files_that_break_beside_broken_ones_make_no_verdict(world: World) -> None:
    world.register()
    world.plan(0)
    (world.folder / "subscriptions.yaml").write_text("no")
    (world.folder / "privacy-gate.yaml").write_text(yaml.safe_dump({**CONFIG, "seed": 7}))
    assert world.work()
    (world.folder / "privacy-gate.yaml").write_text("no")
    world.now += 60
    assert world.work()
    assert (world.job().state, world.began) == (State.QUEUED, [])


def test_a_program_that_is_not_there(world: World) -> None:
    world.register()
    world.plan(0)
    world.work(command=[str(world.folder / "missing")])
    assert world.job().state is State.QUEUED


def test_a_full_disk_leaves_no_half_of_a_report(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.register()
    world.plan(0)

    def full(report: object, folder: Path, formats: object) -> None:
        folder.mkdir()
        (folder / "report.json").write_text("{")
        raise StorageFailed(f"{folder}: no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("privacy_gate.reports.write", full)
        assert world.work()
    assert "no space left" in world.job().outcome
    assert not (world.state / "reports").exists()
    assert world.queue.verdict(world.key("1")) is None
    world.now += 60
    assert world.work()
    assert world.job().state is State.DONE


@pytest.mark.parametrize("what", ["bytes", "files"])
def test_a_disk_that_is_full_without_a_job_parks_none(world: World, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    world.register()
    world.plan(0)
    resolve = InMemoryRegistry.resolve
    least = {"bytes": worker.LEAST_FREE, "files": worker.LEAST_FILES}
    free = [least[what] - 1]

    def full(self: InMemoryRegistry, uri: str, into: Path) -> Any:
        into.mkdir()
        (into / "half").write_text("of a model")
        raise StorageFailed("no space left on device")

    def usage(folder: Path) -> Any:
        left = list(world.state.rglob("half"))
        known = least | {what: free[0] if not left else 0}
        return types.SimpleNamespace(f_bavail=known["bytes"], f_frsize=1, f_files=1 << 20, f_favail=known["files"])

    monkeypatch.setattr(InMemoryRegistry, "resolve", full)
    monkeypatch.setattr("privacy_gate.service.worker.os.statvfs", usage)
    for _ in range(10):
        assert world.work()
        assert (world.job().state, world.job().attempts) == (State.QUEUED, 0)
        assert "no space left" in world.job().outcome
        world.now += 3600
    free[0] = least[what]  # there is room without it: it is this model that does not fit
    while world.work():
        world.now += 3600
    assert (world.job().state, world.job().attempts) == (State.PARKED, 3)
    monkeypatch.setattr(InMemoryRegistry, "resolve", resolve)


def test_a_model_that_was_made_anew_while_it_was_judged(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number is the same, and its files are others: the old verdict must not be written on it."""
    world.register()
    world.plan(0)
    one, created = InMemoryRegistry.version, iter([1.0, 2.0, 2.0, 2.0])

    def version(self: InMemoryRegistry, name: str, number: str) -> RegisteredVersion | None:
        found = one(self, name, number)
        return found and dataclasses.replace(found, created=next(created, 2.0))

    monkeypatch.setattr(InMemoryRegistry, "version", version)
    assert world.work()
    assert "registered anew" in world.job().outcome
    assert world.registry.models["churn"]["1"].tags == {}
    assert world.registry.alias("churn", ALIAS) is None


def test_a_pass_that_ends_soon_is_renewed_and_stays_until_then(world: World) -> None:
    world.register()
    world.plan(0)
    assert world.work()
    world.now += 70 * 86400.0  # of 77
    world.plan(3)
    world.ask()
    assert world.work()
    assert world.job().state is State.QUEUED
    assert world.registry.alias("churn", ALIAS) == "1", "the old one still stands"
    world.now += 3600
    world.plan(0, until="2027-07-01")
    assert world.work()
    assert len(world.began) == 3
    judged = world.queue.verdict(world.key("1"))
    assert judged is not None
    assert judged.valid_until == "2027-07-01"
    world.ask()
    assert world.work()
    assert len(world.began) == 3


def test_a_worker_that_is_stopped_while_it_hashes_gives_its_job_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be killed before it is done; three restarts must not park what did nothing wrong."""
    world.register()
    world.plan(0)
    monkeypatch.setattr(worker, "_LET_GO", 0.0)
    world.subscribe({"lease": "1s"})
    stop, resolve = threading.Event(), InMemoryRegistry.resolve
    seen: list[Job] = []

    def slow(self: InMemoryRegistry, uri: str, into: Path) -> Any:
        stop.set()
        until(lambda: world.job().state is State.QUEUED)
        seen.append(world.job())
        return resolve(self, uri, into)

    monkeypatch.setattr(InMemoryRegistry, "resolve", slow)
    assert world.work(stop=stop)
    assert [(job.state, job.attempts, job.outcome) for job in seen] == [
        (State.QUEUED, 0, "given back: its worker was stopped")
    ]
    assert world.job() == seen[0]
    assert world.began == []


def test_a_worker_that_hangs_in_a_store_does_not_keep_its_job_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.register()
    world.plan(0)
    world.subscribe({"lease": "1s"})
    monkeypatch.setattr(worker, "_PARTS", 0)
    resolve = InMemoryRegistry.resolve

    def stuck(self: InMemoryRegistry, uri: str, into: Path) -> Any:
        until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("lease of")])
        return resolve(self, uri, into)

    monkeypatch.setattr(InMemoryRegistry, "resolve", stuck)
    assert world.work()
    assert (world.job().state, world.began) == (State.RUNNING, [])
    taken = world.queue.claim("another", {}, 60.0, world.now + 2)
    assert taken is not None
    assert taken.version == "1"


def test_lines_of_the_log_name_delivery_job_and_attempt(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "privacy_gate.service")
    world.register()
    world.queue.forget("churn", "1")
    world.queue.request(Wanted("churn", "1", "churn*", delivery="d-1"), NOW)
    world.plan(1)
    world.work()
    (line,) = [record for record in caplog.records if getattr(record, "event", "") == "job"]
    assert line.getMessage() == "fail: said"
    told = {name: getattr(line, name) for name in ("delivery", "job", "worker", "subscription", "attempt")}
    expected = {"delivery": "d-1", "job": "models:/churn/1", "worker": "w", "subscription": "churn*", "attempt": 1}
    assert told == expected


# --- leases ---------------------------------------------------------------------------------------------------------


def test_a_worker_whose_lease_is_lost_ends_its_child_and_writes_nothing(world: World) -> None:
    world.subscribe(service={"lease": 0.3})
    world.register()
    world.plan(0, hangs=True)
    thread = threading.Thread(target=world.work)
    thread.start()
    until((world.folder / "hangs").exists)
    taken = world.queue.claim("other", {}, 3600.0, NOW + 10)  # by then the lease has run out
    assert taken is not None
    thread.join(30)
    assert not thread.is_alive()
    assert is_gone(world.began[0]["pid"])
    assert world.job().lease == taken.lease
    assert world.job().state is State.RUNNING
    assert world.queue.verdict(world.key("1")) is None
    assert world.registry.models["churn"]["1"].tags == {}


def test_a_stale_worker_does_not_write_even_if_it_has_not_noticed(world: World) -> None:
    """The fence: the queue is asked once more before anything is written."""
    world.register()
    world.plan(0)

    class Slow(InMemoryRegistry):
        def resolve(self, uri: str, into: Path) -> Any:
            assert world.queue.claim("other", {}, 3600.0, NOW + 3600) is not None
            return super().resolve(uri, into)

    registry = Slow(models=world.registry.models)
    assert work_one(world.subscribed, registry, world.queue, "w", command=world.command, clock=lambda: NOW)
    assert world.queue.verdict(world.key("1")) is None
    assert registry.models["churn"]["1"].tags == {}
    assert registry.alias("churn", ALIAS) is None
    assert (world.job().lease or "").startswith("other:")


def test_a_long_child_keeps_its_lease(world: World) -> None:
    world.now = time.time()
    world.subscribe(service={"lease": 0.3})
    world.register()
    world.plan(0, hangs=True)
    stop = threading.Event()
    thread = threading.Thread(target=lambda: world.work(clock=time.time, stop=stop))
    thread.start()
    first = until(lambda: world.job().lease_until if (world.folder / "hangs").exists() else None)
    until(lambda: (world.job().lease_until or 0) > first + 0.6)
    assert world.queue.claim("other", {}, 60.0, time.time()) is None
    fact = world.queue.recall("worker:w")
    assert fact is not None
    assert fact[0]["job"] == "models:/churn/1"
    stop.set()
    thread.join(30)
    assert not thread.is_alive()


def test_a_worker_that_is_stopped_gives_its_job_back(world: World) -> None:
    world.register()
    world.plan(0, hangs=True)
    stop = threading.Event()
    thread = threading.Thread(target=lambda: world.work(stop=stop))
    thread.start()
    until((world.folder / "hangs").exists)
    stop.set()
    thread.join(30)
    assert not thread.is_alive()
    assert is_gone(world.began[0]["pid"])
    job = world.job()
    assert (job.state, job.due, job.attempts) == (State.QUEUED, NOW, 0), "at once, for whoever comes"
    world.plan(0)
    assert world.work()
    assert world.job().state is State.DONE


def test_two_workers_at_once_end_where_one_would(world: World) -> None:
    """Older versions are judged after newer ones, copies at the same time as what they are copies of."""
    world.subscribe(concurrency=4)
    for content in ("a", "b", "a", "c", "b", "d"):
        world.register(content)
    world.plan(0)
    stand_in = (world.folder / "stand_in.py").read_text()
    failing = 'plan |= {"status": "fail", "code": 1, "until": None} if job["model"].endswith("/6") else {}\n'
    (world.folder / "stand_in.py").write_text(stand_in.replace("folder, out =", failing + "folder, out =", 1))

    def drain(name: str) -> None:
        while work_one(
            world.subscribed, world.registry, world.queue, name, command=world.command, clock=lambda: world.now
        ):
            pass

    threads = [threading.Thread(target=drain, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    assert [world.job(str(n)).state for n in range(1, 7)] == [State.DONE] * 6, [
        world.job(str(n)).outcome for n in range(1, 7)
    ]
    assert world.registry.alias("churn", ALIAS) == "5"
    tags = [world.registry.models["churn"][str(n)].tags["privacy_gate.verdict"] for n in range(1, 7)]
    assert tags == ["pass"] * 5 + ["fail"]
    assert len(list((world.state / "reports").iterdir())) == 4
    assert list((world.state / "scratch").iterdir()) == []


PROGRAM = """
import sys, threading, time
from pathlib import Path
from privacy_gate.registry.in_memory import Entry, InMemoryRegistry
from privacy_gate.service.queue import open_queue
from privacy_gate.service.subscriptions import load
from privacy_gate.service.worker import run

folder = Path(sys.argv[1])
sys.stdin.readline()
registry = InMemoryRegistry(models={"churn": {"1": Entry(folder / "models" / "churn" / "1")}})
command = [sys.executable, "-S", str(folder / "stand_in.py")]
subscribed = load(folder / "subscriptions.yaml")
run(lambda: subscribed, registry, open_queue(f"sqlite:///{folder}/queue.db"), "real", stop=threading.Event(),
    command=command)
"""


def test_kill_9_of_a_worker_leaves_no_child_and_loses_no_job(world: World) -> None:
    world.subscribe(service={"lease": 1.0})
    world.now = time.time()
    world.register()
    # Its own child ends it: what runs beside model code may be up to anything.
    world.plan(0, hangs=True, kills=True, forks="import time; time.sleep(3600)")
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(world.folder)], cwd=world.folder, stdin=subprocess.PIPE
    )
    (world.folder / "worker").write_text(str(process.pid))
    process.communicate(b"go\n", timeout=60)
    assert process.returncode == -signal.SIGKILL
    (child,) = world.began
    until(lambda: is_gone(child["pid"]))
    left = world.job()
    assert left.state is State.RUNNING
    assert (left.lease or "").startswith("real:")
    (dead,) = (world.state / "scratch").iterdir()
    world.plan(0)
    until(lambda: world.work(clock=time.time))  # when the lease has run out
    assert not dead.exists()
    assert (world.job().state, world.job().attempts) == (State.DONE, 2)
    assert len(world.began) == 2
    assert world.queue.verdict(world.key("1")) is not None


# --- a registry that fails ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["mark", "move_alias", "alias"])
def test_a_registry_that_fails_while_it_is_written_to_costs_the_job_and_not_the_verdict(
    world: World, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    world.register()
    world.plan(0)

    def gone(*_: object) -> None:
        raise RegistryUnreachable("gone")

    with monkeypatch.context() as patch:
        patch.setattr(InMemoryRegistry, method, gone)
        assert world.work()
    assert world.job().state is State.QUEUED
    assert world.job().outcome == "gone"
    assert world.queue.verdict(world.key("1")) is not None
    world.now += 60
    assert world.work()
    assert len(world.began) == 1, "it is not judged again"
    assert world.job().state is State.DONE
    assert world.registry.alias("churn", ALIAS) == "1"
    assert world.registry.models["churn"]["1"].tags["privacy_gate.verdict"] == "pass"


def test_an_outage_of_the_registry_parks_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.register()
    world.plan(0)

    def gone(*_: object) -> None:
        raise RegistryUnreachable("gone")

    delays = []
    with monkeypatch.context() as patch:
        patch.setattr(InMemoryRegistry, "resolve", gone)
        for _ in range(12):
            assert world.work()
            assert (world.job().state, world.job().attempts) == (State.QUEUED, 0)
            delays.append(world.job().due - world.now)
            world.now = world.job().due
    assert delays == sorted(delays), "the longer it lasts, the rarer it is asked"
    assert (delays[0], delays[-1] > 10) == (5.0, True)
    assert patience_of(10**9) == 900
    assert world.work()
    assert world.job().state is State.DONE


def patience_of(age: float) -> float:
    return worker.patience(a_job(1), NOW + age)


@pytest.mark.parametrize("how", ["its report says so", "it cannot be asked"])
def test_a_child_that_found_the_registry_away_is_not_to_blame(
    world: World, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    world.register()
    errors = [{"type": "RegistryUnreachable", "what": "gone", "hint": ""}] if how == "its report says so" else []
    world.plan(3, changes={"errors": errors}, headline="The evaluation failed: gone")
    if not errors:
        monkeypatch.setattr(InMemoryRegistry, "ping", lambda _: [Probe("registry", False, "gone")])
    assert world.work()
    assert (world.job().state, world.job().attempts) == (State.QUEUED, 0)
    assert world.job().outcome == "The evaluation failed: gone"


def test_evidence_that_did_not_arrive_is_no_verdict(world: World) -> None:
    world.register()
    world.plan(0, changes={"run.mlflow": {"run_id": None, "warning": "nothing was written back: it is down"}})
    assert world.work()
    assert (world.job().state, world.job().outcome) == (State.QUEUED, "nothing was written back: it is down")
    world.plan(0, changes={"run.mlflow": {"run_id": None, "warning": "the evidence was not recorded: no permission"}})
    world.now += 60
    assert world.work()
    assert world.job().state is State.DONE


def test_the_gate_says_in_these_words_that_nothing_was_written_back() -> None:
    source = (Path(closing.__file__)).read_text()
    assert f'f"{worker.NOT_WRITTEN}{{error.what}}"' in source


def test_an_alias_that_another_worker_has_is_nobodys_fault(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("privacy_gate.service.writeback.PATIENCE", 0.0)
    world.register()
    world.plan(0)
    with world.queue.hold("alias:churn", "other", 3600.0, NOW):
        for _ in range(4):
            assert world.work()
            assert world.job().state is State.QUEUED, "however often"
            world.now += 40
    assert world.work()
    assert world.job().state is State.DONE


def test_a_defect_is_told_by_its_type_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.register()

    def broken(*_: object) -> None:
        raise ValueError("patient 4711 is positive")

    monkeypatch.setattr(InMemoryRegistry, "version", broken)
    assert world.work()
    assert world.job().outcome == "unexpected ValueError: a defect of the gate"
    assert world.job().state is State.QUEUED


# --- small things ---------------------------------------------------------------------------------------------------


def a_job(attempts: int, version: str = "1") -> Job:
    return Job("churn", version, "churn*", 0, State.RUNNING, 1, attempts, "", None, NOW, NOW)


def test_the_delay_doubles_up_to_an_hour_and_is_drawn_from_the_job(world: World) -> None:
    whole = [30.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 3600.0, 3600.0]
    for attempt, longest in enumerate(whole, start=1):
        assert 0.8 * longest <= backoff(a_job(attempt)) <= longest
    assert backoff(a_job(10**6)) <= 3600
    assert backoff(a_job(1)) == backoff(a_job(1))
    assert len({backoff(a_job(1, str(version))) for version in range(20)}) == 20, "not all at once"


def test_it_works_until_it_is_stopped(world: World) -> None:
    world.register()
    world.plan(0)
    stop = threading.Event()
    arguments = {"stop": stop, "command": world.command, "idle": 0.02, "clock": lambda: NOW}
    thread = threading.Thread(
        target=worker.run, args=(lambda: world.subscribed, world.registry, world.queue, "w"), kwargs=arguments
    )
    thread.start()
    try:
        until(lambda: world.job().state is State.DONE)
        world.register("b")
        world.plan(1)
        until(lambda: world.job("2").state is State.DONE)
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()
    assert list((world.state / "scratch").iterdir()) == []
    assert world.queue.recall("worker:w") is not None


def test_subscriptions_that_cannot_be_read_stop_no_worker(world: World) -> None:
    stop, calls = threading.Event(), []

    def read() -> Subscribed:
        calls.append(1)
        if len(calls) == 3:
            stop.set()
        raise EvaluationFailed("unreadable")

    worker.run(read, world.registry, world.queue, "w", stop=stop, idle=0.0)
    assert len(calls) == 3


# --- the gate itself ------------------------------------------------------------------------------------------------

FEATURES = ["trait", "age", "bmi"]
POLICY = {
    "apiVersion": "privacy-gate/v1",
    "release_context": "internal",
    "rules": {
        # A few hundred records decide this one; the attack needs no shadow.
        "PG101": {"max": 0.65, "action": "block", "severity": "high"},
        "PG501": {"attacks": ["correctness"], "action": "block", "severity": "high"},
    },
}


@dataclasses.dataclass
class Real:
    """A registry of MLflow's, whose version 1 was judged by the gate; version 2 is a copy of it."""

    folder: Path
    uri: str
    run: str
    registry: MlflowRegistry
    queue: Queue
    subscribed: Subscribed
    public: bytes

    def version(self, number: str) -> RegisteredVersion:
        found = self.registry.version("tiny", number)
        assert found is not None
        return found

    def judged(self) -> Judged:
        job = self.queue.job("tiny", "1")
        assert job is not None
        assert job.key is not None, job.outcome
        found = self.queue.verdict(job.key)
        assert found is not None
        return found


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    """A booster stored as text, which runs no code, whose own run names its records; the gate as its own process."""
    import lightgbm
    import mlflow
    import numpy as np
    import pandas as pd

    folder = tmp_path_factory.mktemp("real")
    uri = embedded_registry(folder)
    rng = np.random.default_rng(3)

    def people(count: int) -> pd.DataFrame:
        frame = pd.DataFrame({name: rng.normal(size=count) for name in FEATURES})
        return frame.assign(sick=(frame["trait"] + rng.normal(size=count) > 0).astype(int), who=range(count))

    members, others = people(300), people(300).assign(who=range(1000, 1300))
    fitted = lightgbm.train(
        {"objective": "binary", "verbosity": -1, "num_threads": 1, "num_leaves": 3},
        lightgbm.Dataset(members[FEATURES], members["sick"]),
        5,
    )
    data = {"members": "in.csv", "nonmembers": "out.csv", "label": "sick", "person": "who"}
    with tracking(uri):
        mlflow.set_experiment("training")
        with mlflow.start_run() as run:
            for name, frame in (("in.csv", members), ("out.csv", others)):
                frame.to_csv(folder / name, index=False)
                mlflow.log_artifact(str(folder / name), "privacy_gate")
            mlflow.log_text(yaml.safe_dump(data), "privacy_gate/data.yaml")
            mlflow.lightgbm.log_model(fitted, name="model", registered_model_name="tiny", pip_requirements=[])
        client = mlflow.MlflowClient()
        client.copy_model_version("models:/tiny/1", "tiny")
    elsewhere = {"members": "/etc/passwd", "nonmembers": "/etc/passwd"}  # what the service's own config would read
    config = {"apiVersion": "privacy-gate/v1", "data": elsewhere, "shadows": {"count": 0}, "attacks": ["correctness"]}
    (folder / "privacy-gate.yaml").write_text(yaml.safe_dump(config))
    (folder / "policy.yaml").write_text(yaml.safe_dump(POLICY))
    subscription = {"name": "tiny", "config": "privacy-gate.yaml", "policy": "policy.yaml", "data": "run"}
    content = {
        "apiVersion": "privacy-gate/subscriptions/v1",
        "tracking_uri": uri,
        "service": {"state": "state"},
        "subscriptions": [subscription],
    }
    (folder / "subscriptions.yaml").write_text(yaml.safe_dump(content))
    private, public = new_key()
    queue = open_queue(f"sqlite:///{folder}/queue.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in [name for name in os.environ if name.startswith(("MLFLOW_", "PRIVACY_GATE_"))]:
            patch.delenv(name)
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        subscribed, registry = load(folder / "subscriptions.yaml"), MlflowRegistry(uri, uri)
        queue.request(Wanted("tiny", "1", "tiny"), time.time())
        assert work_one(subscribed, registry, queue, "w", key=private_key(private))
        yield Real(folder, uri, run.info.run_id, registry, queue, subscribed, public)
    queue.close()


@pytest.mark.slow
def test_the_gate_judges_and_all_that_follows_arrives_in_the_registry(real: Real) -> None:
    judged, version = real.judged(), real.version("1")
    assert (judged.status, judged.exit_code) == ("pass", 0)
    assert judged.report is not None
    folder = real.subscribed.state / judged.report
    report = document.read((folder / "report.json").read_bytes())
    assert report.subject.digest == judged.key.model_sha256
    assert report.subject.executes_code is False
    assert version.aliases == (ALIAS,)
    assert version.tags == writeback.tags_of(judged)
    assert version.tags["privacy_gate.run_id"] == judged.run_id
    # The evidence run holds the very bytes that are signed and kept.
    for name in ("report.json", "report.html", "attestation.json"):
        stored = real.registry.fetch(f"runs:/{judged.run_id}/privacy-gate/{name}", real.folder / "fetched")
        assert stored.read_bytes() == (folder / name).read_bytes()
    attested = opened((folder / "attestation.json").read_bytes(), public_keys(real.public))
    assert (attested.model_sha256, attested.policy_sha256) == (judged.key.model_sha256, judged.key.terms.policy_sha256)
    assert attested.report_sha256 == sha256_of_file(folder / "report.json")
    assert judged.attestation == sha256_of_file(folder / "attestation.json")


def test_the_report_says_who_named_the_records(real: Real) -> None:
    judged = real.judged()
    report = document.read((real.subscribed.state / str(judged.report) / "report.json").read_bytes())
    assert report.data is not None
    assert (report.data.members.n, report.data.nonmembers.n) == (300, 300)
    assert any(f"named by privacy_gate/data.yaml of run {real.run}" in warning for warning in report.warnings)


def test_a_copied_version_gets_the_verdict_and_the_alias_without_another_run(real: Real) -> None:
    real.queue.request(Wanted("tiny", "2", "tiny"), time.time())
    assert work_one(real.subscribed, real.registry, real.queue, "w", command=["/bin/false"])
    job = real.queue.job("tiny", "2")
    assert job is not None
    assert (job.state, job.key) == (State.DONE, real.judged().key)
    assert real.version("2").aliases == (ALIAS,)
    assert real.version("2").tags == writeback.tags_of(real.judged())


def test_tags_of_an_earlier_pass_are_emptied_in_a_real_registry(real: Real) -> None:
    failed = dataclasses.replace(real.judged(), status="fail", exit_code=1, valid_until=None, report=None)
    assert writeback.publish(real.registry, failed, real.version("2"), real.subscribed.state)
    assert real.version("2").tags["privacy_gate.valid_until"] == ""
    assert not writeback.publish(real.registry, failed, real.version("2"), real.subscribed.state)


def test_a_file_of_the_run_that_is_a_link_out_of_it_is_not_read(real: Real) -> None:
    import mlflow

    outside = real.folder / "outside.yaml"
    outside.write_text("root:x:0:0\n")
    with tracking(real.uri):
        run = mlflow.MlflowClient().create_run(mlflow.get_experiment_by_name("training").experiment_id)
    place = Path(run.info.artifact_uri.removeprefix("file://")) / "privacy_gate"
    place.mkdir(parents=True)
    (place / "data.yaml").symlink_to(outside)
    with pytest.raises(DataError, match="no such artifact"):
        run_config.records(real.registry, run.info.run_id, [], [], real.folder / "work")
