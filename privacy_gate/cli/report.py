"""`privacy-gate report`: render again, compute nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from privacy_gate.cli import app


@app.command(no_args_is_help=True)
def report(
    source: Annotated[Path, typer.Argument(help="A report.json.", show_default=False)],
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="html, markdown, json; NAME=- prints it to stdout. Default: html and markdown.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="A folder, or - for stdout. Default: beside the report.", show_default=False),
    ] = None,
) -> None:
    """Render a report.json again, in any format, without computing anything."""
    from privacy_gate.errors import UsageError
    from privacy_gate.reports import CATALOG
    from privacy_gate.reports.document import read
    from privacy_gate.storage import private_dir, write_text

    wanted = formats or ["html", "markdown"]
    chosen = [CATALOG[name] for name in wanted if not name.endswith("=-")]
    printed = [CATALOG[name.removesuffix("=-")] for name in wanted if name.endswith("=-")]
    if not source.is_file():
        raise UsageError(f"{source}: no such report", "give the path of a report.json")
    document = read(source.read_bytes())
    if str(out) == "-":
        chosen, printed = [], [*chosen, *printed]
    if len(printed) > 1:
        raise UsageError("stdout takes one format", "name it with --format")
    for form in printed:
        typer.echo(form.render(document), nl=False)
    if not chosen:
        return
    folder = private_dir(out or source.parent)
    for form in chosen:
        target = folder / form.filename
        if target.resolve() == source.resolve():
            raise UsageError(f"{target}: would overwrite the report it is read from", "choose another --out")
        write_text(target, form.render(document))
        typer.echo(target, err=True)
