"""The sweep: what the registry holds against what was judged. What a webhook forgot to tell is found here.

It asks, it does not judge; doing it again, late or twice changes nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from privacy_gate.errors import CandidateNotFound, GateError, RegistryUnreachable, UsageError
from privacy_gate.registry import RegisteredVersion, Registry
from privacy_gate.sandbox.untrusted import clean
from privacy_gate.service import FUTURE, Job, Judged, State, Terms, Wanted
from privacy_gate.service.subscriptions import Service, Subscribed, Subscription, covers, terms
from privacy_gate.service.writeback import (
    Busy,
    EvidenceGone,
    Settled,
    effective,
    ends_soon,
    made_anew,
    own_scratch,
    publish,
    settle,
    today,
)

if TYPE_CHECKING:
    from privacy_gate.service.queue import Queue

# Names of facts that the queue remembers: the last sweep, the last with verify, its beginning, the last that failed.
SWEPT, VERIFIED, VERIFYING, FAILED = "sweep", "verify", "verifying", "sweep failed"
ALIASES = "aliases"  # the same: model -> version that its alias points to
LEASE = 60.0  # seconds after which the sweep of a process that died is another one's
VERIFY_AGAIN = 3600.0  # seconds after which one that hashes files, and says nothing any more, is taken for dead
MOST_SHOWN = 50  # queued and broken versions that are told by name
UNREACHABLE = 5  # failures in a row after which the registry is asked whether it is there at all
MOST_UNREACHABLE = 100  # failures after which it does not matter what it answers
ANEW = "it was registered anew"

_log = logging.getLogger(__name__)


class Standing(StrEnum):
    """How a covered version stands."""

    JUDGED = "judged"
    QUEUED = "queued"
    WAITING = "waiting"
    RUNNING = "running"
    PARKED = "parked"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look at one covered version found.

    why     of queued ones: the reason; of parked and broken ones: what went wrong
    job     in the queue, as it was before; None: there was none
    judged  the verdict about the files that were judged last, by the present terms; None: there is none
    """

    version: RegisteredVersion
    subscription: str
    standing: Standing
    why: str = ""
    job: Job | None = None
    judged: Judged | None = None


