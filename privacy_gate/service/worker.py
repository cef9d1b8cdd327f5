"""Takes one job after the other: has a version judged by a process of its own, and sees to all that follows from it.

No code of a model runs here, nor is anything believed that a process wrote which ran beside it: report.json is read
strictly and compared with what is known, and every other file is made of it anew.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import logging
import math
import os
import select
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from privacy_gate import reports
from privacy_gate.datamodel import Candidate, VerdictStatus
from privacy_gate.errors import (
    EvaluationFailed,
    ExitCode,
    GateError,
    RegistryUnreachable,
    StorageFailed,
    UsageError,
    WorkerDied,
)
from privacy_gate.registry import PASSES, REPORT, RegisteredVersion, Registry
from privacy_gate.reports import document
from privacy_gate.reports.document import Report
from privacy_gate.sandbox import guard
from privacy_gate.sandbox.untrusted import clean
from privacy_gate.service import LONGEST_DELAY, Job, Judged, Key, State, Terms, writeback
from privacy_gate.service.child import ERROR
from privacy_gate.service.secrets import without_secrets
from privacy_gate.service.subscriptions import Subscribed, Subscription, covers, present, terms
from privacy_gate.service.writeback import effective, ends_soon
from privacy_gate.sources import urls
from privacy_gate.storage import private_dir, sha256_of_file, write_text

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from privacy_gate.service.queue import Queue

NOT_WRITTEN = "nothing was written back: "  # how the gate begins to say that the registry failed at the end
COMMAND = (sys.executable, "-P", "-m", "privacy_gate.service.child")
LOGS = "logs"  # of the state folder: what the child of each version said last
FACT = "worker:"  # and the worker's id: when it last looked for work, or worked

FIRST_DELAY = 30.0  # seconds before a job that failed is tried again
SHORTEST_PATIENCE, LONGEST_PATIENCE = 5.0, 900.0  # the same where the registry was away
_SHOWN = 600  # characters of what a child said
_HINT = " hint: "  # within what a child said: how the mend begins
_MOST_REPORT = 16 << 20  # bytes
_MOST_LOG = 64 << 20
_KEPT_LOG = 1 << 20
LEAST_FREE, LEAST_FILES = 1 << 28, 1000  # bytes, and files that fit; with less, no job is blamed for failing
_PARTS = 3  # of a job: its files are hashed, the child judges, the alias is put right; none is to take a timeout
_LET_GO = 10.0  # seconds after which a worker that was stopped, and is still at it, gives its job back
_POLL = 0.2  # seconds between two looks at what may end a child
_IDLE = 1.0  # seconds between two looks into an empty queue
_LONGEST_IDLE = 30.0  # the same of a queue that fails
_SEEN_EVERY = 10.0  # seconds at most between two times that an idle worker is seen
_GONE = "PRIVACY_GATE_SIGNING_"  # nothing of the signing key is a child's business

_log = logging.getLogger(__name__)

reports.CATALOG.names()  # found now: at first use, a second thread would find only some of them


class _LeaseLost(Exception):
    """The job is another worker's now: nothing more may be written."""


class _Stopped(Exception):
    """This worker is to end."""


class _Moved(Exception):
    """The service's files are not what it began with, which is not the version's fault."""


class _Parked(Exception):
    """Trying again cannot help."""


@dataclass(frozen=True, slots=True)
class _Work:
    """What one job is done with."""

    subscribed: Subscribed
    registry: Registry
    queue: Queue
    worker: str
    scratch: Path
    key: Ed25519PrivateKey | None
    stop: threading.Event
    clock: Callable[[], float]
    command: Sequence[str]


# --- the loop -------------------------------------------------------------------------------------------------------


