"""The durable queue: what arrived, what is to be judged, what was judged. In SQLite, or in a database given by URL.

Writes wait for each other: each is one short transaction that first takes a lock, SQLite's own or that of one row.
Names are hostile and of any length and alphabet, and databases differ in what they take as a key or as text: rows are
found by a digest of their names, and texts are stored as JSON in ASCII. No value enters a statement but as a parameter.
Leases end by the clocks of those who ask: machines that share a queue agree on the time to a fraction of a lease.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import json
import os
import sqlite3
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, Row
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    ProgrammingError,
    SQLAlchemyError,
)

from privacy_gate.errors import StorageFailed, UsageError
from privacy_gate.sandbox.untrusted import clean
from privacy_gate.service import LONGEST_DELAY, Delivery, Event, Job, Judged, Key, State, Terms, Wanted
from privacy_gate.storage import private_dir, sha256_of_json

SCHEMA = 1
TEXT_LENGTH = 2000  # characters of an outcome, a reason, a headline or of a name in an event; the rest is cut off
PATIENCE = 10.0  # seconds that a write waits for others
ATTEMPTS = 3  # of a job, unless the caller says otherwise
_AHEAD = 3600.0  # seconds that two hosts' clocks may differ: of less, they would take each other's jobs in turn

# Where SQLite's write-ahead log cannot work: its processes share memory, which they cannot from two machines.
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "lustre", "ceph", "afs", "fuse.glusterfs"}
_DRIVERS = {"postgres": "postgresql+psycopg", "postgresql": "postgresql+psycopg"}


class _Verbatim(sa.types.TypeDecorator[str]):
    """Any text, also with NUL and half surrogates, in a column of any database."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else json.dumps(value)

    def process_result_value(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else str(json.loads(value))


_metadata = sa.MetaData()
_Digest = sa.String(64)

_schema = sa.Table(
    "privacy_gate_schema",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("turn", sa.BigInteger, nullable=False),  # its one row is what writers lock, where one file is not
)
_jobs = sa.Table(
    "privacy_gate_jobs",
    _metadata,
    sa.Column("id", _Digest, primary_key=True),
    sa.Column("model", _Digest, nullable=False, index=True),
    sa.Column("place", sa.BigInteger, nullable=False, index=True),
    sa.Column("name", _Verbatim, nullable=False),
    sa.Column("version", _Verbatim, nullable=False),
    sa.Column("subscription", _Verbatim, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("requests", sa.Integer, nullable=False),
    sa.Column("answered", sa.Integer, nullable=False),  # requests that the run at hand, or the last one, is for
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("deaths", sa.Integer, nullable=False),  # one after the other, of workers that held it
    sa.Column("why", _Verbatim, nullable=False),
    sa.Column("delivery", _Verbatim),
    sa.Column("queued", sa.Double, nullable=False),
    sa.Column("due", sa.Double, nullable=False),
    sa.Column("lease", _Verbatim),
    sa.Column("lease_until", sa.Double),
    sa.Column("started", sa.Double),
    sa.Column("finished", sa.Double),
    sa.Column("model_sha256", sa.String(128)),
    sa.Column("key_policy_sha256", sa.String(128)),
    sa.Column("key_config_sha256", sa.String(128)),
    sa.Column("policy_sha256", sa.String(128)),
    sa.Column("config_sha256", sa.String(128)),
    sa.Column("outcome", _Verbatim, nullable=False),
    sa.Column("changed", sa.Double, nullable=False),
    sa.Index("privacy_gate_jobs_turn", "state", "priority", "queued"),
)
_deliveries = sa.Table(
    "privacy_gate_deliveries",
    _metadata,
    sa.Column("id", _Digest, primary_key=True),
    sa.Column("delivery", _Verbatim, nullable=False),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("received", sa.Double, nullable=False, index=True),
    sa.Column("outcome", _Verbatim, nullable=False),
)
_verdicts = sa.Table(
    "privacy_gate_verdicts",
    _metadata,
    sa.Column("id", _Digest, primary_key=True),
    sa.Column("model_sha256", sa.String(128), nullable=False),
    sa.Column("policy_sha256", sa.String(128), nullable=False),
    sa.Column("config_sha256", sa.String(128), nullable=False),
    sa.Column("status", sa.String(64), nullable=False),
    sa.Column("exit_code", sa.Integer, nullable=False),
    sa.Column("headline", _Verbatim, nullable=False),
    sa.Column("run_id", _Verbatim),
    sa.Column("report", _Verbatim),
    sa.Column("valid_until", sa.String(32)),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("attestation", sa.String(128)),
)
_facts = sa.Table(
    "privacy_gate_facts",
    _metadata,
    sa.Column("id", _Digest, primary_key=True),
    sa.Column("name", _Verbatim, nullable=False),
    sa.Column("value", sa.Text, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
)
_leases = sa.Table(
    "privacy_gate_leases",
    _metadata,
    sa.Column("id", _Digest, primary_key=True),
    sa.Column("name", _Verbatim, nullable=False),
    sa.Column("owner", _Verbatim, nullable=False),
    sa.Column("token", sa.String(32), nullable=False),
    sa.Column("until", sa.Double, nullable=False),
)


class Queue:
    """Of all receivers, workers and sweeps that were given the same URL; one object may serve many threads.

    Every method raises StorageFailed where the database is full, gone, or held by others for longer than PATIENCE; then
    nothing of what it was to do is done. A database that comes back is used again.
    """

    def __init__(self, engine: Engine, url: URL, door: _Door | None = None) -> None:
        self._engine = engine
        self._door = door
        self._writer = engine.execution_options(privacy_gate_writes=True)
        self._url = url

    # Arriving ---------------------------------------------------------------------------------------------------------

    def deliver(self, delivery: Delivery, wanted: Wanted | None) -> bool:
        """Remember a delivery and, in the same transaction, ask for a version.

        False: a delivery with this id is known already, and nothing changed. The time is the delivery's.
        """
        row = sha256_of_json([delivery.id])
        with self._writing() as connection:
            if connection.execute(sa.select(_deliveries.c.id).where(_deliveries.c.id == row)).first() is not None:
                return False
            told = {k: v if v is None else v[:TEXT_LENGTH] for k, v in dataclasses.asdict(delivery.event).items()}
            connection.execute(
                sa.insert(_deliveries).values(
                    id=row,
                    delivery=delivery.id,
                    event=json.dumps(told),
                    received=delivery.received,
                    outcome=delivery.outcome[:TEXT_LENGTH],
                )
            )
            if wanted is not None:
                _ask(connection, wanted, delivery.received)
            return True

    def request(self, wanted: Wanted, now: float) -> bool:
        """Ask for a version. True: it was not waiting and not running, and is queued now.

        One that waits keeps its place, its attempts and its time, and its priority can only rise. One that runs is
        queued again when it ends, with its attempts forgotten: who only looks whether all is well should not ask then.
        """
        with self._writing() as connection:
            return _ask(connection, wanted, now)

    # Working ----------------------------------------------------------------------------------------------------------

    def claim(
        self, worker: str, concurrency: Mapping[str, int], lease: float, now: float, attempts: int = ATTEMPTS
    ) -> Job | None:
        """Begin the job of highest priority that is due, of these the oldest; None: there is nothing to do.

        worker       who asks, for people; the token of the lease begins with it
        concurrency  subscription -> how many of its jobs may run at once; one that is not listed: 1
        lease        seconds; a job whose lease ran out may be claimed again
        attempts     a job whose worker fell silent that often, one time after the other, is parked instead
        """
        with self._writing() as connection:
            running, absurd = _jobs.c.state == State.RUNNING.value, _jobs.c.lease_until > now + lease + _AHEAD
            held = running & (_jobs.c.lease_until > now) & ~absurd
            counted = connection.execute(
                sa.select(_jobs.c.subscription, sa.func.count()).where(held).group_by(_jobs.c.subscription)
            )
            full = [name for name, count in counted if count >= concurrency.get(name, 1)]
            full += [name for name, limit in concurrency.items() if limit < 1]
            reached = (_jobs.c.due <= now) | (_jobs.c.due > now + LONGEST_DELAY + _AHEAD)
            waits = (_jobs.c.state == State.QUEUED.value) & reached
            silent = running & ((_jobs.c.lease_until <= now) | absurd)
            order = _jobs.c.priority.desc(), _jobs.c.queued, _jobs.c.place
            found = sa.select(_jobs).where((waits | silent) & _jobs.c.subscription.not_in(full)).order_by(*order)
            while (row := connection.execute(found.limit(1)).first()) is not None:
                taken_over = row.state == State.RUNNING.value
                begun, deaths = row.attempts, row.deaths + taken_over
                if taken_over and row.requests > row.answered:
                    begun, deaths = 0, 0  # what is asked for now is another matter than what its worker died of
                if taken_over and deaths >= attempts:
                    _ended(connection, row, State.PARKED, f"its worker died {deaths} times, saying nothing", {}, now)
                    continue
                token = f"{worker[:200]}:{uuid.uuid4().hex}"
                _change(
                    connection,
                    row.id,
                    now,
                    state=State.RUNNING.value,
                    answered=row.requests,
                    attempts=begun + 1,
                    deaths=deaths,
                    lease=token,
                    lease_until=now + lease,
                    started=now,
                )
                return _job(connection.execute(sa.select(_jobs).where(_jobs.c.id == row.id)).one())
            return None

    def tries(self, job: Job, terms: Terms, now: float) -> bool:
        """Note by what a job is about to be judged: known then even if its worker dies of it. False: lease lost."""
        return self._write(job, now, **_terms(terms))

    def heartbeat(self, job: Job, lease: float, now: float) -> bool:
        """Hold a job for `lease` more seconds. False: it is another worker's, or was forgotten."""
        return self._write(job, now, lease_until=now + lease)

    def finish(self, job: Job, outcome: str, key: Key | None, terms: Terms | None, now: float) -> bool:
        """Done; or queued again, its attempts forgotten, if it was asked for while it ran. False: lease lost."""
        about = {
            "model_sha256": key.model_sha256 if key else None,
            "key_policy_sha256": key.terms.policy_sha256 if key else None,
            "key_config_sha256": key.terms.config_sha256 if key else None,
            "policy_sha256": terms.policy_sha256 if terms else None,
            "config_sha256": terms.config_sha256 if terms else None,
        }
        return self._end(job, State.DONE, outcome, about, now) is not None

    def fail(
        self, job: Job, outcome: str, terms: Terms | None, attempts: int, delay: float, now: float
    ) -> State | None:
        """Queued again, due after `delay` seconds; parked after `attempts` attempts. None: lease lost.

        One that was asked for while it ran is queued rather than parked, its attempts forgotten.
        Where terms are None, the earlier ones stay.
        """
        with self._writing() as connection:
            row = _held(connection, job)
            if row is None:
                return None
            if row.attempts >= attempts:
                return _ended(connection, row, State.PARKED, outcome, _terms(terms), now)
            _wait(connection, row, row.attempts, outcome, _terms(terms), delay, now)
            return State.QUEUED

    def give_back(self, job: Job, outcome: str, delay: float, now: float) -> bool:
        """Queued again, due after `delay` seconds, as if it had not been begun: it is not to blame. False: lease lost.

        For a worker that is told to stop, and for one that finds its registry away.
        """
        with self._writing() as connection:
            row = _held(connection, job)
            if row is None:
                return False
            _wait(connection, row, row.attempts - 1, outcome, {}, delay, now)
            return True

    def park(self, job: Job, outcome: str, terms: Terms | None, now: float) -> bool:
        """Not to be tried again until asked for; queued at once if it was asked for while it ran. False: lease lost."""
        return self._end(job, State.PARKED, outcome, _terms(terms), now) is not None

    def forget(self, name: str, version: str) -> bool:
        """Drop a job, of a version that is gone; a worker that has it loses its lease. False: there was none."""
        with self._writing() as connection:
            return bool(connection.execute(sa.delete(_jobs).where(_jobs.c.id == _row_of(name, version))).rowcount)

    # Verdicts, facts --------------------------------------------------------------------------------------------------

    def record(self, judged: Judged) -> None:
        """Keep a verdict; it takes the place of an earlier one by the same key."""
        with self._writing() as connection:
            row = _verdict_of(judged.key)
            connection.execute(sa.delete(_verdicts).where(_verdicts.c.id == row))
            connection.execute(
                sa.insert(_verdicts).values(
                    id=row,
                    model_sha256=judged.key.model_sha256,
                    **_terms(judged.key.terms),
                    status=judged.status,
                    exit_code=judged.exit_code,
                    headline=judged.headline[:TEXT_LENGTH],
                    run_id=judged.run_id,
                    report=judged.report,
                    valid_until=judged.valid_until,
                    at=judged.at,
                    attestation=judged.attestation,
                )
            )

    def verdict(self, key: Key) -> Judged | None:
        """The verdict about this model by these terms; None: there is none."""
        return self.judged([key]).get(key)

    def judged(self, keys: Iterable[Key]) -> dict[Key, Judged]:
        """The verdicts there are about these keys."""
        rows = list(dict.fromkeys(map(_verdict_of, keys)))
        with self._reading() as connection:
            found = [
                _judged(row)
                for some in (rows[i : i + 500] for i in range(0, len(rows), 500))
                for row in connection.execute(sa.select(_verdicts).where(_verdicts.c.id.in_(some)))
            ]
        return {verdict.key: verdict for verdict in found}

    def remember(self, name: str, value: Any, now: float | None = None) -> None:
        """Keep a JSON-like value under a name, in the place of the earlier one."""
        fact = json.dumps(value, allow_nan=False)
        row = sha256_of_json([name])
        at = time.time() if now is None else now
        with self._writing() as connection:
            connection.execute(sa.delete(_facts).where(_facts.c.id == row))
            connection.execute(sa.insert(_facts).values(id=row, name=name, value=fact, at=at))

    def recall(self, name: str) -> tuple[Any, float] | None:
        """What was last remembered under a name, and when; None: nothing."""
        with self._reading() as connection:
            row = connection.execute(sa.select(_facts).where(_facts.c.id == sha256_of_json([name]))).first()
        return None if row is None else (json.loads(row.value), row.at)

    @contextlib.contextmanager
    def hold(self, name: str, owner: str, seconds: float, now: float) -> Iterator[Callable[[], bool] | None]:
        """Hold what is called `name` for as long as the block runs; None: another one has it.

        seconds  after which it is anybody's if this process dies, or is stopped
        What it yields asks whether it is still held; before anything is done that others must not undo.
        """
        token = uuid.uuid4().hex
        row = sha256_of_json([name])
        began = time.monotonic()
        if not self._take(name, owner, token, seconds, now):
            yield None
            return
        over = threading.Event()

        def still() -> bool:
            until = now + (time.monotonic() - began) + seconds
            with self._writing() as connection:
                mine = (_leases.c.id == row) & (_leases.c.token == token)
                return bool(connection.execute(sa.update(_leases).where(mine).values(until=until)).rowcount)

        def keep() -> None:
            while not over.wait(seconds / 3):
                with contextlib.suppress(StorageFailed):  # the next one may succeed; `still` tells who needs to know
                    if not still():
                        return

        thread = threading.Thread(target=keep, name="holds a lease", daemon=True)
        thread.start()
        try:
            yield still
        finally:
            over.set()
            thread.join()
            with contextlib.suppress(StorageFailed):  # the lease runs out
                self._release(row, token)

    # Looking ----------------------------------------------------------------------------------------------------------

    def job(self, name: str, version: str) -> Job | None:
        """The job of a version; None: it was never asked for."""
        with self._reading() as connection:
            row = connection.execute(sa.select(_jobs).where(_jobs.c.id == _row_of(name, version))).first()
        return None if row is None else _job(row)

    def jobs(self, state: State | None = None, name: str | None = None, limit: int | None = 100) -> list[Job]:
        """Those that wait in the order of their turn, all others the latest change first."""
        waiting = _jobs.c.priority.desc(), _jobs.c.queued, _jobs.c.place
        asked = sa.select(_jobs).order_by(*(waiting if state is State.QUEUED else (_jobs.c.changed.desc(), _jobs.c.id)))
        if state is not None:
            asked = asked.where(_jobs.c.state == state.value)
        if name is not None:
            asked = asked.where(_jobs.c.model == sha256_of_json([name]))
        with self._reading() as connection:
            return [_job(row) for row in connection.execute(asked if limit is None else asked.limit(limit))]

    def deliveries(self, limit: int | None = 100) -> list[Delivery]:
        """The latest first; names in their events are cut at TEXT_LENGTH."""
        asked = sa.select(_deliveries).order_by(_deliveries.c.received.desc(), _deliveries.c.id)
        with self._reading() as connection:
            rows = connection.execute(asked if limit is None else asked.limit(limit)).all()
        return [Delivery(row.delivery, Event(**json.loads(row.event)), row.received, row.outcome) for row in rows]

    def counts(self) -> dict[State, int]:
        """How many jobs there are in each state, also where there are none."""
        asked = sa.select(_jobs.c.state, sa.func.count()).group_by(_jobs.c.state)
        with self._reading() as connection:
            found = {State(state): count for state, count in connection.execute(asked)}
        return {state: found.get(state, 0) for state in State}

    def prune(self, before: float, facts: str | None = None) -> int:
        """Forget deliveries received before; never jobs or verdicts. How many.

        facts  those whose names begin so, if they are as old, are forgotten as well; None: none
        """
        with self._writing() as connection:
            if facts is not None:
                begins = sa.type_coerce(_facts.c.name, sa.Text).startswith(json.dumps(facts)[:-1], autoescape=True)
                connection.execute(sa.delete(_facts).where(begins & (_facts.c.at < before)))
            return int(connection.execute(sa.delete(_deliveries).where(_deliveries.c.received < before)).rowcount)

    def ping(self) -> None:
        """Ask the database for something. Raises StorageFailed."""
        if self._door is not None:
            self._door.look()
        with self._reading() as connection:
            connection.execute(sa.select(_schema.c.version)).one()

    def close(self) -> None:
        """Let go of all connections."""
        self._engine.dispose()
        if self._door is not None:
            self._door.close()

    # Within -----------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Connection]:
        with _told(self._url), self._engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Connection]:
        """One transaction that no other write overlaps."""
        with _told(self._url), self._writer.begin() as connection:
            if connection.dialect.name != "sqlite":  # BEGIN IMMEDIATE has locked that already
                connection.execute(sa.update(_schema).values(turn=_schema.c.turn + 1))
            yield connection

    def _write(self, job: Job, now: float, **values: Any) -> bool:
        with self._writing() as connection:
            row = _held(connection, job)
            if row is None:
                return False
            _change(connection, row.id, now, **values)
            return True

    def _end(self, job: Job, state: State, outcome: str, values: dict[str, Any], now: float) -> State | None:
        with self._writing() as connection:
            row = _held(connection, job)
            return None if row is None else _ended(connection, row, state, outcome, values, now)

    def _take(self, name: str, owner: str, token: str, seconds: float, now: float) -> bool:
        row = sha256_of_json([name])
        with self._writing() as connection:
            until = connection.execute(sa.select(_leases.c.until).where(_leases.c.id == row)).scalar_one_or_none()
            if until is not None and now < until <= now + seconds + _AHEAD:
                return False
            connection.execute(sa.delete(_leases).where(_leases.c.id == row))
            lease = {"id": row, "name": name, "owner": owner, "token": token, "until": now + seconds}
            connection.execute(sa.insert(_leases).values(**lease))
            return True

    def _release(self, row: str, token: str) -> None:
        with self._writing() as connection:
            connection.execute(sa.delete(_leases).where((_leases.c.id == row) & (_leases.c.token == token)))


def open_queue(url: str | Path) -> Queue:
    """The queue at a SQLAlchemy URL, or in a SQLite file; made if it is not there.

    Raises UsageError for a URL that cannot serve, a missing driver, and a database of a newer privacy-gate;
    StorageFailed for a folder that cannot be written or locked and for a database that does not answer.
    """
    place = URL.create("sqlite", database=str(url)) if isinstance(url, Path) else _parsed(url)
    sqlite = place.get_backend_name() == "sqlite"
    if sqlite:
        place = place.set(database=str(_prepared(place)))
    door = _Door(Path(str(place.database))) if sqlite else None
    engine = _engine(place, door)
    queue = Queue(engine, place, door)
    try:
        if sqlite:
            _write_ahead(engine, place)
        _create(engine, place)
    except BaseException:
        queue.close()
        raise
    return queue


class _Door:
    """Through which writers of a SQLite file go one by one.

    SQLite's waiters look again now and then, and one that comes back at once starves them for seconds. Here who is next
    holds the door until the file is free, and the others wait outside. It makes turns fair, and nothing else: who waits
    for too long goes in without, as SQLite's own lock is what counts.
    """

    patience = 2.0

    def __init__(self, database: Path) -> None:
        path = Path(f"{database}-door")
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._database, self._opened = database, database.stat()
        except OSError as error:
            mend = "choose a folder this user may write to"
            raise StorageFailed(f"{path}: {error.strerror or error}", mend) from error
        self._threads = threading.Lock()  # of this process: to them a file's lock is one and the same

    def look(self) -> None:
        """Raises StorageFailed if the file is not there any more: what is written to it would be lost."""
        with contextlib.suppress(OSError):
            if os.path.samestat(self._database.stat(), self._opened):
                return
        raise StorageFailed(
            f"{self._database}: the queue's file was deleted, or another one is in its place",
            "put it back, or start anew: the sweep finds what has no verdict",
        )

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        deadline = time.monotonic() + self.patience
        mine = self._threads.acquire(timeout=self.patience)
        try:
            locked = mine and self._locked(deadline)
            try:
                yield
            finally:
                if locked:
                    fcntl.flock(self._file, fcntl.LOCK_UN)
        finally:
            if mine:
                self._threads.release()

    def _locked(self, deadline: float) -> bool:
        pause = 0.0005
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return False
                time.sleep(pause)
                pause = min(1.5 * pause, 0.005)
            except OSError:
                return False
            else:
                return True

    def close(self) -> None:
        with self._threads:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1


def _parsed(url: str) -> URL:
    try:
        place = sa.make_url(url)
    except (ArgumentError, ValueError):
        # Not even as its cause: the text of the error may hold the password.
        raise UsageError("the URL of the queue cannot be read", "for example postgresql://user@host/name") from None
    return place.set(drivername=_DRIVERS.get(place.drivername, place.drivername))


def _engine(url: URL, door: _Door | None) -> Engine:
    options: dict[str, Any] = {"hide_parameters": True, "pool_timeout": PATIENCE, "max_overflow": 40}
    if door is not None:
        options["connect_args"] = {"timeout": PATIENCE}
    else:
        options |= {"pool_pre_ping": True, "isolation_level": "READ COMMITTED"}
        if url.get_backend_name() == "postgresql" and url.get_driver_name() == "psycopg":
            # Silence of the network is found out; a name in the URL wins.
            patient = {"connect_timeout": int(PATIENCE), "tcp_user_timeout": int(PATIENCE * 1000)}
            options["connect_args"] = {k: v for k, v in patient.items() if k not in url.query}
    try:
        engine = sa.create_engine(url, **options)
    except (ImportError, NoSuchModuleError) as error:
        own = url.drivername == _DRIVERS["postgresql"]
        mend = "pip install 'privacy-gate[postgres]'" if own else "install the driver that SQLAlchemy needs for it"
        raise UsageError(f"a queue at {_named(url)}: there is no driver for {url.drivername}", mend) from error
    if engine.dialect.is_async:
        raise UsageError(f"a queue at {_named(url)}: {url.drivername} is asynchronous", "name another driver")
    if door is None:
        if engine.dialect.name == "postgresql":
            event.listen(engine, "connect", _bound_in_time)
        return engine
    event.listen(engine, "connect", _by_hand)
    event.listen(engine, "begin", functools.partial(_begin, door))
    return engine


def _by_hand(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # the driver begins no transactions of its own
    connection.execute("PRAGMA synchronous=FULL")


def _begin(door: _Door, connection: Connection) -> None:
    if not connection.get_execution_options().get("privacy_gate_writes", False):
        connection.exec_driver_sql("BEGIN")
        return
    door.look()
    with door.held():  # a write that began as a read would fail where another one came between
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _bound_in_time(connection: Any, _: Any) -> None:
    # A process that was stopped while it held the lock must not stop all others.
    milliseconds = int(PATIENCE * 1000)
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = {milliseconds}")
        cursor.execute(f"SET idle_in_transaction_session_timeout = {milliseconds}")
    connection.commit()


def _prepared(url: URL) -> Path:
    """The absolute path of a SQLite file, made empty and private if it was not there, in a folder that can lock."""
    if url.drivername not in ("sqlite", "sqlite+pysqlite") or url.query:
        raise UsageError(
            f"a queue at {_named(url)}: of SQLite, files alone are supported", "sqlite:////folder/queue.db"
        )
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise UsageError("a queue in memory is lost with its process", "name a file: sqlite:////folder/queue.db")
    path = Path(url.database).absolute()
    folder = private_dir(path.parent)
    with contextlib.suppress(OSError):
        kind = _file_system(folder.resolve(), Path("/proc/self/mountinfo").read_text(encoding="utf-8"))
        if kind in _NETWORK:
            raise UsageError(
                f"{path}: a SQLite queue cannot be on a network file system ({kind})",
                "choose a local folder, or a database server by its URL",
            )
    try:
        # Beside it and then linked: to close a database's file elsewhere in a process lets go of all its locks.
        descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=f".{path.name}.")
        try:
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UsageError(
                    f"{path}: files in this folder cannot be locked: {error.strerror or error}",
                    "choose a local folder, or a database server by its URL",
                ) from error
            finally:
                os.close(descriptor)
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
        finally:
            os.unlink(temporary)
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
    except OSError as error:
        raise StorageFailed(f"{path}: {error.strerror or error}", "choose a folder this user may write to") from error
    return path


def _file_system(folder: Path, mounts: str) -> str:
    """Of which kind the file system is that holds `folder`, by the text of /proc/self/mountinfo; "": not listed."""
    holds: tuple[int, str] = (0, "")
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        point = Path(before.split(" ")[4].encode().decode("unicode_escape")) if before.count(" ") >= 4 else None
        if point is not None and folder.is_relative_to(point) and len(point.parts) >= holds[0]:
            holds = len(point.parts), after.partition(" ")[0]
    return holds[1]


def _write_ahead(engine: Engine, url: URL) -> None:
    """Readers and the writer do not wait for each other from now on; the file remembers it."""
    deadline = time.monotonic() + PATIENCE
    with _told(url):
        while True:
            try:
                with contextlib.closing(engine.raw_connection()) as connection:
                    (mode,) = connection.cursor().execute("PRAGMA journal_mode=WAL").fetchone()
                break
            except sqlite3.OperationalError as error:
                # Two that change it at once: SQLite does not wait here by itself.
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise StorageFailed(*_said(error, url)) from error
                time.sleep(0.02)
            except sqlite3.DatabaseError as error:
                raise StorageFailed(*_said(error, url)) from error
    if mode != "wal":
        raise UsageError(
            f"{_named(url)}: its folder does not let processes share memory (journal mode {mode})",
            "choose a local folder, or a database server by its URL",
        )


def _create(engine: Engine, url: URL) -> None:
    """Make the tables, or find them made by another process at the same time."""
    for last in (False,) * 9 + (True,):
        try:
            with _told(url), engine.execution_options(privacy_gate_writes=True).begin() as connection:
                found = _version(connection)
                if found is None:
                    _metadata.create_all(connection)
                    connection.execute(sa.insert(_schema).values(id=1, version=SCHEMA, turn=0))
                    found = SCHEMA
            break
        except StorageFailed as error:
            # A server tells the slower of two that make the same table that it is there: look again.
            if last or not isinstance(error.__cause__, IntegrityError | ProgrammingError):
                raise
            time.sleep(0.05)
    if found != SCHEMA:
        raise UsageError(
            f"queue at {_named(url)}: made by another privacy-gate (schema {found}, this one knows {SCHEMA})",
            "upgrade the older of the two, or name another database",
        )


def _version(connection: Connection) -> int | None:
    """Of the tables that are there; None: they are not, or not all of them."""
    if not sa.inspect(connection).has_table(_schema.name):
        return None
    found: int | None = connection.execute(sa.select(_schema.c.version)).scalar_one_or_none()
    return found


@contextlib.contextmanager
def _told(url: URL) -> Iterator[None]:
    """What a database says, as StorageFailed."""
    try:
        yield
    except SQLAlchemyError as error:
        raise StorageFailed(*_said(error, url)) from (None if _reveals(error, url) else error)


def _said(error: Exception, url: URL) -> tuple[str, str]:
    """What went wrong, and the mend."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    text = "refused" if _reveals(error, url) else clean(str(cause).strip().partition("\n")[0], 200)
    code = getattr(cause, "sqlite_errorcode", None)
    if code is None:
        return f"queue at {_named(url)}: {text}", "see that the database runs, can be reached and lets this user in"
    return f"queue at {_named(url)}: {text}", _MENDS.get(code & 0xFF, "look at the disk, and at who may write there")


_MENDS = {
    sqlite3.SQLITE_FULL: "free some space on its disk",
    sqlite3.SQLITE_IOERR: "free some space on its disk, and see whether the disk is sound",
    sqlite3.SQLITE_BUSY: "another process holds it: end what hangs, or the shell or the backup that has it open",
    sqlite3.SQLITE_READONLY: "let this user write the file and its folder",
    sqlite3.SQLITE_CANTOPEN: "let this user write the file and its folder",
    sqlite3.SQLITE_CORRUPT: "move the file away: the sweep finds again what has no verdict",
    sqlite3.SQLITE_NOTADB: "it is another file: name a new one",
}


def _named(url: URL) -> str:
    """The URL for people, its password and its options left out: a query may hold one, too."""
    return clean(url.set(query={}).render_as_string(hide_password=True), 300)


def _reveals(error: BaseException, url: URL) -> bool:
    secrets = [str(value) for name, value in url.query.items() if "pass" in name]
    secrets += [str(url.password)] if url.password else []
    return any(value and value in str(error) for value in secrets)


# Rows ----------------------------------------------------------------------------------------------------------------


def _row_of(name: str, version: str) -> str:
    return sha256_of_json([name, version])


def _verdict_of(key: Key) -> str:
    return sha256_of_json([key.model_sha256, key.terms.policy_sha256, key.terms.config_sha256])


def _terms(terms: Terms | None) -> dict[str, str]:
    """The columns to change; none: what is there stays."""
    return {"policy_sha256": terms.policy_sha256, "config_sha256": terms.config_sha256} if terms else {}


def _change(connection: Connection, row: str, now: float, **values: Any) -> None:
    connection.execute(sa.update(_jobs).where(_jobs.c.id == row).values(**values, changed=now))


def _held(connection: Connection, job: Job) -> Row[Any] | None:
    """The row of a job whose lease is still this one; None: it was taken over, ended or forgotten."""
    if job.lease is None:
        return None
    mine = (_jobs.c.id == _row_of(job.name, job.version)) & (_jobs.c.state == State.RUNNING.value)
    row = connection.execute(sa.select(_jobs).where(mine)).first()
    return row if row is not None and row.lease == job.lease else None


def _last_place(connection: Connection) -> int:
    """Behind all others."""
    return int(connection.execute(sa.select(sa.func.max(_jobs.c.place))).scalar_one() or 0) + 1


def _ask(connection: Connection, wanted: Wanted, now: float) -> bool:
    row = _row_of(wanted.name, wanted.version)
    found = connection.execute(
        sa.select(_jobs.c.state, _jobs.c.requests, _jobs.c.priority).where(_jobs.c.id == row)
    ).first()
    asked: dict[str, Any] = {"subscription": wanted.subscription, "priority": wanted.priority}
    reason: dict[str, Any] = {"why": wanted.why[:TEXT_LENGTH], "delivery": wanted.delivery}
    fresh = {"state": State.QUEUED.value, "attempts": 0, "deaths": 0, "queued": now, "due": now}
    if found is None:
        first = {"id": row, "model": sha256_of_json([wanted.name]), "name": wanted.name, "version": wanted.version}
        place = _last_place(connection)
        connection.execute(
            sa.insert(_jobs).values(
                **first, **asked, **reason, **fresh, place=place, requests=1, answered=0, outcome="", changed=now
            )
        )
        return True
    asked["requests"] = found.requests + 1
    match State(found.state):
        case State.QUEUED:
            asked["priority"] = max(found.priority, wanted.priority)
            _change(connection, row, now, **asked)
            return False
        case State.RUNNING:
            _change(connection, row, now, **asked, **reason)
            return False
        case State.DONE | State.PARKED:
            _change(connection, row, now, **asked, **reason, **fresh, place=_last_place(connection))
            return True


def _wait(
    connection: Connection,
    row: Row[Any],
    attempts: int,
    outcome: str,
    values: Mapping[str, Any],
    delay: float,
    now: float,
) -> None:
    """Queue a job again, in its old place; its worker lives, and one who asks anew starts anew."""
    again = {"state": State.QUEUED.value, "attempts": 0 if row.requests > row.answered else attempts, "deaths": 0}
    free = {"lease": None, "lease_until": None, "finished": now, "outcome": outcome[:TEXT_LENGTH]}
    _change(connection, row.id, now, **free, **values, **again, due=now + delay)


def _ended(
    connection: Connection, row: Row[Any], state: State, outcome: str, values: Mapping[str, Any], now: float
) -> State:
    """Let a job go: done or parked, or queued again because it was asked for while it ran."""
    after: dict[str, Any] = {"state": state.value}
    if row.requests > row.answered:
        place = _last_place(connection)
        after = {"state": State.QUEUED.value, "attempts": 0, "deaths": 0, "queued": now, "due": now, "place": place}
    free = {"lease": None, "lease_until": None, "finished": now, "outcome": outcome[:TEXT_LENGTH]}
    _change(connection, row.id, now, **free, **values, **after)
    return State(after["state"])


def _pair(policy: str | None, config: str | None) -> Terms | None:
    return None if policy is None or config is None else Terms(policy, config)


def _job(row: Row[Any]) -> Job:
    judged_by = _pair(row.key_policy_sha256, row.key_config_sha256)
    return Job(
        name=row.name,
        version=row.version,
        subscription=row.subscription,
        priority=row.priority,
        state=State(row.state),
        requests=row.requests,
        attempts=row.attempts,
        why=row.why,
        delivery=row.delivery,
        queued=row.queued,
        due=row.due,
        lease=row.lease,
        lease_until=row.lease_until,
        started=row.started,
        finished=row.finished,
        key=Key(row.model_sha256, judged_by) if judged_by is not None else None,
        terms=_pair(row.policy_sha256, row.config_sha256),
        outcome=row.outcome,
    )


def _judged(row: Row[Any]) -> Judged:
    return Judged(
        key=Key(row.model_sha256, Terms(row.policy_sha256, row.config_sha256)),
        status=row.status,
        exit_code=row.exit_code,
        headline=row.headline,
        run_id=row.run_id,
        report=row.report,
        valid_until=row.valid_until,
        at=row.at,
        attestation=row.attestation,
    )
