"""What follows from a verdict: the signed attestation, the files beside the evidence, the tags, the alias.

All of it may be done again, late or twice, and ends the same: a registry that fails in between costs the job, never
the verdict.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from privacy_gate.errors import CandidateNotFound, DataError, EvaluationFailed, UsageError
from privacy_gate.registry import TAG_PREFIX, RecordedReport, RegisteredVersion, Registry, verdict_tags
from privacy_gate.sandbox.untrusted import clean
from privacy_gate.service import FUTURE, Job, Judged, Key, Wanted, number
from privacy_gate.service.subscriptions import Subscribed, terms
from privacy_gate.storage import private_dir, sha256_of_json

if TYPE_CHECKING:
    from privacy_gate.service.queue import Queue

REPORTS = "reports"  # of the state folder: one folder per key
SCRATCH = "scratch"  # of the state folder: what dies with its worker
ATTACHED = ("report.json", "report.html", "attestation.json")

HOLD = 60.0  # seconds after which the alias of a worker that died is another one's
PATIENCE = 30.0  # seconds to wait for it
_PAUSE = 0.2
_SHORT = 2 * 86400.0  # seconds of a pass

_log = logging.getLogger(__name__)


class EvidenceGone(EvaluationFailed):
    """The run that holds the evidence of a verdict is not there any more."""


class Busy(EvaluationFailed):
    """Another worker has the alias of this model."""


def today(now: float) -> str:
    """ISO date, UTC."""
    return datetime.datetime.fromtimestamp(now, datetime.UTC).date().isoformat()


def effective(judged: Judged | None, now: float) -> bool:
    """Whether a verdict stands: what did not pass does until files or terms change, a pass also has a last day.

    None does that was given well after now, by a clock that was wrong.
    """
    if judged is None or judged.at > now + FUTURE:
        return False
    return judged.exit_code != 0 or judged.passes(today(now))


def ends_soon(judged: Judged, now: float) -> bool:
    """Whether a pass is to be renewed, so that the alias need not be without a version: its last tenth has begun.

    A pass that was short from the beginning is not: what it rests on, a waiver for example, ends then.
    """
    if not judged.passes(today(now)):
        return False
    day = datetime.date.fromisoformat(judged.valid_until or "")  # the last one that there is has no day after it
    end = datetime.datetime.combine(day, datetime.time(), datetime.UTC).timestamp() + 86400.0
    return end - judged.at >= _SHORT and end - now < (end - judged.at) / 10


def folder_of(key: Key) -> str:
    """Where the report's files are kept, below the state folder."""
    parts = [key.model_sha256, key.terms.policy_sha256, key.terms.config_sha256]
    return f"{REPORTS}/{sha256_of_json(parts)[:16]}"


# --- scratch folders ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def own_scratch(state: Path) -> Iterator[Path]:
    """A private folder of this process, held by a lock while it lives; those of dead ones are removed."""
    place = private_dir(private_dir(state) / SCRATCH)
    with _locked(place):  # else a new folder could be taken for a dead one before it is locked
        for entry in place.iterdir():
            with contextlib.suppress(OSError):
                _remove_if_dead(entry)
        folder = Path(tempfile.mkdtemp(prefix="worker-", dir=place))
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_if_dead(folder: Path) -> None:
    if not folder.name.startswith("worker-"):
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)


# --- tags and files -------------------------------------------------------------------------------------------------


def tags_of(judged: Judged) -> dict[str, str]:
    """What a version carries of its verdict; all of it, so that nothing of an earlier one is left."""
    report = RecordedReport(judged.status, judged.key.model_sha256, judged.key.terms.policy_sha256)
    more = {"valid_until": judged.valid_until or "", "attestation": judged.attestation or ""}
    return verdict_tags(report, judged.run_id or "") | {TAG_PREFIX + name: value for name, value in more.items()}


def publish(registry: Registry, judged: Judged, version: RegisteredVersion, state: Path) -> bool:
    """Attach the report's files to the evidence run, then mark the version. False: it carries all of that already.

    Raises RegistryUnreachable, EvidenceGone, and EvaluationFailed where the version is gone.
    """
    wanted = tags_of(judged)
    if all(version.tags.get(name) == value for name, value in wanted.items()):
        return False  # tags are set last, so the files are there
    try:
        if judged.run_id is not None and judged.report is not None:
            files = [state / judged.report / name for name in ATTACHED]
            if there := [file for file in files if file.is_file()]:
                _attach(registry, judged.run_id, there)
        registry.mark(version.name, version.version, wanted)
    except UsageError as error:
        raise EvaluationFailed(f"the verdict was not written back: {error.what}") from error
    return True


def _attach(registry: Registry, run_id: str, files: Sequence[Path]) -> None:
    try:
        registry.attach(run_id, files)
    except DataError as error:
        raise EvidenceGone(f"the verdict was not written back: {error.what}") from error


