"""The service's processes: one that listens, and workers that judge; each can also run by itself, on a host of its own.

Workers end with the process that started them, however that ends: they read its end of a pipe. A sweep is made by
whichever worker finds that it is due, on any host.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import resource
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, cast

from privacy_gate.errors import EvaluationFailed, ExitCode, GateError, UsageError
from privacy_gate.registry import Registry, open_registry
from privacy_gate.sandbox import guard
from privacy_gate.sandbox.untrusted import clean
from privacy_gate.service import health
from privacy_gate.service.queue import Queue, open_queue
from privacy_gate.service.secrets import (
    SERVICE_TOKEN,
    SIGNING_KEY,
    WEBHOOK_SECRET,
    secret,
)
from privacy_gate.service.subscriptions import Reloading, Service, Subscribed, Subscription, Subscriptions, queue_url
from privacy_gate.service.sweep import FAILED, SWEPT, Swept, credible, sweep, verify_due
from privacy_gate.storage import private_dir

if TYPE_CHECKING:
    import uvicorn
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from fastapi import FastAPI

Role = Literal["all", "receiver", "worker"]
Format = Literal["json", "text"]

ASKED = "sweep asked"  # name of a fact: somebody wants a sweep
ROUND = 5.0  # seconds between two looks at whether a sweep is due
LOOK = 60.0  # seconds between two looks at the service's health, and after which a sweep that failed is tried again
GRACE = 20.0  # seconds that processes have to end by themselves
CONNECTIONS = 1 << 14  # files that the receiver may have open, if the system lets it
LEAST = 16  # characters of a secret that is not easily guessed
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0  # seconds before a worker that died is started again
_LIVED = 60.0  # seconds after which a worker that dies has not failed to start

_log = logging.getLogger(__name__)

_MAKE = "python -c 'import secrets; print(secrets.token_urlsafe(32))'"


@dataclass(frozen=True, slots=True)
class Options:
    """How `serve` was called; port 0: any that is free."""

    subscriptions: Path
    host: str = "127.0.0.1"
    port: int = 8484
    role: Role = "all"
    workers: int = 1
    tls_cert: Path | None = None
    tls_key: Path | None = None
    log_format: Format = "text"
    name: str | None = None
    follow: bool = False


@dataclass(frozen=True, slots=True)
class Secrets:
    """What only the service may know; what a role does not need is None."""

    webhook: str | None
    token: str | None
    key: Ed25519PrivateKey | None

    def __repr__(self) -> str:
        return "Secrets(...)"


def serve(options: Options) -> int:
    """Run until told to end; the exit code. Errors: UsageError; EvaluationFailed for a port that is taken."""
    guard.shut()  # what models run as the same user must not read the secrets out of /proc
    stop = threading.Event()
    with _signals(stop) as told:
        reloading = Reloading(options.subscriptions)
        subscribed = reloading.value
        service = subscribed.value.service
        known = read_secrets(options.role, service, os.environ)
        private_dir(subscribed.state)
        open_registry(subscribed.tracking_uri, subscribed.registry_uri)  # what is wrong with its address is told now
        with contextlib.closing(open_queue(queue_url(subscribed, os.environ))) as queue:
            if options.role == "worker" and options.workers == 1:
                _work(options, reloading, queue, known, stop)
            elif options.role == "worker":
                with Supervisor(_command(options), options.workers, stop):
                    stop.wait()
            else:
                _receive(options, reloading, queue, known, stop)
    return int(ExitCode.INTERRUPTED if told.get("signal") == signal.SIGINT else ExitCode.PASS)


@contextlib.contextmanager
def _signals(stop: threading.Event) -> Iterator[dict[str, int]]:
    """SIGTERM and Ctrl-C set `stop`; which one came first is in the mapping."""
    told: dict[str, int] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        told.setdefault("signal", number)
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- secrets --------------------------------------------------------------------------------------------------------


def read_secrets(role: Role, service: Service, environment: Mapping[str, str]) -> Secrets:
    """What the role needs; raises UsageError, with how to make what is missing."""
    webhook = token = key = None
    if role != "worker":
        webhook, token = secret(WEBHOOK_SECRET, environment), secret(SERVICE_TOKEN, environment)
        _require(webhook, token, service)
    if role != "receiver":
        key = health.signing_key(environment)
        if key is None:
            text = "%s is not set: verdicts are not signed, and `privacy-gate promote` will refuse them"
            _log.warning(text, SIGNING_KEY, extra={"event": "start"})
    return Secrets(webhook, token, key)


def _require(webhook: str | None, token: str | None, service: Service) -> None:
    if webhook is None:
        raise UsageError(
            f"{WEBHOOK_SECRET} is not set: a delivery could not be told from a forged one",
            f"make one with {_MAKE}, set it here (or name a file that holds it in {WEBHOOK_SECRET}_FILE), and give the "
            "same to the registry: MlflowClient().create_webhook(name, url, events, secret=...)",
        )
    if token is None and service.read == "token":
        raise UsageError(
            f"{SERVICE_TOKEN} is not set, and without it nobody could read the status page",
            f"make one with {_MAKE} and set it here, or in the file that {SERVICE_TOKEN}_FILE names; or write "
            "`read: open` below service: in the subscriptions",
        )
    if token is None:
        text = "%s is not set: nothing can be asked of this service, its pages are open to all who reach it"
        _log.warning(text, SERVICE_TOKEN, extra={"event": "start"})
    for name, value in ((WEBHOOK_SECRET, webhook), (SERVICE_TOKEN, token)):
        if value is not None and len(value) < LEAST:
            _log.warning("%s has fewer than %d characters: it can be guessed", name, LEAST, extra={"event": "start"})


# --- the receiver ---------------------------------------------------------------------------------------------------


class _Present:
    """The subscriptions as they are now, for those that keep one object for ever."""

    def __init__(self, reloading: Reloading) -> None:
        self._reloading = reloading

    @property
    def service(self) -> Service:
        return self._reloading.value.value.service

    @property
    def subscriptions(self) -> Sequence[Subscription]:
        return self._reloading.value.value.subscriptions


def _receive(options: Options, reloading: Reloading, queue: Queue, known: Secrets, stop: threading.Event) -> None:
    """Listen until `stop`; with the role `all`, beside workers."""
    import uvicorn

    from privacy_gate.service.logs import Access
    from privacy_gate.service.receiver import SERVER

    context = _tls(options.tls_cert, options.tls_key)
    _open_more()
    with bound(options.host, options.port) as listening:
        config = uvicorn.Config(
            cast("Any", Access(cast("Any", application(reloading, queue, known)))),
            timeout_graceful_shutdown=int(GRACE / 2),
            lifespan="off",
            **SERVER,
        )
        config.load()
        config.ssl = context
        server = uvicorn.Server(config)
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        _tell(f"{'https' if context else 'http'}://{shown}:{port}", options, reloading.value)
        supervised = Supervisor(_command(options), options.workers if options.role == "all" else 0, stop)
        watch = threading.Thread(target=_watch, args=(reloading, server, stop), name="files", daemon=True)
        with supervised:
            watch.start()
            try:
                server.run(sockets=[listening])
            finally:
                stop.set()
    watch.join(GRACE)


def _open_more() -> None:
    """Raise the soft limit of open files, each of them a connection: a few hundred idle ones must not be all."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = CONNECTIONS if hard == resource.RLIM_INFINITY else min(hard, CONNECTIONS)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def application(reloading: Reloading, queue: Queue, known: Secrets) -> FastAPI:
    """The receiver with its pages."""
    from privacy_gate.service.pages import router
    from privacy_gate.service.receiver import app

    present = cast("Subscriptions", _Present(reloading))
    return app(
        present,
        queue,
        secret=known.webhook,
        token=known.token,
        sweep=lambda: queue.remember(ASKED, True),
        pages=router(present, queue, reloading.value.state),
    )


