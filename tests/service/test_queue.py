"""No job is lost, none is run twice at once, and nobody writes about a job that another one has."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import multiprocessing
import os
import random
import resource
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from privacy_gate.errors import StorageFailed, UsageError
from privacy_gate.service import Delivery, Event, Job, Judged, Key, State, Terms, Wanted
from privacy_gate.service import queue as under_test
from privacy_gate.service.queue import TEXT_LENGTH, Queue, open_queue

TERMS = Terms("p" * 64, "c" * 64)
KEY = Key("m" * 64, TERMS)
LEASE = 60.0


def wanted(name: str = "tiny", version: str = "1", priority: int = 0, **more: Any) -> Wanted:
    return Wanted(name, version, more.pop("subscription", "all"), priority, **more)


def delivery(id: str, now: float = 0.0, name: str = "tiny") -> Delivery:
    return Delivery(id, Event("model_version", "created", name, "1"), now, "queued")


def claim(queue: Queue, now: float, worker: str = "w", limit: int = 99, attempts: int = 3) -> Job | None:
    return queue.claim(worker, {"all": limit}, LEASE, now, attempts)


def claimed(queue: Queue, now: float, **more: Any) -> Job:
    job = claim(queue, now, **more)
    assert job is not None
    return job


def there(queue: Queue, name: str = "tiny", version: str = "1") -> Job:
    job = queue.job(name, version)
    assert job is not None
    return job


# What a queue promises, on every kind of database -------------------------------------------------------------------


def test_a_delivery_counts_once(queue: Queue) -> None:
    assert queue.deliver(delivery("a", 1.0), wanted(delivery="a", why="created"))
    assert not queue.deliver(delivery("a", 2.0, "other"), wanted("other"))
    assert queue.deliveries() == [delivery("a", 1.0)]
    (job,) = queue.jobs()
    assert (job.name, job.state, job.delivery, job.why, job.queued) == ("tiny", State.QUEUED, "a", "created", 1.0)


def test_a_delivery_that_nobody_wants_is_remembered(queue: Queue) -> None:
    assert queue.deliver(replace(delivery("a"), outcome="nobody subscribed"), None)
    assert queue.jobs() == []
    assert queue.deliveries()[0].outcome == "nobody subscribed"
    assert not queue.deliver(delivery("a"), wanted())
    assert queue.counts() == {State.QUEUED: 0, State.RUNNING: 0, State.DONE: 0, State.PARKED: 0}


def test_higher_priority_first_then_the_oldest(queue: Queue) -> None:
    for version, priority in [("1", 0), ("2", 5), ("3", 0), ("4", 5)]:
        assert queue.request(wanted(version=version, priority=priority), now=1.0)
    assert not queue.request(wanted(version="3", priority=9), now=2.0)  # rises
    assert not queue.request(wanted(version="3", priority=-9), now=3.0)  # and does not sink
    assert [job.version for job in queue.jobs(State.QUEUED)] == ["3", "2", "4", "1"]
    assert [claimed(queue, 4.0).version for _ in range(4)] == ["3", "2", "4", "1"]
    assert claim(queue, 5.0) is None


def test_who_asks_again_at_the_same_time_stands_behind(queue: Queue) -> None:
    queue.request(wanted(version="1"), now=1.0)
    queue.request(wanted(version="2"), now=1.0)
    assert queue.finish(claimed(queue, 1.0), "pass", KEY, TERMS, 1.0)
    assert queue.request(wanted(version="1"), now=1.0)
    assert [claimed(queue, 1.0).version for _ in range(2)] == ["2", "1"]


def test_a_subscription_at_its_limit_is_passed_over(queue: Queue) -> None:
    for version in "12":
        queue.request(wanted("a", version, 9, subscription="few"), now=0.0)
        queue.request(wanted("b", version, 0, subscription="many"), now=0.0)
        queue.request(wanted("c", version, -1, subscription="unlisted"), now=0.0)
    limits = {"few": 1, "many": 2}
    order = [queue.claim("w", limits, LEASE, 1.0) for _ in range(5)]
    assert [job and job.uri for job in order] == ["models:/a/1", "models:/b/1", "models:/b/2", "models:/c/1", None]
    assert order[0] is not None
    assert queue.finish(order[0], "pass", KEY, TERMS, 2.0)
    assert queue.claim("w", {"few": 0}, LEASE, 3.0) is None
    again = queue.claim("w", limits, LEASE, 3.0)
    assert again is not None
    assert again.uri == "models:/a/2"
    # Who fell silent holds no place: of those that wait for it, its own job is the first.
    taken = queue.claim("w", limits, LEASE, 3.0 + LEASE)
    assert taken is not None
    assert taken.uri == "models:/a/2"


def test_whoever_lost_the_lease_changes_nothing(queue: Queue) -> None:
    queue.request(wanted(), now=0.0)
    slow = claimed(queue, 1.0, worker="slow")
    assert slow.lease is not None
    assert slow.lease.startswith("slow:")
    assert claim(queue, 1.0 + LEASE - 0.01) is None
    assert queue.heartbeat(slow, LEASE, 30.0)
    assert claim(queue, 1.0 + LEASE) is None  # the heartbeat held it
    quick = claimed(queue, 30.0 + LEASE, worker="quick")
    assert (quick.attempts, quick.started) == (2, 30.0 + LEASE)
    before = there(queue)
    assert not queue.heartbeat(slow, LEASE, 91.0)
    assert not queue.tries(slow, TERMS, 91.0)
    assert not queue.finish(slow, "pass", KEY, TERMS, 91.0)
    assert not queue.park(slow, "no", TERMS, 91.0)
    assert queue.fail(slow, "no", TERMS, 3, 1.0, 91.0) is None
    assert there(queue) == before
    assert queue.finish(quick, "fail", KEY, TERMS, 92.0)
    done = there(queue)
    assert (done.state, done.outcome, done.key, done.terms, done.lease) == (State.DONE, "fail", KEY, TERMS, None)
    assert not queue.finish(quick, "pass", None, None, 93.0)  # not twice, either
    assert there(queue) == done


def test_what_is_asked_for_while_it_runs_runs_again(queue: Queue) -> None:
    queue.request(wanted(why="first"), now=0.0)
    job = claimed(queue, 1.0)
    assert not queue.request(wanted(why="second", priority=3), now=2.0)
    assert there(queue).state is State.RUNNING
    assert queue.finish(job, "pass", KEY, TERMS, 3.0)
    waiting = there(queue)
    assert (waiting.state, waiting.attempts, waiting.requests) == (State.QUEUED, 0, 2)
    assert (waiting.why, waiting.priority, waiting.key) == ("second", 3, KEY)
    assert queue.finish(claimed(queue, 4.0), "pass", KEY, TERMS, 5.0)
    assert there(queue).state is State.DONE
    assert queue.request(wanted(why="third"), now=6.0)
    assert (there(queue).state, there(queue).why) == (State.QUEUED, "third")


@pytest.mark.parametrize("asked_again", [False, True])
def test_a_job_that_keeps_failing_is_parked(queue: Queue, asked_again: bool) -> None:
    queue.request(wanted(), now=0.0)
    assert queue.fail(claimed(queue, 0.0), "registry gone", TERMS, 2, 30.0, 1.0) is State.QUEUED
    assert (there(queue).due, there(queue).attempts, there(queue).outcome) == (31.0, 1, "registry gone")
    assert claim(queue, 30.9) is None
    last = claimed(queue, 31.0)
    if asked_again:
        queue.request(wanted(), now=32.0)
        assert queue.fail(last, "registry gone", None, 2, 30.0, 33.0) is State.QUEUED
        assert (there(queue).due, there(queue).attempts, there(queue).terms) == (33.0, 0, TERMS)
        return
    assert queue.fail(last, "still gone", None, 2, 30.0, 33.0) is State.PARKED
    assert (there(queue).terms, there(queue).outcome, there(queue).finished) == (TERMS, "still gone", 33.0)
    assert claim(queue, 1e6) is None
    assert queue.request(wanted(), now=40.0)
    assert claimed(queue, 40.0).attempts == 1


def test_a_job_that_kills_its_workers_is_parked(queue: Queue) -> None:
    queue.request(wanted(), now=0.0)
    queue.request(wanted(version="2", priority=-1), now=0.0)
    now = 0.0
    for attempt in (1, 2):
        job = claimed(queue, now, attempts=2)
        assert (job.version, job.attempts) == ("1", attempt)
        assert queue.tries(job, TERMS, now)
        now += LEASE
    assert claimed(queue, now, attempts=2).version == "2"
    parked = there(queue)
    assert (parked.state, parked.terms, parked.lease) == (State.PARKED, TERMS, None)
    assert "died 2 times" in parked.outcome
    # Asked for while it runs is asked for anew: the deaths before that are of another matter.
    queue.request(wanted(), now)
    claimed(queue, now, attempts=1)
    queue.request(wanted(), now)
    assert claimed(queue, now + LEASE, attempts=1).attempts == 1


def test_what_is_given_back_counts_as_not_begun(queue: Queue) -> None:
    queue.request(wanted(), now=0.0)
    queue.request(wanted(version="2"), now=0.0)
    for _ in range(4):
        assert queue.give_back(claimed(queue, 1.0), "stopped", 0.0, 1.0)
    job = there(queue)
    assert (job.state, job.attempts, job.due, job.lease, job.outcome) == (State.QUEUED, 0, 1.0, None, "stopped")
    job = claimed(queue, 1.0)
    assert (job.version, job.attempts) == ("1", 1)  # in its old place
    assert queue.fail(job, "broke", TERMS, 2, 0.0, 1.0) is State.QUEUED
    assert not queue.give_back(job, "stopped", 0.0, 1.0)


def test_only_deaths_in_a_row_make_a_job_suspect(queue: Queue) -> None:
    queue.request(wanted(), now=0.0)
    now = 0.0
    for _ in range(5):  # a registry that was away for long, and a worker that was restarted now and then
        claimed(queue, now, attempts=2)
        now += LEASE
        assert queue.fail(claimed(queue, now, attempts=2), "away", None, 1000, 0.0, now) is State.QUEUED
    assert there(queue).attempts == 10
    claimed(queue, now, attempts=2)
    assert claimed(queue, now + LEASE, attempts=2).attempts == 12
    assert claim(queue, now + 2 * LEASE, attempts=2) is None
    assert there(queue).state is State.PARKED


def test_a_parked_job_waits_for_a_person(queue: Queue) -> None:
    queue.request(wanted(), now=0.0)
    assert queue.park(claimed(queue, 0.0), "no such column", TERMS, 1.0)
    assert claim(queue, 1e9) is None
    assert [job.outcome for job in queue.jobs(State.PARKED)] == ["no such column"]


def test_a_forgotten_job_is_gone_also_for_its_worker(queue: Queue) -> None:
    queue.request(wanted(), now=0.0)
    job = claimed(queue, 0.0)
    assert queue.forget("tiny", "1")
    assert not queue.forget("tiny", "1")
    assert not queue.finish(job, "pass", KEY, TERMS, 1.0)
    assert queue.job("tiny", "1") is None


def test_verdicts_are_known_by_their_key(queue: Queue) -> None:
    verdict = Judged(KEY, "pass", 0, "fine", "run", "reports/1", "2030-01-01", 5.0, "a" * 64)
    others = [Key("n" * 64, TERMS), Key("m" * 64, Terms("q" * 64, "c" * 64)), Key("m" * 64, Terms("p" * 64, "d" * 64))]
    assert queue.verdict(KEY) is None
    queue.record(verdict)
    assert queue.verdict(KEY) == verdict
    changed = Judged(KEY, "fail", 1, "x" * 9999, None, None, None, 6.0)
    queue.record(changed)
    queue.record(replace(verdict, key=others[0]))
    assert queue.judged([KEY, *others, KEY]) == {
        KEY: replace(changed, headline="x" * TEXT_LENGTH),
        others[0]: replace(verdict, key=others[0]),
    }
    assert queue.judged([]) == {}
    many = [Key(f"{number:064x}", TERMS) for number in range(1200)]  # more than a statement's parameters
    assert queue.judged([*many, KEY]).keys() == {KEY}


def test_facts(queue: Queue) -> None:
    assert queue.recall("sweep") is None
    queue.remember("sweep", {"seen": [1, None, "ä"]}, now=3.0)
    queue.remember("sweep", ["again"], now=4.0)
    queue.remember("health", None, now=5.0)
    assert queue.recall("sweep") == (["again"], 4.0)
    assert queue.recall("health") == (None, 5.0)


def test_one_is_alone_until_the_end_or_until_its_time(queue: Queue) -> None:
    with queue.hold("alias:tiny", "a", 10.0, now=0.0) as first:
        with (
            queue.hold("alias:tiny", "b", 10.0, now=9.9) as second,
            queue.hold("alias:other", "b", 1.0, 9.9) as other,
        ):
            assert (first is None, second is None, other is None) == (False, True, False)
        with queue.hold("alias:tiny", "c", 10.0, now=10.0) as third:
            assert third  # the first one is dead
            with queue.hold("alias:tiny", "d", 10.0, now=11.0) as fourth:
                assert not fourth
        with queue.hold("alias:tiny", "e", 10.0, now=12.0) as fifth:
            assert fifth
    with contextlib.suppress(ZeroDivisionError), queue.hold("alias:tiny", "f", 10.0, now=13.0) as sixth:
        assert sixth
        raise ZeroDivisionError
    with queue.hold("alias:tiny", "g", 10.0, now=14.0) as seventh:
        assert seventh


def test_what_is_held_stays_held_until_the_end(queue: Queue) -> None:
    with queue.hold("verify", "a", 0.3, now=0.0) as still:
        assert still is not None
        with queue.hold("verify", "b", 0.3, now=0.1) as other:
            assert other is None
        ends = time.monotonic() + 0.9
        while time.monotonic() < ends:
            with queue.hold("verify", "b", 60.0, now=0.9 - (ends - time.monotonic())) as mine:
                assert not mine
            time.sleep(0.05)
        assert still()
        with queue.hold("verify", "c", 60.0, now=1000.0) as mine:  # as if this process had been stopped for long
            assert mine
            assert not still()
        assert not still()
    with queue.hold("verify", "d", 60.0, now=1.0) as mine:
        assert mine


@pytest.mark.parametrize("hours", [3, 365 * 24])
def test_a_clock_that_was_ahead_stops_nothing_when_it_is_right_again(queue: Queue, hours: int) -> None:
    ahead = hours * 3600.0
    for version in ("1", "2"):
        queue.request(wanted(version=version), 0.0)
    limits = {"all": 9}
    given = queue.claim("w", limits, 60.0, ahead)
    assert given is not None
    assert queue.give_back(given, "away", 30.0, ahead)  # due long after now
    assert queue.claim("w", limits, 60.0, ahead) is not None  # held as long by one that died
    again = [queue.claim("w", limits, 60.0, 1.0) for _ in range(3)]
    assert {job.version for job in again if job is not None} == {"1", "2"}
    assert again[2] is None
    with queue.hold("sweep", "dead", 60.0, ahead), queue.hold("sweep", "w", 60.0, 1.0) as mine:
        assert mine


def test_a_clock_that_is_minutes_ahead_is_let_be(queue: Queue) -> None:
    """Two hosts that do not agree must not take each other's jobs in turn."""
    queue.request(wanted(), 0.0)
    assert queue.claim("w", {}, 60.0, 3600.0) is not None
    assert queue.claim("v", {}, 60.0, 0.0) is None
    with queue.hold("sweep", "w", 60.0, 3600.0), queue.hold("sweep", "v", 60.0, 0.0) as mine:
        assert not mine


