"""Lines of the log: one for each event, clean, without secrets, and never a danger to what they tell of."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from privacy_gate.errors import RegistryUnreachable, UsageError
from privacy_gate.service import logs, secrets
from tests.reports.hostile import PAYLOAD

KEPT = (logs.NAME, "uvicorn", "uvicorn.error", "uvicorn.asgi", "uvicorn.access")
LOG = logging.getLogger(f"{logs.NAME}.worker")


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(logging, "raiseExceptions", True)
    for name in secrets.NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"{name}_FILE", raising=False)
    loggers = [logging.getLogger(name) for name in KEPT]
    before = [(logger, logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    yield
    for logger, handlers, propagate, level in before:
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_one_object_with_what_was_given() -> None:
    stream = io.StringIO()
    logs.configure("json", stream, ())
    extra = {
        "event": "judged",
        "job": "churn/12",
        "delivery": "d-1",
        "run": "r1",
        "worker": "w1",
        "subscription": "churn*",
        "attempt": 2,
        "seconds": 1.23456,
        "outcome": "pass",
        "model": "not a field of the log",
    }
    LOG.info("a verdict for %s", "churn", extra=extra)
    (said,) = lines(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", said.pop("ts"))
    given = {**extra, "seconds": 1.235}
    del given["model"]
    assert said == {"level": "info", "message": "a verdict for churn", **given}


def test_the_time_is_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    handler = logs.configure("json", stream, ())
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        record = LOG.makeRecord(LOG.name, logging.INFO, "", 0, "x", (), None)
        record.created = 86400.0625
        handler.emit(record)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert lines(stream)[0]["ts"] == "1970-01-02T00:00:00.062Z"


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize(
    "evil", [PAYLOAD, "\u202e\u2066x\u2028y\u2029z\x85w", "\x1b[2J\x1b]8;;http://e\x07", "\ud800", "x" * 10_000]
)
def test_hostile_texts_stay_on_their_line(form: Any, evil: str) -> None:
    stream = io.StringIO()
    handler = logs.configure(form, stream, ())
    LOG.warning("about %s", evil, extra=dict.fromkeys((*logs.FIELDS, *logs.REQUEST_FIELDS, "event"), evil))
    text = stream.getvalue()
    assert handler.lost == 0
    assert text.endswith("\n")
    assert len(text.splitlines()) == 1
    said = json.loads(text) if form == "json" else {"line": text[:-1]}
    for value in said.values():
        assert not [c for c in str(value) if ord(c) < 32 or c in "\x7f\x85\x9b\u202e\u2066\u2028\u2029\u200b\ud800"]
        assert form == "text" or len(str(value)) <= 2000
    assert len(text) < 30_000


def test_text_is_for_people() -> None:
    stream = io.StringIO()
    logs.configure("text", stream, ())
    LOG.info("a verdict", extra={"event": "judged", "job": "my model/12", "attempt": 2, "run": "r1"})
    line = stream.getvalue()
    assert re.fullmatch(r'\S+Z info    judged: a verdict  job="my model/12"  run=r1  attempt=2\n', line)


def test_a_value_cannot_pose_as_another_field() -> None:
    stream = io.StringIO()
    logs.configure("text", stream, ())
    LOG.info("x", extra={"job": 'm"  outcome=pass  y="/1'})
    assert '  job="m\\"  outcome=pass  y=\\"/1"\n' in stream.getvalue()


SECRETS = {
    "word": "correct-horse-battery",
    "url": "postgresql://gate:hunter22%21x@db/queue",
    "pem": "-----BEGIN THING-----\nMC4CAQAwBQYDK2VwBCIE\nABCDEFGHIJKLMNOP\n-----END THING-----",
    "quoted": 'pa"ss/wo rd',
}


@pytest.mark.parametrize("form", ["json", "text"])
def test_secrets_are_not_told(form: Any) -> None:
    stream = io.StringIO()
    handler = logs.configure(form, stream, SECRETS.values())
    forms = [
        *SECRETS.values(),
        "hunter22%21x",
        "hunter22!x",
        "ABCDEFGHIJKLMNOP",
        "pa%22ss%2Fwo%20rd",
        "correct-\x1b[0mhorse-\u200bbattery",
        " ".join(SECRETS["pem"].split()),
        "y" * (2000 - 12) + "correct-horse-battery",
        "y" * ((1 << 14) - 5) + "correct-horse-battery",
    ]
    for secret in forms:
        LOG.info("got %s", secret, extra={"outcome": f"<{secret}>", "event": secret, "path": f"/{secret}"})
        LOG.error("and %s", RegistryUnreachable(secret, secret), exc_info=RegistryUnreachable(secret, secret))
    assert handler.lost == 0
    text = stream.getvalue()
    assert len(text.splitlines()) == 2 * len(forms)
    for part in ("horse", "hunter22", "MC4CAQ", "ABCDEFGH", "wo rd", "wo%20rd"):
        assert part not in text
    assert "[secret]" in text


def test_a_long_line_shows_no_beginning_of_a_secret() -> None:
    redaction = logs.Redaction(["correct-horse-battery"])
    for cut in range(1, 40):
        assert "corre" not in redaction("y" * cut + "correct-horse-battery", 30)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Authorization: Bearer abcdefghijk.lmn", "Authorization: [secret]"),
        ("{'authorization': 'Basic dXNlcjpwYXNz'}", "{'authorization': '[secret]'}"),
        ("sent Bearer abcdefghijk", "sent Bearer [secret]"),
        ("postgresql+psycopg://me:pw@host/db", "postgresql+psycopg://me:[secret]@host/db"),
        ("http://:pw@host", "http://:[secret]@host"),
        ("http://me:p@ss@w@host/x", "http://me:[secret]@host/x"),
        ("http://me:p/w@host/x", "http://me:[secret]@host/x"),
        ("v1," + "A" * 43 + "=", "v1,[secret]"),
        ("db_password=abc&x=1", "db_password=[secret]&x=1"),
        ('{"token": "abc"}', '{"token": "[secret]"}'),
        ("-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY----- z", "[secret] z"),
        ("-----BEGIN PRIVATE KEY-----\nabc", "[secret]"),
        ("http://host:5000/models/x", "http://host:5000/models/x"),
        ("models:/churn@champion and http://host/x", "models:/churn@champion and http://host/x"),
    ],
)
def test_what_looks_like_a_secret(text: str, left: str) -> None:
    assert logs.Redaction([])(text, 300) == left


def test_redaction_takes_no_time_that_strangers_choose() -> None:
    """Each of these made an earlier pattern run for minutes; the suite's time is the clock."""
    for evil in ("a" * 10**6, "a://b:" * 10**5, "authorization" * 10**5, "-----BEGIN " * 10**5, "bearer " * 10**5):
        assert len(logs.Redaction(["correct-horse"])(evil, 100)) == 100