def run(
    read: Callable[[], Subscribed],
    registry: Registry,
    queue: Queue,
    worker: str,
    *,
    stop: threading.Event,
    key: Ed25519PrivateKey | None = None,
    clock: Callable[[], float] = time.time,
    command: Sequence[str] = COMMAND,
    idle: float = _IDLE,
) -> None:
    """Work until `stop` is set; the job at hand is then given back.

    read     the subscriptions as they are now, e.g. Reloading.refresh
    worker   name of this worker, unlike all others
    key      signs what was judged; None: nothing is signed
    command  what is run with the path of JOB.json
    """
    with contextlib.ExitStack() as held:
        seen = -math.inf
        scratch: Path | None = None
        failures = 0
        while not stop.is_set():
            busy = False
            try:
                subscribed = read()
                if scratch is None:
                    scratch = held.enter_context(writeback.own_scratch(subscribed.state))
                if time.monotonic() - seen >= min(_SEEN_EVERY, subscribed.value.service.lease):
                    seen = time.monotonic()
                    _seen(queue, worker, None, clock())
                busy = work_one(
                    subscribed,
                    registry,
                    queue,
                    worker,
                    scratch=scratch,
                    key=key,
                    stop=stop,
                    clock=clock,
                    command=command,
                )
                failures = 0
            except GateError as error:  # of the queue, or of the disk: the lease runs out, and the job is taken over
                _log.error("worker %s: %s", worker, clean(error.what, 300), extra={"event": "worker", "worker": worker})
                failures += 1
            if not busy:
                stop.wait(min(idle * 2 ** min(failures, 10), _LONGEST_IDLE) if failures else idle)


def _seen(queue: Queue, worker: str, job: str | None, now: float) -> None:
    queue.remember(f"{FACT}{worker}", {"host": socket.gethostname(), "pid": os.getpid(), "job": job}, now)


# --- one job --------------------------------------------------------------------------------------------------------


def work_one(
    subscribed: Subscribed,
    registry: Registry,
    queue: Queue,
    worker: str,
    *,
    scratch: Path | None = None,
    key: Ed25519PrivateKey | None = None,
    stop: threading.Event | None = None,
    clock: Callable[[], float] = time.time,
    command: Sequence[str] = COMMAND,
) -> bool:
    """Do the job that is next; False: there is none. What goes wrong with it becomes its outcome.

    scratch  private folder, empty; None: one is made and removed
    Raises StorageFailed where the queue itself does not answer; the lease then runs out.
    """
    service = subscribed.value.service
    concurrency = {each.name: each.concurrency for each in subscribed.value.subscriptions}
    job = queue.claim(worker, concurrency, service.lease, clock(), service.attempts)
    if job is None:
        return False
    with contextlib.ExitStack() as held:
        folder = scratch or held.enter_context(writeback.own_scratch(subscribed.state))
        work = _Work(subscribed, registry, queue, worker, folder, key, stop or threading.Event(), clock, command)
        with _Pulse(work, job) as pulse, tempfile.TemporaryDirectory(dir=folder, prefix="job-") as own:
            _attempt(work, job, pulse, Path(own))
    return True


def _attempt(work: _Work, job: Job, pulse: _Pulse, folder: Path) -> None:
    """Do it, and tell the queue how it went."""
    service, queue = work.subscribed.value.service, work.queue
    delay, attempts = backoff(job), service.attempts
    began, run, level = time.monotonic(), None, logging.INFO
    _log.info("%s", job.why or "asked for", extra=_about(work, job) | {"event": "job.begun"})
    try:
        outcome, run = _do(work, job, pulse, folder)
    except _LeaseLost:
        outcome = "the lease is lost: another worker has it"
    except _Stopped:
        outcome = "given back: its worker was stopped"
        queue.give_back(job, outcome, 0.0, work.clock())
    except _Moved as error:
        outcome = str(error)
        queue.give_back(job, outcome, patience(job, work.clock()), work.clock())
    except _Parked as error:
        outcome, level = str(error), logging.WARNING
        queue.park(job, outcome, None, work.clock())
    except writeback.Busy as error:
        outcome = _told(error)
        queue.give_back(job, outcome, FIRST_DELAY, work.clock())
    except UsageError as error:
        outcome, level = _told(error), logging.WARNING
        queue.park(job, outcome, None, work.clock())
    except (GateError, OSError) as error:
        level = logging.WARNING
        outcome = _told(error) if isinstance(error, GateError) else f"{type(error).__name__}: {error.strerror}"
        if _is_full(work, folder) or _is_away(work.registry, error):
            queue.give_back(job, outcome, patience(job, work.clock()), work.clock())
        else:
            _failed(work, job, outcome, attempts, delay)
    except Exception as error:
        # A defect. Its words may quote anything, so only its type is told; the log has its place.
        outcome = f"unexpected {type(error).__name__}: a defect of the gate"
        _log.exception("%s", outcome, extra=_about(work, job))
        _failed(work, job, outcome, attempts, delay)
    seconds = time.monotonic() - began
    _log.log(level, "%s", outcome, extra={**_about(work, job), "run": run, "seconds": seconds})


