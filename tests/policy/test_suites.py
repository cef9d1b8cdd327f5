"""Suites are readable lists of attacks that exist."""

import pytest

from privacy_gate.attacks import CATALOG
from privacy_gate.errors import UsageError
from privacy_gate.policy import resolve, suite
from privacy_gate.policy.suites import SUITES


def test_suites():
    assert suite("fast") == ["correctness", "confidence", "entropy", "modified_entropy"]
    assert suite("full") == [*suite("fast"), "lira", "rmia"]
    assert set(suite("full")) <= set(suite("deep"))


@pytest.mark.parametrize("name", SUITES)
def test_every_attack_exists(name):
    assert set(suite(name)) <= set(CATALOG.names())


@pytest.mark.parametrize("profile", ["strict", "standard", "internal"])
def test_full_runs_what_every_profile_requires(profile):
    assert set(resolve(profile).rule("PG501").settings.attacks) <= set(suite("full"))


def test_an_unknown_suite():
    with pytest.raises(UsageError, match="ful1") as caught:
        suite("ful1")
    assert "did you mean 'full'?" in caught.value.hint
