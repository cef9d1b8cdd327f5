"""`privacy-gate policy`: look at policies, and try them on stored reports."""

from __future__ import annotations

import json
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from privacy_gate.cli import app

if TYPE_CHECKING:
    from rich.table import Table

    from privacy_gate.datamodel import Location
    from privacy_gate.policy import Policy, RuleInForce

policies = typer.Typer(help="Validate, show and try policies.", no_args_is_help=True)
app.add_typer(policies, name="policy")

_FILE = typer.Argument(help="A policy file, or strict, standard, internal.", show_default=False)


@policies.command(no_args_is_help=True)
def validate(files: Annotated[list[Path], typer.Argument(help="Policy files.", show_default=False)]) -> None:
    """Check policy files; every mistake is shown at its line. Ends with 2 if there is one.

    A setting that allows more than what the file extends is a warning.
    """
    from privacy_gate.cli.console import clean, console
    from privacy_gate.errors import ConfigError
    from privacy_gate.policy import notes, resolve
    from privacy_gate.policy.load import looser

    out = console()
    broken: list[ConfigError] = []
    for file in files:
        try:
            policy = resolve(file)
        except ConfigError as error:
            broken.append(error)
            continue
        text = f"✔ {file}: {policy.name}, {len(policy.rules)} rules, sha256 {policy.digest}"
        out.print(clean(text), markup=False, soft_wrap=True)
        for loose in looser(file):  # allowed, but nobody should find out from a pass
            warning = f"{loose.file}:{loose.line}:{loose.column}: warning[{loose.code}]: {loose.message}"
            out.print(clean(warning), style="yellow", markup=False, soft_wrap=True)
        for note in notes(policy, datetime.now(UTC).date()):
            out.print(clean(f"{file}: warning: {note}"), style="yellow", markup=False, soft_wrap=True)
    if len(broken) == 1:
        raise broken[0]
    if broken:
        found = [diagnostic for error in broken for diagnostic in error.diagnostics]
        raise ConfigError("\n".join(error.what for error in broken), broken[0].hint, found)


