"""Is the service well, and would the registry reach it? Each finding comes with its mend.

A registry's server drops events without a word; here the reasons for that are looked for one by one.
"""

from __future__ import annotations

import email.utils
import ipaddress
import os
import shutil
import socket
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit, urlunsplit

from privacy_gate.errors import GateError, StorageFailed, UsageError
from privacy_gate.registry import Probe, Registry, Webhook, open_registry
from privacy_gate.sandbox.untrusted import clean
from privacy_gate.service import FUTURE, Delivery, State
from privacy_gate.service.secrets import SERVICE_TOKEN, SIGNING_KEY, WEBHOOK_SECRET, secret
from privacy_gate.service.subscriptions import Service, Subscribed, Subscriptions, events
from privacy_gate.service.sweep import FAILED, SWEPT

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from privacy_gate.service.queue import Queue

FACT = "health"  # what the queue remembers of it, for the status page
WORKERS = "worker"  # the same: a worker looked for work
FILES = "files"  # the same: whether the files that a worker read last are in order
WEBHOOK_PATH = "/webhook"  # of the receiver
TRIED = "the registry tried its webhook"  # what the receiver remembers of a test event

SKEW = 60.0  # seconds between two clocks that are worth a word
LATE = 3  # leases, or sweeps, after which silence is a failure
_AHEAD = "{} {} from now: a clock is, or was, wrong"
LEAST_FREE, COMFORTABLE_FREE = 1 << 28, 1 << 31  # bytes
PATIENCE = 5.0  # seconds for the registry's server to say what time it is

_SCHEMES, _PRIVATE = "MLFLOW_WEBHOOK_ALLOWED_SCHEMES=http,https", "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS=true"

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. warn: it works, and may not for long, or not as fast."""

    name: str
    level: Level
    detail: str
    mend: str = ""

    @property
    def probe(self) -> Probe:
        """For the status page, where everything that needs a person stands out."""
        return Probe(self.name, self.level == "ok", clean(self.detail, 600), clean(self.mend, 600))


def _failed(name: str, error: GateError, level: Level = "fail") -> Finding:
    return Finding(name, level, error.what, error.hint)


def examine(
    subscribed: Subscribed,
    queue: Queue,
    environment: Mapping[str, str],
    now: float,
    *,
    broken: str | None = None,
    registry: Callable[[], Registry] | None = None,
) -> list[Finding]:
    """What a running service asks about itself from time to time.

    environment  of the process that asks: a worker, which knows the signing key and no other secret
    now          seconds since 1970
    broken       what is wrong with the files as they are now; None: nothing
    registry     default: the one that the subscriptions name
    """
    service = subscribed.value.service
    findings = [_files(broken), *of_queue(queue, service, now), *of_registry(subscribed, queue, now, registry)]
    return [*findings, *of_state(subscribed.state), _signing(environment)]


def look(subscribed: Subscribed, url: str, environment: Mapping[str, str], now: float) -> list[Finding]:
    """What `doctor` asks: the same from outside of the service, whose secrets should be in the environment as well.

    url  of the queue; a database that is not there yet is not made
    """
    from privacy_gate.service.queue import open_queue

    findings = _secrets(subscribed.value.service, environment)
    queue: Queue | None = None
    if _unmade(url):
        findings.append(Finding("queue", "warn", "there is none yet", "privacy-gate serve, or sweep, makes it"))
    else:
        try:
            queue = open_queue(url)
        except GateError as error:
            findings.append(_failed("queue", error))
    try:
        if queue is not None:
            findings += of_queue(queue, subscribed.value.service, now)
        findings += of_registry(subscribed, queue, now)
    finally:
        if queue is not None:
            queue.close()
    return [*findings, *of_state(subscribed.state), _signing(environment)]


def _unmade(url: str) -> bool:
    """Whether it is a SQLite file that is not there."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        place = make_url(url)
    except ArgumentError:  # `open_queue` says what is wrong with it
        return False
    return place.get_backend_name() == "sqlite" and bool(place.database) and not Path(str(place.database)).exists()


def _files(broken: str | None) -> Finding:
    if broken is None:
        return Finding("files", "ok", "subscriptions, configs, policies and waivers are in order")
    return Finding("files", "fail", f"what was read before holds: {broken}", "mend the file; it is read again at once")


