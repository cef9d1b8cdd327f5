"""`privacy-gate attacks`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from privacy_gate.cli import app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from privacy_gate.attacks import Attack
    from privacy_gate.systems import System

# Families that come first, weakest assumptions on the attacker first; any other follows in alphabetical order.
_FAMILIES = ("correctness", "label-only", "metric", "quantile", "neural", "learned", "reference", "white-box")


@app.command()
def attacks(as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False) -> None:
    """List every attack, and every system of the papers: what it needs, where it comes from, what answers for it."""
    from privacy_gate.attacks import CATALOG
    from privacy_gate.systems import systems

    suites = _suites()
    if as_json:
        rows = [*(_runnable(attack, suites) for attack in CATALOG), *(_planned(s) for s in systems().planned)]
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console

    out = Console(highlight=False)
    for title, entries in _sections(list(CATALOG), suites):
        _print(out, title, entries)


def _suites() -> dict[str, list[str]]:
    """Attack -> the suites that run it."""
    from privacy_gate.policy.suites import SUITES, suite

    found: dict[str, list[str]] = {}
    for name in SUITES:
        for attack in suite(name):
            found.setdefault(attack, []).append(name)
    return found


def _requires(attack: Attack) -> list[str]:
    return sorted(attack.requires) + (["references"] if attack.min_in or attack.min_out else [])


def _runnable(attack: Attack, suites: dict[str, list[str]]) -> dict[str, Any]:
    return {
        "id": attack.id,
        "family": attack.family,
        "paper": attack.paper,
        "requires": _requires(attack),
        "threat_models": [str(model) for model in attack.threat_models],
        "cost": attack.cost,
        "status": "available",
        "suites": suites.get(attack.id, []),
    }


def _planned(system: System) -> dict[str, Any]:
    return {
        "id": system.id,
        "family": system.family,
        "paper": system.paper,
        "requires": list(system.requires),
        "threat_models": [],
        "cost": "",
        "status": "planned",
        "suites": [],
        "reason": system.later,
    }


# --- for people -----------------------------------------------------------------------------------------------------

_Entry = tuple[str, str, tuple[str, ...]]  # a short name, what it is, and what else there is to say of it


def _sections(catalog: list[Attack], suites: dict[str, list[str]]) -> Iterator[tuple[str, list[_Entry]]]:
    """Attacks by family, then the systems of the papers that something answers for, then those that come later."""
    from privacy_gate.systems import systems

    families = sorted({a.family for a in catalog}, key=lambda f: (_FAMILIES.index(f) if f in _FAMILIES else 99, f))
    for family in families:
        yield f"Attacks: {family}", [_of_attack(a, suites.get(a.id, [])) for a in catalog if a.family == family]
    here = [system for system in systems().systems if system.status == "available"]
    yield "Systems of the papers: available", [_of_system(system) for system in here]
    yield "Systems: planned", [_of_system(system) for system in systems().planned]


def _of_attack(attack: Attack, suites: list[str]) -> _Entry:
    decided = f"{', '.join(map(str, attack.threat_models))} · in {', '.join(suites) or 'no suite'}"
    costs = "" if attack.cost == "none" else f" · costs {attack.cost}"
    return attack.id, attack.summary, (decided, f"needs {', '.join(_requires(attack))}{costs}", attack.paper)


def _of_system(system: System) -> _Entry:
    from privacy_gate.systems import KINDS

    answers = "; ".join(
        f"{kind if len(names) > 1 else kind.removesuffix('s')} {', '.join(names)}"
        for kind in KINDS
        if (names := getattr(system, kind))
    )
    status = f"available: {answers}" if answers else str(system.later)
    number = f"{system.number:2d}" if system.number else " +"
    return number, system.name, (status, f"needs {', '.join(system.requires)}", system.paper)


def _print(out: Console, title: str, entries: list[_Entry]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, what, more in entries:
        table.add_row(Text(f"  {name}", style="bold"), Text(what))
        for line in more:
            table.add_row("", Text(line, style="dim"))
    out.print(Text(title, style="bold underline"))
    out.print(table)
    out.print()