def test_facts_of_those_that_are_long_gone_are_forgotten(queue: Queue) -> None:
    for name, at in (("worker:a", 1.0), ("worker:b", 3.0), ("worker", 1.0), ("workers%", 1.0), ("files", 1.0)):
        queue.remember(name, True, at)
    queue.prune(2.0, "worker:")
    left = [name for name in ("worker:a", "worker:b", "worker", "workers%", "files") if queue.recall(name)]
    assert left == ["worker:b", "worker", "workers%", "files"]


def test_old_deliveries_are_forgotten_and_nothing_else(queue: Queue) -> None:
    for number in range(4):
        queue.deliver(delivery(str(number), float(number)), wanted(version=str(number)))
    queue.record(Judged(KEY, "pass", 0, "", None, None, None, 0.0))
    assert queue.prune(2.0) == 2
    assert [d.id for d in queue.deliveries()] == ["3", "2"]
    assert [d.id for d in queue.deliveries(limit=1)] == ["3"]
    assert len(queue.jobs()) == 4
    assert queue.verdict(KEY) is not None
    assert queue.deliver(delivery("0", 9.0), None)  # one that is not known any more


HOSTILE = [
    "x' OR 1=1; DROP TABLE privacy_gate_jobs; --",
    "nul\0 and half a pair \ud800",
    "%s %(name)s :name ? $1 \\u0000 {}",
    "é" * 250,
    "e\u0301",
    "\xe9",
    "Tiny",
    "tiny ",
    "\u202e\x1b]0;x\x07",
    "x" * 20_000,
]


