"""The list of systems and the catalogs say the same."""

import pytest

from privacy_gate import systems as module
from privacy_gate.attacks import CATALOG as ATTACKS
from privacy_gate.causes import CATALOG as CAUSES
from privacy_gate.defences import CATALOG as DEFENCES
from privacy_gate.errors import ConfigError
from privacy_gate.resources import template
from privacy_gate.risk import CATALOG as ESTIMATORS
from privacy_gate.systems import KINDS, systems
from privacy_gate.validity import CATALOG as CHECKS

CATALOGS = {"attacks": ATTACKS, "defences": DEFENCES, "estimators": ESTIMATORS, "causes": CAUSES, "checks": CHECKS}


def named(kind):
    """All names of one kind that the list has, of the papers and beyond."""
    of_papers = [name for system in systems().systems for name in getattr(system, kind)]
    return of_papers + list(getattr(systems().beyond, kind, ()))


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_named_exists(kind):
    assert set(named(kind)) - set(CATALOGS[kind].names()) == set()


@pytest.mark.parametrize("kind", ["attacks", "defences"])
def test_whatever_exists_is_named(kind):
    assert set(CATALOGS[kind].names()) - set(named(kind)) == set()


def test_beyond_is_what_no_system_has():
    of_papers = {name for system in systems().systems for name in (*system.attacks, *system.defences)}
    assert not of_papers & {*systems().beyond.attacks, *systems().beyond.defences}


def test_the_twenty_one_systems():
    assert [system.number for system in systems().systems] == list(range(1, 22))
    assert [system.number for system in systems().systems if system.status == "planned"] == [9, 14, 15, 16, 17, 19]
    assert "canaries" in [system.id for system in systems().planned]
    assert all(system.later and system.later.startswith("comes later") for system in systems().planned)


def test_a_planned_system_is_not_taken_for_an_attack():
    assert not {system.id for system in systems().planned} & {name for kind in KINDS for name in CATALOGS[kind].names()}


def edited(tmp_path, monkeypatch, old, new):
    text = template("systems.yaml").read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "systems.yaml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    monkeypatch.setattr(module, "template", lambda name: path)
    return systems.__wrapped__


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("attacks: [shokri_nn]", "attacks: []", "name the plug-ins that answer for it, or say `later`"),
        ("attacks: [shokri_nn]", "attacks: [shokri_nn]\n    later: some day", "and not both"),
        ("number: 2", "number: 3", "numbered from 1 without a gap"),
        ("id: canaries", "id: memguard", "two systems have the same id: memguard"),
        ("attacks: [shokri_nn]", "attack: [shokri_nn]", "attack"),
    ],
)
def test_a_mistake_in_the_list_is_refused(tmp_path, monkeypatch, old, new, message):
    read = edited(tmp_path, monkeypatch, old, new)
    with pytest.raises(ConfigError) as caught:
        read()
    assert message in str(caught.value)
    assert "templates/systems.yaml" in str(caught.value)
