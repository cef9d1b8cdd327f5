"""Suites are readable lists of attacks that exist."""

import pytest

from privacy_gate.attacks import CATALOG
from privacy_gate.datamodel import ThreatModel
from privacy_gate.errors import UsageError
from privacy_gate.policy import resolve, suite
from privacy_gate.policy.suites import SUITES
from privacy_gate.signals import PROBES

METRIC = ["correctness", "confidence", "entropy", "modified_entropy"]


def needs(id: str) -> set[str]:
    """What an attack asks of the model beside one answer per record."""
    return {PROBES[name].needs for name in CATALOG[id].requires if name in PROBES}


def families(name: str) -> set[str]:
    return {CATALOG[id].family for id in suite(name)}


def test_each_suite_begins_with_the_metric_attacks():
    for name in SUITES:
        assert suite(name)[: len(METRIC)] == METRIC


def test_each_suite_has_all_of_the_smaller_one():
    assert set(suite("fast")) < set(suite("full")) < set(suite("deep"))


@pytest.mark.parametrize("name", SUITES)
def test_every_attack_exists_and_is_named_once(name):
    assert set(suite(name)) <= set(CATALOG.names())
    assert len(set(suite(name))) == len(suite(name))


def test_deep_is_every_attack():
    """An attack that no suite names would decide nothing."""
    assert set(suite("deep")) == set(CATALOG.names())


def test_fast_needs_neither_references_nor_more_than_one_answer():
    for id in suite("fast"):
        attack = CATALOG[id]
        assert not needs(id)
        assert not attack.min_in
        assert not attack.min_out
        assert ThreatModel.REFERENCE not in attack.threat_models


def test_full_has_every_family_but_the_one_that_needs_weights():
    assert families("deep") - families("full") == {"white-box"}


def test_full_needs_no_weights_and_only_probes_that_shadows_get_too():
    for id in suite("full"):
        assert "weights" not in needs(id)
        assert all(PROBES[name].shadows for name in CATALOG[id].requires if name in PROBES)
    assert {id for id in set(suite("deep")) - set(suite("full")) if not needs(id)} == set()


@pytest.mark.parametrize("profile", ["strict", "standard", "internal"])
def test_full_runs_what_every_profile_requires(profile):
    assert set(resolve(profile).rule("PG501").settings.attacks) <= set(suite("full"))


def test_an_unknown_suite():
    with pytest.raises(UsageError, match="ful1") as caught:
        suite("ful1")
    assert "did you mean 'full'?" in caught.value.hint
