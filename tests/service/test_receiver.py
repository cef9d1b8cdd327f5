"""The receiver over real sockets: what is the registry's is in the queue when it is answered, and nothing else is."""

import base64
import contextlib
import hashlib
import hmac
import json
import logging
import socket
import threading
import time
import uuid
from dataclasses import dataclass, field

import pytest
import uvicorn
from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from privacy_gate.errors import StorageFailed, UsageError
from privacy_gate.service import State, receiver
from privacy_gate.service.health import FILES
from privacy_gate.service.queue import Queue, open_queue
from privacy_gate.service.subscriptions import Subscriptions

SECRET = "whsec-of-the-registry"
TOKEN = "token-of-the-service"


def subscriptions(*patterns, **service):
    """First of all one that waits for an alias, and one for a tag; then the patterns, for new versions."""
    wanted = [
        {"name": "aliased", "versions": {"alias": "candidate"}, "config": "c.yaml"},
        {"name": "tagged", "versions": {"tag": {"audit": "yes"}}, "config": "c.yaml", "priority": 7},
        {"name": "own", "versions": {"alias": "privacy-approved"}, "config": "c.yaml"},
        *({"name": pattern, "config": "c.yaml"} for pattern in patterns or ("churn*",)),
    ]
    given = {"apiVersion": "privacy-gate/subscriptions/v1", "service": service, "subscriptions": wanted}
    return Subscriptions.model_validate(given)


