"""What arrives from a registry: is it the registry's, is it fresh, and what does it say?

MLflow signs "ID.TIMESTAMP.BODY" with HMAC-SHA256 and the secret as UTF-8: mlflow/webhooks/delivery.py.
Its retries carry the same id, timestamp and signature as the first attempt.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from privacy_gate.errors import GateError
from privacy_gate.service import Event

SIGNATURE = "x-mlflow-signature"
TIMESTAMP = "x-mlflow-timestamp"
DELIVERY_ID = "x-mlflow-delivery-id"

NAME_LENGTH = 1000  # characters
DEPTH = 16  # MLflow's events nest three deep
_SIGNATURES = 1000  # bytes of the header; one signature has 47
# No dot in an id: "ID.TIMESTAMP.BODY" can then be cut in one way only, and no part can be passed off as another.
_ID = re.compile(rb"[A-Za-z0-9_-]{1,100}")
_SECONDS = re.compile(rb"[0-9]{1,12}")
_VERSION = re.compile(r"[0-9]{1,18}")
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
# Control characters, and halves of surrogate pairs, which no encoding knows.
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class Unauthorized(GateError):
    """Not signed by who knows the secret, or not now."""


class Malformed(GateError):
    """Signed, but nothing that can be understood."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What the headers of a delivery say; not believed before its signature is checked against the body."""

    id: str
    timestamp: str
    signatures: tuple[bytes, ...]


def claim(headers: Iterable[tuple[bytes, bytes]], now: float, tolerance: float) -> Claim:
    """The claim in raw headers (names in any case), with a look at its form and its time, before any body is read.

    now        seconds since 1970
    tolerance  seconds that its timestamp may be off, either way
    Raises Unauthorized for headers that are missing, given twice or malformed, and for a time that is too far away.
    """
    found: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        found.setdefault(name.lower(), []).append(value)
    id, seconds, signed = (_only(found, name) for name in (DELIVERY_ID, TIMESTAMP, SIGNATURE))
    if not _ID.fullmatch(id):
        raise Unauthorized("the delivery id is not one")
    if not _SECONDS.fullmatch(seconds):
        raise Unauthorized("the timestamp is not in seconds since 1970")
    if len(signed) > _SIGNATURES:
        raise Unauthorized("the signature header is too long")
    if not abs(now - int(seconds)) <= tolerance:
        raise Unauthorized(f"the timestamp is {now - int(seconds):.0f} s old, {tolerance:.0f} s are believed")
    return Claim(id.decode(), seconds.decode(), tuple(signed.split(b" ")))


def _only(headers: Mapping[bytes, list[bytes]], name: str) -> bytes:
    given = headers.get(name.encode(), [])
    if len(given) != 1:
        raise Unauthorized(f"{name} is given {len(given)} times")
    return given[0]


def signature(id: str, timestamp: str, body: bytes, secret: str) -> bytes:
    """The signature of a delivery: v1,BASE64."""
    said = f"{id}.{timestamp}.".encode() + body
    return b"v1," + base64.b64encode(hmac.digest(secret.encode(), said, hashlib.sha256))


def believe(claimed: Claim, body: bytes, secret: str) -> str:
    """The id of a delivery whose signature, or one of several, is right. Raises Unauthorized."""
    if not secret:
        raise Unauthorized("without a secret nothing is believed")
    right = signature(claimed.id, claimed.timestamp, body, secret)
    # Each one is compared, and each in constant time: how long this takes tells nothing about the right one.
    if not sum(hmac.compare_digest(right, given) for given in claimed.signatures):
        raise Unauthorized("the signature is not the one of this body")
    return claimed.id


def verify(headers: Iterable[tuple[bytes, bytes]], body: bytes, secret: str, now: float, tolerance: float) -> str:
    """The id of a delivery that is the registry's and fresh. Raises Unauthorized."""
    return believe(claim(headers, now, tolerance), body, secret)