def test_the_environment_names_the_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(secrets.WEBHOOK_SECRET, "correct-horse-battery")
    stream = io.StringIO()
    logs.configure("json", stream)
    LOG.info("correct-horse-battery")
    assert lines(stream)[0]["message"] == "[secret]"
    monkeypatch.setenv(secrets.WEBHOOK_SECRET, "")
    with pytest.raises(UsageError):
        logs.configure("json", stream)


def _raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


def test_exceptions_are_a_type_and_a_place() -> None:
    stream = io.StringIO()
    logs.configure("json", stream, ())
    LOG.error("it broke: %s", ValueError("row 7 of a person"), exc_info=_raised(ValueError("row 7 of a person")))
    LOG.error("no registry", exc_info=_raised(RegistryUnreachable("it does not answer", "start it")))
    LOG.error(ValueError("row 7 of a person"), extra={"outcome": ValueError("row 7 of a person")})
    try:
        raise ZeroDivisionError("row 7 of a person")
    except ZeroDivisionError:
        LOG.exception("caught")
    broke, gate, bare, caught = lines(stream)
    assert "row 7" not in stream.getvalue()
    assert broke["message"] == "it broke: ValueError"
    assert broke["error"] == "ValueError"
    assert re.fullmatch(r"tests?\S*_raised \(test_logs\.py:\d+\)", broke["where"])
    assert (gate["error"], gate["what"], gate["hint"]) == (
        "privacy_gate.errors.RegistryUnreachable",
        "it does not answer",
        "start it",
    )
    assert (bare["message"], bare["outcome"]) == ("ValueError", "ValueError")
    assert caught["error"] == "ZeroDivisionError"


