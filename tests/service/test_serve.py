"""The service as people run it: real processes on loopback; what it needs, how it ends, and what it survives."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
import yaml

from privacy_gate.errors import EvaluationFailed, RegistryUnreachable, UsageError
from privacy_gate.registry.in_memory import InMemoryRegistry
from privacy_gate.service import State
from privacy_gate.service import serve as service
from privacy_gate.service import sweep as sweeping
from privacy_gate.service.health import FACT, FILES, TRIED, WORKERS
from privacy_gate.service.queue import open_queue
from privacy_gate.service.serve import ASKED, LOOK, Rounds, bound, read_secrets
from privacy_gate.service.subscriptions import Reloading, Service
from privacy_gate.service.sweep import FAILED, SWEPT, VERIFIED

SECRET, TOKEN = "webhook-secret-0123456789", "token-0123456789-0123456789"
CONFIG = {"apiVersion": "privacy-gate/v1", "data": {"members": "in.csv", "nonmembers": "out.csv"}}
PATIENCE = 60.0  # seconds after which a test gives up; none of them waits for it


class Answers(BaseHTTPRequestHandler):
    """A registry's server without a model or a webhook: the real one takes seconds to start."""

    LISTS = ("registered-models/search", "model-versions/search", "webhooks")

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        listed = path == "/health" or path.endswith(self.LISTS)
        said = {} if listed else {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "there is none"}
        body = json.dumps(said).encode()
        self.send_response(200 if listed else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer  # noqa: N815  # their names in http.server

    def log_message(self, *_: object) -> None:
        pass


def team(folder: Path, uri: str = "http://127.0.0.1:1") -> Path:
    """A folder with subscriptions."""
    (folder / "privacy-gate.yaml").write_text(yaml.safe_dump(CONFIG))
    content = {
        "apiVersion": "privacy-gate/subscriptions/v1",
        "tracking_uri": uri,
        "service": {"sweep_every": "1h"},
        "subscriptions": [{"name": "churn*", "config": "privacy-gate.yaml"}],
    }
    path = folder / "subscriptions.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def environment(**changes: str | None) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PRIVACY_GATE_"))}
    given = {"PRIVACY_GATE_WEBHOOK_SECRET": SECRET, "PRIVACY_GATE_SERVICE_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"}
    return {k: v for k, v in {**kept, "PYTHONPATH": os.getcwd(), **given, **changes}.items() if v is not None}


@dataclass
class Running:
    """A `serve` process; its log lines, as they come, and whoever waits for one."""

    process: subprocess.Popen[str]
    folder: Path
    lines: list[dict] = field(default_factory=list)
    heard: threading.Condition = field(default_factory=threading.Condition)

    def read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self.heard:
                self.lines.append(json.loads(line) if line.startswith("{") else {"message": line})
                self.heard.notify_all()
        with self.heard:
            self.heard.notify_all()

    def wait_for(self, text: str, after: int = 0) -> str:
        """The first line, from number `after` on, that has `text` in it."""

        def found() -> str | None:
            return next((line["message"] for line in self.lines[after:] if text in line["message"]), None)

        with self.heard:
            self.heard.wait_for(lambda: found() or self.process.poll() is not None, PATIENCE)
        told = found()
        assert told is not None, self.lines
        return told

    @property
    def address(self) -> str:
        return self.wait_for("listening on").split()[-1]

    def get(self, path: str, token: str | None = TOKEN) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return ask(urllib.request.Request(self.address + path, headers=headers))

    def deliver(self, said: dict) -> tuple[int, str]:
        body = json.dumps(said).encode()
        id, at = str(uuid.uuid4()), str(int(time.time()))
        signed = hmac.new(SECRET.encode(), f"{id}.{at}.".encode() + body, hashlib.sha256).digest()
        headers = {
            "Content-Type": "application/json",
            "X-MLflow-Delivery-Id": id,
            "X-MLflow-Timestamp": at,
            "X-MLflow-Signature": f"v1,{base64.b64encode(signed).decode()}",
        }
        return ask(urllib.request.Request(self.address + "/webhook", data=body, headers=headers))

    def workers(self) -> list[psutil.Process]:
        return [p for p in psutil.Process(self.process.pid).children() if "worker" in p.cmdline()]