def _failed(work: _Work, job: Job, outcome: str, attempts: int, delay: float) -> None:
    if work.queue.fail(job, outcome, None, attempts, delay, work.clock()) is State.PARKED:
        _log.warning("parked after %d attempts", attempts, extra=_about(work, job))


def _is_away(registry: Registry, error: Exception) -> bool:
    """Whether it is the registry that failed, and no version is to blame: an outage must not park what is queued."""
    if isinstance(error, RegistryUnreachable):
        return True
    if not isinstance(error, EvaluationFailed) or isinstance(error, StorageFailed):
        return False
    try:
        return not all(probe.ok for probe in registry.ping() if probe.name == "registry")
    except GateError:
        return True


def _is_full(work: _Work, folder: Path) -> bool:
    """Whether the disk is full without what this job put there: then, too, no version is to blame."""
    for entry in folder.iterdir():
        with contextlib.suppress(OSError):
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    try:
        disk = os.statvfs(work.subscribed.state)
    except OSError:
        return False
    counted = disk.f_files > 0  # not every file system limits their number
    return disk.f_bavail * disk.f_frsize < LEAST_FREE or (counted and disk.f_favail < LEAST_FILES)


def patience(job: Job, now: float) -> float:
    """Seconds until what was away, or full, is asked again for a job: the longer it waits, the longer it can."""
    return min(max((now - job.queued) / 4, SHORTEST_PATIENCE), LONGEST_PATIENCE)


def _about(work: _Work, job: Job) -> dict[str, object]:
    about = {"event": "job", "job": job.uri, "worker": work.worker, "subscription": job.subscription}
    return {**about, "attempt": job.attempts, **({"delivery": job.delivery} if job.delivery else {})}


def _told(error: GateError) -> str:
    return clean(f"{error.what} ({error.hint})" if error.hint else error.what, _SHOWN)


def backoff(job: Job) -> float:
    """Seconds until it is tried again: 30, 60, ... up to an hour, less up to a fifth, always the same for a job."""
    delay = min(FIRST_DELAY * 2.0 ** min(max(job.attempts - 1, 0), 20), LONGEST_DELAY)
    drawn = hashlib.sha256(json.dumps([job.name, job.version, job.attempts]).encode()).digest()
    return delay * (1 - 0.2 * int.from_bytes(drawn[:4]) / 2**32)


class _Pulse:
    """Keeps the lease while the block runs; `lost` is set when it is another worker's, or may be."""

    def __init__(self, work: _Work, job: Job) -> None:
        self._work, self._job = work, job
        self._lease = work.subscribed.value.service.lease
        subscription = work.subscribed.of(job.name)
        self._most = math.inf if subscription is None else _PARTS * subscription.timeout
        self._over = threading.Event()
        self.lost = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"lease of {job.uri}", daemon=True)

    def __enter__(self) -> _Pulse:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        began = beaten = held = time.monotonic()
        stopped: float | None = None
        while not self._over.wait(min(self._lease / 3, 1.0)):
            if self._work.stop.is_set():
                stopped = stopped or time.monotonic()
                if time.monotonic() - stopped >= _LET_GO:
                    self._let_go()
                    return
            if time.monotonic() - began >= self._most:
                # A disk or a store that never answers: who looks alive would keep its job for ever.
                text = "given up: it takes longer than %d timeouts of its subscription, and is not with the child"
                _log.error(text, _PARTS, extra=_about(self._work, self._job))
                self.lost.set()
                return
            if time.monotonic() - beaten < self._lease / 3:
                continue
            beaten = time.monotonic()
            try:
                now = self._work.clock()
                if not self._work.queue.heartbeat(self._job, self._lease, now):
                    self.lost.set()
                    return
                held = time.monotonic()
                _seen(self._work.queue, self._work.worker, self._job.uri, now)
            except StorageFailed as error:
                _log.warning("no heartbeat: %s", clean(error.what, 300), extra=_about(self._work, self._job))
            if time.monotonic() - held > self._lease:
                self.lost.set()  # nobody said so, but by now another worker may have it
                return

    def _let_go(self) -> None:
        """Hand it to others now: hashing may take longer than whoever stops this worker waits."""
        self.lost.set()
        with contextlib.suppress(StorageFailed):  # then the lease runs out
            self._work.queue.give_back(self._job, "given back: its worker was stopped", 0.0, self._work.clock())

    def require(self) -> None:
        """Raise unless the job is still this worker's, by the word of the queue; before anything is written."""
        held = not self.lost.is_set()
        if not held or not self._work.queue.heartbeat(self._job, self._lease, self._work.clock()):
            self.lost.set()
            raise _LeaseLost


