"""Logs of the service: a line for each event, for machines or for people; no secret, no text as strangers sent it.

uvicorn must be run with log_config=None: it would put its own handlers in place of these.
"""

from __future__ import annotations

import datetime
import json
import logging
import math
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Literal, TextIO
from urllib.parse import quote, unquote, urlsplit

from privacy_gate.errors import GateError
from privacy_gate.sandbox.untrusted import clean, where
from privacy_gate.service import secrets

NAME = "privacy_gate.service"
FIELDS = ("delivery", "job", "run", "worker", "subscription", "attempt", "seconds", "outcome")  # of `extra`, if given
REQUEST_FIELDS = ("method", "path", "status", "ms")
QUIET = frozenset({"/healthz", "/readyz"})  # asked every few seconds: their lines are for debugging only

_MESSAGE, _VALUE, _READ = 2000, 300, 1 << 14  # characters: of a message, of a value, and how many are looked at
_HIDDEN = "[secret]"
_SHORTEST = 4  # a shorter secret is in every other word: hiding it there would tell it

# What looks like a secret, whoever's it is. The first group is kept.
_LOOKS = (
    re.compile(r"()-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    re.compile(
        r"((?:proxy-)?authorization['\"]?\s*[:=]\s*['\"]?)(?:(?:bearer|basic|token|digest)\s+)?[^\s'\",]+",
        re.IGNORECASE,
    ),
    re.compile(r"(\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE),
    re.compile(  # of URLs
        r"(\b[a-z][a-z0-9+.-]{0,20}://[^\s:/@]{0,200}:)[^\s@]{0,500}(?:@[^\s@/]{0,200}){0,3}(?=@)", re.IGNORECASE
    ),
    re.compile(r"(\bv1,)[A-Za-z0-9+/]{43}="),  # a webhook's signature
    re.compile(
        r"((?:password|passwd|pwd|secret|token|api[_-]?key|access[_-]?key)['\"]?\s*[=:]\s*['\"]?)[^\s'\"&,;]+",
        re.IGNORECASE,
    ),
)
_TRACEBACK = "Traceback (most recent call last)"
_RAISED = re.compile(r"^([A-Za-z_][\w.]*)(?::|$)", re.MULTILINE)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def configure(
    format: Literal["json", "text"], stream: TextIO, hidden: Iterable[str] | None = None, level: int = logging.INFO
) -> LineHandler:
    """Send the lines of the service and of uvicorn to `stream`; again replaces what was configured before.

    hidden  secrets that no line may show; None: those that the environment holds
    Raises UsageError where a secret of the environment cannot be read.
    """
    if hidden is None:
        hidden = [value for name in secrets.NAMES if (value := secrets.secret(name, os.environ)) is not None]
    handler = LineHandler(stream)
    handler.setFormatter((_Json if format == "json" else _Text)(Redaction(hidden)))
    logging.raiseExceptions = False  # a line that cannot be written must not stop what it tells of
    for name in (NAME, "uvicorn"):
        _route(logging.getLogger(name), handler, level)
    for name in ("uvicorn.error", "uvicorn.asgi"):
        below = logging.getLogger(name)
        below.handlers.clear()
        below.propagate = True
        below.setLevel(logging.NOTSET)
    # `Access` writes these lines, with the time that each request took and without its query.
    _route(logging.getLogger("uvicorn.access"), logging.NullHandler(), logging.CRITICAL)
    return handler


def _route(logger: logging.Logger, handler: logging.Handler, level: int) -> None:
    logger.handlers[:] = [handler]
    logger.propagate = False  # to the root's handlers, which would write it once more, as it came
    logger.setLevel(level)


class Redaction:
    """Hides known secrets, in plain, quoted and line by line, and whatever looks like one."""

    def __init__(self, hidden: Iterable[str]) -> None:
        known: set[str] = set()
        for value in hidden:
            parts = {value, *(line.strip() for line in value.splitlines()), " ".join(value.split())}
            parts |= {quote(part, safe="") for part in parts} | {json.dumps(part)[1:-1] for part in parts}
            known |= parts | _password(value)
        # The longest first: a part of a secret must not hide its beginning alone.
        self._known = sorted((part for part in known if len(part) >= _SHORTEST), key=len, reverse=True)
        self._longest = max(map(len, self._known), default=0)

    def __call__(self, text: str, limit: int) -> str:
        """On one line, of at most `limit` characters, with nothing in it that steers a terminal, and no secret."""
        if len(text) > _READ:
            text = text[: max(0, _READ - self._longest)]  # no half of a secret at the cut
        # Twice: a secret may have been taken apart by what is cleaned away, and lines are one only before that.
        return clean(self._hide(clean(self._hide(text))), limit)

    def _hide(self, text: str) -> str:
        for part in self._known:
            text = text.replace(part, _HIDDEN)
        for look in _LOOKS:
            text = look.sub(rf"\g<1>{_HIDDEN}", text)
        return text


def _password(url: str) -> set[str]:
    """That of a URL, as it stands there and as it is meant; nothing where there is none."""
    try:
        given = urlsplit(url).password
    except ValueError:
        return set()
    return {given, unquote(given)} if given else set()


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes whole lines. One that cannot be written is counted, and nobody is disturbed.

    lost  how many could not be written
    """

    lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Format and write; never raises."""
        try:
            line = self.format(record) + self.terminator
            encoding = getattr(self.stream, "encoding", None) or "utf-8"
            self.stream.write(line.encode(encoding, "backslashreplace").decode(encoding))
            self.stream.flush()
        except Exception:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - its name in logging
        """Count it."""
        self.lost += 1


class _Lines(logging.Formatter):
    def __init__(self, redaction: Redaction) -> None:
        super().__init__()
        self._redaction = redaction

    def seen(self, record: logging.LogRecord) -> dict[str, Any]:
        """All that is said of an event, clean and in order."""
        said: dict[str, Any] = {
            "ts": _utc(record.created),
            "level": record.levelname.lower(),
            "event": self._text(getattr(record, "event", None) or _event(record.name), _VALUE),
            "message": self._text(_message(record), _MESSAGE),
        }
        for name in (*FIELDS, *REQUEST_FIELDS):
            value = getattr(record, name, None)
            if value is not None:
                said[name] = self._value(value)
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            said |= self._error(error)
        return said

    def _value(self, value: object) -> int | float | str:
        if isinstance(value, bool | int):
            return value
        if isinstance(value, float) and math.isfinite(value):
            return round(value, 3)
        return self._text(_kind(value) if isinstance(value, BaseException) else value, _VALUE)

    def _error(self, error: BaseException) -> dict[str, Any]:
        """Type and place; the words only of errors that were written for people: others quote what they read."""
        said = {"error": _kind(error), "where": self._text(where(error), _VALUE)}
        if isinstance(error, GateError):
            said |= {"what": self._text(error.what, _MESSAGE), "hint": self._text(error.hint, _VALUE)}
        return {name: value for name, value in said.items() if value}

    def _text(self, value: object, limit: int) -> str:
        return self._redaction(str(value), limit)


class _Json(_Lines):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self.seen(record))


