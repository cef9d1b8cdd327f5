"""`privacy-gate check`: the gate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from privacy_gate.cli import app


@app.command()
def check(
    model: Annotated[
        str | None,
        typer.Argument(
            help="models:/NAME/7, models:/NAME@ALIAS, models:/m-…, runs:/…, or a local model folder. "
            "Default: the config's model.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", help="Default: privacy-gate.yaml in this folder, if there is one.", show_default=False
        ),
    ] = None,
    observations: Annotated[
        Path | None,
        typer.Option(help="Judge predictions alone: an .npz; no model, no registry.", show_default=False),
    ] = None,
    policy: Annotated[Path | None, typer.Option(help="A policy file.", show_default=False)] = None,
    profile: Annotated[
        str | None, typer.Option(help="strict, standard or internal. Default: standard.", show_default=False)
    ] = None,
    suite: Annotated[str, typer.Option(help="fast, full or deep.")] = "full",
    store: Annotated[Path | None, typer.Option(help="Where finished shadows are kept.", show_default=False)] = None,
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("privacy-gate-report"),
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="Besides report.json: html, markdown; NAME=- prints it to stdout. Default: html and markdown.",
            show_default=False,
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            help="An approved model (models:/NAME@champion) or its report.json, to be no worse than.",
            show_default=False,
        ),
    ] = None,
    waivers: Annotated[
        Path | None, typer.Option(help="A waiver file. Default: the policy's.", show_default=False)
    ] = None,
    records: Annotated[
        str,
        typer.Option(
            help="none, or restricted: also write records.parquet, each record's risk under keyed ids, for the few "
            "who may see it; needs PRIVACY_GATE_PSEUDONYM_KEY."
        ),
    ] = "none",
    seed: Annotated[int | None, typer.Option(min=0, show_default=False)] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Worker processes. Default: the usable cores.", show_default=False)
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda: where torch models are trained and scored.")] = "cpu",
    trust: Annotated[
        str, typer.Option(help="code, or data: refuse a model that runs code when it is loaded.")
    ] = "code",
    exit_zero: Annotated[bool, typer.Option("--exit-zero", help="End with 0 instead of 1; recorded.")] = False,
    no_mlflow_log: Annotated[bool, typer.Option("--no-mlflow-log", help="Write nothing back to MLflow.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="The verdict only.")] = False,
) -> int:
    """Judge a model against a policy; the exit code is the verdict."""
    from privacy_gate.build import build
    from privacy_gate.cli.console import ConsoleProgress, clean, show_verdict
    from privacy_gate.closing import set_aside
    from privacy_gate.pipeline import check as run_check
    from privacy_gate.reports import CATALOG

    # A misspelt option, too, must not leave an earlier pass behind.
    if (earlier := set_aside(out)) is not None and not quiet:
        typer.echo(f"an earlier report is in {clean(str(earlier))} until this run has judged a model", err=True)
    files, printed = _split(formats)
    request = build(
        model=model,
        config=config,
        observations=observations,
        policy=policy,
        profile=profile,
        suite=suite,
        store=store,
        out=out,
        formats=files,
        baseline=baseline,
        waivers=waivers,
        records=records,
        seed=seed,
        jobs=jobs,
        device=device,
        trust=trust,
        exit_zero=exit_zero,
        mlflow_log=not no_mlflow_log,
    )
    outcome = run_check(request, ConsoleProgress(quiet=quiet))
    for name in printed:
        typer.echo(CATALOG[name].render(outcome.report), nl=False)
    show_verdict(outcome.report, {name: str(path) for name, path in outcome.paths.items()})
    return outcome.exit_code


def _split(formats: list[str] | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Formats for files, and formats for stdout (`json=-`); every name is known before the run begins."""
    from privacy_gate.reports import CATALOG

    chosen = formats if formats is not None else ["html", "markdown"]
    printed = tuple(name.removesuffix("=-") for name in chosen if name.endswith("=-"))
    files = tuple(name for name in chosen if not name.endswith("=-"))
    for name in (*files, *printed):
        CATALOG[name]
    return files, printed