def _do(work: _Work, job: Job, pulse: _Pulse, folder: Path) -> tuple[str, str | None]:
    """The whole of a job: what came of it, and the evidence run."""
    queue, registry, subscribed = work.queue, work.registry, work.subscribed
    subscription = subscribed.of(job.name)
    version = registry.version(job.name, job.version)
    if subscription is None or version is None or not covers(subscription, version, subscribed.value.service.alias):
        outcome = _uncovered(version)
        pulse.require()
        _settle(work, job, None)
        # What was found out about these files stands, whoever covers them.
        stands = version is not None and not writeback.made_anew(job, version)
        about, by = (job.key, job.terms) if stands else (None, None)
        _ended(queue.finish(job, outcome, about, by, work.clock()))
        return outcome, None
    by = terms(subscribed, subscription, version)
    _ended(queue.tries(job, by, work.clock()))
    _require_terms(work, version, by)
    candidate = registry.resolve(job.uri, folder / "candidate")
    shutil.rmtree(folder / "candidate", ignore_errors=True)
    pulse.require()  # hashing can take long
    about = Key(candidate.digest, by)
    judged, outcome = queue.verdict(about), "the same files were judged by the same terms before: "
    if judged is not None and effective(judged, work.clock()) and not ends_soon(judged, work.clock()):
        pulse.require()
        try:
            writeback.publish(registry, judged, version, subscribed.state)
        except writeback.EvidenceGone:
            judged = None  # somebody deleted it: what nobody can look at any more is no verdict
    else:
        judged = None
    if judged is None:
        outcome = ""
        judged = _judge(work, job, pulse, folder, version, subscription, candidate, about)
        pulse.require()
        listed = registry.version(job.name, job.version)
        if listed is None or listed.created != version.created:
            raise EvaluationFailed("it was deleted, or registered anew, while it was judged")
        writeback.publish(registry, judged, version, subscribed.state)
    pulse.require()
    settled = _settle(work, job, about)
    outcome += f"{judged.status}: {judged.headline}"
    if settled.moved:
        outcome += f" ({settled.alias}: version {settled.after})" if settled.after else f" ({settled.alias} taken away)"
    outcome = clean(outcome, _SHOWN)
    _ended(queue.finish(job, outcome, about, by, work.clock()))
    return outcome, judged.run_id


def _uncovered(version: RegisteredVersion | None) -> str:
    if version is None:
        return "there is no such version any more"
    return "no subscription covers it any more" if version.ready else "its files are not there yet"


def _ended(held: bool) -> None:
    if not held:
        raise _LeaseLost


def _settle(work: _Work, job: Job, about: Key | None) -> writeback.Settled:
    known = {} if about is None else {job.version: about}
    return writeback.settle(
        work.registry,
        work.queue,
        work.subscribed,
        job.name,
        verify=False,
        now=work.clock(),
        known=known,
        owner=work.worker,
        wait=work.stop.wait,
    )


def _judge(
    work: _Work,
    job: Job,
    pulse: _Pulse,
    folder: Path,
    version: RegisteredVersion,
    subscription: Subscription,
    candidate: Candidate,
    about: Key,
) -> Judged:
    """A verdict of the gate, kept and recorded. Raises _Parked for exit 2, EvaluationFailed for everything else."""
    out = private_dir(folder / "out")
    order = folder / "job.json"
    write_text(order, json.dumps(_order(work.subscribed, subscription, version, out)))
    try:
        code = _run(work, pulse, [*work.command, str(order)], folder / "log", subscription.timeout)
    finally:
        _keep_log(work, job, folder / "log")
    _require_terms(work, version, about.terms)
    if code == ExitCode.USAGE:
        raise _Parked(_said(folder / "log") or "the gate refused it, and did not say why")
    if code not in (ExitCode.PASS, ExitCode.VIOLATED, ExitCode.INCONCLUSIVE):
        raise _why(out, folder / "log", code)
    report = verified(out / REPORT, code, job, about, subscription)
    run_id = _evidence(work.registry, candidate, report)
    pulse.require()
    return _keep(work, folder, report, about, run_id)


