"""`privacy-gate waiver`: grant, show and check exceptions."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from privacy_gate.cli import app

if TYPE_CHECKING:
    from privacy_gate.errors import UsageError
    from privacy_gate.policy import Policy
    from privacy_gate.policy.waivers import Entry

waivers = typer.Typer(help="Grant, show and check waivers.", no_args_is_help=True)
app.add_typer(waivers, name="waiver")

DEFAULT_FILE = "privacy-waivers.yaml"

_File = Annotated[
    Path | None,
    typer.Option("--file", help=f"Default: the policy's waivers.file, else {DEFAULT_FILE}.", show_default=False),
]
_Policy = Annotated[
    str | None,
    typer.Option(
        "--policy",
        help="File or profile that says what is allowed. Default: what check takes here.",
        show_default=False,
    ),
]


@waivers.command(no_args_is_help=True)
def add(
    rule: Annotated[str, typer.Option(help="The rule to excuse: PG203.", show_default=False)],
    reason: Annotated[str, typer.Option(help="Why; at least 20 characters.", show_default=False)],
    approved_by: Annotated[list[str], typer.Option(help="Who agreed; may be repeated.", show_default=False)],
    ticket: Annotated[str, typer.Option(help="Where it is followed up.", show_default=False)],
    model: Annotated[str | None, typer.Option(help="Registered model; with --versions.", show_default=False)] = None,
    versions: Annotated[str | None, typer.Option(help="'>=12,<13', or 12.", show_default=False)] = None,
    digest: Annotated[str | None, typer.Option(help="sha256 of one model.", show_default=False)] = None,
    group: Annotated[str | None, typer.Option(help="One slice only: class=3.", show_default=False)] = None,
    attack: Annotated[str | None, typer.Option(help="One attack only: lira.", show_default=False)] = None,
    until_value: Annotated[
        float | None, typer.Option(help="Ceiling: a higher measured value is not excused.", show_default=False)
    ] = None,
    covers: Annotated[str, typer.Option(help="violation or undecided.")] = "violation",
    substitute: Annotated[
        str | None, typer.Option(help="For undecided: the rule that must pass instead.", show_default=False)
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="Last day (UTC). Default: as late as allowed.", show_default=False),
    ] = None,
    id: Annotated[str | None, typer.Option(help="Default: the next W-number.", show_default=False)] = None,
    file: _File = None,
    policy: _Policy = None,
) -> None:
    """Append a waiver to the file; what is there stays as it is. Refuses what `waiver check` would refuse."""
    from privacy_gate.cli.policy import day
    from privacy_gate.policy import resolve

    judged_by = resolve(_policy(policy))
    path = _path(file, judged_by)
    today = datetime.now(UTC).date()
    before = _read(path) if path.exists() else ()
    scope = {"model": model, "versions": versions, "digest": digest, "group": group, "attack": attack}
    last = today + timedelta(days=judged_by.waivers.max_days) if expires is None else day(expires)
    entry: dict[str, Any] = {
        "id": id or _next(before),
        "rule": rule,
        "covers": covers,
        "substitute": substitute,
        "scope": {key: value for key, value in scope.items() if value is not None},
        "until_value": until_value,
        "reason": reason,
        "approved_by": approved_by,
        "ticket": ticket,
        "created": today.isoformat(),
        "expires": last.isoformat(),
    }
    _append(path, {key: value for key, value in entry.items() if value is not None}, judged_by, today)
    typer.echo(f"{entry['id']}: {rule} until {last} in {_clean(path)}", err=True)


@waivers.command("list")
def list_(
    file: _File = None,
    policy: _Policy = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Show every waiver, what it is about, and whether it can have an effect today."""
    from privacy_gate.policy import resolve

    judged_by = resolve(_policy(policy))
    path = _path(file, judged_by)
    rows = [_row(entry, judged_by, datetime.now(UTC).date()) for entry in _read(path)]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        ends = f" until {row['expires']}" if row["expires"] else ""
        note = f": {row['note']}" if row["note"] else ""
        about = f" ({row['about']})" if row["about"] else ""
        typer.echo(_clean(f"{row['id']}  {row['rule']}{about}{ends}  {row['state']}{note}".replace("\n", " ")))
    if not rows:
        typer.echo(f"{_clean(path)}: no waivers")


@waivers.command()
def check(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Waiver files. Default: what --file says.", show_default=False),
    ] = None,
    file: _File = None,
    policy: _Policy = None,
    soon: Annotated[int, typer.Option(min=0, help="Warn of waivers that end within so many days.")] = 7,
) -> None:
    """Ends with 1 if a waiver has expired, is malformed or is not allowed; for pre-commit and every night.

    Of several files each is checked, and all that is wrong is said; 2 if one of them cannot be read.
    """
    from privacy_gate.errors import ExitCode, UsageError
    from privacy_gate.policy import resolve

    judged_by, today = resolve(_policy(policy)), datetime.now(UTC).date()
    named = [*([file] if file else []), *(files or [])] or [_path(None, judged_by)]
    expired, broken = False, list[UsageError]()
    for path in dict.fromkeys(named):
        try:
            rows = [_row(entry, judged_by, today) for entry in _read(path)]
        except UsageError as error:
            broken.append(error)
            continue
        expired |= _told(path, rows, soon, f"{path}: " if files else "")
    if broken:
        raise _one(broken)
    if expired:
        raise typer.Exit(ExitCode.VIOLATED)


