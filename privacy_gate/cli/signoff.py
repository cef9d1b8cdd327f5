"""`privacy-gate signoff`: record what people decided about a report."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from privacy_gate.cli import app


@app.command(no_args_is_help=True)
def signoff(
    report: Annotated[Path, typer.Argument(help="A report.json.", show_default=False)],
    name: Annotated[str | None, typer.Option(help="Who decides.", show_default=False)] = None,
    role: Annotated[str | None, typer.Option(help="In what role.", show_default=False)] = None,
    decision: Annotated[str | None, typer.Option(help="approve, reject or conditional.", show_default=False)] = None,
    note: Annotated[
        str,
        typer.Option(help="Why, or under which conditions; required unless a pass is approved.", show_default=False),
    ] = "",
    show: Annotated[bool, typer.Option("--list", help="Show the decisions so far, and verify them.")] = False,
) -> None:
    """Record a human decision beside the report, bound to its content; nothing is ever overwritten.

    A decision does not change the verdict. The list is signoff.json in the report's folder.
    """
    from privacy_gate.cli.policy import read_report
    from privacy_gate.signoff import FILE, read, sign

    stored = read_report(report)
    folder = report.resolve().parent
    if show:
        given = {"--name": name, "--role": role, "--decision": decision, "--note": note or None}
        _alone([option for option, value in given.items() if value is not None])
        lines = [_line(entry, stored) for entry in read(folder)]
        typer.echo("\n".join(lines) if lines else "nobody has decided yet")
        return
    entry = sign(
        folder,
        report_sha256=stored["integrity"]["report_sha256"],
        verdict=stored["verdict"]["status"],
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        **_checked(name, role, decision, note, stored),
    )
    typer.echo(_line(entry, stored))
    typer.echo(report.parent / FILE, err=True)


def _alone(given: list[str]) -> None:
    from privacy_gate.errors import UsageError

    if given:
        raise UsageError(f"--list only shows; {', '.join(given)} has no meaning with it", "leave one of them out")


def _checked(name: str | None, role: str | None, decision: str | None, note: str, stored: dict[str, Any]) -> Any:
    from privacy_gate.catalog import did_you_mean
    from privacy_gate.errors import UsageError

    missing = [option for option, value in (("--name", name), ("--role", role), ("--decision", decision)) if not value]
    if missing:
        raise UsageError(f"{', '.join(missing)} is missing", "a decision has a name, a role and a word")
    known = ["approve", "reject", "conditional"]
    if decision not in known:
        raise UsageError(f"--decision: {decision!r} is no decision", did_you_mean(str(decision), known))
    passed = stored["verdict"]["status"].startswith("pass")
    if not note.strip() and not (decision == "approve" and passed):
        against = (
            f"approve a report whose verdict is {stored['verdict']['status']}" if decision == "approve" else decision
        )
        raise UsageError(f"--note is missing: to {against} needs a reason", "say why, or under which conditions")
    return {"name": name, "role": role, "decision": decision, "note": note}


def _line(entry: Any, stored: dict[str, Any]) -> str:
    from privacy_gate.cli.console import clean

    same = entry.report_sha256 == stored["integrity"]["report_sha256"]
    about = f"report {entry.report_sha256[:12]}" if same else f"another report, {entry.report_sha256[:12]}"
    note = f": {entry.note}" if entry.note else ""
    text = f"{entry.at}  {entry.decision}  {entry.name} ({entry.role})  verdict {entry.verdict}, {about}{note}"
    return clean(" ".join(text.split("\n")))