def test_hostile_names_stay_apart_and_come_back_as_they_were(queue: Queue) -> None:
    for name in [*HOSTILE, "tiny"]:
        assert queue.deliver(delivery(name, name=name), wanted(name, "1", subscription=name, why=name, delivery=name))
    assert {job.name for job in queue.jobs()} == {*HOSTILE, "tiny"}
    for name in HOSTILE:
        job = there(queue, name)
        cut = name[:TEXT_LENGTH]
        assert (job.name, job.subscription, job.delivery, job.why) == (name, name, name, cut)
        assert queue.jobs(name=name) == [job]
        begun = queue.claim(name, {}, LEASE, 1.0)
        assert begun is not None
        assert queue.park(begun, name, None, 2.0)
        assert there(queue, begun.name).outcome == name[:TEXT_LENGTH]
    assert {d.id for d in queue.deliveries()} == {*HOSTILE, "tiny"}
    assert {d.event.name for d in queue.deliveries()} == {name[:TEXT_LENGTH] for name in [*HOSTILE, "tiny"]}


# A twin, slow and obvious ---------------------------------------------------------------------------------------------


@dataclass
class Entry:
    """A job as the twin remembers it."""

    state: str
    priority: int
    subscription: str
    since: tuple[float, int]
    due: float
    attempts: int = 0
    deaths: int = 0
    again: bool = False  # asked for while it ran
    token: str | None = None
    until: float = 0.0
    outcome: str = ""


