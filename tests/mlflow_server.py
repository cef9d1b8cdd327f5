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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """An MLflow server that keeps everything below `folder`, and can be killed and started again under its URI."""

    folder: Path
    settings: Mapping[str, str] = field(default_factory=dict)  # MLFLOW_... of its environment
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
        # Without job execution: eight processes less, and a start of seconds.
        environment |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"]
        command += ["--port", str(self.port), "--backend-store-uri", f"sqlite:///{self.folder.absolute()}/server.db"]
        command += ["--artifacts-destination", str(self.folder.absolute() / "artifacts")]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**environment, **self.settings},
                start_new_session=True,
            )

    def wait(self, patience: float = 120.0) -> None:
        assert self.process is not None
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
            time.sleep(0.1)
        log = (self.folder / "server.log").read_text(errors="replace")
        raise RuntimeError(f"the MLflow server did not start:\n{log[-3000:]}")

    def kill(self) -> None:
        """kill -9, its whole process group."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@contextlib.contextmanager
def mlflow_server(folder: Path, patience: float = 120.0, **settings: str) -> Iterator[str]:
    """A server for the length of the block; yields its URI."""
    server = Server(folder, settings)
    server.start()
    try:
        server.wait(patience)
        yield server.uri
    finally:
        server.kill()


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