@dataclass(frozen=True, slots=True)
class Broken:
    """What could not be looked at."""

    uri: str
    what: str


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep did.

    alone      False: another one is at work, and this one did nothing
    counts     covered versions by how they stand now
    queued     the first of those that were asked for, with the reasons
    forgotten  jobs of versions that are gone
    settled    model -> what became of its alias; its `notes` say why
    unknown    models that nobody subscribed to
    broken     the first of what could not be looked at; `failures` counts all
    """

    alone: bool = True
    counts: Mapping[Standing, int] = field(default_factory=dict)
    queued: tuple[Wanted, ...] = ()
    forgotten: int = 0
    settled: Mapping[str, Settled] = field(default_factory=dict)
    unknown: int = 0
    broken: tuple[Broken, ...] = ()
    failures: int = 0

    @property
    def covered(self) -> int:
        """How many versions the subscriptions cover."""
        return sum(self.counts.values())


Settle = Callable[[str], Settled]
"""Puts the alias of one model where it belongs."""


def due(job: Job | None, judged: Judged | None, present: Terms, now: float) -> str | None:
    """Why a covered version should be asked for; None: it need not be.

    judged  the verdict by the job's key
    """
    if job is None:
        return "it was never judged"
    if job.state in (State.QUEUED, State.RUNNING):
        return None
    if job.state is State.PARKED:
        return None if job.terms is None else _other(job.terms, present)
    if job.key is None:
        return "it has no verdict"
    if job.key.terms != present:
        return _other(job.key.terms, present)
    if judged is None:
        return "its verdict is lost"
    if judged.at > now + FUTURE:
        return "its verdict is dated ahead of now"
    if not effective(judged, now):
        return f"its pass ended with {judged.valid_until}"
    return f"its pass ends with {judged.valid_until}" if ends_soon(judged, now) else None


def _other(before: Terms, present: Terms) -> str | None:
    policy, config = before.policy_sha256 != present.policy_sha256, before.config_sha256 != present.config_sha256
    if policy and config:
        return "the policy and the configuration changed"
    return "the policy changed" if policy else "the configuration changed" if config else None


def looks(subscribed: Subscribed, registry: Registry, queue: Queue, now: float) -> Iterator[Looked]:
    """How every covered version stands; changes nothing. Raises RegistryUnreachable, StorageFailed."""
    for name, versions in _models(registry):
        subscription = subscribed.of(name)
        if subscription is not None:
            yield from _looks(name, versions, subscribed, subscription, queue, now)


def _models(registry: Registry) -> Iterator[tuple[str, list[RegisteredVersion]]]:
    """One model after the other is in memory."""
    for name, versions in itertools.groupby(registry.versions(), key=lambda version: version.name):
        yield name, list(versions)


def _looks(
    name: str,
    versions: list[RegisteredVersion],
    subscribed: Subscribed,
    subscription: Subscription,
    queue: Queue,
    now: float,
) -> Iterator[Looked]:
    approved = subscribed.value.service.alias
    versions = [version for version in versions if covers(subscription, version, approved)]
    if not versions:
        return
    jobs = {job.version: job for job in queue.jobs(name=name, limit=None)}
    verdicts = queue.judged([job.key for job in jobs.values() if job.key is not None])
    for version in versions:
        present = terms(subscribed, subscription, version)
        job = jobs.get(version.version)
        judged = verdicts.get(job.key) if job is not None and job.key is not None else None
        ended = job is not None and job.state in (State.DONE, State.PARKED)
        why = ANEW if ended and made_anew(job, version) else due(job, judged, present, now)
        by_these = judged if judged is not None and judged.key.terms == present else None
        if why is not None:
            yield Looked(version, subscription.name, Standing.QUEUED, why, job, by_these)
        elif job is not None:
            said = job.outcome if job.state is State.PARKED else ""
            yield Looked(version, subscription.name, _STANDINGS[job.state], said, job, by_these)


_STANDINGS = {
    State.QUEUED: Standing.WAITING,
    State.RUNNING: Standing.RUNNING,
    State.PARKED: Standing.PARKED,
    State.DONE: Standing.JUDGED,
}


# --- the sweep ------------------------------------------------------------------------------------------------------


def verify_due(queue: Queue, service: Service, now: float) -> bool:
    """Whether it is time to hash the files of judged versions anew, and nobody is at it. Raises StorageFailed."""
    verified, begun = (credible(queue.recall(name), now) for name in (VERIFIED, VERIFYING))
    if verified is not None and now - verified[1] < service.verify_every:
        return False
    return begun is None or (verified is not None and verified[1] >= begun[1]) or now - begun[1] >= VERIFY_AGAIN


def credible(fact: tuple[Any, float] | None, now: float) -> tuple[Any, float] | None:
    """None also for what a clock wrote that has been set back since."""
    return fact if fact is None or fact[1] <= now + FUTURE else None


def sweep(
    subscribed: Subscribed,
    registry: Registry,
    queue: Queue,
    *,
    verify: bool,
    now: float,
    owner: str = "",
    put_right: Settle | None = None,
) -> Swept:
    """Ask for every covered version without an effective verdict, forget what is gone, put the aliases right.

    verify     also hash the files of judged versions anew: whose files changed is asked for
    owner      who sweeps, for people
    put_right  default: `writeback.settle`
    Raises RegistryUnreachable where the registry as a whole does not answer, StorageFailed. What is wrong with one
    version is told, and stops none of the others.
    """

    def by_writeback(name: str) -> Settled:
        return settle(registry, queue, subscribed, name, verify=verify, now=now, owner=owner)

    # One that hashes takes hours where there is much; the others go on meanwhile.
    with queue.hold("verify" if verify else "sweep", owner, LEASE, now) as still:
        if still is None:
            return Swept(alone=False)
        before = queue.recall(SWEPT)
        try:
            if verify:
                queue.remember(VERIFYING, owner, now)
            swept = _Sweep(subscribed, registry, queue, verify, now, put_right or by_writeback).run()
        except GateError as error:
            with contextlib.suppress(GateError):  # what went wrong first is what is told
                queue.remember(FAILED, clean(error.what, 500), now)
            raise
        if not verify or queue.recall(SWEPT) == before:  # else others were made meanwhile
            queue.remember(ALIASES, {name: settled.after for name, settled in swept.settled.items()}, now)
            queue.remember(SWEPT, _in_numbers(swept), now)
        if verify:
            queue.remember(VERIFIED, _in_numbers(swept), now)
        return swept


def _in_numbers(swept: Swept) -> dict[str, int]:
    counts = {standing.value: swept.counts.get(standing, 0) for standing in Standing}
    return {"covered": swept.covered, **counts, "gone": swept.forgotten, "failures": swept.failures}


def _moved(name: str, settled: Settled) -> dict[str, Any]:
    before, after = (None if version is None else clean(version, 20) for version in (settled.before, settled.after))
    notes = [clean(note, 300) for note in settled.notes]
    return {"model": clean(name, 200), "alias": settled.alias, "before": before, "after": after, "why": notes}


def told(swept: Swept) -> dict[str, Any]:
    """For machines; text of strangers is cleaned."""
    return {
        "alone": swept.alone,
        **_in_numbers(swept),
        "unknown_models": swept.unknown,
        "asked": [{"model": clean(w.name, 200), "version": clean(w.version, 20), "why": w.why} for w in swept.queued],
        "moved": [_moved(name, settled) for name, settled in swept.settled.items() if settled.moved],
        "errors": [{"uri": clean(b.uri, 200), "what": clean(b.what, 300)} for b in swept.broken],
    }


class _Sweep:
    """One sweep at work."""

    def __init__(
        self, subscribed: Subscribed, registry: Registry, queue: Queue, verify: bool, now: float, settle: Settle
    ) -> None:
        self._subscribed, self._registry, self._queue = subscribed, registry, queue
        self._verify, self._now, self._settle = verify, now, settle
        self._counts: Counter[Standing] = Counter()
        self._queued: list[Wanted] = []
        self._broken: list[Broken] = []
        self._settled: dict[str, Settled] = {}
        self._failures = self._unreachable = self._unknown = 0
        self._began = self._said = time.monotonic()

    def run(self) -> Swept:
        jobs = {(job.name, job.version) for job in self._queue.jobs(limit=None)}
        unseen = set(jobs)
        others = {name for name, _ in jobs}
        for name, versions in _models(self._registry):
            unseen -= {(name, version.version) for version in versions}
            subscription = self._subscribed.of(name)
            if subscription is None:
                self._unknown += any(version.ready for version in versions)  # prompts with an alias are listed, too
                continue
            others.discard(name)
            found = list(_looks(name, versions, self._subscribed, subscription, self._queue, self._now))
            in_place = None if self._verify else self._in_place(versions, found)
            for looked in found:
                self._treat(looked, subscription)
            if in_place is not None:
                self._settled[name] = in_place
            else:
                self._put_right(name)
        forgotten = sum(self._gone(name, version) for name, version in sorted(unseen))
        for name in sorted(others):  # of which no version is left, or that nobody subscribes to any more
            self._put_right(name)
        return Swept(
            counts=dict(self._counts),
            queued=tuple(self._queued),
            forgotten=forgotten,
            settled=self._settled,
            unknown=self._unknown,
            broken=tuple(self._broken),
            failures=self._failures,
        )

    def _treat(self, looked: Looked, subscription: Subscription) -> None:
        standing, why, version = looked.standing, looked.why, looked.version
        if standing is Standing.JUDGED and self._verify:
            try:
                why = self._changed(looked)
                standing = Standing.QUEUED if why else standing
            except GateError as error:
                self._fails(version.uri, error)
                standing = Standing.BROKEN
        if standing is Standing.JUDGED and looked.judged is not None:
            standing, why = self._told_truly(looked, looked.judged)
        self._counts[standing] += 1
        if standing is Standing.QUEUED:
            if why == ANEW:
                self._queue.forget(version.name, version.version)
            wanted = Wanted(version.name, version.version, subscription.name, subscription.priority, why)
            self._queue.request(wanted, self._now)
            if len(self._queued) < MOST_SHOWN:
                self._queued.append(wanted)

    def _told_truly(self, looked: Looked, judged: Judged) -> tuple[Standing, str]:
        """Where a version carries other tags than its verdict's, which anybody may write, its own are set again."""
        try:
            if publish(self._registry, judged, looked.version, self._subscribed.state):
                _log.warning("tags of its verdict were not as they were set", extra={"job": looked.version.uri})
            return Standing.JUDGED, ""
        except EvidenceGone:
            return Standing.QUEUED, "the evidence of its verdict is gone"
        except GateError as error:
            self._fails(looked.version.uri, error)
            return Standing.BROKEN, ""

    def _changed(self, looked: Looked) -> str:
        """How the files differ from those that were judged, "" for not at all; raises GateError."""
        assert looked.judged is not None
        self._alive()
        with own_scratch(self._subscribed.state) as work:
            try:
                digest = self._registry.resolve(looked.version.uri, work).digest
            except CandidateNotFound as error:
                return f"its files are gone: {clean(error.what, 200)}"
            except UsageError as error:
                return f"its files can no longer be judged: {clean(error.what, 200)}"
        self._unreachable = 0
        return "" if digest == looked.judged.key.model_sha256 else "its files changed"

    def _alive(self) -> None:
        """Say now and then that this one is still at it."""
        moment = time.monotonic()
        if moment - self._said >= LEASE:
            self._said = moment
            self._queue.remember(VERIFYING, True, self._now + moment - self._began)

    def _gone(self, name: str, version: str) -> bool:
        """Forget the job of a version that is no longer there; one that came while the rest was listed stays."""
        try:
            return self._registry.version(name, version) is None and self._queue.forget(name, version)
        except RegistryUnreachable as error:
            self._fails(f"models:/{name}/{version}", error)
            return False

    def _in_place(self, versions: list[RegisteredVersion], found: list[Looked]) -> Settled | None:
        """The alias of a model, if the listing alone shows that it is where it belongs; None: it has to be looked at.

        Where all is quiet, a sweep asks the registry for its lists and nothing else, however many models there are.
        """
        alias, day = self._subscribed.value.service.alias, today(self._now)
        if any(looked.standing is Standing.QUEUED or made_anew(looked.job, looked.version) for looked in found):
            return None
        passing = [looked.version for looked in found if looked.judged is not None and looked.judged.passes(day)]
        newest = max(passing, key=lambda version: int(version.version), default=None)
        holders = [version.version for version in versions if alias in version.aliases]
        best = None if newest is None else newest.version
        return Settled(alias, best, best) if holders == ([] if best is None else [best]) else None

    def _put_right(self, name: str) -> None:
        try:
            self._settled[name] = self._settle(name)
            self._unreachable = 0
        except Busy:
            pass  # who has it puts it right
        except GateError as error:
            self._fails(f"models:/{name}", error)

    def _fails(self, uri: str, error: GateError) -> None:
        """One is broken, the others go on; a registry that is gone altogether is not asked version by version."""
        self._failures += 1
        if len(self._broken) < MOST_SHOWN:
            self._broken.append(Broken(uri, error.what))
        self._unreachable = self._unreachable + 1 if isinstance(error, RegistryUnreachable) else 0
        if self._unreachable >= UNREACHABLE:
            if self._failures >= MOST_UNREACHABLE or not self._answers():
                raise error
            self._unreachable = 0  # what it does not let this service read, for example

    def _answers(self) -> bool:
        return all(probe.ok for probe in self._registry.ping() if probe.name == "registry")