def _tell(address: str, options: Options, subscribed: Subscribed) -> None:
    """Where it listens, and for whom; plain HTTP beyond this machine is worth a word."""
    public = subscribed.value.service.url or address
    extra = {"event": "listening"}
    _log.info("listening on %s", address, extra=extra)
    _log.info("status page: %s/", public.rstrip("/"), extra=extra)
    _log.info("url of the registry's webhook: %s%s", public.rstrip("/"), health.WEBHOOK_PATH, extra=extra)
    if options.tls_cert is None and options.host not in ("127.0.0.1", "::1", "localhost"):
        text = (
            "plain HTTP on %s: tokens can be read on the way; give --tls-cert and --tls-key, or put a proxy before it"
        )
        _log.warning(text, options.host, extra=extra)


def _watch(reloading: Reloading, server: uvicorn.Server, stop: threading.Event) -> None:
    """End the server when told to, and keep the subscriptions up to date."""
    teller = _Teller(reloading)
    while not stop.wait(ROUND):
        teller.refresh()
    server.should_exit = True


def _tls(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise UsageError("--tls-cert and --tls-key belong together", "give both, or neither")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key, password=lambda: "")
    except OSError as error:
        pem = isinstance(error, ssl.SSLError)
        reason = "not a certificate and its key" if pem else error.strerror
        raise UsageError(
            f"--tls-cert {cert}, --tls-key {key}: {reason}",
            "PEM: the certificate with its chain in one file, its key without a password in the other",
        ) from error
    return context