# --- the queue, the workers, the sweep ------------------------------------------------------------------------------


def of_queue(queue: Queue, service: Service, now: float) -> list[Finding]:
    """Whether the queue can be read and written, and who has worked on it lately; remembers that it was asked."""
    try:
        queue.ping()
        queue.remember("writable", True, now)
        counts = queue.counts()
        found = [
            Finding("queue", "ok", ", ".join(f"{counts[state]} {state}" for state in State)),
            _workers(queue, service, now),
            _sweeps(queue, service, now),
        ]
        return [*found, *_other_clocks(queue, now)]
    except StorageFailed as error:
        return [_failed("queue", error)]


def _workers(queue: Queue, service: Service, now: float) -> Finding:
    seen = queue.recall(WORKERS)
    mend = "privacy-gate serve --role worker, and read why the last one ended in its log"
    if seen is None:
        return Finding("workers", "warn", "none has looked for work yet", "privacy-gate serve")
    age = now - seen[1]
    if age < -FUTURE:
        return Finding("workers", "fail", _AHEAD.format("one looked for work", span(-age)), mend)
    if age > LATE * service.lease:
        return Finding("workers", "fail", f"none has looked for work for {span(age)}", mend)
    return Finding("workers", "ok", f"one looked for work {span(age)} ago")


def _sweeps(queue: Queue, service: Service, now: float) -> Finding:
    swept, failed = queue.recall(SWEPT), queue.recall(FAILED)
    if failed is not None and (swept is None or failed[1] > swept[1]):
        what = clean(failed[0], 400)
        return Finding("sweep", "fail", f"the last one, {span(now - failed[1])} ago, failed: {what}", "see `registry`")
    if swept is None:
        return Finding("sweep", "warn", "there was none yet", "privacy-gate serve, or privacy-gate sweep in a cron job")
    age = now - swept[1]
    if age < -FUTURE:
        mend = "set the clocks by NTP; the next sweep puts it right"
        return Finding("sweep", "fail", _AHEAD.format("the last one was", span(-age)), mend)
    failures = swept[0].get("failures", 0) if isinstance(swept[0], dict) else 0
    if age > LATE * service.sweep_every:
        return Finding("sweep", "fail", f"none for {span(age)}", "privacy-gate serve, or privacy-gate sweep")
    if failures:
        mend = "privacy-gate sweep --no-run names them"
        return Finding("sweep", "warn", f"{span(age)} ago; {failures} versions or models could not be looked at", mend)
    return Finding("sweep", "ok", f"{span(age)} ago")


def _other_clocks(queue: Queue, now: float) -> list[Finding]:
    """What others on the same queue did in the future: their clock, or ours, is wrong."""
    facts = [fact[1] for name in (WORKERS, SWEPT) if (fact := queue.recall(name)) is not None]
    ahead = max(facts, default=now) - now
    if ahead <= SKEW:
        return []
    mend = "let NTP set the clocks of all hosts of the service: leases and deliveries are told by them"
    return [Finding("clocks", "fail", f"another host's clock is {span(ahead)} ahead of this one's", mend)]


# --- the registry and its webhook -----------------------------------------------------------------------------------


def of_registry(
    subscribed: Subscribed, queue: Queue | None, now: float, registry: Callable[[], Registry] | None = None
) -> list[Finding]:
    """Whether it answers, what time it has, and whether its webhook would reach the service."""
    value = subscribed.value
    try:
        opened = registry() if registry else open_registry(subscribed.tracking_uri, subscribed.registry_uri)
        probes = opened.ping()
    except GateError as error:
        return [_failed("registry", error)]
    levels: dict[bool, Level] = {True: "ok", False: "fail"}
    findings = [Finding(p.name, levels[p.ok], p.detail, p.mend) for p in probes]
    if not all(probe.ok for probe in probes if probe.name == "registry"):
        return findings
    server = _server(subscribed)
    if server is not None:
        findings.append(clock(server, value.service.tolerance))
    try:
        hooks = opened.webhooks()
    except UsageError as error:
        return [*findings, Finding("webhook", "ok", f"{error.what}: versions are found by the sweep alone")]
    except GateError as error:
        return [*findings, _failed("webhook", error)]
    if queue is None or not any(hook.active for hook in ours(hooks, value.service)):
        return [*findings, *webhook(hooks, value)]
    try:
        arrived = queue.deliveries(limit=1)
    except StorageFailed as error:
        return [*findings, *webhook(hooks, value), _failed("deliveries", error)]
    return [*findings, *webhook(hooks, value, called=bool(arrived)), _last(arrived, now)]