def test_a_traceback_in_a_message_is_left_out() -> None:
    stream = io.StringIO()
    logs.configure("json", stream, ())
    text = (
        'Traceback (most recent call last):\n  File "x.py", line 1, in f\nsqlalchemy.exc.Boom: row 7\nrow 7:\n(row 7)'
    )
    logging.getLogger("uvicorn.error").error(text)
    (said,) = lines(stream)
    assert "row 7" not in str(said)
    assert "sqlalchemy.exc.Boom" in said["message"]
    assert said["event"] == "server"  # and not `error`, which is uvicorn's name for all of its lines


def test_no_line_twice_and_none_for_the_root(caplog: pytest.LogCaptureFixture) -> None:
    first, second = io.StringIO(), io.StringIO()
    logs.configure("json", first, ())
    logs.configure("json", second, ())
    LOG.info("x")
    logging.getLogger("uvicorn").info("y")
    logging.getLogger("uvicorn.error").info("z")
    logging.getLogger("uvicorn.access").info('%s - "%s %s HTTP/%s" %d', "1.2.3.4:5", "GET", "/?token=a", "1.1", 200)
    assert first.getvalue() == ""
    assert [said["message"] for said in lines(second)] == ["x", "y", "z"]
    assert caplog.records == []


class _Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "no space left on device")


class _Broken:
    def __str__(self) -> str:
        raise RecursionError


def test_a_broken_call_is_counted(capfd: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    handler = logs.configure("json", stream, ())
    LOG.info("%d of them", "many")
    LOG.info("%s %s", "one")
    LOG.info("%s", _Broken())
    LOG.info("x", extra={"outcome": _Broken()})
    assert handler.lost == 4
    LOG.info("still here", extra={"seconds": float("nan"), "attempt": True})
    assert lines(stream)[0]["message"] == "still here"
    closed = io.StringIO()
    for broken in (_Full(), closed):
        closed.close()
        handler = logs.configure("json", broken, ())
        LOG.info("x")
        assert handler.lost == 1
    assert capfd.readouterr() == ("", "")


def test_a_terminal_of_few_letters() -> None:
    raw = io.BytesIO()
    handler = logs.configure("text", io.TextIOWrapper(raw, encoding="ascii"), ())
    LOG.info("größe")
    assert handler.lost == 0
    assert b"gr\\xf6\\xdfe" in raw.getvalue()


def _asked(path: str, status: int | None, level: int = logging.INFO) -> list[dict[str, Any]]:
    """The log of one request to an application that answers with `status`, or raises."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if status is None:
            raise ValueError("row 7 of a person")
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def nothing(*_: Any) -> Any:
        return {}

    stream = io.StringIO()
    logs.configure("json", stream, (), level)
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"token=abc", "headers": []}
    try:
        asyncio.run(logs.Access(app)(scope, nothing, nothing))
    except ValueError:
        assert status is None
    return lines(stream)


def test_a_line_for_each_request() -> None:
    (said,) = _asked("/reports/\u202ex\ny", 404)
    assert (said["event"], said["method"], said["path"], said["status"]) == ("request", "GET", "/reports/x y", 404)
    assert said["level"] == "info"
    assert said["ms"] >= 0
    assert "abc" not in str(said)
    (failed,) = _asked("/", None)
    assert (failed["status"], failed["level"]) == (500, "error")


@pytest.mark.parametrize("path", sorted(logs.QUIET))
def test_health_checks_are_for_debugging(path: str) -> None:
    assert _asked(path, 200) == []
    assert [said["level"] for said in _asked(path, 200, logging.DEBUG)] == ["debug"]


def test_other_scopes_pass_through() -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    asyncio.run(logs.Access(app)({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert seen == ["lifespan"]
