"""`privacy-gate plan`: what a check would do, without training anything."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Annotated

import typer

from privacy_gate.cli import app


@app.command()
def plan(
    model: Annotated[str | None, typer.Argument(help="As for check.", show_default=False)] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", show_default=False)] = None,
    policy: Annotated[Path | None, typer.Option(help="A policy file.", show_default=False)] = None,
    profile: Annotated[str | None, typer.Option(help="strict, standard or internal.", show_default=False)] = None,
    suite: Annotated[str, typer.Option(help="fast, full or deep.")] = "full",
    store: Annotated[Path | None, typer.Option(show_default=False)] = None,
    seed: Annotated[int | None, typer.Option(min=0, show_default=False)] = None,
    jobs: Annotated[int | None, typer.Option(min=1, show_default=False)] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda, as for check.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> int:
    """Resolve everything, train nothing: what will run, what is cached, the minutes, which rules can pass.

    Ends with 4 when a blocking rule cannot pass with these numbers of records.
    """
    from privacy_gate.build import build
    from privacy_gate.cli.console import ConsoleProgress, clean, console
    from privacy_gate.preview import preview

    request = build(
        model=model,
        config=config,
        policy=policy,
        profile=profile,
        suite=suite,
        store=store,
        seed=seed,
        jobs=jobs,
        device=device,
    )
    shown = preview(request, ConsoleProgress())
    if as_json:
        typer.echo(json.dumps(shown.as_dict(), indent=2))
    else:
        out = console()
        for line in shown.lines():
            out.print(folded(clean(line), out.width), markup=False, soft_wrap=True)
    return 4 if shown.undecidable else 0


def folded(line: str, width: int) -> str:
    """A line in that many columns, what follows under the text of its first; words are never broken."""
    return textwrap.fill(
        line, max(width, 40), subsequent_indent=" " * 9, break_long_words=False, break_on_hyphens=False
    )