def _server(subscribed: Subscribed) -> str | None:
    """Address of the model registry's server, without who logs in; None: it is a database."""
    named = subscribed.registry_uri or subscribed.tracking_uri
    if named is None:
        named = os.environ.get("MLFLOW_REGISTRY_URI") or os.environ.get("MLFLOW_TRACKING_URI") or ""
    where = urlsplit(named)
    if where.scheme not in ("http", "https") or not where.hostname:
        return None
    return urlunsplit((where.scheme, where.netloc.rpartition("@")[2], where.path.rstrip("/"), "", ""))


def clock(server: str, tolerance: float, patience: float = PATIENCE) -> Finding:
    """This host's clock against that of the registry's server: deliveries older than `tolerance` are not believed."""
    began = time.time()
    try:
        with urllib.request.urlopen(f"{server}/health", timeout=patience) as answer:  # noqa: S310  # http or https
            told = answer.headers.get("Date")
    except urllib.error.HTTPError as error:
        told = error.headers.get("Date")
    except (OSError, ValueError) as error:
        reason = clean(getattr(error, "reason", None) or error, 200)
        return Finding("clock", "warn", f"{clean(server, 200)} does not say what time it is: {reason}", "")
    try:
        theirs = email.utils.parsedate_to_datetime(told or "").timestamp()
    except ValueError:
        return Finding("clock", "warn", f"{clean(server, 200)} does not say what time it is", "")
    # The date has whole seconds, and was written somewhere between asking and answering.
    skew = max(began - theirs - 1.0, theirs - time.time(), 0.0)
    if skew <= SKEW:
        return Finding("clock", "ok", "within a minute of the registry's")
    mend = "let NTP set both clocks"
    if skew > tolerance:
        text = f"{span(skew)} off the registry's: every delivery is refused as too old, or as of the future"
        return Finding("clock", "fail", text, mend)
    return Finding("clock", "warn", f"{span(skew)} off the registry's", mend)


def address(service: Service) -> str | None:
    """Where the registry reaches the receiver; None: nobody said."""
    return None if service.url is None else service.url.rstrip("/") + WEBHOOK_PATH


def ours(hooks: list[Webhook], service: Service) -> list[Webhook]:
    """Webhooks that call this service; with no url in the settings, those that call any receiver of this kind."""
    wanted = address(service)
    if wanted is not None:
        return [hook for hook in hooks if _same(hook.url, wanted)]
    return [hook for hook in hooks if urlsplit(hook.url).path.rstrip("/").endswith(WEBHOOK_PATH)]


def _same(one: str, other: str) -> bool:
    def parts(url: str) -> tuple[str, str, int | None, str]:
        where = urlsplit(url)
        port = {"http": 80, "https": 443}.get(where.scheme) if where.port is None else where.port
        return where.scheme, where.hostname or "", port, where.path.rstrip("/")

    try:
        return parts(one) == parts(other)
    except ValueError:  # a port that is none
        return False


def webhook(hooks: list[Webhook], settings: Subscriptions, called: bool = False) -> list[Finding]:
    """Whether there is one active webhook that calls us, for what is needed, at an address that a server may call.

    called  it did call: what its server would need for that, it has
    """
    service, needed = settings.service, events(settings)
    place = address(service)
    mine = ours(hooks, service)
    active = [hook for hook in mine if hook.active]
    if not mine:
        whom = place or f"a path that ends in {WEBHOOK_PATH}"
        text = f"none calls {whom}: versions are found by the sweep alone"
        return [Finding("webhook", "warn", text, _make(settings))]
    if not active:
        mend = f"MlflowClient().update_webhook({clean(mine[0].id, 100)!r}, status='ACTIVE')"
        return [Finding("webhook", "fail", f"{clean(mine[0].name, 100)} is switched off", mend)]
    findings: list[Finding] = []
    missing = needed - {event for hook in active for event in hook.events}
    hook = active[0]
    if missing:
        wanted = sorted(needed | set(hook.events))
        mend = f"MlflowClient().update_webhook({clean(hook.id, 100)!r}, events={clean(wanted, 400)})"
        text = f"{clean(hook.name, 100)} does not tell of {', '.join(sorted(missing))}"
        findings.append(Finding("webhook", "fail", text, mend))
    elif len(active) > 1:
        names = ", ".join(clean(each.name, 100) for each in active[:5])
        findings.append(Finding("webhook", "warn", f"{len(active)} call this service: {names}", "delete all but one"))
    else:
        findings.append(Finding("webhook", "ok", f"{clean(hook.name, 100)} calls {clean(hook.url, 200)}"))
    if place is None:
        text = "the subscriptions do not say where this service is reached: it may be another one that is called"
        findings.append(Finding("url", "warn", text, "write url: below service:"))
    if called:
        return [*findings, Finding("url", "ok", f"the registry's server reaches {clean(hook.url, 200)}")]
    return [*findings, *rules(hook.url)]