class Twin:
    """What a queue does, without a database, without two at once."""

    def __init__(self) -> None:
        self.jobs: dict[tuple[str, str], Entry] = {}
        self.known: set[str] = set()
        self.count = 0

    def _since(self, now: float) -> tuple[float, int]:
        self.count += 1
        return now, self.count

    def request(self, w: Wanted, now: float) -> bool:
        entry = self.jobs.get((w.name, w.version))
        if entry is not None and entry.state == "queued":
            entry.priority = max(entry.priority, w.priority)
            return False
        if entry is not None and entry.state == "running":
            entry.priority, entry.again = w.priority, True
            return False
        outcome = entry.outcome if entry else ""
        self.jobs[w.name, w.version] = Entry(
            "queued", w.priority, w.subscription, self._since(now), now, outcome=outcome
        )
        return True

    def deliver(self, id: str, w: Wanted | None, now: float) -> bool:
        if id in self.known:
            return False
        self.known.add(id)
        if w is not None:
            self.request(w, now)
        return True

    def claim(self, limits: dict[str, int], now: float, attempts: int) -> tuple[str, str] | None:
        running = Counter(e.subscription for e in self.jobs.values() if e.state == "running" and e.until > now)
        for which, entry in sorted(self.jobs.items(), key=lambda item: (-item[1].priority, item[1].since)):
            if running[entry.subscription] >= limits[entry.subscription]:
                continue
            if entry.state == "running" and entry.until <= now:
                entry.deaths += 1
                if entry.again:
                    entry.attempts = entry.deaths = 0
                elif entry.deaths >= attempts:
                    entry.state, entry.outcome, entry.token = "parked", "died", None
                    continue
            elif entry.state != "queued" or entry.due > now:
                continue
            entry.state, entry.attempts, entry.again, entry.until = "running", entry.attempts + 1, False, now + LEASE
            return which
        return None

    def holds(self, job: Job) -> Entry | None:
        entry = self.jobs.get((job.name, job.version))
        return entry if entry is not None and entry.state == "running" and entry.token == job.lease else None

    def end(self, job: Job, state: str, outcome: str, now: float) -> bool:
        entry = self.holds(job)
        if entry is None:
            return False
        entry.state, entry.outcome, entry.token = state, outcome, None
        if entry.again:
            entry.state, entry.attempts, entry.deaths, entry.again = "queued", 0, 0, False
            entry.since, entry.due = self._since(now), now
        return True

    def fail(self, job: Job, attempts: int, delay: float, now: float) -> str | None:
        entry = self.holds(job)
        if entry is None:
            return None
        if entry.attempts >= attempts:
            self.end(job, "parked", "failed", now)
            return entry.state
        entry.attempts, entry.deaths = 0 if entry.again else entry.attempts, 0
        entry.state, entry.outcome, entry.token, entry.again, entry.due = "queued", "failed", None, False, now + delay
        return "queued"

    def give_back(self, job: Job, delay: float, now: float) -> bool:
        entry = self.holds(job)
        if entry is None:
            return False
        entry.attempts -= 1
        self.fail(job, 10**6, delay, now)
        entry.outcome = "back"
        return True