def _require_terms(work: _Work, version: RegisteredVersion, by: Terms) -> None:
    """Raise unless the files of the service still say the same about this model, whatever else changed in them."""
    if work.subscribed.changed and present(work.subscribed, version) != by:
        raise _Moved("the service's files changed meanwhile")


def _order(
    subscribed: Subscribed, subscription: Subscription, version: RegisteredVersion, out: Path
) -> dict[str, object]:
    """JOB.json."""
    folder, state = subscribed.folder, subscribed.state
    records = None
    if subscription.data == "run":
        roots = [root if urls.is_url(root) else str(folder / root) for root in subscription.data_roots]
        records = {"run": version.run_id or "", "roots": roots, "closed": [str(state)]}
    return {
        "model": version.uri,
        "config": str(folder / subscription.config),
        "tracking_uri": subscribed.tracking_uri,
        "registry_uri": subscribed.registry_uri,
        "policy": None if subscription.policy is None else str(folder / subscription.policy),
        "profile": subscription.profile,
        "waivers": None if subscription.waivers is None else str(folder / subscription.waivers),
        "suite": subscription.suite,
        "trust": subscription.trust,
        "out": str(out),
        "store": str(state / "store"),
        "records": records,
        "nice": subscribed.value.service.nice,
    }


# --- the child ------------------------------------------------------------------------------------------------------


def _run(work: _Work, pulse: _Pulse, argv: Sequence[str], log: Path, limit: float) -> int | None:
    """The exit code; whatever ends this early, or kills this process, leaves nothing of the child behind."""
    environment = {k: v for k, v in without_secrets(os.environ).items() if not k.startswith(_GONE)}
    ends = time.monotonic() + limit
    try:
        with (
            _private(log) as stream,
            # In this process's own folder: a relative address of a registry means the same there.
            guard.guarded(
                argv, folder=Path.cwd(), environment=environment, stdout=stream, stderr=subprocess.STDOUT
            ) as (process, pipe),
        ):
            while not select.select([pipe], [], [], _POLL)[0]:
                if pulse.lost.is_set():
                    raise _LeaseLost
                if work.stop.is_set():
                    raise _Stopped
                if time.monotonic() > ends:
                    raise EvaluationFailed(f"not done after {limit:g} seconds", "set timeout: in the subscription")
                if os.fstat(stream.fileno()).st_size > _MOST_LOG:
                    raise EvaluationFailed("its process said more than anybody reads", "see the service's logs folder")
            return guard.ended(process, pipe).code
    except OSError as error:
        raise StorageFailed(f"no process could be started: {error.strerror}", "free memory, or disk") from error


def _private(log: Path) -> IO[bytes]:
    return os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600), "wb")


def _keep_log(work: _Work, job: Job, log: Path) -> None:
    """The end of it, for who may read the service's folder."""
    with contextlib.suppress(OSError, StorageFailed):
        place = private_dir(work.subscribed.state / LOGS)
        write_text(place / f"{log_name(job.name, job.version)}.log", _tail(log, _KEPT_LOG))


def log_name(name: str, version: str) -> str:
    """Of the log of a version: names of models are no names of files."""
    return hashlib.sha256(json.dumps([name, version]).encode()).hexdigest()[:16]


def _tail(log: Path, most: int) -> str:
    try:
        with log.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - most))
            return stream.read(most).decode("utf-8", "replace")
    except OSError:
        return ""


def _said(log: Path) -> str:
    """The error that a child told of last; "" if none: what libraries print may quote records."""
    lines = _tail(log, 1 << 14).splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith(ERROR)]
    if not starts:
        return ""
    what, _, hint = " ".join(lines[starts[-1] :]).removeprefix(ERROR).partition(_HINT)
    return clean(f"{what} ({hint})" if hint else what, _SHOWN)


def _why(out: Path, log: Path, code: int | None) -> EvaluationFailed:
    """Why there is no verdict: the report's headline, or the error, or the exit code alone."""
    with contextlib.suppress(UsageError, EvaluationFailed):
        report = document.read(_bytes(out / REPORT))
        if report.verdict.status is VerdictStatus.ERROR and report.verdict.exit_code == code:
            headline = clean(report.verdict.headline, _SHOWN)
            away = any(problem.type == RegistryUnreachable.__name__ for problem in report.errors)
            return RegistryUnreachable(headline) if away else WorkerDied(headline)
    return WorkerDied(_said(log) or f"its process ended with {'no exit code' if code is None else f'exit code {code}'}")


