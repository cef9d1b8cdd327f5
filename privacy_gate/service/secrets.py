"""What only the service may know: from the environment, or from files that it names. Its children never see it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from privacy_gate.errors import UsageError

WEBHOOK_SECRET = "PRIVACY_GATE_WEBHOOK_SECRET"
SERVICE_TOKEN = "PRIVACY_GATE_SERVICE_TOKEN"
SIGNING_KEY = "PRIVACY_GATE_SIGNING_KEY"
SIGNING_PASSWORD = "PRIVACY_GATE_SIGNING_PASSWORD"
QUEUE_URL = "PRIVACY_GATE_QUEUE_URL"
NAMES = (WEBHOOK_SECRET, SERVICE_TOKEN, SIGNING_KEY, SIGNING_PASSWORD, QUEUE_URL)


def secret(name: str, environment: Mapping[str, str]) -> str | None:
    """The value of NAME, or the content of the file that NAME_FILE names, without the white space around it.

    None where neither is set. Raises UsageError for an empty one, for both at once, and for a file that cannot be read.
    """
    given, place = environment.get(name), environment.get(f"{name}_FILE")
    if given is not None and place is not None:
        raise UsageError(f"{name} and {name}_FILE are both set", "unset one of them")
    if place is not None:
        try:
            given = Path(place).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not text"
            raise UsageError(f"{name}_FILE: {place}: {reason}", "name a file that this user may read") from error
    if given is None:
        return None
    if not given.strip():
        raise UsageError(f"{name} is empty", "set it, or unset it")
    return given.strip()


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a child: all but what only the service may know."""
    hidden = {*NAMES, *(f"{name}_FILE" for name in NAMES)}
    return {name: value for name, value in environment.items() if name not in hidden}
