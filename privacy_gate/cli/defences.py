"""`privacy-gate defences`: what is there, what the config names, and what would help."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privacy_gate.cli import app
from privacy_gate.errors import ExitCode

if TYPE_CHECKING:
    from privacy_gate.reports.document import Interval, Report

defences_app = typer.Typer(help="List defences, show the configured one, compare others with it.")
app.add_typer(defences_app, name="defences")

AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", help="Default: privacy-gate.yaml in this folder, if there is one.", show_default=False
    ),
]


@defences_app.callback(invoke_without_command=True)
def listed(context: typer.Context, as_json: AsJson = False) -> None:
    """List defences; show the configured one; compare others with it."""
    if context.invoked_subcommand is not None:
        return
    from privacy_gate.defences import CATALOG

    if as_json:
        rows = [
            {
                "id": defence.id,
                "kind": defence.kind,
                "paper": defence.paper,
                "on": defence.on,
                "needs_reference": defence.reference,
                "settings": defence.settings.model_json_schema(),
            }
            for defence in CATALOG
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for defence in CATALOG:
        table.add_row(Text(defence.id, style="bold"), Text(defence.summary))
        own = " · records of its own (data.seen)" if defence.reference else ""
        table.add_row("", Text(f"{defence.kind} · on {defence.on}{own}", style="dim"))
        names = ", ".join(name for name in defence.settings.model_fields)
        table.add_row("", Text(f"settings: {names} · {defence.paper}", style="dim"))
    Console(highlight=False).print(table)


@defences_app.command()
def show(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show the configured defence in full, and the tags that declare it in the registry."""
    from privacy_gate.build import build
    from privacy_gate.defences import configure

    request = build(config=config)
    found = configure(request.config.defence if request.config else {})
    document = json.dumps(found.document, sort_keys=True)
    if as_json:
        typer.echo(json.dumps({"defence": found.document, "digest": found.digest if found else None}, indent=2))
        return
    if not found:
        typer.echo("no defence is configured: the model is judged as it answers")
        return
    typer.echo(f"defence  {found.name}\ndigest   {found.digest}")
    typer.echo("Tags of a model version that declare it, so that nobody forgets it:")
    typer.echo(f"  defence={document}\n  defence_digest={found.digest}")


@defences_app.command()
def compare(
    model: Annotated[
        str | None, typer.Argument(help="As in `check`. Default: the config's model.", show_default=False)
    ] = None,
    config: ConfigFile = None,
    policy: Annotated[Path | None, typer.Option(help="A policy file.", show_default=False)] = None,
    profile: Annotated[
        str | None, typer.Option(help="strict, standard or internal. Default: standard.", show_default=False)
    ] = None,
    suite: Annotated[str, typer.Option(help="fast, full or deep.")] = "full",
    store: Annotated[Path | None, typer.Option(help="Where finished shadows are kept.", show_default=False)] = None,
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("privacy-gate-defences"),
    seed: Annotated[int | None, typer.Option(min=0, show_default=False)] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Worker processes. Default: the usable cores.", show_default=False)
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda, as for check.")] = "cpu",
    no_mlflow_log: Annotated[bool, typer.Option("--no-mlflow-log", help="Write nothing back to MLflow.")] = False,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="The table only.")] = False,
) -> int:
    """Judge the candidate's recipe with other defences: what to do about a model that fails.

    Tries the list under `compare:` in the config, or what the defences suggest for
    this kind of model. Each row is judged by the policy that `check` would use.

    Exit code: 0 if a row passes, 1 if all fail; else 4 (3 if the evaluation broke).
    """
    from privacy_gate.build import build
    from privacy_gate.cli.console import ConsoleProgress, clean, show_verdict
    from privacy_gate.closing import set_aside
    from privacy_gate.pipeline import check as run_check

    set_aside(out)
    request = build(
        model=model,
        config=config,
        policy=policy,
        profile=profile,
        suite=suite,
        store=store,
        out=out,
        formats=("html", "markdown"),
        seed=seed,
        jobs=jobs,
        device=device,
        mlflow_log=not no_mlflow_log,
    )
    outcome = run_check(request, ConsoleProgress(quiet=quiet), compare=True)
    report = outcome.report
    if as_json:
        typer.echo(json.dumps([one.model_dump(mode="json") for one in report.alternatives], indent=2))
    if not report.alternatives:
        show_verdict(report, {name: str(path) for name, path in outcome.paths.items()})
        return outcome.exit_code
    if not as_json:
        _table(report)
    for warning in report.warnings:
        typer.echo(f"warning: {clean(warning)}", err=True)
    for name, path in outcome.paths.items():
        typer.echo(f"  {name}: {path}", err=True)
    return exit_code(one.exit_code for one in report.alternatives)


def exit_code(codes: Iterable[int]) -> int:
    """0 if one passes, 1 if all fail; otherwise something stayed open or broke: the smallest code that says so."""
    found = set(codes)
    return min(found - {int(ExitCode.VIOLATED)}, default=int(ExitCode.VIOLATED))


def _share(found: Interval | None) -> str:
    """A share of members; of few of them only the upper bound is told."""
    from privacy_gate.reports import figures

    if found is None or found.value is not None:
        return figures.percent(None if found is None else found.value)
    return figures.at_most(found.high, "percent")


def _table(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from privacy_gate.cli.console import MARKS, clean
    from privacy_gate.reports import charts, figures

    rates = sorted({rate for one in report.alternatives for rate in one.tpr_at_fpr}, key=float, reverse=True)
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    table.add_column("defence")
    for name in ("unseen", "change", "attack", *(f"TPR@{figures.rate_name(rate)}" for rate in rates), "high risk"):
        table.add_column(name, justify="right", no_wrap=True)
    for number, one in enumerate(report.alternatives):
        if number:
            table.add_row()  # rows of several lines need room between them
        mark, style = MARKS[one.status]
        held = [", ".join(one.violated)] if one.violated else []
        held += [f"open: {', '.join(one.undecided)}"] if one.undecided else []
        told = f"{mark} {one.status.value.replace('_', ' ')}{': ' if held else ''}{'; '.join(held)}"
        again = "\ntrained again" if one.retrained else ""
        table.add_row(
            Text.assemble(clean(one.name), (again, "dim"), "\n", (told, style)),
            figures.percent(one.test_accuracy, 1),
            figures.points(one.gain).removesuffix(" pts") if number else figures.DASH,
            figures.percent(one.accuracy.value, 1) if one.accuracy else figures.DASH,
            *(figures.percent(one.tpr_at_fpr[r].value) if r in one.tpr_at_fpr else figures.DASH for r in rates),
            _share(one.high_risk),
        )
    out = Console(highlight=False, markup=False)
    out.print(table)
    out.print(Text(f"\n{textwrap.fill(clean(charts.said_of(report.alternatives)), out.width)}"))