NAMES = st.sampled_from(["a", "b"])
VERSIONS = st.sampled_from(["1", "2"])
LIMITS = {"sub-a": 1, "sub-b": 2}
WANTED = st.builds(lambda n, v, p: Wanted(n, v, f"sub-{n}", p), NAMES, VERSIONS, st.integers(-1, 1))
TRIES = st.sampled_from([1, 2])


class QueueAndTwin(RuleBasedStateMachine):
    """The same orders to both; both must say and hold the same."""

    queue: Queue  # of the test below

    @initialize()
    def start(self) -> None:
        for job in self.queue.jobs(limit=None):
            self.queue.forget(job.name, job.version)
        self.queue.prune(1e12)
        self.twin, self.now, self.held = Twin(), 0.0, list[Job]()

    @rule(w=WANTED)
    def request(self, w: Wanted) -> None:
        assert self.queue.request(w, self.now) == self.twin.request(w, self.now)

    @rule(id=st.sampled_from("xyz"), w=st.none() | WANTED)
    def deliver(self, id: str, w: Wanted | None) -> None:
        assert self.queue.deliver(delivery(id, self.now), w) == self.twin.deliver(id, w, self.now)

    @rule(attempts=TRIES)
    def claim(self, attempts: int) -> None:
        job = self.queue.claim("w", LIMITS, LEASE, self.now, attempts)
        which = self.twin.claim(LIMITS, self.now, attempts)
        assert (job and (job.name, job.version)) == which
        if job is not None and which is not None:
            self.twin.jobs[which].token = job.lease
            self.held.append(job)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), how=st.sampled_from(["heartbeat", "finish", "park", "fail", "give back"]), attempts=TRIES)
    def write(self, data: st.DataObject, how: str, attempts: int) -> None:
        job = data.draw(st.sampled_from(self.held[-4:]))  # some of them lost their lease long ago
        if how == "heartbeat":
            entry = self.twin.holds(job)
            assert self.queue.heartbeat(job, LEASE, self.now) == (entry is not None)
            if entry is not None:
                entry.until = self.now + LEASE
        elif how == "finish":
            assert self.queue.finish(job, "ok", KEY, TERMS, self.now) == self.twin.end(job, "done", "ok", self.now)
        elif how == "park":
            assert self.queue.park(job, "stop", None, self.now) == self.twin.end(job, "parked", "stop", self.now)
        elif how == "give back":
            assert self.queue.give_back(job, "back", 5.0, self.now) == self.twin.give_back(job, 5.0, self.now)
        else:
            done = self.queue.fail(job, "failed", None, attempts, 50.0, self.now)
            assert done == self.twin.fail(job, attempts, 50.0, self.now)

    @rule(seconds=st.sampled_from([1.0, 25.0, LEASE]))
    def turn_the_clock(self, seconds: float) -> None:
        self.now += seconds

    @rule(name=NAMES, version=VERSIONS)
    def forget(self, name: str, version: str) -> None:
        assert self.queue.forget(name, version) == (self.twin.jobs.pop((name, version), None) is not None)

    @invariant()
    def same(self) -> None:
        there = {
            (job.name, job.version): (
                job.state.value,
                job.priority,
                job.attempts,
                job.lease,
                "died" if "died" in job.outcome else job.outcome,
            )
            for job in self.queue.jobs(limit=None)
        }
        twin = {
            which: (entry.state, entry.priority, entry.attempts, entry.token, entry.outcome)
            for which, entry in self.twin.jobs.items()
        }
        assert there == twin


