"""What listens: a registry's deliveries become jobs in the queue, and people and programs read what is in it.

A delivery is answered once it is durable, and never before; no model is ever touched here. What is refused gets one and
the same answer whatever the cause: the log tells it. There is no way to take in deliveries that are not signed.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import gc
import hashlib
import hmac
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

import anyio
from anyio import to_thread
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.models import HTTPBase
from fastapi.responses import JSONResponse, Response
from fastapi.security.base import SecurityBase
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from privacy_gate.errors import StorageFailed, UsageError
from privacy_gate.registry import TAG_PREFIX
from privacy_gate.release import VERSION
from privacy_gate.sandbox.untrusted import clean, where
from privacy_gate.service import Delivery, Event, Job, State, Wanted, fresh, webhook
from privacy_gate.service.health import FILES, LATE, WORKERS
from privacy_gate.service.limits import PerClient, Recent, per_minute
from privacy_gate.service.queue import Queue
from privacy_gate.service.subscriptions import Subscriptions, concerns, find
from privacy_gate.service.sweep import SWEPT


async def _settle() -> None:
    """What is loaded by now stays: full rounds of the garbage collector, which hold up all deliveries, pass it by."""
    if gc.get_freeze_count() == 0:
        gc.collect()
        gc.freeze()


class Timely(H11Protocol):
    """HTTP/1.1 in which a connection that asks for nothing, or never takes its answer, ends; uvicorn would wait."""

    period = 10.0  # seconds between two looks at a connection
    most = 30  # looks at one and the same request
    _seen: tuple[object, bool] = (None, True)
    _looks = 0
    _next: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin to look at it."""
        super().connection_made(transport)
        self._next = self.loop.call_later(self.period, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Look no more."""
        if self._next is not None:
            self._next.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        """End it if it is where it was: before a request for a whole period, or within one for too many."""
        cycle: Any = self.cycle  # of the last request; None before the first one
        now = (cycle, cycle is None or bool(cycle.response_complete))
        self._looks = self._looks + 1 if self._seen == now else 0
        self._seen, idle = now, now[1]
        if self._looks >= (1 if idle else self.most):
            self.transport.abort()
        else:
            self._next = self.loop.call_later(self.period, self._look)


# How uvicorn must be run: h11, which refuses what is not quite HTTP; without a header that tells what this is; no
# WebSockets, whose handshake would go by another way.
SERVER: dict[str, Any] = {
    "http": Timely,
    "ws": "none",
    "server_header": False,
    "access_log": False,
    "log_config": None,
    "timeout_keep_alive": 5,
    "h11_max_incomplete_event_size": 1 << 14,
    "callback_notify": _settle,  # called as soon as it listens, and now and then
}

PATIENCE = 10.0  # seconds for the body of a request
ANSWER = 20.0  # seconds for the queue; MLflow waits 30
SMALL = 1 << 16  # bytes; deliveries have hundreds
LARGE_AT_ONCE = 8  # bodies larger than SMALL that are read at the same time: what they take in memory is bounded
WRITERS = 4  # deliveries that are written at the same time
AGAIN = 5  # seconds after which a delivery that could not be kept should be sent again
REFUSED_RATE, REFUSED_AT_ONCE = 0.5, 20.0  # refused deliveries of one client: per second, and at once
CLIENTS, RECENT = 4096, 4096  # clients and deliveries that are remembered

_UNBELIEVED = "not signed by who knows the secret of this service, or not now"
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
}

_log = logging.getLogger("privacy_gate.service")
_Documented = dict[int | str, dict[str, Any]]
_Limit = Annotated[int, Query(ge=1, le=1000)]


class Problem(BaseModel):
    """Every answer that is an error."""

    detail: str


class Taken(BaseModel):
    """What became of a delivery: it is in the queue, it concerns nothing that is judged here, or it was known."""

    status: Literal["queued", "ignored", "duplicate"]


class Alive(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class Ready(BaseModel):
    """Whether the queue answers, a worker looked for work lately, and a sweep came to its end lately.

    files  whether the worker that read subscriptions, configs and policies last found them in order
    """

    queue: bool
    worker: bool
    sweep: bool
    files: bool


class Requeue(BaseModel):
    """A version that is to be judged again if it has no effective verdict."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(min_length=1, max_length=webhook.NAME_LENGTH)
    version: str = Field(pattern="^[0-9]{1,18}$")


class Requeued(BaseModel):
    """queued: it is in the queue now; waiting: it was there, or is being judged and will be looked at again."""

    status: Literal["queued", "waiting"]


class Asked(BaseModel):
    """A sweep will begin."""

    status: Literal["asked"]


class JobView(BaseModel):
    """A version in the queue. Times are seconds since 1970."""

    name: str
    version: str
    subscription: str
    priority: int
    state: State
    requests: int
    attempts: int
    why: str
    delivery: str | None
    queued: float
    due: float
    started: float | None
    finished: float | None
    model_sha256: str | None
    policy_sha256: str | None
    outcome: str


class DeliveryView(BaseModel):
    """An event that arrived and was believed. Times are seconds since 1970."""

    id: str
    entity: str
    action: str
    name: str
    version: str | None
    alias: str | None
    key: str | None
    received: float
    outcome: str


class Jobs(BaseModel):
    """Versions in the queue."""

    jobs: list[JobView]


class Deliveries(BaseModel):
    """The latest deliveries first."""

    deliveries: list[DeliveryView]


def app(
    settings: Subscriptions,
    queue: Queue,
    *,
    secret: str | None,
    token: str | None,
    sweep: Callable[[], object],
    pages: APIRouter | None = None,
    clock: Callable[[], float] = time.time,
    patience: float = PATIENCE,
) -> FastAPI:
    """The receiver.

    settings  looked at anew for each request, but for how many deliveries are taken in
    secret    that the registry signs with
    token     of people and programs; None: nothing can be asked for, and what is read must be open
    sweep     begins a sweep, or makes one begin soon; called from another thread
    pages     for people; they are read by the same rule as the rest
    clock     seconds since 1970
    patience  seconds for the body of a request
    Raises UsageError without a secret, and without a token where reading takes one.
    """
    if not secret:
        mend = "set PRIVACY_GATE_WEBHOOK_SECRET to the secret that the registry's webhook was created with"
        raise UsageError("the service has no webhook secret: it could not tell a delivery from a forged one", mend)
    if not token and settings.service.read == "token":
        mend = "set PRIVACY_GATE_SERVICE_TOKEN, or write read: open below service:"
        raise UsageError("the service has no token, and nobody could read its pages", mend)
    application = FastAPI(
        title="privacy-gate",
        summary="Takes in a registry's events, and tells what became of them.",
        version=VERSION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    application.include_router(_public(settings, queue, clock))
    application.include_router(_receiving(_Intake(settings, queue, secret, clock, patience)))
    application.include_router(_changing(settings, queue, sweep, token, clock, patience))
    may_read, closed = [Depends(_reader(settings, token))], settings.service.read == "token"
    if closed:
        may_read += [Depends(_Token(basic=False)), Depends(_Token(basic=True))]
    application.include_router(_reads(queue, closed), dependencies=may_read)
    if pages is not None:
        application.include_router(pages, dependencies=may_read, include_in_schema=False)
    application.add_exception_handler(RequestValidationError, _not_valid)
    application.add_exception_handler(StorageFailed, _no_storage)
    application.add_middleware(_Guard)
    return application


# --- Answers ----------------------------------------------------------------------------------------------------------


def _problem(status: int, detail: str, again: float | None = None) -> JSONResponse:
    headers = None if again is None else {"Retry-After": str(max(1, math.ceil(again)))}
    return JSONResponse({"detail": detail}, status, headers)


async def _not_valid(request: Request, error: Exception) -> Response:
    """Where and what, and not what was sent."""
    assert isinstance(error, RequestValidationError)
    return _problem(422, _findings(error.errors()))


def _findings(errors: Any) -> str:
    return "; ".join(f"{clean('.'.join(map(str, e['loc'])), 100)}: {clean(e['msg'], 200)}" for e in errors)


async def _no_storage(request: Request, error: Exception) -> Response:
    _log.error("the queue cannot be used: %s", clean(error, 500), extra={"event": "queue.failed"})
    return _problem(503, "the queue cannot be used at present", AGAIN)


def _documented(*codes: int) -> _Documented:
    """These answers in the OpenAPI document, and the one that everything may give."""
    said = {
        400: "not understood",
        401: "not signed or not authorised",
        403: "not possible here",
        404: "no subscription covers this model",
        408: "the body took too long",
        413: "the body is too large",
        415: "not JSON",
        422: "not understood",
        429: "too many deliveries",
        500: "a defect",
        503: "not at present",
    }
    again = {"Retry-After": {"description": "seconds", "required": True, "schema": {"type": "integer", "minimum": 1}}}
    return {
        code: {"model": Problem, "description": said[code], **({"headers": again} if code in (429, 503) else {})}
        for code in sorted({*codes, 400, 500})  # 400: what is not quite HTTP
    }


class _Guard:
    """ASGI: headers for every answer, no word of an unexpected error, and no more of a body that nobody reads."""

    def __init__(self, inner: ASGIApp) -> None:
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        begun = False
        names = {name for name, _ in scope["headers"]}
        unread = b"transfer-encoding" in names or b"content-length" in names
        if b"transfer-encoding" in names and b"content-length" in names:
            # A proxy before this one may have read another body than would be read here: RFC 9112, 6.1.
            closing = _problem(400, "a body has a length or an encoding, not both")
            closing.headers["Connection"] = "close"
            await closing(scope, receive, send)
            return

        async def received() -> Message:
            nonlocal unread
            message = await receive()
            if not message.get("more_body", False):
                unread = False
            return message

        async def sent(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if unread:  # else the server would go on taking it in, for as long as it is sent
                    headers["Connection"] = "close"
            await send(message)

        try:
            await self._inner(scope, received, sent)
        except Exception as error:
            extra = {"event": "defect"}
            _log.error("an unexpected %s in %s", type(error).__name__, clean(where(error), 300), extra=extra)
            if begun:
                raise _Broken("the answer had begun") from None
            await _problem(500, "internal error")(scope, received, sent)


class _Broken(Exception):
    """An answer that cannot be completed: the server closes the connection."""


# --- Who may ----------------------------------------------------------------------------------------------------------


class _Token(SecurityBase):
    """Names a way to show the token in the OpenAPI document; whether it is right is another's matter."""

    def __init__(self, basic: bool) -> None:
        scheme, words = ("basic", "the token as password, any user") if basic else ("bearer", "the token")
        self.model = HTTPBase(scheme=scheme, description=words)
        self.scheme_name = scheme

    async def __call__(self, request: Request) -> None:
        return None


def _same(given: bytes, right: str) -> bool:
    # Digests: comparing them tells not even the length of the right one.
    return hmac.compare_digest(hashlib.sha256(given).digest(), hashlib.sha256(right.encode()).digest())


def _shown(request: Request, scheme: str) -> bytes | None:
    """What the one Authorization header shows by a scheme; None: nothing."""
    given = [value for name, value in request.headers.raw if name == b"authorization"]
    if len(given) != 1:
        return None
    kind, _, rest = given[0].partition(b" ")
    return rest.strip() if kind.lower() == scheme.encode() else None


def _reader(settings: Subscriptions, token: str | None) -> Callable[[Request], Awaitable[None]]:
    async def may_read(request: Request) -> None:
        if settings.service.read == "open":
            return
        given = _shown(request, "bearer")
        if given is None and (basic := _shown(request, "basic")) is not None:
            try:
                given = base64.b64decode(basic, validate=True).partition(b":")[2]
            except binascii.Error:
                given = None
        if token is None or given is None or not _same(given, token):
            ways = 'Basic realm="privacy-gate", charset="UTF-8", Bearer'
            raise HTTPException(401, "the token of this service is needed", {"WWW-Authenticate": ways})

    return may_read


def _changer(token: str | None) -> Callable[[Request], Awaitable[None]]:
    async def may_change(request: Request) -> None:
        # Bearer alone: a browser would send a password by itself, whichever page makes it ask.
        if token is None:
            raise HTTPException(403, "this service has no token, so nothing can be asked of it")
        given = _shown(request, "bearer")
        if given is None or not _same(given, token):
            raise HTTPException(401, "the token of this service is needed", {"WWW-Authenticate": "Bearer"})

    return may_change


# --- Bodies -----------------------------------------------------------------------------------------------------------


class _Refused(Exception):
    """An answer that ends the handling of a request."""

    def __init__(self, status: int, detail: str, again: float | None = None, why: str = "") -> None:
        super().__init__(detail)
        self.status, self.detail, self.again, self.why = status, detail, again, why or detail


def _declared(request: Request) -> int | None:
    """Bytes that a body says to have; None: it does not say."""
    given = [value for name, value in request.headers.raw if name == b"content-length"]
    return int(given[0]) if len(given) == 1 and given[0].isdigit() and len(given[0]) < 19 else None


def _must_be_json(request: Request) -> None:
    given = [value for name, value in request.headers.raw if name == b"content-type"]
    kind, _, parameters = given[0].lower().partition(b";") if len(given) == 1 else (b"", b"", b"")
    if kind.strip() != b"application/json" or parameters.strip() not in (b"", b"charset=utf-8", b'charset="utf-8"'):
        raise _Refused(415, "the content type must be application/json")


async def _body(request: Request, limit: int, patience: float) -> bytes:
    """The whole body. Raises _Refused: too large as soon as that is known, too slow, or the client is gone."""
    if (_declared(request) or 0) > limit:
        raise _Refused(413, f"the body has more than {limit} bytes")
    body = bytearray()
    try:
        async with asyncio.timeout(patience):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise _Refused(413, f"the body has more than {limit} bytes")
    except TimeoutError:
        raise _Refused(408, f"the body took more than {patience:.0f} s") from None
    except ClientDisconnect:
        raise _Refused(400, "the client went away") from None
    return bytes(body)


# --- Receiving --------------------------------------------------------------------------------------------------------


class _Intake:
    """Deliveries: who sent them, what they say, and what becomes of them."""

    def __init__(
        self, settings: Subscriptions, queue: Queue, secret: str, clock: Callable[[], float], patience: float
    ) -> None:
        self._settings, self._queue, self._secret = settings, queue, secret
        self._clock, self._patience = clock, patience
        self._believed = per_minute(settings.service.deliveries)
        self._refused = PerClient(REFUSED_RATE, REFUSED_AT_ONCE, CLIENTS)
        self._recent = Recent(RECENT)
        self._large = 0
        self._writers = anyio.CapacityLimiter(WRITERS)

    async def answer(self, request: Request) -> Response:
        """The answer to one request. Only a delivery that is believed reaches the queue."""
        client = request.client.host if request.client else None
        try:
            return await self._take(request, client)
        except _Refused as refused:
            return self._refusal(refused, client)

    def _refusal(self, refused: _Refused, client: str | None) -> Response:
        """Charge the client; one that has used up what it may do wrong is told so, and the log is spared."""
        if refused.status in (429, 503):  # it did nothing wrong, or was charged before
            return _problem(refused.status, refused.detail, refused.again)
        wait = self._refused.take(client, self._clock())
        if wait > 0.0:
            return _problem(429, "too many refused deliveries", wait)
        extra = {"event": "delivery.refused", "outcome": str(refused.status)}
        _log.warning("refused a delivery from %s: %s", clean(client, 60), clean(refused.why, 200), extra=extra)
        return _problem(refused.status, refused.detail, refused.again)

    async def _take(self, request: Request, client: str | None) -> Response:
        settings = self._settings.service
        _must_be_json(request)
        size = _declared(request)
        if size is not None and size > settings.body:
            raise _Refused(413, f"the body has more than {settings.body} bytes")
        try:
            claimed = webhook.claim(request.headers.raw, self._clock(), settings.tolerance)
        except webhook.Unauthorized as error:
            raise _Refused(401, _UNBELIEVED, why=error.what) from error
        small = size is not None and size <= SMALL
        if not small and (wait := self._refused.wait(client, self._clock())) > 0.0:
            raise _Refused(429, "too many refused deliveries", wait)
        body = await self._read(request, small)
        try:
            id = webhook.believe(claimed, body, self._secret)
        except webhook.Unauthorized as error:
            raise _Refused(401, _UNBELIEVED, why=error.what) from error
        if id in self._recent:
            return JSONResponse({"status": "duplicate"}, 200)
        if (wait := self._believed.take(self._clock())) > 0.0:
            extra = {"event": "delivery.postponed", "delivery": id}
            _log.warning("more deliveries than %d a minute", settings.deliveries, extra=extra)
            raise _Refused(429, "too many deliveries", wait)
        try:
            said = webhook.document(body)
            event = webhook.event(said)
        except webhook.Malformed as error:
            extra = {"event": "delivery.malformed", "delivery": id}
            _log.warning("signed, but not understood: %s", error.what, extra=extra)
            return _problem(400, error.what)
        return await self._keep(id, event, webhook.is_test(said))

    async def _read(self, request: Request, small: bool) -> bytes:
        if small:
            return await _body(request, SMALL, self._patience)
        if self._large >= LARGE_AT_ONCE:
            raise _Refused(503, "too many large deliveries at once", AGAIN)
        self._large += 1
        try:
            return await _body(request, self._settings.service.body, self._patience)
        finally:
            self._large -= 1

    async def _keep(self, id: str, event: Event | None, test: bool) -> Response:
        if event is None:
            _log.info("ignored a delivery: it is about no version", extra={"event": "delivery", "delivery": id})
            return JSONResponse({"status": "ignored"}, 202)
        wanted, outcome = _wanted(self._settings, event, id, test)
        job = f"models:/{clean(event.name, 200)}/{event.version}" if event.version else clean(event.name, 200)
        extra = {"event": "delivery", "delivery": id, "job": job, "outcome": outcome}
        delivery = Delivery(id, event, self._clock(), outcome)
        try:
            with anyio.fail_after(ANSWER):
                # What is abandoned may yet be kept: then the same delivery, sent again, is a duplicate.
                new = await to_thread.run_sync(
                    self._queue.deliver, delivery, wanted, abandon_on_cancel=True, limiter=self._writers
                )
        except (StorageFailed, TimeoutError) as error:
            what = error.what if isinstance(error, StorageFailed) else f"no answer within {ANSWER:.0f} s"
            _log.error("a delivery could not be kept: %s", clean(what, 500), extra=extra | {"outcome": "not kept"})
            raise _Refused(503, "the queue cannot be used at present", AGAIN) from error
        self._recent.add(id)
        if not new:
            return JSONResponse({"status": "duplicate"}, 200)
        _log.info("%s.%s: %s", clean(event.entity, 40), clean(event.action, 40), outcome, extra=extra)
        return JSONResponse({"status": "ignored" if wanted is None else "queued"}, 202)


def _wanted(settings: Subscriptions, event: Event, delivery: str, test: bool) -> tuple[Wanted | None, str]:
    """What an event asks for, and what is remembered of it."""
    if test:
        return None, "ignored: the registry tried its webhook"
    subscription = find(settings, event.name)
    if subscription is None:
        return None, "ignored: no subscription covers this model"
    if event.alias == settings.service.alias or (event.key or "").startswith(TAG_PREFIX):
        return None, "ignored: what the gate itself wrote"
    if not concerns(subscription, settings.service, event):
        return None, "ignored: the subscription does not ask for this"
    if event.version is None:
        return None, "ignored: it names no version; the sweep will find it"
    why = f"{event.entity}.{event.action}"
    return Wanted(event.name, event.version, subscription.name, subscription.priority, why, delivery), "queued"


def _receiving(intake: _Intake) -> APIRouter:
    router = APIRouter()

    @router.post(
        "/webhook",
        operation_id="deliver",
        summary="An event of the registry, signed",
        status_code=202,
        response_model=Taken,
        responses={
            200: {"model": Taken, "description": "a delivery with this id was taken in before"},
            202: {"model": Taken, "description": "taken in; the queue is durable"},
            **_documented(400, 401, 408, 413, 415, 429, 503),
        },
        openapi_extra=_DELIVERY,
    )
    async def deliver(request: Request) -> Response:
        return await intake.answer(request)

    return router


_NAME = {
    "type": "string",
    "minLength": 1,
    "maxLength": webhook.NAME_LENGTH,
    "pattern": r"^[^\u0000-\u001f\u007f-\u009f]+$",
}
_VERSION = {"type": ["string", "null"], "pattern": "^[0-9]{1,18}$"}


def _kind(entity: str, actions: list[str], data: dict[str, Any], optional: dict[str, Any]) -> dict[str, Any]:
    fields = {"type": "object", "required": list(data), "properties": data | optional}
    said = {"entity": {"const": entity}, "action": {"enum": actions}, "data": fields}
    return {"title": entity, "type": "object", "required": list(said), "properties": said}


_KINDS = [
    _kind("registered_model", ["created"], {"name": _NAME}, {}),
    _kind("model_version", ["created"], {"name": _NAME}, {"version": _VERSION}),
    _kind("model_version_tag", ["set", "deleted"], {"name": _NAME, "key": _NAME}, {"version": _VERSION}),
    _kind("model_version_alias", ["created", "deleted"], {"name": _NAME, "alias": _NAME}, {"version": _VERSION}),
]


def _other(entity: dict[str, Any], action: dict[str, Any]) -> dict[str, Any]:
    """About no version, and so ignored."""
    said = {"entity": entity, "action": action, "data": {"type": "object"}}
    return {"title": "ignored", "type": "object", "required": list(said), "properties": said}


_OTHERS = [_other({"const": kind["title"]}, _NAME | {"not": kind["properties"]["action"]}) for kind in _KINDS] + [
    _other(_NAME | {"not": {"enum": [kind["title"] for kind in _KINDS]}}, _NAME)
]
_DELIVERY: dict[str, Any] = {
    "parameters": [
        {
            "name": "X-MLflow-Delivery-Id",
            "in": "header",
            "required": True,
            "description": "the same for each attempt to deliver one event",
            "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,100}$"},
        },
        {
            "name": "X-MLflow-Timestamp",
            "in": "header",
            "required": True,
            "description": "seconds since 1970",
            "schema": {"type": "string", "pattern": "^[0-9]{1,12}$"},
        },
        {
            "name": "X-MLflow-Signature",
            "in": "header",
            "required": True,
            "description": 'v1, and the base64 of HMAC-SHA256(secret, "ID.TIMESTAMP.BODY"); or several, by spaces',
            "schema": {"type": "string", "maxLength": 1000, "pattern": "^v1,[A-Za-z0-9+/]{43}=$"},
        },
    ],
    "requestBody": {"required": True, "content": {"application/json": {"schema": {"anyOf": [*_KINDS, *_OTHERS]}}}},
}


# --- Asking -----------------------------------------------------------------------------------------------------------


def _changing(
    settings: Subscriptions,
    queue: Queue,
    sweep: Callable[[], object],
    token: str | None,
    clock: Callable[[], float],
    patience: float,
) -> APIRouter:
    may = [Depends(_changer(token)), Depends(_Token(basic=False))]
    router = APIRouter(prefix="/api", dependencies=may)
    challenged: _Documented = {401: _challenged("Bearer")}

    @router.post(
        "/requeue",
        operation_id="requeue",
        summary="Have a version judged",
        status_code=202,
        response_model=Requeued,
        responses=_documented(400, 403, 404, 408, 413, 415, 422, 503) | challenged,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": Requeue.model_json_schema()}},
            }
        },
    )
    async def requeue(request: Request) -> Response:
        try:
            _must_be_json(request)
            asked = Requeue.model_validate(webhook.document(await _body(request, SMALL, patience)))
        except _Refused as refused:
            return _problem(refused.status, refused.detail)
        except webhook.Malformed as error:
            return _problem(400, error.what)
        except ValidationError as error:
            return _problem(422, _findings(error.errors()))
        subscription = find(settings, asked.name)
        if subscription is None:
            return _problem(404, "no subscription covers this model")
        wanted = Wanted(asked.name, asked.version, subscription.name, subscription.priority, "asked for by hand")
        new = await to_thread.run_sync(queue.request, wanted, clock())
        job = f"models:/{clean(asked.name, 200)}/{asked.version}"
        _log.info("asked for by hand", extra={"event": "requeue", "job": job})
        return JSONResponse({"status": "queued" if new else "waiting"}, 202)

    @router.post(
        "/sweep",
        operation_id="sweep",
        summary="Look for versions without an effective verdict",
        status_code=202,
        response_model=Asked,
        responses=_documented(403, 503) | challenged,
    )
    async def begin() -> Response:
        await to_thread.run_sync(sweep)
        _log.info("a sweep was asked for by hand", extra={"event": "sweep.asked"})
        return JSONResponse({"status": "asked"}, 202)

    return router