@contextlib.contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that is bound; raises UsageError for a host that is not this machine's, EvaluationFailed for a port."""
    shown = clean(f"{host}:{port}", 200)
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"--host {clean(host, 200)}: no such host", "127.0.0.1, or 0.0.0.0 for all addresses"
        ) from error
    with socket.socket(family, kind, protocol) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(place)
            listening.listen(2048)
        except OSError as error:
            raise EvaluationFailed(
                f"{shown}: {error.strerror}",
                "choose another --port, or end what listens there (ss -ltnp names it)",
            ) from error
        yield listening


# --- workers --------------------------------------------------------------------------------------------------------


def _command(options: Options) -> list[str]:
    """The command line of one worker, but for its name."""
    command = [sys.executable, "-P", "-m", "privacy_gate", "serve", "--role", "worker", "--follow"]
    return [*command, "--subscriptions", str(options.subscriptions), "--log-format", options.log_format]


class Supervisor:
    """Keeps so many workers running while the block runs; each that dies is started again, slower each time."""

    def __init__(self, command: Sequence[str], workers: int, stop: threading.Event) -> None:
        self._command, self._stop = command, stop
        here = f"{socket.gethostname()}:{os.getpid()}"
        self._threads = [
            threading.Thread(target=self._keep, args=(f"{here}:{number + 1}",), name=f"worker {number + 1}")
            for number in range(workers)
        ]

    def __enter__(self) -> Supervisor:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _keep(self, name: str) -> None:
        pause = FIRST_PAUSE
        while not self._stop.is_set():
            began = time.monotonic()
            code = self._run(name)
            if self._stop.is_set():
                return
            pause = FIRST_PAUSE if time.monotonic() - began > _LIVED else min(2 * pause, LONGEST_PAUSE)
            text = "worker %s ended with %s; another one is started in %.1f s"
            _log.error(text, name, code, pause, extra={"event": "worker", "worker": name})
            self._stop.wait(pause)

    def _run(self, name: str) -> int | None:
        """One worker's life; its exit code, None where it could not be started."""
        environment = {
            key: value
            for key, value in os.environ.items()
            if key.removesuffix("_FILE") not in (WEBHOOK_SECRET, SERVICE_TOKEN)  # no business of a worker
        }
        try:
            process = subprocess.Popen(  # noqa: S603  # our own program
                [*self._command, "--name", name], stdin=subprocess.PIPE, env=environment, start_new_session=True
            )
        except OSError as error:
            _log.error("a worker could not be started: %s", error.strerror, extra={"event": "worker", "worker": name})
            return None
        _log.info("worker %s is process %d", name, process.pid, extra={"event": "worker", "worker": name})
        with process:
            while process.poll() is None and not self._stop.wait(0.2):
                pass
            _end(process)
        return process.returncode


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close the pipe, which tells it to end; then by force."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _follow(stop: threading.Event) -> None:
    """End with whoever started this process: nothing is ever written into the pipe."""
    with contextlib.suppress(OSError):
        while os.read(0, 64):
            pass
    stop.set()
    # What hangs in a registry's answer must not outlive the service.
    ended = threading.Timer(GRACE, os._exit, (int(ExitCode.FAILED),))
    ended.daemon = True
    ended.start()


def _work(options: Options, reloading: Reloading, queue: Queue, known: Secrets, stop: threading.Event) -> None:
    """Work until `stop`, and sweep when that is due."""
    from privacy_gate.service import worker

    name = options.name or f"{socket.gethostname()}:{os.getpid()}"
    if options.follow:
        threading.Thread(target=_follow, args=(stop,), name="follow", daemon=True).start()
    rounds = Rounds(reloading, queue, name)
    beside = threading.Thread(target=rounds.run, args=(stop,), name="sweep", daemon=True)
    beside.start()
    subscribed = reloading.value
    registry = open_registry(subscribed.tracking_uri, subscribed.registry_uri)
    _log.info("worker %s is at work", name, extra={"event": "worker", "worker": name})
    worker.run(reloading.refresh, registry, queue, name, stop=stop, key=known.key)
    beside.join(2.0)  # a sweep is not waited for longer: what it did not do the next one does
    _log.info("worker %s has ended its work", name, extra={"event": "worker", "worker": name})


class _Teller:
    """Reads the files again, and says once what is wrong with them."""

    def __init__(self, reloading: Reloading) -> None:
        self._reloading = reloading
        self._said: str | None = None

    def refresh(self) -> Subscribed:
        subscribed = self._reloading.refresh()
        broken = self._reloading.broken
        if broken != self._said:
            self._said = broken
            extra = {"event": "subscriptions"}
            if broken is None:
                _log.info("the files are in order again, and hold", extra=extra)
            else:
                _log.error("the files are wrong, what was read before holds: %s", clean(broken, 1500), extra=extra)
        return subscribed