def test_the_queue_does_what_its_twin_does(file_queue: Queue) -> None:
    machine = type("Machine", (QueueAndTwin,), {"queue": file_queue}).TestCase
    machine.settings = settings(
        max_examples=25,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    machine("runTest").debug()


# Several processes ----------------------------------------------------------------------------------------------------


class Forked:
    """A function in a process of its own, which tells what it has done line by line."""

    def __init__(self, does: Callable[[Connection], None]) -> None:
        context = multiprocessing.get_context("fork")
        self.told, self._tells = context.Pipe(duplex=False)
        self.process = context.Process(target=does, args=(self._tells,), daemon=True)
        self.process.start()
        self._tells.close()  # so that the end of the process is the end of what it tells

    def rest(self) -> list[Any]:
        """All it tells until it ends."""
        lines = []
        while True:
            try:
                lines.append(self.told.recv())
            except EOFError:
                break
        self.process.join()
        return lines

    def kill(self) -> list[Any]:
        """kill -9; what it had told before."""
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGKILL)
        return self.rest()


def test_each_of_200_jobs_is_begun_once_by_8_processes(queue: Queue, queue_url: str) -> None:
    for number in range(200):
        queue.request(wanted(version=str(number)), now=0.0)

    def work(tells: Connection) -> None:
        own = open_queue(queue_url)
        while (job := own.claim(str(os.getpid()), {"all": 200}, LEASE, 1.0)) is not None:
            tells.send(job.version)

    workers = [Forked(work) for _ in range(8)]
    begun = Counter(version for worker in workers for version in worker.rest())
    assert begun == {str(number): 1 for number in range(200)}
    assert [worker.process.exitcode for worker in workers] == [0] * 8
    assert queue.counts()[State.RUNNING] == 200
    assert {job.attempts for job in queue.jobs(limit=None)} == {1}


def test_no_more_than_the_limit_run_at_once_whoever_asks(queue: Queue, queue_url: str) -> None:
    for number in range(30):
        queue.request(wanted(version=str(number)), now=0.0)

    def work(tells: Connection) -> None:
        own = open_queue(queue_url)
        while (job := own.claim(str(os.getpid()), {"all": 3}, LEASE, 1.0)) is not None:
            tells.send(job.version)

    begun = [version for worker in [Forked(work) for _ in range(4)] for version in worker.rest()]
    assert len(begun) == len(set(begun)) == 3


def test_one_delivery_from_many_processes_counts_once(queue: Queue, queue_url: str) -> None:
    def send(tells: Connection) -> None:
        own = open_queue(queue_url)
        for number in range(20):
            tells.send((number, own.deliver(delivery(str(number)), wanted(version=str(number)))))

    told = [line for sender in [Forked(send) for _ in range(4)] for line in sender.rest()]
    assert Counter(number for number, new in told if new) == dict.fromkeys(range(20), 1)
    assert len(told) == 80
    assert {job.requests for job in queue.jobs()} == {1}


def test_many_processes_make_the_tables_at_once(queue_url: str) -> None:
    gate = multiprocessing.get_context("fork").Barrier(6)

    def make(tells: Connection) -> None:
        gate.wait()
        own = open_queue(queue_url)
        tells.send(own.request(wanted(), now=0.0))

    told = [line for maker in [Forked(make) for _ in range(6)] for line in maker.rest()]
    assert sorted(told) == [False] * 5 + [True]
    assert len(open_queue(queue_url).jobs()) == 1


def test_a_killed_worker_loses_its_job_to_the_next(queue: Queue, queue_url: str) -> None:
    queue.request(wanted(), now=0.0)

    def hold(tells: Connection) -> None:
        own = open_queue(queue_url)
        with own.hold("sweep", "dead", LEASE, 0.0):
            tells.send(own.claim("dead", {}, LEASE, 0.0))
            signal.pause()

    worker = Forked(hold)
    job = worker.told.recv()
    worker.kill()
    assert claim(queue, LEASE - 1) is None
    with queue.hold("sweep", "next", LEASE, LEASE - 1) as mine:
        assert not mine
    assert claimed(queue, LEASE, worker="next").attempts == 2
    assert not queue.finish(job, "pass", KEY, TERMS, LEASE)
    with queue.hold("sweep", "next", LEASE, LEASE) as mine:
        assert mine


