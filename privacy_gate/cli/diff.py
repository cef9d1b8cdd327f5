"""`privacy-gate diff`: what changed between two reports, and whether it is more than noise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privacy_gate.cli import app

if TYPE_CHECKING:
    from rich.console import Console

    from privacy_gate.reports.compare import Change, Comparison, Direction
    from privacy_gate.reports.document import Report
    from privacy_gate.reports.figures import Unit

_MARKS: dict[Direction, tuple[str, str]] = {
    "worse": ("worse", "bold red"),
    "better": ("better", "green"),
    "noise": ("within noise", "dim"),
    "same": ("the same", "dim"),
    "unknown": ("not comparable", "yellow"),
}


@app.command(no_args_is_help=True)
def diff(
    old: Annotated[Path, typer.Argument(help="The earlier report.json.", show_default=False)],
    new: Annotated[Path, typer.Argument(help="The later report.json.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    attacks: Annotated[bool, typer.Option("--attacks", help="Every attack, not only the rules.")] = False,
) -> None:
    """Compare two reports: 0 no proven regression, 1 a blocking rule is proven worse or a pass became a failure."""
    import json

    from privacy_gate.errors import ExitCode
    from privacy_gate.reports.compare import as_json as plain
    from privacy_gate.reports.compare import compare

    found = compare(_read(old), _read(new))
    if as_json:
        typer.echo(json.dumps(plain(found), indent=2, ensure_ascii=True, allow_nan=False))
    else:
        _show(found, attacks)
    raise typer.Exit(int(ExitCode.VIOLATED if found.regressed else ExitCode.PASS))


def _read(path: Path) -> Report:
    from privacy_gate.errors import UsageError
    from privacy_gate.reports.document import read

    try:
        return read(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}", "give the report.json that `check` wrote") from error
    except UsageError as error:
        raise UsageError(f"{path}: {error.what}", error.hint) from error


def _show(found: Comparison, attacks: bool) -> None:
    """Everything as plain text: anybody may have written a report."""
    from rich.console import Console
    from rich.text import Text

    from privacy_gate.cli.console import clean

    out = Console(highlight=False)
    for name, side in (("old", found.old), ("new", found.new)):
        subject, verdict = clean(side["subject"] or "predictions"), clean(side["verdict"]).replace("_", " ")
        out.print(Text(f"{name}: {subject} {(side['digest'] or '')[:12]}  {verdict}: {clean(side['headline'])}"))
    if found.identical:
        out.print(Text("The two reports have the same content."))
        return
    for line in found.apart:
        out.print(Text(f"note: {line}", style="yellow"))
    _rules(found, out)
    if attacks:
        _attacks(found, out)
    _high_risk(found, out)
    out.print(Text(_conclusion(found), style="bold red" if found.regressed else "bold"), soft_wrap=True)


def _conclusion(found: Comparison) -> str:
    if found.regressed:
        reasons = ["a pass became a failure"] if found.turned else []
        reasons += [f"{id} is worse beyond noise" for id in found.proven]
        return f"Regression: {'; '.join(reasons)}."
    return "No regression is proven. That is not a proof that there is none: bounds of a change may be wide."


def _rules(found: Comparison, out: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    from privacy_gate.cli.console import clean
    from privacy_gate.reports import figures

    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    for name in ("rule", "what", "status", "limit", "old", "new", "change", ""):
        table.add_column(name, justify="right" if name in {"old", "new", "change", "limit"} else "left")
    for rule in found.rules:
        kind = figures.unit(rule.metric)
        limits = dict.fromkeys(figures.amount(x, kind) for x in (rule.old_limit, rule.new_limit))
        mark, style = _MARKS[rule.values.direction]
        table.add_row(
            Text(clean(rule.id)),
            Text(clean(rule.title)),
            Text(_turned(rule.old_status, rule.new_status)),
            Text(" → ".join(limits)),
            *(Text(figures.amount(x, kind)) for x in (rule.values.old, rule.values.new)),
            Text(_change(rule.values, kind)),
            Text(mark if rule.values.change is not None else "", style=style),
        )
    out.print(table)


def _turned(old: str | None, new: str | None) -> str:
    names = [str(status).replace("_", " ") if status is not None else "no such rule" for status in (old, new)]
    return " → ".join(dict.fromkeys(names))


def _change(values: Change, kind: Unit) -> str:
    """`+3.1 % [1.2, 5.0]`."""
    from privacy_gate.reports import figures

    if values.change is None:
        return figures.DASH
    shown = ("+" if values.change > 0 else "") + figures.amount(values.change, kind)
    return f"{shown} {figures.bounds(values.low, values.high, kind)}" if values.low is not None else shown


def _attacks(found: Comparison, out: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    from privacy_gate.cli.console import clean
    from privacy_gate.reports import figures

    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    for name in ("attack", "metric", "old", "new", "change", ""):
        table.add_column(name, justify="right" if name in {"old", "new", "change"} else "left")
    for attack in found.attacks:
        kind = figures.unit(attack.metric)
        mark, style = _MARKS[attack.values.direction]
        table.add_row(
            Text(clean(attack.cell)),
            Text(clean(attack.metric)),
            *(Text(figures.amount(x, kind)) for x in (attack.values.old, attack.values.new)),
            Text(_change(attack.values, kind)),
            Text(mark, style=style),
        )
    out.print(table)


def _high_risk(found: Comparison, out: Console) -> None:
    from rich.text import Text

    from privacy_gate.reports import figures

    for high in found.high_risk:
        counts = " → ".join("hidden" if n is None else f"{n:,}" for n in (high.old_members, high.new_members))
        share = _change(high.attributable, "percent")
        mark = _MARKS[high.attributable.direction][0]
        out.print(
            Text(
                f"members at risk score {figures.amount(high.score, 'plain')}: {counts}; beyond chance {share}, {mark}"
            )
        )