# --- the alias ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of an alias; before, after: the version that it points to, None for nothing."""

    alias: str
    before: str | None
    after: str | None
    notes: tuple[str, ...] = ()

    @property
    def moved(self) -> bool:
        """Whether it points elsewhere now."""
        return self.before != self.after


def settle(
    registry: Registry,
    queue: Queue,
    subscribed: Subscribed,
    name: str,
    *,
    verify: bool,
    now: float,
    known: Mapping[str, Key] | None = None,
    owner: str = "",
    wait: Callable[[float], object] = time.sleep,
) -> Settled:
    """Point the alias to the newest version of the model that passes as its files are now, by the terms of now.

    verify  hash the files of the version that has it again, even where nothing speaks against it
    known   version -> key of those that the queue does not know yet
    wait    for another worker that has the alias
    Errors: Busy, RegistryUnreachable, StorageFailed; the alias is then where it was.
    """
    waited = 0.0
    while True:
        with queue.hold(f"alias:{name}", owner, HOLD, now + waited) as still:
            if still is not None:
                return _settle(registry, queue, subscribed, name, verify, now + waited, known or {}, still)
        if waited >= PATIENCE:
            raise Busy(f"another worker has the alias of {clean(name, 100)}")
        wait(_PAUSE)
        waited += _PAUSE


def _settle(
    registry: Registry,
    queue: Queue,
    subscribed: Subscribed,
    name: str,
    verify: bool,
    now: float,
    known: Mapping[str, Key],
    still: Callable[[], bool],
) -> Settled:
    alias = subscribed.value.service.alias
    holder = registry.alias(name, alias)
    notes: list[str] = []
    best = _newest(registry, queue, subscribed, name, holder, verify, now, known, notes)
    if best != holder:
        if not still():  # this process was stopped for a while
            raise Busy(f"another worker has taken over the alias of {clean(name, 100)}")
        try:
            registry.move_alias(name, alias, best)
        except CandidateNotFound as error:
            raise EvaluationFailed(f"alias {alias}: {error.what}") from error
        shown = {"before": holder or "nothing", "after": best or "nothing"}
        _log.info(
            "alias %s of %s: from %s to %s%s",
            alias,
            clean(name, 100),
            clean(shown["before"], 40),
            clean(shown["after"], 40),
            "".join(f"; {text}" for text in notes),
            extra={"event": "alias", "job": f"models:/{name}/{best or holder}"},
        )
    return Settled(alias, holder, best, tuple(notes))


def _newest(
    registry: Registry,
    queue: Queue,
    subscribed: Subscribed,
    name: str,
    holder: str | None,
    verify: bool,
    now: float,
    known: Mapping[str, Key],
    notes: list[str],
) -> str | None:
    """The version that the alias belongs to; None for none."""
    subscription = subscribed.of(name)
    if subscription is None:
        notes.append("no subscription covers the model")
        return None
    day = today(now)
    jobs = {job.version: job for job in queue.jobs(name=name, limit=None)}
    keys = {version: job.key for version, job in jobs.items() if job.key is not None} | dict(known)
    may_be = list(keys.values())
    if subscription.data == "config":  # else only the version itself tells by what it is judged
        may_be = [key for key in may_be if key.terms == subscribed.terms[subscription.name]]
    verdicts = queue.judged(may_be)
    passing = {
        version for version, key in keys.items() if (found := verdicts.get(key)) is not None and found.passes(day)
    }
    # Who holds it is looked at in any case: another worker may have judged it, and not have told the queue yet.
    for version in sorted({*passing, *([holder] if holder else [])}, key=number, reverse=True):
        listed = registry.version(name, version)
        if listed is None or not listed.ready:
            notes.append(f"version {clean(version, 40)} is {'gone' if listed is None else 'not there any more'}")
            continue
        by = terms(subscribed, subscription, listed)
        approved = version in passing and keys[version].terms == by
        if not approved and version != holder:
            continue
        before_it = version not in known and made_anew(jobs.get(version), listed)
        if version == holder and approved and not verify and not before_it:
            return version
        digest = _digest(registry, listed, subscribed.state)
        found = None if digest is None else queue.verdict(Key(digest, by))
        if found is not None and found.passes(day):
            return version
        notes.append(f"version {clean(version, 40)} has no pass for its present files and terms")
        before = keys.get(version)
        if digest is not None and before is not None and before.model_sha256 != digest:
            queue.request(Wanted(name, version, subscription.name, subscription.priority, "its files changed"), now)
    return None


def made_anew(job: Job | None, listed: RegisteredVersion) -> bool:
    """Whether a version is younger than what is known of it: a model that is deleted and made again counts from 1."""
    return job is not None and job.finished is not None and listed.created > job.finished


def _digest(registry: Registry, version: RegisteredVersion, state: Path) -> str | None:
    """Of the files as they are now; None where they are no model any more."""
    with own_scratch(state) as folder:
        try:
            return registry.resolve(version.uri, folder).digest
        except UsageError as error:
            _log.warning("%s: %s", clean(version.uri, 200), clean(error.what, 300), extra={"job": version.uri})
            return None