def test_what_was_queued_is_queued_whenever_the_process_is_killed(queue: Queue, queue_url: str) -> None:
    chance = random.Random(6)
    told: list[str] = []
    for life in range(6):

        def send(tells: Connection, life: int = life) -> None:
            own = open_queue(queue_url)
            for number in range(100_000):
                id = f"{life}-{number}"
                own.deliver(delivery(id), wanted(version=id))
                tells.send(id)

        sender = Forked(send)
        told += [sender.told.recv() for _ in range(chance.randint(1, 25))]  # then it is in the middle of the next
        told += sender.kill()
        assert sender.process.exitcode == -signal.SIGKILL
    kept = {d.id for d in queue.deliveries(limit=None)}
    assert kept >= set(told)
    assert len(kept) <= len(told) + 6  # the one it was in the middle of, of each life, whole or not at all
    assert {job.version for job in queue.jobs(limit=None)} == kept
    if queue_url.startswith("sqlite"):
        with sqlite3.connect(queue_url.removeprefix("sqlite:///")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_process_that_writes_without_a_pause_starves_nobody(file_queue: Queue, tmp_path: Path) -> None:
    def hurry(tells: Connection) -> None:
        own = open_queue(tmp_path / "state" / "queue.db")
        own.request(wanted("busy"), now=0.0)
        tells.send("up")
        while True:
            own.request(wanted("busy"), now=0.0)

    other = Forked(hurry)
    other.told.recv()
    before = there(file_queue, "busy").requests
    for number in range(20):
        assert file_queue.deliver(delivery(str(number)), wanted(version=str(number)))
    overtaken = there(file_queue, "busy").requests - before
    other.kill()
    assert overtaken < 20 * 100  # thousands for each of them, where SQLite is left to it


def test_threads_share_a_queue(file_queue: Queue) -> None:
    def send(number: int) -> None:
        for version in range(10):
            file_queue.deliver(delivery(f"{number}-{version}"), wanted(version=str(version)))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(file_queue.deliveries(limit=None)) == 80
    assert [job.requests for job in file_queue.jobs()] == [8] * 10


# What goes wrong ------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_told_and_nothing_is_half_written(file_queue: Queue, tmp_path: Path) -> None:
    path = tmp_path / "state" / "queue.db"

    def fill(tells: Connection) -> None:
        own = open_queue(path)
        own.deliver(delivery("first"), wanted(version="first"))
        largest = max(entry.stat().st_size for entry in path.parent.iterdir())
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest + 100_000, resource.RLIM_INFINITY))
        for number in range(10_000):
            try:
                own.deliver(delivery(str(number)), wanted(version=str(number)))
                tells.send(str(number))
            except StorageFailed as error:
                tells.send(error)
                break
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        tells.send(own.deliver(delivery("after"), wanted(version="after")))  # the same queue, when there is space

    *told, error, after = Forked(fill).rest()
    assert isinstance(error, StorageFailed)
    assert "space" in error.hint
    assert after is True
    kept = {d.id for d in file_queue.deliveries(limit=None)}
    assert kept == {"first", *told, "after"}
    assert {job.version for job in file_queue.jobs(limit=None)} == kept
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_database_that_others_hold_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "PATIENCE", 0.05)
    queue = open_queue(tmp_path / "queue.db")
    holder = sqlite3.connect(tmp_path / "queue.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageFailed, match="locked") as caught:
        queue.request(wanted(), now=0.0)
    assert "another process" in caught.value.hint
    queue.ping()  # readers do not wait
    holder.execute("ROLLBACK")
    assert queue.request(wanted(), now=0.0)
    holder.close()
    queue.close()


def test_a_lock_of_a_server_is_not_waited_for_for_ever(
    postgres: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg

    monkeypatch.setattr(under_test, "PATIENCE", 0.05)
    url = postgres()
    queue = open_queue(url)
    with psycopg.connect(url) as holder:
        holder.execute("SELECT * FROM privacy_gate_schema FOR UPDATE")
        with pytest.raises(StorageFailed, match="lock"):
            queue.request(wanted(), now=0.0)
    assert queue.request(wanted(), now=0.0)
    queue.close()


def test_a_server_that_comes_back_is_used_again(postgres: Callable[[], str]) -> None:
    import psycopg

    url = postgres()
    queue = open_queue(url)
    queue.request(wanted(), now=0.0)
    with psycopg.connect(url, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    assert claim(queue, 1.0) is not None
    queue.close()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:s3cr3t@127.0.0.1:1/x",
        "postgres://me:s3cr3t@127.0.0.1:1/x?connect_timeout=2",
        "postgresql+psycopg://127.0.0.1:1/x?password=s3cr3t&user=me",
        "nosuch://me:s3cr3t@host/x",
        "postgresql+nosuch://me:s3cr3t@host/x",
        "me:s3cr3t@host",
        "postgresql://me:s3cr3t@host:notaport/x",
    ],
)
def test_no_error_tells_the_password(url: str) -> None:
    with pytest.raises((StorageFailed, UsageError)) as caught:
        open_queue(url)
    error: BaseException | None = caught.value
    assert caught.value.hint
    while error is not None:
        assert "s3cr3t" not in f"{error} {error!r} {getattr(error, 'hint', '')}"
        error = None if error.__suppress_context__ and error.__cause__ is None else error.__cause__ or error.__context__


def test_a_driver_that_tells_the_password_is_not_quoted() -> None:
    url = make_url("postgresql+psycopg://me:s3cr3t@host/x")
    with pytest.raises(StorageFailed) as caught, under_test._told(url):
        raise SQLAlchemyError("no entry for me with s3cr3t")
    assert "s3cr3t" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_missing_driver_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(UsageError) as caught:
        open_queue("postgresql://me@127.0.0.1:1/x")
    assert "pip install 'privacy-gate[postgres]'" in caught.value.hint


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x", "sqlite:///x?mode=ro", "sqlite+aiosqlite:///x"]
)
def test_a_queue_that_does_not_last_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        open_queue(url)


