"""A real MLflow server on loopback, for tests; and an empty embedded registry."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def mlflow_server(folder: Path, patience: float = 120.0) -> Iterator[str]:
    """Start a server that keeps everything below `folder`; yields its URI, ends its whole process group."""
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    # Without job execution: eight processes less, and a start of seconds.
    environment |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder.absolute()}/server.db"]
    command += ["--artifacts-destination", str(folder.absolute() / "artifacts")]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
        )
    try:
        _wait(server, uri, patience, folder / "server.log")
        yield uri
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _wait(server: subprocess.Popen[bytes], uri: str, patience: float, log: Path) -> None:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{uri}/health", timeout=2) as answer:
            if answer.status == 200:
                return
        time.sleep(0.1)
    raise RuntimeError(f"the MLflow server did not start:\n{log.read_text(errors='replace')[-3000:]}")


def embedded_registry(folder: Path) -> str:
    """Create an empty sqlite registry below `folder`, with its artifacts there too; returns its URI."""
    from mlflow import MlflowClient

    database = folder.absolute() / "mlflow.db"
    database.write_bytes(_empty_database())
    uri = f"sqlite:///{database}"
    # The experiment that MLflow makes by itself keeps its artifacts below the current folder.
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE experiments SET artifact_location = ?", (str(folder.absolute() / "mlruns" / "0"),))
    MlflowClient(tracking_uri=uri).create_experiment("training", artifact_location=str(folder / "artifacts"))
    return uri


@functools.cache
def _empty_database() -> bytes:
    """The tables of MLflow, made once: its migrations take seconds, and every test would get the same file."""
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory() as folder:
        with contextlib.chdir(folder):
            MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db").search_experiments()
        return Path(folder, "mlflow.db").read_bytes()


@contextlib.contextmanager
def tracking(uri: str) -> Iterator[None]:
    """Point `mlflow.log_model` and friends at `uri` for a while: they know no other way."""
    import mlflow

    before = {name: os.environ.get(name) for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")}
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)
        mlflow.set_registry_uri(None)
        for name, value in before.items():  # set_registry_uri() leaves its variable behind
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