def ask(request: urllib.request.Request) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def start(folder: Path, *arguments: str, **changes: str | None) -> Running:
    command = [sys.executable, "-m", "privacy_gate", "serve", "--port", "0", "--log-format", "json", *arguments]
    process = subprocess.Popen(
        command, cwd=folder, env=environment(**changes), stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )
    running = Running(process, folder)
    threading.Thread(target=running.read, daemon=True).start()
    return running


def until(holds: Callable[[], object]) -> None:
    """For what nothing tells of: another process's end, a row in a database."""
    ends = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.05)


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[Running]:
    """One service for all tests that do not end it: receiver and one worker."""
    folder = tmp_path_factory.mktemp("service")
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as registry:
        threading.Thread(target=registry.serve_forever, daemon=True).start()
        team(folder, f"http://127.0.0.1:{registry.server_port}")
        made = start(folder)
        try:
            made.wait_for("swept: ")
            yield made
        finally:
            made.process.kill()
            made.process.wait()
            registry.shutdown()


def test_it_says_where_it_listens_and_is_alive(running):
    assert running.address.startswith("http://127.0.0.1:")
    assert running.wait_for("status page: ") == f"status page: {running.address}/"
    assert running.wait_for("webhook: ").endswith(f"{running.address}/webhook")
    assert running.get("/healthz", token=None)[0] == 200


def test_the_page_shows_what_the_worker_found_and_takes_a_token(running):
    assert running.get("/", token=None)[0] == 401
    code, page = running.get("/")
    assert code == 200
    assert "signing key" in page
    assert "within a minute of the registry" in page
    assert "MlflowClient().create_webhook" in page


def test_a_worker_knows_no_secret_of_the_receiver(running):
    for worker in running.workers():
        told = worker.environ()
        assert "PRIVACY_GATE_WEBHOOK_SECRET" not in told
        assert "PRIVACY_GATE_SERVICE_TOKEN" not in told
    everything = json.dumps(running.lines)
    assert SECRET not in everything
    assert TOKEN not in everything


def test_a_signed_test_event_is_remembered_as_one(running):
    """What `doctor --test-delivery` waits for."""
    data = {
        "name": "example_model",
        "version": "1",
        "source": "models:/123",
        "run_id": "abcd1234abcd5678",
        "tags": {"example_key": "example_value"},
        "description": "An example model version",
    }
    assert running.deliver({"entity": "model_version", "action": "created", "data": data})[0] == 202
    code, told = running.get("/api/deliveries")
    assert code == 200
    assert any(TRIED in delivery["outcome"] for delivery in json.loads(told)["deliveries"])


def test_a_delivery_becomes_a_job_and_the_worker_looks_it_up(running):
    """The registry has no such version: a delivery is only a hint."""
    said = {"entity": "model_version", "action": "created", "data": {"name": "churn-eu", "version": "1"}}
    assert running.deliver(said)[0] == 202

    def done() -> bool:
        jobs = json.loads(running.get("/api/jobs")[1])["jobs"]
        return any(job["name"] == "churn-eu" and job["state"] == State.DONE for job in jobs)

    until(done)


def test_a_worker_that_is_killed_is_started_again(running):
    (worker,) = running.workers()
    seen = len(running.lines)
    worker.kill()
    assert "-9" in running.wait_for("another one is started", seen)
    running.wait_for("is at work", seen)
    (another,) = running.workers()
    assert another.pid != worker.pid


def test_files_that_break_while_it_runs_are_told_and_change_nothing(running):
    config = running.folder / "privacy-gate.yaml"
    seen, before = len(running.lines), config.read_text()
    try:
        config.write_text("apiVersion: privacy-gate/v1\nseed: many\n")
        assert "privacy-gate.yaml:2:7" in running.wait_for("what was read before holds", seen)
        assert running.get("/healthz")[0] == 200
    finally:
        config.write_text(before)
    running.wait_for("in order again", seen)


def test_a_port_in_use_is_told_with_its_mend(running, tmp_path):
    port = int(running.address.rpartition(":")[2])
    with pytest.raises(EvaluationFailed, match="in use") as caught, bound("127.0.0.1", port):
        pass
    assert "--port" in caught.value.hint
    assert caught.value.exit_code == 3