def test_only_its_owner_reads_the_file(tmp_path: Path) -> None:
    queue = open_queue(f"sqlite:///{tmp_path}/a/b/queue.db")
    queue.request(wanted(), now=0.0)
    files = list((tmp_path / "a" / "b").iterdir())
    assert {path.name for path in files} == {"queue.db", "queue.db-wal", "queue.db-shm", "queue.db-door"}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    queue.close()
    (tmp_path / "a" / "b" / "queue.db").chmod(0o644)
    again = open_queue(tmp_path / "a" / "b" / "queue.db")
    assert (tmp_path / "a" / "b" / "queue.db").stat().st_mode & 0o777 == 0o600
    assert len(again.jobs()) == 1
    again.close()


def test_a_file_that_is_gone_is_told(file_queue: Queue, tmp_path: Path) -> None:
    path = tmp_path / "state" / "queue.db"
    path.rename(tmp_path / "elsewhere.db")
    with pytest.raises(StorageFailed, match="deleted"):
        file_queue.request(wanted(), now=0.0)
    path.write_bytes(b"")
    with pytest.raises(StorageFailed, match="another one"):
        file_queue.ping()
    (tmp_path / "elsewhere.db").rename(path)
    assert file_queue.request(wanted(), now=0.0)


def test_a_folder_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with pytest.raises(UsageError, match="cannot be locked"):
        open_queue(tmp_path / "queue.db")
    assert list(tmp_path.iterdir()) == []


MOUNTS = r"""22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
23 22 0:5 / /srv/with\040space rw,nosuid shared:2 - nfs4 host:/x rw,vers=4.2
24 23 0:6 / /srv/with\040space/local rw - xfs /dev/vdb rw
25 22 0:7 / /home rw shared:3 - cifs //host/home rw
26 25 0:8 / /home rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/var/lib/gate", "ext4"),
        ("/srv/with space", "nfs4"),
        ("/srv/with space/deep/er", "nfs4"),
        ("/srv/with spaces", "ext4"),
        ("/srv/with space/local/x", "xfs"),
        ("/home/me", "tmpfs"),  # mounted over
    ],
)
def test_the_file_system_of_a_folder(folder: str, kind: str) -> None:
    assert under_test._file_system(Path(folder), MOUNTS) == kind


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "_file_system", lambda *_: "nfs4")
    with pytest.raises(UsageError, match="nfs4"):
        open_queue(tmp_path / "queue.db")


def test_another_schema_is_refused(queue: Queue, queue_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "SCHEMA", 0)
    with pytest.raises(UsageError, match="schema 1"):
        open_queue(queue_url)


@pytest.mark.parametrize("content", [b"not a database, and long enough to be looked at" * 100, b"\0" * 100])
def test_another_file_is_not_overwritten(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "queue.db"
    path.write_bytes(content)
    with pytest.raises(StorageFailed) as caught:
        open_queue(path)
    assert caught.value.hint
    assert path.read_bytes() == content


@pytest.fixture
def damaged(tmp_path: Path) -> Iterator[Queue]:
    """A queue whose file lost its middle."""
    path = tmp_path / "queue.db"
    first = open_queue(path)
    for number in range(300):
        first.request(wanted(version=str(number)), now=0.0)
    first.close()
    content = path.read_bytes()
    path.write_bytes(content[:8192] + b"\xff" * (len(content) - 8192))
    queue = open_queue(path)
    yield queue
    queue.close()


def test_a_damaged_file_is_told(damaged: Queue) -> None:
    with pytest.raises(StorageFailed, match="malformed") as caught:
        damaged.jobs(limit=None)
    assert "sweep" in caught.value.hint


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed):
        open_queue(tmp_path / "file" / "queue.db")