class _Text(_Lines):
    def format(self, record: logging.LogRecord) -> str:
        said = self.seen(record)
        start = f"{said.pop('ts')} {said.pop('level'):8}{said.pop('event')}: {said.pop('message')}"
        return "  ".join([start, *(f"{name}={_quoted(value)}" for name, value in said.items())])


def _quoted(value: object) -> str:
    text = str(value)
    return text if re.fullmatch(r"[\w./:@+-]+", text) else json.dumps(text, ensure_ascii=False)


def _utc(seconds: float) -> str:
    at = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"


def _event(logger: str) -> str:
    """Of a line that names none: uvicorn writes all of its own as `uvicorn.error`, whatever they say."""
    return "server" if logger.partition(".")[0] == "uvicorn" else logger.rpartition(".")[2]


def _message(record: logging.LogRecord) -> str:
    """The message, without the words of errors among its arguments, and without a traceback written out in it."""
    arguments: Any = record.args
    if isinstance(arguments, tuple):
        arguments = tuple(_told(value) for value in arguments)
    elif arguments:
        arguments = {name: _told(value) for name, value in arguments.items()}
    text = str(_told(record.msg))
    text = text % arguments if arguments else text
    before, found, after = text.partition(_TRACEBACK)
    if not found:
        return text.rstrip()
    kinds = _RAISED.findall(after.partition("\n")[2])
    return " ".join([before.strip(), f"({kinds[0] if kinds else 'an error'}; its traceback is left out)"]).strip()


def _told(value: object) -> object:
    if isinstance(value, GateError):
        return value.what
    return _kind(value) if isinstance(value, BaseException) else value


def _kind(error: object) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


class Access:
    """ASGI middleware: a line for each request with its method, path, status and time; nothing else of it is told."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app
        self._logger = logging.getLogger(f"{NAME}.access")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and tell of it when its answer is out."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, begun = 500, time.perf_counter()  # what the server answers where nothing was sent

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            self._tell(scope, status, 1000 * (time.perf_counter() - begun))

    def _tell(self, scope: Scope, status: int, ms: float) -> None:
        level = logging.DEBUG if scope["path"] in QUIET else logging.ERROR if status >= 500 else logging.INFO
        extra = {"event": "request", "method": scope["method"], "path": scope["path"], "status": status, "ms": ms}
        self._logger.log(level, "answered", extra=extra)