def document(body: bytes) -> dict[str, Any]:
    """The body's JSON object, in UTF-8. Raises Malformed, also for keys given twice, NaN, and too many levels."""
    _shallow(body)
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise Malformed("the body is not UTF-8") from error
    except (ValueError, RecursionError) as error:  # ValueError: numbers of thousands of digits, too
        raise Malformed("the body is not JSON") from error
    if not isinstance(value, dict):
        raise Malformed("the body is not a JSON object")
    return value


def _shallow(body: bytes) -> None:
    """Count the levels without a parser, which would have to go down there first: peel off brackets from the inside."""
    brackets = _STRING.sub(b"", body).translate(bytes.maketrans(b"{}", b"[]"))
    brackets = re.sub(rb"[^\[\]]+", b"", brackets)
    for _ in range(DEPTH):
        brackets = brackets.replace(b"[]", b"")
    if brackets:
        raise Malformed(f"the body is nested more than {DEPTH} deep, or its brackets do not match")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Malformed("a key of the body is given twice")
    return found


def _no_constant(name: str) -> None:
    raise Malformed("the body has a number that JSON does not know")


def event(said: Mapping[str, Any]) -> Event | None:
    """The event in a body's object; None: one that does not concern versions. Raises Malformed."""
    entity, action = _text(said, "entity"), _text(said, "action")
    data = said.get("data")
    if not isinstance(data, dict):
        raise Malformed("data is not an object")
    match entity, action:
        case "registered_model", "created":
            return Event(entity, action, _text(data, "name"))
        case "model_version", "created":
            return Event(entity, action, _text(data, "name"), _version(data))
        case "model_version_tag", "set" | "deleted":
            return Event(entity, action, _text(data, "name"), _version(data), key=_text(data, "key"))
        case "model_version_alias", "created" | "deleted":
            return Event(entity, action, _text(data, "name"), _version(data), alias=_text(data, "alias"))
    return None


def _text(said: Mapping[str, Any], key: str) -> str:
    value = said.get(key)
    if not isinstance(value, str):
        raise Malformed(f"{key} is not a text")
    if not 1 <= len(value) <= NAME_LENGTH:
        raise Malformed(f"{key} has {len(value)} characters")
    if _FORBIDDEN.search(value):
        raise Malformed(f"{key} has control characters")
    return value


def _version(said: Mapping[str, Any]) -> str | None:
    value = said.get("version")
    if value is None:
        return None
    if not isinstance(value, str) or not _VERSION.fullmatch(value):
        raise Malformed("version is not a number in a text")
    return value


def parse(body: bytes) -> Event | None:
    """What a body says has happened; None: nothing that concerns versions. Raises Malformed."""
    return event(document(body))


# What `test_webhook` of a registry sends, signed as all others: mlflow/webhooks/types.py. Only what is there in full
# is a test: a team may well have a model of this name.
_TESTS: dict[tuple[str, str], dict[str, Any]] = {
    ("registered_model", "created"): {
        "name": "example_model",
        "tags": {"example_key": "example_value"},
        "description": "An example registered model",
    },
    ("model_version", "created"): {
        "name": "example_model",
        "version": "1",
        "source": "models:/123",
        "run_id": "abcd1234abcd5678",
        "tags": {"example_key": "example_value"},
        "description": "An example model version",
    },
    ("model_version_tag", "set"): {
        "name": "example_model",
        "version": "1",
        "key": "example_key",
        "value": "example_value",
    },
    ("model_version_tag", "deleted"): {"name": "example_model", "version": "1", "key": "example_key"},
    ("model_version_alias", "created"): {"name": "example_model", "alias": "example_alias", "version": "1"},
    ("model_version_alias", "deleted"): {"name": "example_model", "alias": "example_alias"},
}


def is_test(said: Mapping[str, Any]) -> bool:
    """Whether it is the event that a registry sends to try a webhook; `said` as `document` gives it."""
    entity, action = said.get("entity"), said.get("action")
    if not isinstance(entity, str) or not isinstance(action, str):
        return False
    return (example := _TESTS.get((entity, action))) is not None and said.get("data") == example