@policies.command()
def show(
    policy: Annotated[str | None, _FILE] = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="Every setting, with all that it extends.")] = False,
    origin: Annotated[bool, typer.Option("--origin", help="Where each setting comes from.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Show the rules in force; without a name those that `check` would apply in this folder."""
    from privacy_gate.policy import resolve

    found = resolve(chosen(policy))
    if as_json:
        typer.echo(json.dumps(as_dict(found), indent=2))
    elif resolved or origin:
        typer.echo("\n".join(settings(found, origin=origin)))
    else:
        from rich.console import Console

        typer.echo(f"{_clean(found.name)}  sha256 {found.digest}")
        typer.echo(f"from {', then '.join(_clean(file) for file in found.files)}")
        # In a log or a pipe there is no width to keep to, and half a path is of no use.
        width = None if sys.stdout.isatty() else 200
        Console(highlight=False, width=width).print(_table(found))


@policies.command()
def schema() -> None:
    """Print the JSON schema of policy files, for editors."""
    from privacy_gate.policy import schema as of_policies

    typer.echo(json.dumps(of_policies(), indent=2))


@policies.command()
def digest(policy: Annotated[str | None, _FILE] = None) -> None:
    """Print the sha256 of a policy with all that it extends."""
    from privacy_gate.policy import resolve

    typer.echo(resolve(chosen(policy)).digest)


@policies.command("test", no_args_is_help=True)
def try_(
    policy: Annotated[str, _FILE],
    reports: Annotated[list[Path], typer.Argument(help="Stored report.json files.", show_default=False)],
    on: Annotated[
        str | None,
        typer.Option(
            "--on", metavar="DATE", help="As on that day (YYYY-MM-DD, UTC). Default: today.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Judge stored reports by another policy, without computing anything.

    Ends with 0 if every report would be let through or held up as it was, with 1 if one that passed would be held up
    or the other way round, with 2 if a file cannot be read. A report keeps bounds at one level only: a pass rests on
    these, a failure on the corrected lower bound of the stored rule, and what neither decides is inconclusive. Waivers
    are left out.
    """
    from privacy_gate.errors import ExitCode
    from privacy_gate.policy import resolve

    found = resolve(chosen(policy))
    rows = [_judged_again(found, path, day(on)) for path in reports]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        _draw(rows, found)
    if any(row["changed"] for row in rows):
        raise typer.Exit(ExitCode.VIOLATED)


def _judged_again(policy: Policy, path: Path, today: date) -> dict[str, Any]:
    """One stored report under a policy: before, now, and what changed."""
    from privacy_gate.policy import judge
    from privacy_gate.policy.stored import changes, rebuilt

    stored = read_report(path)
    again = rebuilt(stored, policy)
    verdict = judge(policy, again.evidence, today=today, settled=again.settled)
    # Of the stored run the status, not the exit code: --exit-zero may have hidden it.
    before = stored["verdict"]["status"]
    now = [(rule.id, rule.action, rule.status.value) for rule in verdict.rules]
    return {
        "report": str(path),
        "stored": before,
        "verdict": verdict.status.value,
        "exit_code": verdict.exit_code,
        "changed": before.startswith("pass") != verdict.status.value.startswith("pass"),
        "headline": verdict.headline,
        "rules": changes(stored["rules"], now),
        "notes": list(again.notes),
    }


def read_report(path: Path) -> dict[str, Any]:
    """A report.json as it is stored, its digest verified; UsageError if it cannot be read or was changed."""
    from privacy_gate.errors import UsageError
    from privacy_gate.reports.document import read

    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}", "give the report.json that `check` wrote") from error
    try:
        return read(raw).model_dump(mode="json")
    except UsageError as error:
        raise UsageError(f"{path}: {error.what}", error.hint) from error


def day(text: str | None) -> date:
    """A date of the command line; today in UTC without one."""
    from pydantic import TypeAdapter, ValidationError

    from privacy_gate.errors import UsageError
    from privacy_gate.policy.contract import Day

    if text is None:
        return datetime.now(UTC).date()
    try:
        return TypeAdapter(Day).validate_python(text)
    except ValidationError as error:
        raise UsageError(error.errors()[0]["msg"].removeprefix("Value error, "), "write it as 2026-12-01") from error


def _draw(rows: list[dict[str, Any]], policy: Policy) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    typer.echo(f"{_clean(policy.name)}  sha256 {policy.digest}")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("report", "stored", "verdict", "changed rules"):
        table.add_column(name, overflow="fold")
    for row in rows:
        changed = "\n".join(row["rules"]) or "–"
        mark = "  (!)" if row["changed"] else ""
        table.add_row(*(Text(_clean(c)) for c in (row["report"], row["stored"], row["verdict"] + mark, changed)))
    Console(highlight=False, width=None if sys.stdout.isatty() else 200).print(table)
    for row in rows:
        for note in row["notes"]:
            typer.echo(f"{_clean(row['report'])}: note: {_clean(note)}")


def _clean(text: object) -> str:
    from privacy_gate.cli.console import clean

    return clean(text)


def chosen(policy: str | None) -> str | Path:
    """A profile's name, a path, or what `check` would take here."""
    from privacy_gate.policy import PROFILES

    if policy is not None:
        return policy if policy in PROFILES else Path(policy)
    from privacy_gate.build import build

    config = build(config=None)
    if config.config is not None and config.config.policy is not None:
        return config.config_dir / config.config.policy
    return "standard"


def _place(location: Location | None) -> str:
    return "default" if location is None else f"{location.file}:{location.line}"


def _table(policy: Policy) -> Table:
    from rich.table import Table
    from rich.text import Text

    from privacy_gate.policy import CATALOG
    from privacy_gate.policy.plan import limit_text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("rule", "what", "limit", "action", "severity", "set in"):
        table.add_column(
            name, justify="right" if name == "limit" else "left", no_wrap=name in {"rule", "limit"}, overflow="fold"
        )
    for rule in policy.rules:
        known = CATALOG[rule.id]
        limit = getattr(rule.settings, "max", None)
        shown = "" if limit is None else limit_text(limit, known.unit)
        cells = (rule.id, known.title, shown, _action(rule, policy), rule.settings.severity, _place(rule.location))
        table.add_row(*(Text(_clean(cell)) for cell in cells))
    return table


def _action(rule: RuleInForce, policy: Policy) -> str:
    """What the rule does today, in the policy's release context; and from when on it will block."""
    now = rule.settings.in_effect(policy.release_context, datetime.now(UTC).date())
    return now.action if now.enforce_from is None else f"{now.action}, blocks from {now.enforce_from}"


def settings(policy: Policy, *, origin: bool) -> list[str]:
    """The resolved policy as YAML, one line per setting; with `origin` each says in a comment where it was set."""
    lines: list[str] = []
    for key, value in policy.resolved.items():
        lines += _setting((key,), value, policy if origin else None)
    return lines


def _setting(trail: tuple[str, ...], value: Any, policy: Policy | None) -> list[str]:
    indent, name = "  " * (len(trail) - 1), ".".join(trail)
    if isinstance(value, dict) and value:
        inner = [line for key, part in value.items() for line in _setting((*trail, str(key)), part, policy)]
        return [f"{indent}{trail[-1]}:", *inner]
    known = policy is not None and name in policy.origins
    comment = f"  # {_clean(_place(policy.origins[name]))}" if policy is not None and known else ""
    return [f"{indent}{trail[-1]}: {json.dumps(value)}{comment}"]


def as_dict(policy: Policy) -> dict[str, Any]:
    """A policy for machines."""
    return {
        "name": policy.name,
        "profile": policy.profile,
        "digest": policy.digest,
        "files": list(policy.files),
        "resolved": dict(policy.resolved),
        "origins": {
            name: None if at is None else {"file": at.file, "line": at.line, "column": at.column}
            for name, at in policy.origins.items()
        },
    }