@dataclass
class Live:
    """A running receiver."""

    port: int
    queue: Queue
    swept: list[int] = field(default_factory=list)

    def raw(self, *parts, patience=10.0):
        """Send bytes as they are; everything that comes back until the server closes, or one whole answer is there."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=patience) as connection:
            for part in parts:
                connection.sendall(part)
            return Answer.read(connection)

    def request(self, method, path, headers=(), body=None):
        lines = [f"{method} {path} HTTP/1.1".encode(), b"Host: gate", *(n + b": " + v for n, v in headers)]
        if body is not None:
            lines.append(b"Content-Length: %d" % len(body))
        return self.raw(b"\r\n".join(lines) + b"\r\n\r\n" + (body or b""))

    def get(self, path, headers=()):
        return self.request("GET", path, headers)

    def deliver(self, body, **how):
        return self.request("POST", "/webhook", signed(body, **how), body)

    def nothing_came_of_it(self):
        return self.queue.jobs(limit=None) == [] and self.queue.deliveries(limit=None) == []


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    closed: bool

    @property
    def json(self):
        return json.loads(self.body)

    @classmethod
    def read(cls, connection):
        """One answer; whether the server closed the connection after it is known only if it said that it would."""
        got = b""
        while b"\r\n\r\n" not in got and (more := connection.recv(65536)):
            got += more
        head, _, body = got.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        closed = headers.get("connection") == "close"
        while len(body) < int(headers.get("content-length", 1 << 30)) and (more := connection.recv(65536)):
            body += more
        if closed:
            with contextlib.suppress(ConnectionResetError):  # it need not have read what it refused
                assert connection.recv(1) == b""
        return cls(int(lines[0].split()[1]), headers, body, closed)


def ours(caplog):
    """What the service said: libraries speak beside it, as loud as whoever came before left them."""
    return [record for record in caplog.records if record.name == "privacy_gate.service"]


@contextlib.contextmanager
def running(queue, settings=None, **options):
    live = Live(0, queue)
    options = {"secret": SECRET, "token": TOKEN, "sweep": lambda: live.swept.append(1)} | options
    application = receiver.app(settings or subscriptions(), queue, **options)
    server = uvicorn.Server(uvicorn.Config(application, **receiver.SERVER))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        live.port = listening.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.005)
            yield live
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture
def queue(tmp_path):
    opened = open_queue(tmp_path / "queue.db")
    yield opened
    opened.close()


@pytest.fixture
def live(queue):
    with running(queue) as started:
        yield started


def event(entity="model_version", action="created", **data):
    data = {"name": "churn", "version": "1"} | data
    data = {name: value for name, value in data.items() if value is not None}
    return json.dumps({"entity": entity, "action": action, "timestamp": "2026-01-01", "data": data}).encode()


def signature(body, id, at, secret=SECRET):
    mac = hmac.new(secret.encode(), f"{id}.{at}.".encode() + body, hashlib.sha256).digest()
    return b"v1," + base64.b64encode(mac)


def signed(body, id=None, age=0, secret=SECRET, kind=b"application/json"):
    id, at = id or str(uuid.uuid4()), int(time.time()) - age
    return [
        (b"Content-Type", kind),
        (b"X-MLflow-Delivery-Id", id.encode()),
        (b"X-MLflow-Timestamp", str(at).encode()),
        (b"X-MLflow-Signature", signature(body, id, at, secret)),
    ]


def without(headers, name):
    return [(n, v) for n, v in headers if n != name]


# --- taken in ---------------------------------------------------------------------------------------------------------


def test_a_new_version_is_in_the_queue_when_it_is_answered(live):
    answer = live.deliver(event(), id="d-1")
    assert (answer.status, answer.json) == (202, {"status": "queued"})
    (job,) = live.queue.jobs()
    assert (job.name, job.version, job.subscription, job.state) == ("churn", "1", "churn*", State.QUEUED)
    assert (job.why, job.delivery) == ("model_version.created", "d-1")
    (delivery,) = live.queue.deliveries()
    assert (delivery.id, delivery.event.name, delivery.outcome) == ("d-1", "churn", "queued")
    assert abs(delivery.received - time.time()) < 60


def test_an_alias_and_a_tag_that_a_subscription_waits_for(live):
    assert live.deliver(event("model_version_alias", name="aliased", alias="candidate")).json["status"] == "queued"
    assert live.deliver(event("model_version_tag", "set", name="tagged", key="audit")).json["status"] == "queued"
    assert [(job.name, job.priority) for job in live.queue.jobs(State.QUEUED)] == [("tagged", 7), ("aliased", 0)]


IGNORED = {
    "unknown model": (event(name="nobody asked"), "no subscription"),
    "own alias": (event("model_version_alias", name="own", alias="privacy-approved"), "gate itself"),
    "own tag": (event("model_version_tag", "set", name="tagged", key="privacy_gate.verdict"), "gate itself"),
    "another tag": (event("model_version_tag", "set", name="tagged", key="other"), "does not ask"),
    "no alias yet": (event(name="aliased"), "does not ask"),
    "a model": (event("registered_model", version=None), "does not ask"),
    "no version": (event(version=None), "no version"),
    "alias gone": (event("model_version_alias", "deleted", name="aliased", alias="candidate"), "does not ask"),
}


@pytest.mark.parametrize("case", IGNORED)
def test_what_concerns_nobody_is_remembered_and_ignored(live, case, caplog):
    body, why = IGNORED[case]
    with caplog.at_level(logging.INFO, "privacy_gate.service"):
        answer = live.deliver(body, id="d-1")
    assert (answer.status, answer.json) == (202, {"status": "ignored"})
    assert live.queue.jobs() == []
    (delivery,) = live.queue.deliveries()
    assert why in delivery.outcome
    assert [(r.event, r.delivery) for r in ours(caplog)] == [("delivery", "d-1")]
    assert live.deliver(body, id="d-1").json == {"status": "duplicate"}


def test_what_is_about_no_version_is_ignored(live):
    answer = live.deliver(event("prompt", name="p"))
    assert (answer.status, answer.json) == (202, {"status": "ignored"})
    assert live.nothing_came_of_it()


def test_what_mlflow_itself_sends(queue, monkeypatch):
    """Its code signs and sends; its own test of a webhook is answered and never judged, even if all models are."""
    from mlflow.entities.webhook import Webhook, WebhookAction, WebhookEntity, WebhookEvent
    from mlflow.webhooks import delivery

    monkeypatch.setenv("MLFLOW_WEBHOOK_ALLOWED_SCHEMES", "http,https")
    monkeypatch.setenv("MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS", "true")
    monkeypatch.setenv("MLFLOW_WEBHOOK_REQUEST_MAX_RETRIES", "0")
    created = WebhookEvent(WebhookEntity.MODEL_VERSION, WebhookAction.CREATED)
    events = [
        created,
        WebhookEvent(WebhookEntity.REGISTERED_MODEL, WebhookAction.CREATED),
        WebhookEvent(WebhookEntity.MODEL_VERSION_ALIAS, WebhookAction.CREATED),
        WebhookEvent(WebhookEntity.MODEL_VERSION_TAG, WebhookAction.SET),
    ]
    with running(queue, subscriptions("*")) as live:
        hook = Webhook("w", "gate", f"http://127.0.0.1:{live.port}/webhook", events, 0, 0, secret=SECRET)
        for tried in events:
            result = delivery.test_webhook(hook, tried)
            assert (result.success, result.response_status) == (True, 202), result
        assert queue.jobs() == []
        assert {d.outcome for d in queue.deliveries()} == {"ignored: the registry tried its webhook"}
        payload = {"name": "Größe/😀", "version": "12", "source": "models:/m-1", "run_id": None, "tags": {"é": "ü"}}
        session = delivery._create_webhook_session()
        sent = delivery._send_webhook_request(hook, payload, created, session)
        assert (sent.status_code, sent.json()) == (202, {"status": "queued"})
        forger = Webhook("w", "gate", hook.url, events, 0, 0, secret="guessed")
        assert delivery._send_webhook_request(forger, payload, created, session).status_code == 401
        unsigned = Webhook("w", "gate", hook.url, events, 0, 0, secret=None)
        assert delivery._send_webhook_request(unsigned, payload, created, session).status_code == 401
    (job,) = queue.jobs()
    assert (job.name, job.version) == ("Größe/😀", "12")


# --- replayed ---------------------------------------------------------------------------------------------------------


def test_a_delivery_that_comes_again_is_a_duplicate_also_after_a_restart(live):
    headers = signed(event(), id="d-1")
    assert live.request("POST", "/webhook", headers, event()).status == 202
    claimed = live.queue.claim("w", {}, 60.0, time.time() + 1)
    assert live.queue.finish(claimed, "done", None, None, time.time() + 1)
    for _ in range(3):
        answer = live.request("POST", "/webhook", headers, event())
        assert (answer.status, answer.json) == (200, {"status": "duplicate"})
    with running(live.queue) as again:
        answer = again.request("POST", "/webhook", headers, event())
        assert (answer.status, answer.json) == (200, {"status": "duplicate"})
    assert [job.state for job in live.queue.jobs()] == [State.DONE], "it does not run again"
    assert len(live.queue.deliveries()) == 1


def test_a_replay_under_another_id_or_time_is_not_believed(live):
    headers = signed(event(), id="d-1")
    assert live.request("POST", "/webhook", headers, event()).status == 202
    stamp = next(v for n, v in headers if n == b"X-MLflow-Timestamp")
    other_id = [(n, b"d-2" if n == b"X-MLflow-Delivery-Id" else v) for n, v in headers]
    other_time = [(n, b"%d" % (int(stamp) + 1) if n == b"X-MLflow-Timestamp" else v) for n, v in headers]
    for forged in (other_id, other_time):
        assert live.request("POST", "/webhook", forged, event()).status == 401
    assert len(live.queue.deliveries()) == 1


def test_the_same_delivery_from_many_at_once_is_taken_in_once(live):
    headers, answers = signed(event(), id="d-1"), []
    threads = [
        threading.Thread(target=lambda: answers.append(live.request("POST", "/webhook", headers, event()).status))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200] * 7 + [202]
    (job,) = live.queue.jobs()
    assert job.requests == 1


# --- refused ----------------------------------------------------------------------------------------------------------

BODY = event()
REFUSED = {
    "unsigned": (401, lambda: without(signed(BODY), b"X-MLflow-Signature"), BODY),
    "no id": (401, lambda: without(signed(BODY), b"X-MLflow-Delivery-Id"), BODY),
    "no timestamp": (401, lambda: without(signed(BODY), b"X-MLflow-Timestamp"), BODY),
    "another secret": (401, lambda: signed(BODY, secret="guessed"), BODY),
    "no secret": (401, lambda: signed(BODY, secret=""), BODY),
    "another body": (401, lambda: signed(BODY), BODY.replace(b'"1"', b'"2"')),
    "one byte more": (401, lambda: signed(BODY), BODY + b" "),
    "empty body": (401, lambda: signed(BODY), b""),
    "stale": (401, lambda: signed(BODY, age=400), BODY),
    "from the future": (401, lambda: signed(BODY, age=-400), BODY),
    "two signatures": (401, lambda: [*signed(BODY), (b"x-mlflow-signature", b"v1,AAAA")], BODY),
    "two ids": (401, lambda: [*signed(BODY), (b"X-MLFLOW-DELIVERY-ID", b"d-2")], BODY),
    "two timestamps": (401, lambda: [*signed(BODY), (b"X-MLflow-Timestamp", b"1")], BODY),
    "hostile id": (401, lambda: signed(BODY, id="../../x"), BODY),
    "form": (415, lambda: signed(BODY, kind=b"application/x-www-form-urlencoded"), BODY),
    "text": (415, lambda: signed(BODY, kind=b"text/plain"), BODY),
    "no type": (415, lambda: without(signed(BODY), b"Content-Type"), BODY),
    "two types": (415, lambda: [*signed(BODY), (b"Content-Type", b"application/json")], BODY),
    "another charset": (415, lambda: signed(BODY, kind=b"application/json; charset=utf-16"), BODY),
    "not JSON": (400, lambda: signed(b"{"), b"{"),
    "a list": (400, lambda: signed(b"[]"), b"[]"),
    "nothing signed": (400, lambda: signed(b""), b""),
    "a key twice": (400, lambda: signed(BODY[:-1] + b',"action":"created"}'), BODY[:-1] + b',"action":"created"}'),
    "too deep": (400, lambda: signed(b"[" * 60000), b"[" * 60000),
    "not UTF-8": (400, lambda: signed(BODY + b"\xff"), BODY + b"\xff"),
    "a control character": (400, lambda: signed(event(name="churn\x1b[2J")), event(name="churn\x1b[2J")),
    "a long name": (400, lambda: signed(event(name="c" * 1001)), event(name="c" * 1001)),
    "a number as version": (400, lambda: signed(event(version=1)), event(version=1)),
    "too large": (413, lambda: signed(b"x" * 100_001), b"x" * 100_001),
}


def test_a_connection_that_asks_for_nothing_ends(queue, monkeypatch):
    """Else a few hundred of them, from anybody, would take every place there is."""
    monkeypatch.setattr(receiver.Timely, "period", 0.05)
    half, whole = b"POST /webhook HTTP/1.1\r\nHost: ", b"GET /healthz HTTP/1.1\r\nHost: gate\r\n\r\n"
    with running(queue) as live:
        for first in (b"", half):
            with socket.create_connection(("127.0.0.1", live.port), timeout=20) as connection:
                connection.sendall(first)
                assert gone(connection)
        with socket.create_connection(("127.0.0.1", live.port), timeout=20) as connection:
            connection.sendall(whole)
            assert Answer.read(connection).status == 200
            connection.sendall(half)
            assert gone(connection), "uvicorn's own limit ends with the first byte"


def gone(connection):
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_request_that_takes_its_time_is_not_cut(queue, monkeypatch):
    looks = threading.Semaphore(0)
    look = receiver.Timely._look

    def counted(self):
        look(self)
        looks.release()

    monkeypatch.setattr(receiver.Timely, "period", 0.02)
    monkeypatch.setattr(receiver.Timely, "_look", counted)
    monkeypatch.setattr(receiver.Timely, "most", 1000)
    body = event()
    with running(queue) as live, socket.create_connection(("127.0.0.1", live.port), timeout=20) as connection:
        head = [b"POST /webhook HTTP/1.1", b"Host: gate", b"Content-Length: %d" % len(body)]
        connection.sendall(b"\r\n".join([*head, *(n + b": " + v for n, v in signed(body))]) + b"\r\n\r\n" + body[:5])
        for _ in range(5):
            assert looks.acquire(timeout=20)
        connection.sendall(body[5:])
        assert Answer.read(connection).status == 202
        monkeypatch.setattr(receiver.Timely, "most", 3)
        connection.sendall(b"\r\n".join([*head, *(n + b": " + v for n, v in signed(body))]) + b"\r\n\r\n")
        assert gone(connection), "nor for ever"


@pytest.fixture(scope="module")
def refusing(tmp_path_factory):
    """One receiver for all that it refuses: nothing may ever be in its queue, so no case disturbs another."""
    queue = open_queue(tmp_path_factory.mktemp("refusing") / "queue.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(receiver, "REFUSED_AT_ONCE", 1e6)  # how often one may try is another test's matter
        with running(queue, subscriptions("*", body=100_000), patience=0.3) as live:
            patch.undo()
            yield live
    queue.close()


@pytest.mark.parametrize("case", REFUSED)
def test_refused(refusing, case, caplog):
    status, headers, body = REFUSED[case]
    with caplog.at_level(logging.INFO, "privacy_gate.service"):
        given = headers()
        answer = refusing.request("POST", "/webhook", given, body)
    assert answer.status == status
    assert list(answer.json) == ["detail"]
    assert refusing.nothing_came_of_it()
    (record,) = ours(caplog)
    assert record.levelno == logging.WARNING
    assert record.event in ("delivery.refused", "delivery.malformed")
    for _, value in given[1:]:
        assert len(value) < 20 or value.decode() not in record.getMessage()
    if status == 401:
        assert answer.json["detail"] == "not signed by who knows the secret of this service, or not now"
    assert SECRET not in caplog.text + answer.body.decode()


HEAD = b"POST /webhook HTTP/1.1\r\nHost: gate\r\n"


def head(headers, *more):
    return HEAD + b"".join(n + b": " + v + b"\r\n" for n, v in [*headers, *more]) + b"\r\n"


def test_a_body_that_says_to_be_too_large_is_not_waited_for(refusing):
    answer = refusing.raw(head(signed(b""), (b"Content-Length", b"100001")))
    assert (answer.status, answer.closed) == (413, True)
    answer = refusing.raw(head(signed(b""), (b"Content-Length", b"99999999999999999999999")))
    assert answer.status in (400, 413)
    assert refusing.nothing_came_of_it()


def test_a_body_that_grows_too_large_is_cut_off_while_it_is_read(refusing):
    """It is signed in full, so that its size is all that is wrong with it."""
    body = BODY + b" " * (100_001 - len(BODY))
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:60_000], body[60_000:]))
    answer = refusing.raw(head(signed(body), (b"Transfer-Encoding", b"chunked")), chunks)  # and no end
    assert (answer.status, answer.closed) == (413, True)
    assert refusing.nothing_came_of_it()


def test_a_chunked_body_that_is_not_too_large_is_read(queue):
    with running(queue, subscriptions("*", body=100_000)) as live:
        body = BODY + b" " * (100_000 - len(BODY))
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:7], body[7:70_000], body[70_000:]))
        assert live.raw(head(signed(body), (b"Transfer-Encoding", b"chunked")), chunks, b"0\r\n\r\n").status == 202


@pytest.mark.parametrize("sent", [b"", b"{", BODY[:-1]])
def test_a_body_that_does_not_come_is_not_waited_for_forever(refusing, sent):
    answer = refusing.raw(head(signed(BODY), (b"Content-Length", b"%d" % len(BODY))), sent)
    assert (answer.status, answer.closed) == (408, True)
    assert refusing.nothing_came_of_it()


def test_who_hangs_up_in_the_middle_leaves_nothing_behind(refusing, caplog):
    with caplog.at_level(logging.INFO, "privacy_gate.service"):
        with socket.create_connection(("127.0.0.1", refusing.port)) as connection:
            connection.sendall(head(signed(BODY), (b"Content-Length", b"%d" % len(BODY))) + BODY[:5])
        deadline = time.monotonic() + 10
        while not ours(caplog) and time.monotonic() < deadline:
            time.sleep(0.005)
    assert "went away" in caplog.text
    assert refusing.get("/healthz").status == 200
    assert refusing.nothing_came_of_it()


BOTH = b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % len(BODY)
TRICKS = {
    "two lengths": lambda h: h[:-2] + b"Content-Length: 5\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY,
    "a negative length": lambda h: h[:-2] + b"Content-Length: -1\r\n\r\n" + BODY,
    "a length with a sign": lambda h: h[:-2] + b"Content-Length: +%d\r\n\r\n" % len(BODY) + BODY,
    "length and chunks": lambda h: h[:-2] + BOTH + b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY),
    "another encoding": lambda h: h[:-2] + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "folded": lambda h: h.replace(b"X-MLflow-Signature: v1,", b"X-MLflow-Signature: v1,\r\n ") + BODY,
    "a space before the colon": lambda h: h.replace(b"X-MLflow-Signature:", b"X-MLflow-Signature :") + BODY,
    "a NUL": lambda h: h.replace(b"X-MLflow-Signature: v1", b"X-MLflow-Signature: v1\x00") + BODY,
    "a bare line feed": lambda h: h.replace(b"X-MLflow-Signature: ", b"X-Other: 1\nX-MLflow-Signature: x") + BODY,
    "an underscore": lambda h: h.replace(b"X-MLflow-Signature:", b"X_MLflow_Signature:") + BODY,
    "too many headers": lambda h: h[:-2] + b"X-A: b\r\n" * 100_000 + b"\r\n" + BODY,
    "a long header": lambda h: h[:-2] + b"X-A: " + b"b" * 1_000_000 + b"\r\n\r\n" + BODY,
    "no host": lambda h: h.replace(b"Host: gate\r\n", b"") + BODY,
    "HTTP/0.9": lambda h: b"POST /webhook\r\n" + h.partition(b"\r\n")[2] + BODY,
    "a method in small letters": lambda h: h.replace(b"POST", b"post") + BODY,
    "another path": lambda h: h.replace(b"/webhook", b"/webhook/") + BODY,
    "a path with dots": lambda h: h.replace(b"/webhook", b"/../webhook") + BODY,
    "not HTTP": lambda h: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 10 + b"\r\n\r\n",
    "a WebSocket": lambda h: (
        b"GET /webhook HTTP/1.1\r\nHost: gate\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_tricks_with_headers_are_refused(refusing, trick):
    whole = head(signed(BODY), (b"Content-Length", b"%d" % len(BODY)))
    if "length" in trick or "encoding" in trick:
        whole = head(signed(BODY))
    with contextlib.suppress(ConnectionError):  # it may be cut off before it has said all
        answer = refusing.raw(TRICKS[trick](whole))
        assert 400 <= answer.status < 500, answer
    assert refusing.nothing_came_of_it()
    assert refusing.get("/healthz").status == 200


def test_what_follows_a_refused_request_on_its_connection_is_a_request_of_its_own(refusing):
    """The unread body of a refused one is never taken for the next request: the connection ends."""
    inner = head(signed(BODY), (b"Content-Length", b"%d" % len(BODY))) + BODY
    outer = head(signed(inner, kind=b"text/plain"), (b"Content-Length", b"%d" % len(inner)))
    with socket.create_connection(("127.0.0.1", refusing.port), timeout=10) as connection:
        connection.sendall(outer)
        answer = Answer.read(connection)
        assert (answer.status, answer.closed) == (415, True)
    assert refusing.nothing_came_of_it()


def test_who_asks_before_sending_is_told_no_before_sending(refusing):
    expecting = (b"Expect", b"100-continue"), (b"Content-Length", b"%d" % len(BODY))
    assert refusing.raw(head(signed(BODY, age=400), *expecting)).status == 401
    assert refusing.raw(head(signed(BODY), *expecting)).status == 100


@pytest.mark.parametrize("path", ["/webhook", "/nowhere", "/healthz", "/api/jobs", "/api/sweep", "/docs", "/redoc"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "TRACE", "OPTIONS"])
def test_every_answer_has_the_headers_and_no_page_loads_scripts(refusing, method, path):
    answer = refusing.request(method, path)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert "server" not in answer.headers
    if answer.status >= 400:
        assert answer.headers["content-type"] == "application/json"
        assert isinstance(answer.json["detail"], str)
    if path in ("/docs", "/redoc"):
        assert answer.status == 404


# --- too many ---------------------------------------------------------------------------------------------------------


def test_more_deliveries_than_agreed_are_asked_to_come_later(queue):
    now = [time.time()]
    with running(queue, subscriptions(deliveries=3), clock=lambda: now[0]) as live:
        first = signed(event(), id="d-0")
        assert live.request("POST", "/webhook", first, event()).status == 202
        for i in (1, 2):
            assert live.deliver(event(version=f"{i + 1}"), id=f"d-{i}").status == 202
        late = signed(event(version="9"), id="d-9")
        answer = live.request("POST", "/webhook", late, event(version="9"))
        assert (answer.status, answer.headers["retry-after"]) == (429, "20")
        assert len(queue.jobs()) == 3
        for _ in range(5):
            assert live.request("POST", "/webhook", first, event()).status == 200, "a replay takes nobody's place"
        now[0] += 20.0
        assert live.request("POST", "/webhook", late, event(version="9")).status == 202
        assert len(queue.jobs()) == 4


def test_a_forger_at_the_same_address_does_not_silence_the_registry(queue, caplog):
    """Over what it may do wrong, only what is small is read at all; what is signed among it is taken in."""
    stopped = time.time()
    with running(queue, subscriptions(body=1 << 20), clock=lambda: stopped) as live:
        with caplog.at_level(logging.WARNING, "privacy_gate.service"):
            forged = [live.deliver(event(), secret="guessed").status for _ in range(60)]
        assert forged == [401] * 20 + [429] * 40
        assert len(ours(caplog)) == 20, "and it does not fill the log"
        refused = live.deliver(event(), secret="guessed")
        assert int(refused.headers["retry-after"]) >= 1
        assert live.deliver(event(version="5")).status == 202
        large = event(description="x" * 100_000)
        answer = live.raw(head(signed(large), (b"Content-Length", b"%d" % len(large))))  # and none of it
        assert (answer.status, answer.closed) == (429, True)
        answer = live.raw(head(signed(large), (b"Transfer-Encoding", b"chunked")))
        assert (answer.status, answer.closed) == (429, True)
        assert [job.version for job in queue.jobs()] == ["5"]


def test_large_bodies_are_read_a_few_at_a_time_and_small_ones_always(queue):
    large = event(description="x" * 100_000)
    with running(queue) as live, contextlib.ExitStack() as stack:
        held = []
        for _ in range(receiver.LARGE_AT_ONCE):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", live.port), timeout=10))
            expecting = (b"Expect", b"100-continue"), (b"Content-Length", b"%d" % len(large))
            connection.sendall(head(signed(large), *expecting))
            assert b"100 Continue" in connection.recv(1000), "it is being read"
            held.append(connection)
        answer = live.deliver(large)
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        assert live.deliver(event(version="7")).status == 202
        held[0].sendall(large)
        assert Answer.read(held[0]).status == 202
        assert live.deliver(large).status == 202


# --- the queue cannot be written --------------------------------------------------------------------------------------


def test_what_could_not_be_kept_is_not_said_to_be(queue, tmp_path, caplog):
    """The table is gone, and comes back: the registry tries again, and the delivery is no duplicate then."""
    import sqlite3

    def rename(one, other):
        with contextlib.closing(sqlite3.connect(tmp_path / "queue.db")) as connection, connection:
            connection.execute(f"ALTER TABLE {one} RENAME TO {other}")

    with running(queue) as live:
        headers = signed(event(), id="d-1")
        rename("privacy_gate_jobs", "elsewhere")
        answer = live.request("POST", "/webhook", headers, event())
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        assert queue.deliveries() == []
        rename("elsewhere", "privacy_gate_jobs")
        assert live.request("POST", "/webhook", headers, event()).status == 202
    assert [job.version for job in queue.jobs()] == ["1"]
    assert "could not be kept" in caplog.text


class Wrapped:
    """A queue, some of whose methods are others."""

    def __init__(self, queue, **methods):
        self._queue, self._methods = queue, methods

    def __getattr__(self, name):
        return self._methods.get(name) or getattr(self._queue, name)


def test_a_queue_that_hangs_is_not_waited_for_longer_than_the_registry_waits(queue, monkeypatch):
    monkeypatch.setattr(receiver, "ANSWER", 0.2)
    may_go_on = threading.Event()

    def deliver(delivery, wanted):
        may_go_on.wait(20)
        return queue.deliver(delivery, wanted)

    with running(Wrapped(queue, deliver=deliver)) as live:
        headers = signed(event(), id="d-1")
        assert live.request("POST", "/webhook", headers, event()).status == 503
        may_go_on.set()
        deadline = time.monotonic() + 10
        while not queue.deliveries() and time.monotonic() < deadline:
            time.sleep(0.005)
        answer = live.request("POST", "/webhook", headers, event())
        assert answer.json == {"status": "duplicate"}, "what was abandoned was kept after all"
    assert len(queue.jobs()) == 1


def test_an_unexpected_error_is_told_without_its_words(queue, caplog):
    def broken(*arguments):
        raise RuntimeError("postgresql://gate:hunter2@db/gate \x1b[31m")

    with running(Wrapped(queue, deliver=broken, jobs=broken), subscriptions(read="open")) as live:
        for answer in (live.deliver(event()), live.get("/api/jobs")):
            assert (answer.status, answer.json) == (500, {"detail": "internal error"})
            assert answer.headers["x-content-type-options"] == "nosniff"
    assert "hunter2" not in caplog.text
    records = ours(caplog)
    assert [r.event for r in records] == ["defect", "defect"]
    assert "RuntimeError in" in records[0].getMessage()
    assert "test_receiver.py" in records[0].getMessage()


# --- who may ----------------------------------------------------------------------------------------------------------


def bearer(token):
    return [(b"Authorization", b"Bearer " + token.encode())]


def basic(user, password):
    return [(b"Authorization", b"Basic " + base64.b64encode(f"{user}:{password}".encode()))]


WRONG = [
    [],
    bearer(""),
    bearer("x"),
    bearer(TOKEN + "x"),
    bearer(TOKEN[:-1]),
    bearer(TOKEN.upper()),
    basic(TOKEN, ""),
    basic("", "x"),
    [(b"Authorization", TOKEN.encode())],
    [(b"Authorization", b"Basic !!!")],
    [(b"Authorization", b"Basic " + "ü".encode())],
    [(b"Authorization", b"Digest " + TOKEN.encode())],
    [(b"X-Authorization", b"Bearer " + TOKEN.encode())],
    [*bearer(TOKEN), *bearer(TOKEN)],
    [*bearer("x"), *bearer(TOKEN)],
]


@pytest.mark.parametrize("path", ["/api/jobs", "/api/deliveries", "/", "/reports/x"])
def test_reading_takes_the_token(queue, path):
    pages = APIRouter()

    @pages.get("/")
    @pages.get("/reports/x")
    def page():
        return HTMLResponse("<p>", headers={"Content-Security-Policy": "default-src 'self'"})

    with running(queue, pages=pages) as live:
        for wrong in WRONG:
            answer = live.get(path, wrong)
            assert answer.status == 401
            assert "Basic" in answer.headers["www-authenticate"]
            assert "Bearer" in answer.headers["www-authenticate"]
        for right in (bearer(TOKEN), basic("", TOKEN), basic("anybody", TOKEN)):
            answer = live.get(path, right)
            assert answer.status == 200
        if not path.startswith("/api"):
            assert answer.headers["content-security-policy"] == "default-src 'self'", "a page knows better"
            assert answer.headers["x-frame-options"] == "DENY"
        assert live.get(f"{path}?token={TOKEN}").status == 401
    with running(queue, subscriptions(read="open"), pages=pages) as live:
        assert live.get(path).status == 200


def test_changing_takes_the_token_as_bearer_even_where_reading_is_open(queue):
    body = b'{"name": "churn", "version": "3"}'
    kind = (b"Content-Type", b"application/json")
    with running(queue, subscriptions(read="open")) as live:
        for wrong in [*WRONG, basic("", TOKEN), basic(TOKEN, TOKEN)]:
            for path in ("/api/requeue", "/api/sweep"):
                answer = live.request("POST", path, [kind, *wrong], body)
                assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert live.nothing_came_of_it()
        assert live.swept == []
        answer = live.request("POST", "/api/sweep", bearer(TOKEN), b"")
        assert (answer.status, answer.json, live.swept) == (202, {"status": "asked"}, [1])
        answer = live.request("POST", "/api/requeue", [kind, *bearer(TOKEN)], body)
        assert (answer.status, answer.json) == (202, {"status": "queued"})
        answer = live.request("POST", "/api/requeue", [kind, *bearer(TOKEN)], body)
        assert (answer.status, answer.json) == (202, {"status": "waiting"})
    (job,) = queue.jobs()
    assert (job.name, job.version, job.subscription, job.delivery) == ("churn", "3", "churn*", None)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b""),
        (400, b"{"),
        (400, b"[]"),
        (400, b'{"name": "churn", "name": "churn", "version": "3"}'),
        (422, b"{}"),
        (422, b'{"name": "churn", "version": 3}'),
        (422, b'{"name": "churn", "version": "latest"}'),
        (422, b'{"name": "churn", "version": "3\\n"}'),
        (422, b'{"name": "", "version": "3"}'),
        (422, b'{"name": "churn", "version": "3", "config": "/etc/passwd"}'),
        (404, b'{"name": "nobody", "version": "3"}'),
        (413, b"x" * 70_000),
    ],
)
def test_what_cannot_be_asked_for(refusing, status, body):
    answer = refusing.request("POST", "/api/requeue", [(b"Content-Type", b"application/json"), *bearer(TOKEN)], body)
    # Every name has a subscription there but this one.
    assert answer.status == (202 if b"nobody" in body else status)
    if b"nobody" in body:
        assert refusing.queue.forget("nobody", "3")
    else:
        assert isinstance(answer.json["detail"], str)
        assert "passwd" not in answer.json["detail"]
    assert refusing.nothing_came_of_it()


def test_a_model_that_nobody_asked_for_cannot_be_queued_by_hand(live):
    given = [(b"Content-Type", b"application/json"), *bearer(TOKEN)]
    assert live.request("POST", "/api/requeue", given, b'{"name": "nobody", "version": "3"}').status == 404
    assert live.nothing_came_of_it()


def test_without_a_token_nothing_can_be_asked_for(queue):
    with running(queue, subscriptions(read="open"), token=None) as live:
        for header in ([], bearer(""), bearer("None")):
            assert live.request("POST", "/api/sweep", header, b"").status == 403
        assert live.swept == []
        assert live.get("/api/jobs").status == 200


@pytest.mark.parametrize("secret", [None, ""])
def test_there_is_no_receiver_without_a_secret(queue, secret):
    with pytest.raises(UsageError, match="no webhook secret"):
        receiver.app(subscriptions(), queue, secret=secret, token=TOKEN, sweep=print)


def test_there_is_no_receiver_that_nobody_could_read(queue):
    with pytest.raises(UsageError, match="no token"):
        receiver.app(subscriptions(), queue, secret=SECRET, token=None, sweep=print)


# --- what can be read -------------------------------------------------------------------------------------------------


def test_jobs_and_deliveries_can_be_read_and_no_lease_is_among_it(live):
    for i in range(5):
        assert live.deliver(event(version=str(i)), id=f"d-{i}").status == 202
    claimed = live.queue.claim("worker-1", {}, 60.0, time.time() + 1)
    answer = live.get("/api/jobs?limit=3", bearer(TOKEN))
    assert answer.status == 200
    assert len(answer.json["jobs"]) == 3
    (running_job,) = live.get("/api/jobs?state=running&name=churn", bearer(TOKEN)).json["jobs"]
    assert running_job["version"] == claimed.version
    assert claimed.lease not in live.get("/api/jobs", bearer(TOKEN)).body.decode()
    assert live.get("/api/jobs?name=other", bearer(TOKEN)).json == {"jobs": []}
    deliveries = live.get("/api/deliveries", bearer(TOKEN)).json["deliveries"]
    assert {d["id"] for d in deliveries} == {f"d-{i}" for i in range(5)}
    for wrong in ("limit=0", "limit=1001", "limit=x", "state=lost"):
        answer = live.get(f"/api/jobs?{wrong}", bearer(TOKEN))
        assert answer.status == 422
        assert isinstance(answer.json["detail"], str)


def test_alive_and_ready(queue):
    now = [time.time()]
    with running(queue, subscriptions(lease="60s", sweep_every="5m"), clock=lambda: now[0]) as live:
        assert (live.get("/healthz").status, live.get("/healthz").json) == (200, {"status": "ok"})
        answer = live.get("/readyz")
        assert (answer.status, answer.json) == (503, {"queue": True, "worker": False, "sweep": False, "files": True})
        queue.remember(receiver.WORKERS, {}, now[0] - 180.0)
        queue.remember(receiver.SWEPT, {}, now[0] - 900.0)
        answer = live.get("/readyz")
        assert (answer.status, answer.json) == (200, {"queue": True, "worker": True, "sweep": True, "files": True})
        queue.remember(FILES, False, now[0])
        answer = live.get("/readyz")
        assert (answer.status, answer.json) == (503, {"queue": True, "worker": True, "sweep": True, "files": False})
        queue.remember(FILES, "subscriptions.yaml:3: unknown", now[0])  # what is wrong with them
        assert live.get("/readyz").status == 503
        queue.remember(FILES, True, now[0])
        assert live.get("/readyz").status == 200
        for seconds in (1.0, -180.0 - 301.0):  # too old, or by a clock that was ahead
            queue.remember(receiver.WORKERS, {}, now[0] - 180.0 - seconds)
            queue.remember(receiver.SWEPT, {}, now[0] + 301.0 if seconds < 0 else now[0] - 901.0)
            answer = live.get("/readyz")
            expected = {"queue": True, "worker": False, "sweep": False, "files": True}
            assert (answer.status, answer.json) == (503, expected)


def test_not_ready_without_a_queue(queue):
    def gone():
        raise StorageFailed("no such file: /home/anna/queue.db")

    with running(Wrapped(queue, ping=gone)) as live:
        answer = live.get("/readyz")
        assert (answer.status, answer.json) == (503, {"queue": False, "worker": False, "sweep": False, "files": False})
        assert live.get("/healthz").status == 200
