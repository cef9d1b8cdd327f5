"""Whom the subscriptions are about: a pattern that fits no model judges nothing, and says so nowhere else."""

from __future__ import annotations

from collections.abc import Callable

from privacy_gate.errors import GateError
from privacy_gate.registry import Registry
from privacy_gate.sandbox.untrusted import clean
from privacy_gate.service.health import Finding
from privacy_gate.service.subscriptions import Subscriptions, find, fits

_CLOSE = 3  # models that are named


def coverage(subscriptions: Subscriptions, registry: Callable[[], Registry]) -> list[Finding]:
    """Which subscriptions fit no registered model, or only such as an earlier one takes; asks for the list once."""
    try:
        names = sorted({version.name for version in registry().versions()})
    except GateError as error:
        return [Finding("models", "warn", f"the registry does not list its models: {error.what}", error.hint)]
    findings = []
    for subscription in subscriptions.subscriptions:
        fitting = [name for name in names if fits(subscription.name, name)]
        pattern = clean(subscription.name, 200)
        if not fitting:
            detail = f"{pattern}: fits none of {_count(names)}"
            findings.append(Finding("models", "warn", detail, _mend(pattern, names)))
        elif all(find(subscriptions, name) is not subscription for name in fitting):
            detail = f"{pattern}: an earlier subscription takes every model that fits it"
            findings.append(Finding("models", "warn", detail, "the first one that fits is a model's own: move it up"))
    taken = sum(find(subscriptions, name) is not None for name in names)
    return findings or [Finding("models", "ok", f"{taken} of {_count(names)} are subscribed to")]


def _count(names: list[str]) -> str:
    return f"the {len(names)} registered models" if len(names) != 1 else "the 1 registered model"


def _mend(pattern: str, names: list[str]) -> str:
    stem = pattern.rstrip("*?-_. ").lower()
    close = [clean(name, 100) for name in names if stem and name.lower().startswith(stem)]
    if close:
        return f"there is {', '.join(close[:_CLOSE])}: {stem}* would fit, and every other name that begins so"
    return "write the name as it is registered, or wait until the first such model is"