def test_sigterm_ends_everything_with_0(running):
    """The last test of the running service."""
    workers = running.workers()
    assert len(workers) == 1
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(PATIENCE) == 0
    assert not any(map(alive, workers))


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


WATCHED = """
import sys, threading
from privacy_gate.service.serve import Supervisor
child = [sys.executable, "-S", "-c", "import os; os.read(0, 1)"]
with Supervisor(child, 2, threading.Event()):
    threading.Event().wait()
"""


def test_workers_end_with_a_service_that_is_killed():
    """They wait on a pipe whose other end is the service's, however that ends."""
    parent = subprocess.Popen([sys.executable, "-c", WATCHED], env=environment())
    try:
        until(lambda: len(psutil.Process(parent.pid).children()) == 2)
        workers = psutil.Process(parent.pid).children()
    finally:
        parent.kill()
        parent.wait()
    until(lambda: not any(map(alive, workers)))


def test_who_follows_ends_when_its_pipe_is_closed(monkeypatch):
    heard, said = os.pipe()
    ended, stop = [], threading.Event()
    monkeypatch.setattr(service.os, "read", lambda _, size, read=os.read: read(heard, size))
    monkeypatch.setattr(service.os, "_exit", ended.append)
    monkeypatch.setattr(service, "GRACE", 0.0)
    following = threading.Thread(target=service._follow, args=(stop,))
    following.start()
    os.write(said, b"x")  # nothing is ever said, and were it said it would mean nothing
    os.close(said)
    assert stop.wait(PATIENCE)
    following.join()
    os.close(heard)
    until(lambda: ended)  # what hangs is ended by force
    assert ended == [3]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_how_it_was_told_to_end(tmp_path, monkeypatch, number, code):
    """In this process: a receiver alone, on a queue of its own, without any registry's answer."""
    path = team(tmp_path)
    for name, value in WHOLE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PRIVACY_GATE_QUEUE_URL", raising=False)
    monkeypatch.setattr(service, "_tell", lambda *_: os.kill(os.getpid(), number))
    before = signal.getsignal(number)
    assert service.serve(service.Options(path, port=0, role="receiver")) == code
    assert signal.getsignal(number) is before


# --- what it needs --------------------------------------------------------------------------------------------------

WHOLE = {"PRIVACY_GATE_WEBHOOK_SECRET": SECRET, "PRIVACY_GATE_SERVICE_TOKEN": TOKEN}


@pytest.mark.parametrize(
    ("missing", "read", "role"),
    [
        ("PRIVACY_GATE_WEBHOOK_SECRET", "token", "all"),
        ("PRIVACY_GATE_WEBHOOK_SECRET", "open", "receiver"),
        ("PRIVACY_GATE_SERVICE_TOKEN", "token", "receiver"),
    ],
)
def test_a_missing_secret_is_told_with_the_way_to_make_one(missing, read, role):
    given = {name: value for name, value in WHOLE.items() if name != missing}
    with pytest.raises(UsageError, match=missing) as caught:
        read_secrets(role, Service(read=read), given)
    made = caught.value.hint.partition("python -c '")[2].partition("'")[0]
    told = subprocess.run([sys.executable, "-c", made], capture_output=True, text=True, check=True).stdout
    assert len(told.strip()) >= service.LEAST
    assert f"{missing}_FILE" in caught.value.hint


def test_an_open_page_needs_no_token_and_then_nothing_can_be_asked():
    known = read_secrets("receiver", Service(read="open"), {"PRIVACY_GATE_WEBHOOK_SECRET": SECRET})
    assert (known.webhook, known.token, known.key) == (SECRET, None, None)
    assert SECRET not in repr(known)


def test_a_worker_needs_no_secret_and_a_wrong_key_is_told(tmp_path):
    assert read_secrets("worker", Service(), {}) == service.Secrets(None, None, None)
    with pytest.raises(UsageError):
        read_secrets("worker", Service(), {"PRIVACY_GATE_SIGNING_KEY": "not a key"})


def test_a_signing_key_from_a_file(tmp_path):
    from privacy_gate.attestation import new_key

    place = tmp_path / "key.pem"
    place.touch(0o600)
    place.write_bytes(new_key()[0])
    known = read_secrets("worker", Service(), {"PRIVACY_GATE_SIGNING_KEY_FILE": str(place)})
    assert known.key is not None


