"""Subscriptions that fit nobody are told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import yaml

from privacy_gate.errors import RegistryUnreachable
from privacy_gate.resources import template
from privacy_gate.service.coverage import coverage
from privacy_gate.service.subscriptions import Subscriptions, find


def subscribed(*patterns: str) -> Subscriptions:
    own = [{"name": pattern, "config": "privacy-gate.yaml"} for pattern in patterns]
    return Subscriptions.model_validate({"apiVersion": "privacy-gate/subscriptions/v1", "subscriptions": own})


class Registered:
    def __init__(self, *names: str) -> None:
        self.names, self.asked = names, 0

    def versions(self) -> Any:
        self.asked += 1
        if not self.names:
            raise RegistryUnreachable("it is down", "wait")
        return iter([SimpleNamespace(name=name) for name in self.names for _ in range(2)])


def told(registry: Any, *patterns: str) -> list[tuple[str, str]]:
    findings = coverage(subscribed(*patterns), lambda: registry)
    assert registry.asked == 1
    return [(finding.level, f"{finding.detail} | {finding.mend}") for finding in findings]


def test_a_pattern_that_fits_nobody() -> None:
    ((level, text), *rest) = told(Registered("churn", "fraud"), "churn-*", "fraud")
    assert (level, rest) == ("warn", [])
    assert text.startswith("churn-*: fits none of the 2 registered models | there is churn: churn* would fit")
    ((level, text),) = told(Registered("\x1b[31mred"), "churn-*")
    assert text.startswith("churn-*: fits none of the 1 registered model | write the name as it is registered")


def test_one_whose_models_are_all_taken() -> None:
    ((level, text),) = told(Registered("churn", "churn-eu"), "churn*", "churn-eu")
    assert level == "warn"
    assert text.startswith("churn-eu: an earlier subscription takes every model that fits it")


def test_all_in_order_and_a_registry_that_is_down() -> None:
    assert told(Registered("churn", "fraud"), "churn*") == [("ok", "1 of the 2 registered models are subscribed to | ")]
    ((level, text),) = told(Registered(), "churn*")
    assert (level, text) == ("warn", "the registry does not list its models: it is down | wait")


def test_the_scaffold_fits_the_model_of_the_guide() -> None:
    text = template("scaffolds", "subscriptions.yaml.jinja").read_text(encoding="utf-8")
    drafted = Subscriptions.model_validate(yaml.safe_load(text))
    assert find(drafted, "churn") is not None
    assert find(drafted, "churn-eu") is not None