class Rounds:
    """What a worker does beside judging: sweeps, a look at the health of all, and forgetting old deliveries."""

    def __init__(self, reloading: Reloading, queue: Queue, worker: str) -> None:
        self._reloading, self._queue, self._worker = reloading, queue, worker
        self._teller = _Teller(reloading)
        self._registry: Registry | None = None
        self._looked = float("-inf")
        self._in_order: bool | None = None
        self._hashing: threading.Thread | None = None

    def run(self, stop: threading.Event) -> None:
        """One round after the other until `stop`; with a pause while they fail."""
        pause = ROUND
        while not stop.is_set():
            well = self._told(lambda: self.once(time.time()))
            pause = ROUND if well else min(2 * pause, LOOK)
            stop.wait(pause)

    def _told(self, task: Callable[[], object]) -> bool:
        """Whether it went well; what went wrong is in the log."""
        try:
            task()
            return True
        except GateError as error:
            extra = {"event": "sweep", "worker": self._worker}
            _log.error("%s", clean(error.what, 500), extra=extra)
        except Exception as error:  # a defect must not end all sweeps, silently
            extra = {"event": "sweep", "worker": self._worker}
            _log.exception("unexpected %s: a defect of the gate", type(error).__name__, extra=extra)
        return False

    def once(self, now: float) -> Swept | None:
        """Whatever is due; the sweep, if there was one. Raises GateError.

        To hash the files of all versions may take hours: that goes on in a thread of its own.
        """
        subscribed = self._teller.refresh()
        in_order = self._reloading.broken is None
        if in_order is not self._in_order:
            self._queue.remember(health.FILES, in_order, now)
            self._in_order = in_order
        self._pulse(subscribed.value.service, now)
        swept = None
        try:
            if self._due(subscribed.value.service, now):
                swept = self._sweep(subscribed, now)
        finally:
            if swept is not None or now - self._looked >= LOOK:
                self._looked = now
                self._look(subscribed, now)
        return swept

    def _pulse(self, service: Service, now: float) -> None:
        """Pass on that the worker itself looked for work lately: a hanging one is not alive because this thread is."""
        from privacy_gate.service.worker import FACT

        seen = self._queue.recall(f"{FACT}{self._worker}")
        if seen is not None and now - seen[1] <= service.lease:
            self._queue.remember(health.WORKERS, {"worker": self._worker}, seen[1])

    def _due(self, service: Service, now: float) -> bool:
        asked = self._queue.recall(ASKED)
        swept, failed = (credible(self._queue.recall(name), now) for name in (SWEPT, FAILED))
        if (swept is None and failed is None) or (asked is not None and asked[0] is True):
            return True
        last = max(fact[1] for fact in (swept, failed) if fact is not None)
        well = swept is not None and swept[1] == last
        return now - last >= (service.sweep_every if well else min(service.sweep_every, LOOK))

    def _sweep(self, subscribed: Subscribed, now: float) -> Swept:
        from privacy_gate.service.worker import FACT

        asked = self._queue.recall(ASKED)
        if asked is not None and asked[0] is True:
            self._queue.remember(ASKED, False, now)  # before it begins: who asks meanwhile means the next one
        if verify_due(self._queue, subscribed.value.service, now) and not (self._hashing and self._hashing.is_alive()):
            task = functools.partial(self._told, functools.partial(self._hash, subscribed, now))
            self._hashing = threading.Thread(target=task, name="hashes", daemon=True)
            self._hashing.start()
        self._registry = self._registry or open_registry(subscribed.tracking_uri, subscribed.registry_uri)
        swept = self._swept(sweep(subscribed, self._registry, self._queue, verify=False, now=now, owner=self._worker))
        if swept.alone:
            self._queue.prune(now - subscribed.value.service.keep, FACT)
        elif asked is not None and asked[0] is True:
            self._queue.remember(ASKED, True, now)
        return swept

    def _hash(self, subscribed: Subscribed, now: float) -> None:
        registry = open_registry(subscribed.tracking_uri, subscribed.registry_uri)
        self._swept(sweep(subscribed, registry, self._queue, verify=True, now=now, owner=self._worker))

    def _swept(self, swept: Swept) -> Swept:
        if swept.alone:
            text = "swept: %d covered, %d asked for, %d failures"
            extra = {"event": "sweep", "worker": self._worker}
            _log.info(text, swept.covered, len(swept.queued), swept.failures, extra=extra)
            for broken in swept.broken:
                _log.error("%s: %s", clean(broken.uri, 200), clean(broken.what, 300), extra=extra)
        return swept

    def _look(self, subscribed: Subscribed, now: float) -> None:
        found = health.examine(subscribed, self._queue, os.environ, now, broken=self._reloading.broken)
        self._queue.remember(health.FACT, [dataclasses.asdict(finding.probe) for finding in found], now)
