"""`privacy-gate attacks`: what runs, what answers for the systems of the papers, and what is still to come."""

import json
import re

import pytest

from privacy_gate.attacks import CATALOG
from privacy_gate.cli import run
from privacy_gate.policy import suite
from privacy_gate.policy.suites import SUITES
from privacy_gate.systems import systems

STABLE = {"id", "family", "paper", "requires", "threat_models", "cost"}


@pytest.fixture
def rows(capsys):
    assert run(["attacks", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def shown(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("NO_COLOR", "1")
    assert run(["attacks"]) == 0
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def sections(lines):
    """Title -> its lines."""
    found = {}
    for line in lines:
        if line and not line.startswith(" "):
            found[line] = []
        elif line:
            found[list(found)[-1]].append(line)
    return found


def flat(lines):
    return " ".join(" ".join(lines).split())


def test_json_runnable_attacks(rows):
    available = [row for row in rows if row["status"] == "available"]
    assert [row["id"] for row in available] == CATALOG.names()
    for row in available:
        assert set(row) == STABLE | {"status", "suites"}
        assert row["threat_models"]
        assert row["suites"] == [name for name in SUITES if row["id"] in suite(name)]
    lira = next(row for row in available if row["id"] == "lira")
    assert lira["requires"] == ["logit_confidence", "references"]


def test_json_planned_systems(rows):
    planned = [row for row in rows if row["status"] != "available"]
    assert [row["id"] for row in planned] == [system.id for system in systems().planned]
    for row in planned:
        assert set(row) == STABLE | {"status", "suites", "reason"}
        assert (row["status"], row["threat_models"], row["suites"]) == ("planned", [], [])
        assert row["requires"]
        assert row["reason"].startswith("comes later")


def test_text_fits(shown):
    assert max(map(len, shown)) <= 80


def test_text_has_every_attack_in_its_family(shown):
    found = sections(shown)
    families = [title.removeprefix("Attacks: ") for title in found if title.startswith("Attacks: ")]
    assert sorted(families) == sorted({attack.family for attack in CATALOG})
    assert families[0] == "correctness"
    for family in families:
        lines = found[f"Attacks: {family}"]
        ids = [match[1] for line in lines if (match := re.match(r"  (\S+)", line)) and match[1] in CATALOG]
        assert ids == [attack.id for attack in CATALOG if attack.family == family]
        for attack in CATALOG:
            if attack.family == family:
                assert all(word in flat(lines) for word in attack.summary.split())
                assert attack.paper.split(",")[0] in flat(lines)
                assert ", ".join(attack.threat_models) in flat(lines)


def test_text_has_every_system_once(shown):
    found = sections(shown)
    titles = list(found)[-2:]
    assert titles == ["Systems of the papers: available", "Systems: planned"]
    here, later = (found[title] for title in titles)

    def numbers(lines):
        return [int(match[1]) for line in lines if (match := re.match(r"  ([ \d]\d)  \S", line))]

    assert sorted(numbers(here) + numbers(later)) == list(range(1, 22))
    for system in systems().systems:
        said = flat(here if system.status == "available" else later)
        assert system.name in said
        assert f"needs {', '.join(system.requires)} {system.paper}" in said
        for _, name in system.answers:
            assert name in said
    assert "available: defence memguard" in flat(here)
    assert "comes later, with the attacks on robust models" in flat(later)
    assert "Canaries" in flat(later)
