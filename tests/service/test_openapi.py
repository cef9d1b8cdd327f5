"""The OpenAPI document says all that the receiver does: schemathesis finds nothing that it does not say."""

import base64
import collections
import hashlib
import hmac
import logging
import time
import uuid

import pytest
import schemathesis
from schemathesis.engine import events, from_schema

from privacy_gate.service import receiver
from privacy_gate.service.queue import open_queue
from privacy_gate.service.subscriptions import Subscriptions

SECRET, TOKEN = "whsec", "token"


class Signing:
    """ASGI: signs whatever is delivered, as the registry would; counts what is answered."""

    def __init__(self, app):
        self._app, self.answers = app, collections.Counter()

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or (scope["method"], scope["path"]) != ("POST", "/webhook"):
            return await self._app(scope, receive, send)
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        id, stamp = str(uuid.uuid4()).encode(), b"%d" % time.time()
        mac = hmac.new(SECRET.encode(), id + b"." + stamp + b"." + body, hashlib.sha256).digest()
        said = [
            (b"x-mlflow-delivery-id", id),
            (b"x-mlflow-timestamp", stamp),
            (b"x-mlflow-signature", b"v1," + base64.b64encode(mac)),
        ]

        async def again():
            return {"type": "http.request", "body": body, "more_body": False}

        async def counted(message):
            if message["type"] == "http.response.start":
                self.answers[message["status"]] += 1
            await send(message)

        return await self._app({**scope, "headers": [*scope["headers"], *said]}, again, counted)


@pytest.fixture
def built(tmp_path, monkeypatch):
    wanted = {
        "apiVersion": "privacy-gate/subscriptions/v1",
        "service": {"deliveries": 10**9, "body": 100_000},
        "subscriptions": [{"name": "*", "config": "c.yaml"}],
    }
    monkeypatch.setattr(receiver, "REFUSED_AT_ONCE", 1e9)  # how often one may try is another test's matter
    monkeypatch.setattr(logging.getLogger("privacy_gate.service"), "disabled", True)
    queue = open_queue(tmp_path / "queue.db")
    given = {"secret": SECRET, "token": TOKEN, "sweep": lambda: None}
    application = receiver.app(Subscriptions.model_validate(wanted), queue, **given)
    now = time.time()
    queue.remember(receiver.WORKERS, {}, now)
    queue.remember(receiver.SWEPT, {}, now)
    yield application
    queue.close()


def findings(application, document, examples, headers):
    """All that schemathesis finds, in words, and how many requests it sent; all its checks, in all its phases."""
    config = schemathesis.Config.from_dict(
        {
            "seed": 6,
            "headers": headers,
            "continue-on-failure": True,
            "generation": {"max-examples": examples, "deterministic": True, "database": "none"},
        }
    )
    schema = schemathesis.openapi.from_dict(document, config=config)
    schema.app, schema.location = application, "/openapi.json"
    found, sent = set(), 0
    for event in from_schema(schema).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            found.add(str(event))
        if isinstance(event, events.ScenarioFinished):
            sent += len(event.recorder.interactions)
            failed = (c for checks in event.recorder.checks.values() for c in checks if c.failure_info is not None)
            found |= {f"{c.name}: {c.failure_info.failure.message} {c.failure_info.code_sample}" for c in failed}
    return sorted(found), sent


def test_nothing_is_found(built):
    """With the token, and unsigned; schemathesis itself also tries each operation without what it needs."""
    found, sent = findings(built, built.openapi(), 3, {"Authorization": f"Bearer {TOKEN}"})
    assert found == []
    assert sent > 100


def test_nothing_is_found_without_a_token(built):
    document = built.openapi()
    closed = {path: what for path, what in document["paths"].items() if path.startswith("/api/")}
    found, sent = findings(built, document | {"paths": closed}, 1, {})
    assert found == []
    assert sent > 10


def test_nothing_is_found_among_bodies_that_are_signed(built):
    """Random ones that the document allows are taken in, and random ones that it does not are refused."""
    document = built.openapi()
    deliver = {k: v for k, v in document["paths"]["/webhook"]["post"].items() if k != "parameters"}
    signing = Signing(built)
    found, sent = findings(signing, document | {"paths": {"/webhook": {"post": deliver}}}, 40, {})
    assert found == []
    assert sent > 100
    assert signing.answers[202] > 20
    assert signing.answers[400] > 20
    assert set(signing.answers) <= {202, 400, 415}
