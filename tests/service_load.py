"""A receiver under load: deliveries from a second process, while others use all processors at the gate's priority.

    python -m tests.service_load receiver FOLDER [bare]
    python -m tests.service_load burner

`measure` runs all of it. The deliveries go out by the clock, whether or not the one before is answered, each on a
connection of its own; its time begins when it should have gone out.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECRET = "whsec-of-the-bench"
PER_MINUTE = 300
NICE = 10  # of the gate's processes


@dataclass(frozen=True)
class Load:
    """What came of it.

    ours, bare  milliseconds of each answer, of the receiver and of an endpoint that only answers
    lost        deliveries that were answered with 202 and that a queue, opened after a kill -9, does not know
    refused     deliveries that were not answered with 202
    """

    ours: tuple[float, ...]
    bare: tuple[float, ...]
    lost: int
    refused: int


def measure(seconds: float, gate: bool = False) -> Load:
    """Send PER_MINUTE deliveries a minute to each of both endpoints, by turns, for some seconds.

    gate  a check with shadows of examples/location30 runs over and over, in place of loops that only burn
    """
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # its children end, too
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as stack:
        stack.callback(signal.signal, signal.SIGTERM, before)
        folder = Path(place)
        ours, our_port = stack.enter_context(_endpoint(folder))
        _, bare_port = stack.enter_context(_endpoint(folder, "bare"))
        stack.enter_context(_gates(folder) if gate else _burners())
        for port in (our_port, bare_port):  # the first answer takes longer: modules are loaded, connections opened
            for _ in range(3):
                _deliver(port, *_signed(0))
        period = 60.0 / PER_MINUTE
        mine: dict[str, tuple[int, float]] = {}
        other: dict[str, tuple[int, float]] = {}
        senders: list[threading.Thread] = []
        begun = time.monotonic() + 0.1
        for i in range(max(1, int(seconds / period))):
            for port, answers, offset in ((our_port, mine, 0.0), (bare_port, other, 0.5)):
                due = begun + (i + offset) * period
                time.sleep(max(0.0, due - time.monotonic()))
                sender = threading.Thread(target=_send, args=(port, i + 1, due, answers))
                sender.start()
                senders.append(sender)
        for sender in senders:
            sender.join()
        ours.send_signal(signal.SIGKILL)
        ours.wait()
        taken = {id for id, (status, _) in mine.items() if status == 202}
        return Load(
            tuple(sorted(ms for _, ms in mine.values())),
            tuple(sorted(ms for _, ms in other.values())),
            len(taken - _known(folder)),
            len(mine) - len(taken) + len(other) - sum(status == 202 for status, _ in other.values()),
        )


def _known(folder: Path) -> set[str]:
    """Deliveries in the queue, each with its job."""
    from privacy_gate.service.queue import open_queue

    queue = open_queue(folder / "queue.db")
    jobs = {job.delivery for job in queue.jobs(limit=None)}
    known = {delivery.id for delivery in queue.deliveries(limit=None)} & jobs
    queue.close()
    return known


def _signed(version: int) -> tuple[str, list[str], bytes]:
    id, stamp = str(uuid.uuid4()), str(int(time.time()))
    data = {"name": f"model-{version}", "version": str(version), "source": "models:/m-0", "run_id": None, "tags": {}}
    said = {"entity": "model_version", "action": "created", "timestamp": "2026-01-01T00:00:00+00:00", "data": data}
    body = json.dumps(said).encode()
    mac = hmac.new(SECRET.encode(), f"{id}.{stamp}.".encode() + body, hashlib.sha256).digest()
    headers = [
        "Content-Type: application/json",
        f"X-MLflow-Delivery-Id: {id}",
        f"X-MLflow-Timestamp: {stamp}",
        f"X-MLflow-Signature: v1,{base64.b64encode(mac).decode()}",
    ]
    return id, headers, body


def _deliver(port: int, id: str, headers: list[str], body: bytes) -> int:
    """Status of the answer; 0: there was none."""
    lines = ["POST /webhook HTTP/1.1", "Host: gate", "Connection: close", f"Content-Length: {len(body)}", *headers]
    answer = b""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        while more := connection.recv(65536):
            answer += more
    return int(answer[9:12] or 0)


def _send(port: int, version: int, due: float, answers: dict[str, tuple[int, float]]) -> None:
    id, headers, body = _signed(version)
    status = _deliver(port, id, headers, body)
    answers[id] = status, 1000.0 * (time.monotonic() - due)


# --- processes --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _endpoint(folder: Path, *kind: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    with _child([sys.executable, "-m", "tests.service_load", "receiver", str(folder), *kind]) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"the receiver did not start: it ended with {process.wait()}")
        yield process, int(line)


@contextlib.contextmanager
def _burners() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for _ in range(os.cpu_count() or 1):
            stack.enter_context(_child([sys.executable, "-m", "tests.service_load", "burner"], nice=NICE))
        yield


@contextlib.contextmanager
def _gates(folder: Path) -> Iterator[None]:
    """Checks one after the other, each with shadows of its own, until the block ends."""
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    environment = {k: v for k, v in environment.items() if not k.endswith("_NUM_THREADS")}
    model = [sys.executable, str(ROOT / "examples/location30/train.py"), "--out", str(folder / "model")]
    model += ["--name", "loaded", "--network", "small", "--epochs", "10"]
    with _child(model, cwd=folder, env=environment) as trained:
        trained.communicate()
    if trained.returncode:
        raise SystemExit(f"{model[1]} ended with {trained.returncode}")
    check = [sys.executable, "-m", "privacy_gate", "check", "-c", str(folder / "model" / "privacy-gate.yaml")]
    check += ["--out", str(folder / "out"), "--no-mlflow-log", "--quiet", "--store", str(folder / "store")]
    ended, codes = threading.Event(), []

    def run() -> None:
        while not ended.is_set():
            shutil.rmtree(folder / "store", ignore_errors=True)
            with _child(check, nice=NICE, cwd=folder, env=environment) as process:
                while process.poll() is None and not ended.wait(0.1):
                    pass
                codes.append(process.poll())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if wrong := [code for code in codes if code not in (0, 1, 4, None)]:
        raise SystemExit(f"the check that was to run ended with {wrong[0]}")


@contextlib.contextmanager
def _child(
    command: list[str], nice: int = 0, cwd: Path = ROOT, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    command = ["nice", "-n", str(nice), *command] if nice else command
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=cwd, env=env, start_new_session=True, stdin=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def receiver(folder: Path, bare: bool) -> None:
    """Serve on a free port of loopback, and print it."""
    import uvicorn

    from privacy_gate.service.receiver import SERVER

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(_bare() if bare else _real(folder), **SERVER))
        print(listening.getsockname()[1], flush=True)
        server.run(sockets=[listening])


def _real(folder: Path) -> Callable[..., object]:
    from privacy_gate.service.queue import open_queue
    from privacy_gate.service.receiver import app
    from privacy_gate.service.subscriptions import Subscriptions

    wanted = {"apiVersion": "privacy-gate/subscriptions/v1", "subscriptions": [{"name": "*", "config": "gate.yaml"}]}
    queue = open_queue(folder / "queue.db")
    return app(Subscriptions.model_validate(wanted), queue, secret=SECRET, token="token", sweep=lambda: None)


def _bare() -> Callable[..., object]:
    from fastapi import FastAPI, Response

    application = FastAPI()

    @application.post("/webhook", response_model=None)
    async def take() -> object:
        return Response(status_code=202)

    return application


def main(arguments: list[str]) -> None:
    """Be one of the processes."""
    if arguments[0] == "burner":
        while True:
            sum(range(1000))
    receiver(Path(arguments[1]), "bare" in arguments[2:])


if __name__ == "__main__":
    main(sys.argv[1:])