def test_the_program_ends_with_2_without_a_secret_and_says_nothing_on_stdout(tmp_path, monkeypatch, capsys):
    from privacy_gate.cli import run

    team(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("PRIVACY_GATE_")]:
        monkeypatch.delenv(name)
    assert run(["serve"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "PRIVACY_GATE_WEBHOOK_SECRET is not set" in told.err
    assert run(["serve", "--role", "both"]) == 2
    assert run(["serve", "--subscriptions", "none.yaml"]) == 2


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 70, "\x1b[31m"])
def test_a_host_that_is_none(host):
    with pytest.raises(UsageError, match="no such host"), bound(host, 0):
        pass


def test_tls_needs_both_files_and_the_right_ones(tmp_path):
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    for given in ((certificate, None), (None, key)):
        with pytest.raises(UsageError, match="belong together"):
            service._tls(*given)
    with pytest.raises(UsageError, match="No such file"):
        service._tls(certificate, key)
    certificate.write_text("no")
    key.write_text("no")
    with pytest.raises(UsageError, match="not a certificate"):
        service._tls(certificate, key)
    assert service._tls(None, None) is None


# --- rounds ---------------------------------------------------------------------------------------------------------

NOW = 1_800_000_000.0


@pytest.fixture
def rounds(tmp_path, monkeypatch):
    """A worker's rounds over an empty registry; (rounds, queue, path of the subscriptions)."""
    path = team(tmp_path)
    queue = open_queue(f"sqlite:///{tmp_path}/queue.db")
    monkeypatch.setattr(service, "open_registry", lambda *_: InMemoryRegistry())
    monkeypatch.setattr("privacy_gate.service.health.examine", lambda *a, **k: [])
    yield Rounds(Reloading(path), queue, "w"), queue, path
    queue.close()


def test_a_sweep_is_made_when_it_is_due_or_asked_for(rounds):
    own, queue, _ = rounds
    assert own.once(NOW) is not None
    assert own.once(NOW + 3599) is None
    queue.remember(ASKED, True, NOW + 3600 - 0.5)
    assert own.once(NOW + 3599.6) is not None  # asked for
    assert own.once(NOW + 3600) is None
    assert own.once(NOW + 2 * 3600) is not None
    assert queue.recall(SWEPT)[1] == NOW + 2 * 3600


def test_a_sweep_is_asked_for_once_whatever_the_clocks_say(rounds, monkeypatch):
    """The host that was asked may be minutes ahead of the one that sweeps."""
    own, queue, _ = rounds
    assert own.once(NOW) is not None
    queue.remember(ASKED, True, NOW + 600)
    assert own.once(NOW + 5) is not None
    assert own.once(NOW + 10) is None
    queue.remember(ASKED, True, NOW + 11)
    with queue.hold("sweep", "another", 60.0, NOW + 11):
        assert not own.once(NOW + 12).alone
    assert own.once(NOW + 15).alone, "what was asked for meanwhile is not forgotten"
    whole = service.sweep

    def asked_meanwhile(*arguments, **options):
        queue.remember(ASKED, True, NOW + 21)
        return whole(*arguments, **options)

    queue.remember(ASKED, True, NOW + 20)
    with monkeypatch.context() as patch:
        patch.setattr(service, "sweep", asked_meanwhile)
        assert own.once(NOW + 22) is not None
    assert own.once(NOW + 27) is not None
    assert own.once(NOW + 32) is None


@pytest.mark.parametrize("hours", [1, 20, 365 * 24])
def test_sweeps_go_on_after_a_clock_was_ahead(rounds, hours):
    own, queue, _ = rounds
    ahead = hours * 3600.0
    queue.remember(FAILED, "no answer", NOW + ahead)
    queue.remember(SWEPT, {}, NOW + ahead + 1)
    assert own.once(NOW) is not None
    assert queue.recall(SWEPT)[1] == NOW
    assert own.once(NOW + 5) is None