def _challenged(ways: str) -> dict[str, Any]:
    header = {"description": ways, "required": True, "schema": {"type": "string"}}
    return {"model": Problem, "description": "the token is missing or wrong", "headers": {"WWW-Authenticate": header}}


# --- Reading ----------------------------------------------------------------------------------------------------------


def _reads(queue: Queue, closed: bool) -> APIRouter:
    router = APIRouter(prefix="/api")
    answers = _documented(422, 503)
    if closed:
        answers[401] = _challenged("Basic, Bearer")

    @router.get("/jobs", operation_id="jobs", summary="Versions in the queue", response_model=Jobs, responses=answers)
    def jobs(state: State | None = None, name: str | None = None, limit: _Limit = 100) -> Jobs:
        return Jobs(jobs=[_job(job) for job in queue.jobs(state, name, limit)])

    @router.get(
        "/deliveries",
        operation_id="deliveries",
        summary="What the registry told",
        response_model=Deliveries,
        responses=answers,
    )
    def deliveries(limit: _Limit = 100) -> Deliveries:
        return Deliveries(deliveries=[_delivery(delivery) for delivery in queue.deliveries(limit)])

    return router


def _job(job: Job) -> JobView:
    """Without its lease, by which a worker proves that it holds the job."""
    return JobView(
        name=job.name,
        version=job.version,
        subscription=job.subscription,
        priority=job.priority,
        state=job.state,
        requests=job.requests,
        attempts=job.attempts,
        why=job.why,
        delivery=job.delivery,
        queued=job.queued,
        due=job.due,
        started=job.started,
        finished=job.finished,
        model_sha256=job.key.model_sha256 if job.key else None,
        policy_sha256=job.terms.policy_sha256 if job.terms else None,
        outcome=job.outcome,
    )


