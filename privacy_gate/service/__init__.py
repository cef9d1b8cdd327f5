"""The gate as a service: a registry's events and a sweep of its versions become jobs; a worker judges them one by one.

A webhook is a hint, the sweep is the truth: what a registry forgot to tell is found by looking. What is queued survives
every process; what was judged is known by the digests of model, policy and configuration, so that again is never twice.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from enum import StrEnum

from privacy_gate.registry import PASSES

FUTURE = 300.0  # seconds; a time further ahead was written by a clock that has been set back since: it does not bind
LONGEST_DELAY = 3600.0  # seconds before a job that failed is tried again


def fresh(at: float, now: float, seconds: float) -> bool:
    """Whether a moment is within the last so many seconds; what lies well ahead of `now` is not."""
    return -FUTURE <= now - at <= seconds


def number(version: str) -> int:
    """Of a version, for comparing; -1 for what is none."""
    return int(version) if version.isascii() and version.isdigit() and len(version) < 20 else -1


class State(StrEnum):
    """Of a job. Waiting and running ones end; parked ones wait for a person, or for other terms."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    PARKED = "parked"


@dataclass(frozen=True, slots=True)
class Terms:
    """By what a version is judged: digests of the resolved policy, and of config, waivers, suite and seed."""

    policy_sha256: str
    config_sha256: str


@dataclass(frozen=True, slots=True)
class Key:
    """What a verdict is about, and by what."""

    model_sha256: str
    terms: Terms


@dataclass(frozen=True, slots=True)
class Wanted:
    """A version that should be looked at.

    subscription  that covers it
    why           for people: "model_version.created", "the policy changed", ...
    delivery      id of the webhook's delivery; None: the sweep, or a person, asked
    """

    name: str
    version: str
    subscription: str
    priority: int = 0
    why: str = ""
    delivery: str | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """What a registry says has happened: never more than names, which are looked up again.

    entity, action  e.g. model_version, created
    alias           of an alias's event; key: of a tag's event
    """

    entity: str
    action: str
    name: str
    version: str | None = None
    alias: str | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event that arrived and was believed.

    id        as the registry gave it; the same one again is the same delivery
    received  seconds since 1970
    outcome   for people: queued, or why not
    """

    id: str
    event: Event
    received: float
    outcome: str


@dataclass(frozen=True, slots=True)
class Job:
    """A version in the queue: there is one job for each, however often it is asked for.

    requests     how often it was asked for; a request that comes while it runs makes it run again
    attempts     how often it was begun since it was last asked for
    lease        token of the worker that holds it; another worker's is another one
    lease_until  seconds since 1970; after it the job is anybody's
    due          seconds since 1970; it is not begun before
    key          what its last verdict is about; None: there is none
    terms        by what it was last tried, also where that came to no verdict
    outcome      for people: the verdict, or what went wrong
    """

    name: str
    version: str
    subscription: str
    priority: int
    state: State
    requests: int
    attempts: int
    why: str
    delivery: str | None
    queued: float
    due: float
    lease: str | None = None
    lease_until: float | None = None
    started: float | None = None
    finished: float | None = None
    key: Key | None = None
    terms: Terms | None = None
    outcome: str = ""

    @property
    def uri(self) -> str:
        """models:/NAME/VERSION."""
        return f"models:/{self.name}/{self.version}"


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict.

    status       of the verdict, as in report.json
    run_id       the evidence run; None: nothing could be written back
    report       folder of the report's files, below the service's own; None: kept elsewhere
    valid_until  ISO date, the last day of a pass; None: no pass
    at           seconds since 1970
    attestation  sha256 of the signed attestation; None: the service has no key
    """

    key: Key
    status: str
    exit_code: int
    headline: str
    run_id: str | None
    report: str | None
    valid_until: str | None
    at: float
    attestation: str | None = None

    def passes(self, today: str) -> bool:
        """Whether it lets the model through on that day (ISO date, UTC); without a last day it never does."""
        try:
            last = datetime.date.fromisoformat(self.valid_until or "")
        except ValueError:
            return False
        return self.status in PASSES and self.exit_code == 0 and datetime.date.fromisoformat(today) <= last