def test_to_hash_all_files_holds_up_neither_sweeps_nor_signs_of_life(rounds, monkeypatch):
    own, queue, _ = rounds
    whole, hashed, go_on = sweeping._Sweep.run, [], threading.Event()

    def slow(self):
        if self._verify:
            hashed.append(True)
            assert go_on.wait(30)
        return whole(self)

    monkeypatch.setattr(sweeping._Sweep, "run", slow)
    for moment in (NOW, NOW + 3600, NOW + 7200):
        queue.remember("worker:w", {}, moment)
        assert own.once(moment).alone
        assert queue.recall(WORKERS)[1] == queue.recall(SWEPT)[1] == moment
    go_on.set()
    own._hashing.join(30)
    assert hashed == [True]
    assert queue.recall(VERIFIED)[1] == NOW
    assert queue.recall(SWEPT)[1] == NOW + 7200


def test_a_sweep_that_failed_is_tried_again_soon(rounds, monkeypatch):
    own, queue, _ = rounds
    assert own.once(NOW) is not None

    def versions(self):
        raise RegistryUnreachable("no answer", "is it up?")

    with monkeypatch.context() as patch:
        patch.setattr(InMemoryRegistry, "versions", versions)
        with pytest.raises(RegistryUnreachable):
            own.once(NOW + 3600)
        assert queue.recall(FAILED) == ("no answer", NOW + 3600)
        assert own.once(NOW + 3600 + LOOK - 1) is None
    assert own.once(NOW + 3600 + LOOK) is not None


def test_a_worker_counts_as_alive_only_while_it_looks_for_work(rounds):
    own, queue, _ = rounds
    own.once(NOW)
    assert queue.recall(WORKERS) is None
    queue.remember("worker:w", {}, NOW)
    own.once(NOW + 50)
    assert queue.recall(WORKERS)[1] == NOW
    queue.remember(WORKERS, {}, NOW - 1000)
    own.once(NOW + 500)  # its own last sign is older than a lease
    assert queue.recall(WORKERS)[1] == NOW - 1000


def test_what_health_found_is_remembered_for_the_page(rounds, monkeypatch):
    from privacy_gate.service.health import Finding

    own, queue, path = rounds
    seen = []

    def examine(subscribed, queue, environment, now, *, broken):
        seen.append(broken)
        return [Finding("clock", "warn", "\x1b[31mslow", "let NTP set it")]

    monkeypatch.setattr("privacy_gate.service.health.examine", examine)
    own.once(NOW)
    assert queue.recall(FACT)[0] == [{"name": "clock", "ok": False, "detail": "slow", "mend": "let NTP set it"}]
    assert queue.recall(FILES)[0] is True
    path.write_text("apiVersion: nothing\n")
    own.once(NOW + LOOK)
    assert queue.recall(FILES)[0] is False
    assert seen[0] is None
    assert "subscriptions.yaml:1:13" in seen[1]


def test_one_sweep_that_raises_does_not_end_the_others(rounds, monkeypatch, caplog):
    own, _, _ = rounds
    stop = threading.Event()
    calls = []

    def once(now):
        calls.append(now)
        if len(calls) == 3:
            stop.set()
        raise [UsageError("wrong"), ZeroDivisionError("secret")][len(calls) % 2]

    monkeypatch.setattr(own, "once", once)
    monkeypatch.setattr(service, "ROUND", 0.0)
    own.run(stop)
    assert len(calls) == 3


def test_free_ports_of_both_families():
    for host in ("127.0.0.1", "localhost"):
        with bound(host, 0) as listening:
            assert listening.getsockname()[1] > 0
            with socket.create_connection(listening.getsockname()[:2], timeout=5):
                pass


def test_tls_serves_with_a_key_of_its_own(tmp_path, monkeypatch):
    if shutil.which("openssl") is None:
        pytest.skip("makes its certificate with openssl")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    subject = ["-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*made, *subject], check=True, capture_output=True)
    path = team(tmp_path)
    for name, value in WHOLE.items():
        monkeypatch.setenv(name, value)
    told = []

    def visit(address: str) -> None:
        try:
            trusted = ssl.create_default_context(cafile=str(certificate))
            trusted.check_hostname = False  # it is of localhost
            with urllib.request.urlopen(f"{address}/healthz", timeout=PATIENCE, context=trusted) as answer:
                told.append((address.partition(":")[0], answer.status))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(service, "_tell", lambda address, *_: threading.Thread(target=visit, args=(address,)).start())
    options = service.Options(path, port=0, role="receiver", tls_cert=certificate, tls_key=key)
    assert service.serve(options) == 0
    assert told == [("https", 200)]