def _delivery(delivery: Delivery) -> DeliveryView:
    event = delivery.event
    return DeliveryView(
        id=delivery.id,
        entity=event.entity,
        action=event.action,
        name=event.name,
        version=event.version,
        alias=event.alias,
        key=event.key,
        received=delivery.received,
        outcome=delivery.outcome,
    )


def _public(settings: Subscriptions, queue: Queue, clock: Callable[[], float]) -> APIRouter:
    router = APIRouter()

    def look() -> Ready:
        young = {WORKERS: LATE * settings.service.lease, SWEPT: LATE * settings.service.sweep_every}
        try:
            queue.ping()
            seen = {name: queue.recall(name) for name in young}
            files = queue.recall(FILES)
        except StorageFailed as error:
            _log.error("the queue cannot be used: %s", clean(error.what, 500), extra={"event": "queue.failed"})
            return Ready(queue=False, worker=False, sweep=False, files=False)
        now = clock()
        well = {name: fact is not None and fresh(fact[1], now, young[name]) for name, fact in seen.items()}
        # No fact: no worker has read them yet, which `worker` tells.
        in_order = files is None or files[0] is True
        return Ready(queue=True, worker=well[WORKERS], sweep=well[SWEPT], files=in_order)

    @router.get("/healthz", operation_id="healthz", response_model=Alive, responses=_documented())
    async def healthz() -> Response:
        return JSONResponse({"status": "ok"})

    @router.get(
        "/readyz",
        operation_id="readyz",
        response_model=Ready,
        responses={**_documented(), 503: {"model": Ready, "description": "something of it is false"}},
    )
    async def readyz() -> Response:
        try:
            with anyio.fail_after(ANSWER):
                ready = await to_thread.run_sync(look, abandon_on_cancel=True)
        except TimeoutError:
            ready = Ready(queue=False, worker=False, sweep=False, files=False)
        return JSONResponse(ready.model_dump(), 200 if all(ready.model_dump().values()) else 503)

    return router