def _told(path: Path, rows: list[dict[str, Any]], soon: int, place: str) -> bool:
    """Say what has no effect, what ends soon and what is well; whether something has no effect."""
    from privacy_gate.cli.console import console

    out = console()
    bad = [row for row in rows if row["state"] != "in force"]
    for row in bad:
        text = f"✖ {place}{row['id']} {row['rule']}: {row['note']}"
        out.print(_clean(text), style="red", markup=False, soft_wrap=True)
    for row in rows:
        if row not in bad and row["days"] <= soon:
            text = f"~ {place}{row['id']} {row['rule']}: ends on {row['expires']}"
            out.print(_clean(text), style="yellow", markup=False, soft_wrap=True)
    if not bad:
        out.print(_clean(f"✔ {path}: {len(rows)} waivers in force"), markup=False, soft_wrap=True)
    return bool(bad)


def _one(errors: list[UsageError]) -> UsageError:
    """All errors in one."""
    from privacy_gate.errors import ConfigError

    if len(errors) == 1:
        return errors[0]
    found = [diagnostic for error in errors if isinstance(error, ConfigError) for diagnostic in error.diagnostics]
    return ConfigError("\n".join(error.what for error in errors), errors[0].hint, found)


def _policy(policy: str | None) -> str | Path:
    from privacy_gate.cli.policy import chosen

    return chosen(policy)


def _path(file: Path | None, policy: Policy) -> Path:
    return file or policy.waivers.file or Path(DEFAULT_FILE)


def _read(path: Path) -> tuple[Entry, ...]:
    from privacy_gate.policy import read_waivers

    return read_waivers(path)


def _clean(text: object) -> str:
    from privacy_gate.cli.console import clean

    return clean(text)


def _row(entry: Entry, policy: Policy, today: date) -> dict[str, Any]:
    """A waiver for people and machines."""
    from privacy_gate.policy.waivers import Malformed, standing

    refused = standing(entry, policy, today)
    row: dict[str, Any] = {
        "id": entry.id,
        "rule": entry.rule if isinstance(entry, Malformed) else entry.fields.rule,
        "state": "in force" if refused is None else refused.state,
        "note": "" if refused is None else refused.note,
        "expires": None,
        "days": 0,
        "about": "",
    }
    if not isinstance(entry, Malformed):
        fields = entry.fields
        about = [f"{key} {value}" for key, value in fields.scope.model_dump(exclude_none=True).items()]
        about += [f"up to {fields.until_value:g}"] if fields.until_value is not None else []
        about += [f"undecided, {fields.substitute} instead"] if fields.substitute else []
        row |= {
            "expires": fields.expires.isoformat(),
            "days": (fields.expires - today).days,
            "about": ", ".join(about),
        }
    return row


def _next(entries: tuple[Entry, ...]) -> str:
    """The W-number after the highest one."""
    numbers = [int(entry.id[2:]) for entry in entries if entry.id.startswith("W-") and entry.id[2:].isdecimal()]
    return f"W-{max(numbers, default=0) + 1}"


def _append(path: Path, entry: dict[str, Any], policy: Policy, today: date) -> None:
    """Write the file with one waiver more, after making sure that nothing else in it has changed meaning."""
    from privacy_gate.documents import parse
    from privacy_gate.errors import ConfigError, UsageError
    from privacy_gate.policy.waivers import API_VERSION, read_waivers, standing
    from privacy_gate.storage import private_dir, write_text

    text = path.read_text("utf-8-sig") if path.exists() else f"apiVersion: {API_VERSION}\nwaivers:\n"
    old = parse(path).tree.get("waivers") or [] if path.exists() else []
    item = _yaml(entry)
    draft = path.with_name(f".{path.name}.draft")
    try:
        private_dir(path.parent)
        write_text(draft, _with(text, item, bool(old)))
        try:
            entries, tree = read_waivers(draft, path.as_posix()), parse(draft, path.as_posix()).tree
        except ConfigError as error:
            raise UsageError(f"{path}: cannot be added to: {error.what}", f"add it by hand:\n{item}") from error
        added = entries[-1]
        refused = standing(added, policy, today)
        if refused is not None:
            raise UsageError(
                f"{entry['id']}: {refused.note}", "privacy-gate policy show --resolved lists what is allowed"
            )
        if tree["waivers"] != [*old, entry]:
            raise UsageError(f"{path}: the end of the file is not its list of waivers", f"add it by hand:\n{item}")
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o644  # it belongs into version control
        write_text(path, _with(text, item, bool(old)), mode)
    finally:
        draft.unlink(missing_ok=True)


def _with(text: str, item: str, some: bool) -> str:
    """The text with one item at its end; an empty list that is written out makes way for it."""
    lines = text.rstrip("\n").split("\n")
    if not some:
        lines = [
            "waivers:" if line.split("#")[0].rstrip() in ("waivers: []", "waivers: null") else line for line in lines
        ]
    dash = next((line.index("-") for line in lines if line.lstrip().startswith("- ")), 2)
    indented = [" " * dash + line for line in item.rstrip("\n").split("\n")]
    return "\n".join([*lines, *indented]) + "\n"


def _yaml(entry: dict[str, Any]) -> str:
    """One list item; every text in double quotes, which YAML and JSON share, so that nothing is guessed at."""
    lines: list[str] = []
    for key, value in entry.items():
        shown = _scalar(value)
        if isinstance(value, dict):
            shown = "{" + ", ".join(f"{part}: {_scalar(text)}" for part, text in value.items()) + "}"
        lines.append(f"{'  ' if lines else '- '}{key}: {shown}")
    return "\n".join(lines) + "\n"


def _scalar(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