# --- what it left ---------------------------------------------------------------------------------------------------

_EXITS = {
    **{VerdictStatus(status): ExitCode.PASS for status in PASSES},
    VerdictStatus.FAIL: ExitCode.VIOLATED,
    VerdictStatus.INCONCLUSIVE: ExitCode.INCONCLUSIVE,
}


def verified(path: Path, code: int, job: Job, about: Key, subscription: Subscription) -> Report:
    """The report of this model by these terms that a process with this exit code must have left.

    Raises EvaluationFailed for anything else.
    """
    try:
        report = document.read(_bytes(path))
    except UsageError as error:
        raise EvaluationFailed(f"report.json: {clean(error.what, 300)}") from error
    verdict, subject = report.verdict, report.subject
    if subject.digest != about.model_sha256:
        raise EvaluationFailed("its files changed between hashing and judging")
    expected = {
        "exit code": (verdict.exit_code, code),
        "status": (_EXITS.get(verdict.status), code),
        "exit_zero": (verdict.exit_zero, False),
        "model": ((subject.name, subject.version), (clean(job.name), job.version)),
        "policy": (report.policy.digest if report.policy else None, about.terms.policy_sha256),
        "suite": (report.suite, subscription.suite),
        "valid_until": (_is_date(verdict.valid_until), code == ExitCode.PASS),
    }
    if wrong := [name for name, (found, wanted) in expected.items() if found != wanted]:
        raise EvaluationFailed(f"report.json is not that of this job: {', '.join(wrong)}")
    return report


def _is_date(text: str | None) -> bool:
    """False for none; for a text that is no date, something that is never expected."""
    if text is None:
        return False
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        raise EvaluationFailed("report.json: valid_until is no date") from None


def _bytes(path: Path) -> bytes:
    """Of a plain file of a sensible size, no link. Raises EvaluationFailed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as stream:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode) or about.st_size > _MOST_REPORT:
                raise EvaluationFailed("report.json is no plain file, or too large")
            return stream.read(_MOST_REPORT)
    except OSError as error:
        raise EvaluationFailed(f"there is no report.json ({error.strerror})") from error


def _evidence(registry: Registry, candidate: Candidate, report: Report) -> str | None:
    """The evidence run that the report names, if it is one of exactly this model; None: nothing was written back."""
    logged = report.run.mlflow
    named = logged.run_id if logged else None
    if named is None:
        if logged is not None and (logged.warning or "").startswith(NOT_WRITTEN):
            raise EvaluationFailed(clean(logged.warning, _SHOWN))
        return None  # it may not write there, which the report says
    recorded = registry.attempts(candidate).attempts
    if recorded is None or named not in {attempt.run_id for attempt in recorded}:
        raise EvaluationFailed("the report names an evidence run that is not this model's")
    return named


def _keep(work: _Work, folder: Path, report: Report, about: Key, run_id: str | None) -> Judged:
    """The report's files in one folder per key, whole from the first moment; then the verdict, in the queue."""
    now, state = work.clock(), work.subscribed.state
    made = folder / "kept"
    reports.write(report, made, ("html", "markdown"))
    attested = None
    if work.key is not None:
        from privacy_gate.attestation import attest

        attested = sha256_of_file(attest(made, work.key, now))
    name = writeback.folder_of(about)
    _replace(made, state / name, folder)
    judged = Judged(
        key=about,
        status=str(report.verdict.status),
        exit_code=report.verdict.exit_code,
        headline=clean(report.verdict.headline, 300),
        run_id=run_id,
        report=name,
        valid_until=report.verdict.valid_until,
        at=now,
        attestation=attested,
    )
    work.queue.record(judged)
    return judged


def _replace(made: Path, target: Path, aside: Path) -> None:
    """Move a folder to where another one may be; what is there is either, and never a part."""
    private_dir(target.parent)
    made.chmod(0o700)
    for _ in range(3):  # another worker may put one of the same key there in between
        try:
            if target.exists():
                os.rename(target, Path(tempfile.mkdtemp(dir=aside)) / "old")
            os.rename(made, target)
            return
        except FileNotFoundError:
            continue
        except OSError as error:
            if not target.exists():
                raise StorageFailed(f"{target}: {error.strerror}", "free some space") from error
    raise StorageFailed(f"{target}: others write it at the same time")
