"""What every rule promises, run over the catalog: a new rule is tested by being there."""

import datetime
import re

import pytest

from privacy_gate.datamodel import RuleStatus
from privacy_gate.policy import CATALOG, Decided, Measured, judge, resolve
from privacy_gate.policy.contract import Effort
from privacy_gate.policy.examples import evidence
from privacy_gate.resources import template

RULES = list(CATALOG)
STANDARD = resolve("standard")


def outcome(id, example):
    return next(rule for rule in judge(STANDARD, example).rules if rule.id == id)


def test_the_catalog_has_the_rules():
    spoken_of = "PG101 PG102 PG103 PG104 PG201 PG202 PG203 PG204 PG301 PG302 PG401 PG501 PG502"
    assert set(spoken_of.split()) <= set(CATALOG.names())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
class TestEveryRule:
    def test_is_named(self, rule):
        assert re.fullmatch(r"PG\d{3}", rule.id)
        assert rule.title
        assert re.fullmatch(r"[a-z_]+\.[a-z0-9_.]+", rule.metric)
        assert rule.summary.endswith(".")

    def test_documents_its_settings(self, rule):
        assert all(field.description for field in rule.settings.model_fields.values())

    def test_passes_on_its_good_example(self, rule):
        assert outcome(rule.id, rule.example_pass).status is RuleStatus.PASS

    def test_does_not_pass_on_its_bad_example(self, rule):
        bad = outcome(rule.id, rule.example_fail)
        # What speaks against the evidence, not against the model, convicts nobody.
        expected = RuleStatus.INCONCLUSIVE if rule.id in ("PG204", "PG501", "PG502") else RuleStatus.FAIL
        assert bad.status is expected
        assert bad.reason

    def test_never_passes_on_nothing(self, rule):
        assert outcome(rule.id, evidence([], attributable=None, findings=())).status is not RuleStatus.PASS

    def test_is_pure(self, rule):
        settings = STANDARD.rule(rule.id).settings
        first, second = (rule.examine(settings, rule.example_fail) for _ in range(2))
        assert isinstance(first, Measured | Decided)
        if isinstance(first, Measured):
            assert [cell.name for cell in first.cells] == [cell.name for cell in second.cells]
            assert len({cell.name for cell in first.cells}) == len(first.cells)
        else:
            assert first == second

    def test_stands_in_every_profile(self, rule):
        assert all(resolve(profile).rule(rule.id) for profile in ("strict", "standard", "internal"))

    def test_knows_how_many_records_decide(self, rule):
        settings = STANDARD.rule(rule.id).settings
        if rule.needed is None:
            return
        needed = rule.needed(settings, Effort(None, 0.05, 0.8, 5000, 5000))
        assert set(needed) in (set(), {"members", "nonmembers"})
        assert all(isinstance(count, int) and count > 0 for count in needed.values())
        # Nobody can say where a value at the limit lies.
        limit = getattr(settings, "max", None)
        if limit is not None and rule.metric != "attack.tpr_at_fpr_0.01" and rule.metric != "attack.tpr_at_fpr_0.001":
            assert rule.needed(settings, Effort(limit, 0.05, 0.8, 5000, 5000)) == {}

    def test_loosening_is_noticed(self, rule):
        settings = STANDARD.rule(rule.id).settings.model_copy(update={"action": "block"})
        assert settings.loosened(settings) == []
        assert "action" in settings.model_copy(update={"action": "warn"}).loosened(settings)
        assert settings.loosened(settings.model_copy(update={"action": "warn"})) == []
        floor = settings.model_copy(update={"floor": True})
        assert "floor" in settings.loosened(floor)
        later = settings.model_copy(update={"enforce_from": datetime.date(2026, 12, 1)})
        assert "enforce_from" in later.loosened(settings)
        assert settings.loosened(later) == []

    def test_is_explained(self, rule):
        text = template("explain", f"{rule.id}.md").read_text()
        headings = [line[3:] for line in text.splitlines() if line.startswith("## ")]
        assert headings[0] == "In plain words"
        assert headings[-1] == "How to mend"
