"""`privacy-gate attacks`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from privacy_gate.cli import app


@app.command()
def attacks(as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False) -> None:
    """List every attack: what it needs, what it costs, where it comes from."""
    from privacy_gate.attacks import CATALOG

    if as_json:
        rows = [
            {
                "id": attack.id,
                "family": attack.family,
                "paper": attack.paper,
                "requires": sorted(attack.requires) + (["references"] if attack.min_in or attack.min_out else []),
                "threat_models": [str(model) for model in attack.threat_models],
                "cost": attack.cost,
            }
            for attack in CATALOG
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for attack in CATALOG:
        table.add_row(Text(attack.id, style="bold"), Text(attack.summary))
        table.add_row("", Text(f"{', '.join(map(str, attack.threat_models))} · {attack.paper}", style="dim"))
    Console(highlight=False).print(table)
