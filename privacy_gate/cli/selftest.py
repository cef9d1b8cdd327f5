"""`privacy-gate selftest`: does the gate keep its own promises, here and now?"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from privacy_gate.cli import app

if TYPE_CHECKING:
    from privacy_gate.selftest import Promise


@app.command()
def selftest(
    replicates: Annotated[
        int | None,
        typer.Option(
            min=10, help="Simulated audits of each world. Default: about a minute on two cores.", show_default=False
        ),
    ] = None,
    nightly: Annotated[bool, typer.Option("--nightly", help="As --replicates 400: half an hour or more.")] = False,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Processes; the results are the same. Default: one per core.", show_default=False),
    ] = None,
    worlds: Annotated[
        list[str] | None, typer.Option("--world", help="One world only: K-02; may be repeated.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> int:
    """Judge simulated worlds whose leakage is known, and compare the gate's errors with what it promises.

    Ends with 3 if a promise was broken: then no verdict of this installation should be relied on.
    """
    from privacy_gate.cli.console import console

    # Each process works on a world of its own: more threads in each would only fight for the cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from privacy_gate.selftest import CATALOG, NIGHTLY, run

    out = console()
    promises: list[Promise] = []

    def begin(summary: str) -> None:
        out.print(f"· {summary}", style="dim", markup=False, soft_wrap=True)

    chosen = [CATALOG[name].id for name in worlds] if worlds else None
    size = replicates or (NIGHTLY if nightly else None)
    for promise in run(size, seed, begin, jobs or _cores(), chosen):
        promises.append(promise)
        if not as_json:
            typer.echo(line(promise))
    broken = [promise.id for promise in promises if not promise.held]
    if as_json:
        rows = [as_dict(promise) for promise in promises]
        typer.echo(json.dumps({"seed": seed, "held": not broken, "promises": rows}, indent=2))
    if broken:
        out.print(f"✖ {len(broken)} of {len(promises)} promises broken: {', '.join(broken)}", style="bold red")
        return 3
    out.print(f"✔ all {len(promises)} promises held", style="green")
    return 0


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def as_dict(promise: Promise) -> dict[str, Any]:
    """One promise for machines."""
    return {
        "id": promise.id,
        "world": promise.world,
        "promise": promise.promise,
        "measured": promise.measured,
        "nominal": promise.nominal,
        "low": promise.low,
        "high": promise.high,
        "replicates": promise.replicates,
        "held": promise.held,
    }


def line(promise: Promise) -> str:
    """One promise for people."""
    if promise.high == 1:
        bounds = f"at least {promise.nominal:.3g}; {promise.low:.3f}"
    elif promise.low == 0:
        bounds = f"at most {promise.nominal:.3g}; {promise.high:.3f}"
    else:
        bounds = f"{promise.nominal:.5g}; {promise.low:.4f} to {promise.high:.4f}"
    mark = "✔" if promise.held else "✖"
    return (
        f"{mark} {promise.id:<26} {promise.measured:.4f}  ({bounds} in {promise.replicates} replicates)  "
        f"{promise.world}: {promise.promise}"
    )