def _make(settings: Subscriptions) -> str:
    url = address(settings.service) or f"https://HOST{WEBHOOK_PATH}"
    # The secret out of sight, neither on a command line nor in a history; which of the two the reader has is not known.
    secret = f"os.environ.get('{WEBHOOK_SECRET}') or open(os.environ['{WEBHOOK_SECRET}_FILE']).read().strip()"
    return (
        "in Python, with `import os; from mlflow import MlflowClient`: MlflowClient().create_webhook('privacy-gate', "
        f"'{url}', {sorted(events(settings))}, secret={secret})"
    )


def rules(url: str) -> list[Finding]:
    """What the registry's server must be told so that it calls this address; its settings are not to be seen here."""
    where = urlsplit(url)
    host = where.hostname or ""
    settings = [] if where.scheme == "https" else [_SCHEMES]
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        text = f"{clean(host, 200)} is no host that is known here"
        return [Finding("url", "warn", text, "see that the registry's server knows it: it calls the service")]
    if not all(_public(str(place)) for place in found):
        settings.append(_PRIVATE)
    if not settings:
        return [Finding("url", "ok", f"{clean(host, 200)} is public, and called by https")]
    why = [text for text, asked in (("not https", _SCHEMES), ("not a public address", _PRIVATE)) if asked in settings]
    mend = f"start the registry's server with {' '.join(settings)}; doctor --test-delivery proves that it calls"
    return [Finding("url", "warn", f"{clean(url, 200)}: {' and '.join(why)}; servers refuse that by default", mend)]


def _public(place: str) -> bool:
    found = ipaddress.ip_address(place.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_global


def _last(deliveries: list[Delivery], now: float) -> Finding:
    if not deliveries:
        mend = "doctor --test-delivery asks the registry for one; a new webhook may be silent for a minute"
        return Finding("deliveries", "warn", "none has arrived yet", mend)
    return Finding("deliveries", "ok", f"the last one {span(now - deliveries[0].received)} ago")


# --- a delivery, asked for ------------------------------------------------------------------------------------------

Ring = Callable[[str], str | None]
"""Has the registry send its test event through the webhook of an id; why it could not, None if it did."""


def try_delivery(
    subscribed: Subscribed,
    queue: Queue,
    registry: Registry,
    *,
    ring: Ring | None = None,
    patience: float = 15.0,
    wait: Callable[[float], object] = time.sleep,
) -> Finding:
    """Ask the registry for its signed test event, and wait until it is in the queue; raises GateError.

    That it arrives proves that the server's rules let it call, that the receiver is reached, and that both know the
    same secret.
    """
    name = "test delivery"
    try:
        hooks = [hook for hook in ours(registry.webhooks(), subscribed.value.service) if hook.active]
    except GateError as error:
        return _failed(name, error)
    if not hooks:
        return Finding(name, "fail", "no active webhook of the registry calls this service", _make(subscribed.value))
    before = {delivery.id for delivery in queue.deliveries(limit=200)}
    refused = (ring or _ring(subscribed))(hooks[0].id)
    if refused is not None:
        return Finding(
            name, "fail", f"the registry's server could not deliver it: {clean(refused, 400)}", _mend(refused)
        )
    ends = time.monotonic() + patience
    while True:
        for delivery in queue.deliveries(limit=200):
            if delivery.id not in before and TRIED in delivery.outcome:
                return Finding(name, "ok", f"sent through {clean(hooks[0].name, 100)}, and arrived")
        if time.monotonic() > ends:
            text = "the registry's server was answered, but nothing arrived in this queue"
            mend = "see that the service at that address uses the same queue as doctor: PRIVACY_GATE_QUEUE_URL, state:"
            return Finding(name, "fail", text, mend)
        wait(0.2)


def _mend(refused: str) -> str:
    said = refused.lower()
    if "non-public" in said:
        return f"start the registry's server with {_PRIVATE}"
    if "scheme" in said:
        return f"start the registry's server with {_SCHEMES}"
    if "certificate" in said:
        return (
            "MLflow believes the public authorities alone, and no variable adds one: give serve a certificate of one "
            f"of them (the whole chain), or let MLflow call plain http on a network of your own, with {_SCHEMES}"
        )
    if "401" in said:
        return f"registry and service know different secrets, or their clocks differ: see `clock`, and {WEBHOOK_SECRET}"
    return "see that privacy-gate serve is running, and that the registry's server reaches its host and port"


def _ring(subscribed: Subscribed) -> Ring:
    """By MLflow's own client; only for servers, which have been asked for their webhooks before."""

    def ring(id: str) -> str | None:
        import requests
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        uris = subscribed.tracking_uri, subscribed.registry_uri
        try:
            result = MlflowClient(tracking_uri=uris[0] or uris[1], registry_uri=uris[1] or uris[0]).test_webhook(id)
        except (MlflowException, requests.RequestException) as error:
            return str(error)
        if result.success:
            return None
        return str(result.error_message or f"it was answered with {result.response_status}")

    return ring


# --- this host ------------------------------------------------------------------------------------------------------


def of_state(state: Path) -> list[Finding]:
    """The folder of reports, logs and the queue, or where it would be made."""
    there = state
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return [Finding("state", "fail", f"{there}: this user cannot write there", "state: names a folder of your own")]
    free = shutil.disk_usage(there).free
    detail = f"{state}, {free / (1 << 30):.1f} GB free"
    level: Level = "fail" if free < LEAST_FREE else "warn" if free < COMFORTABLE_FREE else "ok"
    findings = [Finding("state", level, detail, "" if level == "ok" else "free some space, or choose another disk")]
    mode = there.stat().st_mode
    if there == state and mode & (stat.S_IRWXG | stat.S_IRWXO):
        mend = f"chmod 700 {state}; what is in it tells who was in the training data"
        findings.append(Finding("state mode", "warn", f"{stat.filemode(mode)}: others can look into it", mend))
    return findings


def signing_key(environment: Mapping[str, str]) -> Ed25519PrivateKey | None:
    """What verdicts are signed with; None: nothing is set. Raises UsageError."""
    from privacy_gate.attestation import SIGNING_PASSWORD, private_key, read_private

    place = environment.get(f"{SIGNING_KEY}_FILE")
    if place is not None and SIGNING_KEY not in environment:
        pem: bytes | str | None = read_private(Path(place))
    else:
        pem = secret(SIGNING_KEY, environment)
    return None if pem is None else private_key(pem, environment.get(SIGNING_PASSWORD))


def _signing(environment: Mapping[str, str]) -> Finding:
    try:
        if signing_key(environment) is not None:
            return Finding("signing key", "ok", "an ed25519 key")
    except GateError as error:
        return _failed("signing key", error)
    mend = f"privacy-gate attest --new-key FILE makes one; name it in {SIGNING_KEY}_FILE"
    return Finding("signing key", "warn", "not set: verdicts are not signed, and promote will refuse them", mend)


def _secrets(service: Service, environment: Mapping[str, str]) -> list[Finding]:
    findings = []
    asked = (("webhook secret", WEBHOOK_SECRET, True), ("token", SERVICE_TOKEN, service.read == "token"))
    for name, variable, needed in asked:
        try:
            if secret(variable, environment) is not None:
                findings.append(Finding(name, "ok", "set"))
            elif needed:
                mend = f"set {variable} where privacy-gate serve runs; it says how to make one"
                findings.append(Finding(name, "warn", f"{variable} is not set here", mend))
        except UsageError as error:
            findings.append(_failed(name, error))
    return findings


def span(seconds: float) -> str:
    """A length of time for people."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if abs(seconds) >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0.0):.0f} s"
