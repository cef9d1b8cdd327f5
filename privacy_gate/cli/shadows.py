"""`privacy-gate shadows`: train them ahead of time, and keep the store in order."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privacy_gate.cli import app

if TYPE_CHECKING:
    from privacy_gate.shadows.store import Store, Stored

shadows = typer.Typer(help="Train shadow models ahead of time; list, verify and prune the store.", no_args_is_help=True)
app.add_typer(shadows, name="shadows")

_Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="Names the store, if --store does not.", show_default=False)
]
_Store = Annotated[Path | None, typer.Option(help="Where finished shadows are kept.", show_default=False)]

_SECONDS = {"h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


@shadows.command("train")
def train(
    model: Annotated[str | None, typer.Argument(help="As for check.", show_default=False)] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Default: privacy-gate.yaml here.", show_default=False)
    ] = None,
    suite: Annotated[str, typer.Option(help="As check will use it: fast, full or deep.")] = "full",
    store: _Store = None,
    seed: Annotated[int | None, typer.Option(min=0, help="As check will use it.", show_default=False)] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Worker processes.", show_default=False)] = None,
    device: Annotated[str, typer.Option(help="As check will use it: cpu or cuda.")] = "cpu",
) -> None:
    """Train what a check would train, and keep it; the check then finds it in the store."""
    from privacy_gate.build import build
    from privacy_gate.cli.console import ConsoleProgress, console
    from privacy_gate.pipeline import train_shadows
    from privacy_gate.terms import store_path

    request = build(model=model, config=config, suite=suite, store=store, seed=seed, jobs=jobs, device=device)
    trained, cached = train_shadows(request, ConsoleProgress())
    text = f"✔ {trained} shadows trained, {cached} were there already: {store_path(request)}"
    console().print(text, markup=False, soft_wrap=True)


@shadows.command("list")
def listed(
    config: _Config = None,
    store: _Store = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """List finished shadows, the most recently used first."""
    opened = _open(config, store)
    entries = [] if opened is None else opened.list()
    if as_json:
        rows = [{"key": e.key, "what": e.what, "bytes": e.size, "used": _moment(e.used)} for e in entries]
        typer.echo(json.dumps(rows, indent=2))
        return
    for entry in entries:
        typer.echo(_line(entry))
    _say(f"{_shadows(entries)} shadows, {sum(e.size for e in entries) / 1e6:.1f} MB")


@shadows.command("verify")
def verify(
    config: _Config = None,
    store: _Store = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove corrupt entries; they are trained again.")] = False,
) -> int:
    """Read every entry of the store; ends with 3 if one is not what was written."""
    opened = _open(config, store)
    broken: Sequence[str] = () if opened is None else opened.verify()
    for key in broken:
        typer.echo(key)
    if opened is None or not broken:
        _say(f"✔ {0 if opened is None else _shadows(opened.list())} shadows, none corrupt")
        return 0
    if delete:
        for key in broken:
            opened.path(key).unlink(missing_ok=True)
    done = "removed" if delete else "--delete removes them; a check would train them again by itself"
    _say(f"✖ {len(broken)} corrupt: {done}")
    return 3


@shadows.command("prune")
def prune(
    config: _Config = None,
    store: _Store = None,
    older_than: Annotated[str, typer.Option(help="Not used for so long: 12h, 90d, 8w.")] = "90d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Remove nothing, only list.")] = False,
) -> None:
    """Remove shadows, and environments of models, that were not used for a while."""
    import time

    from privacy_gate.sandbox import virtual

    seconds = _age(older_than)
    opened = _open(config, store)
    removed: Sequence[str] = ()
    if opened is not None and dry_run:
        now = time.time()
        removed = sorted(e.key for e in opened.list() if now - e.used > seconds)
    elif opened is not None:
        removed = opened.prune(older_than=seconds)
    for key in removed:
        typer.echo(key)
    built = [] if opened is None else virtual.prune(opened.root, older_than=seconds, dry_run=dry_run)
    for name in built:
        typer.echo(f"{virtual.FOLDER}/{name}")
    others = f" and {len(built)} environments" if built else ""
    _say(f"{len(removed)} shadows{others} {'would be ' if dry_run else ''}removed")


def _age(text: str) -> float:
    from privacy_gate.errors import UsageError

    match = re.fullmatch(r"(\d+)([hdw])", text.strip())
    if match is None:
        raise UsageError(f"--older-than: {text!r} is no length of time", "write 12h, 90d or 8w")
    return int(match[1]) * _SECONDS[match[2]]


def _open(config: Path | None, store: Path | None) -> Store | None:
    """The store; None where none was made yet: looking at it must not make one."""
    from privacy_gate.build import build
    from privacy_gate.errors import UsageError
    from privacy_gate.shadows.store import Store
    from privacy_gate.terms import store_path

    folder = store_path(build(config=config, store=store))
    if folder.is_dir():
        return Store(folder)
    if store is not None:
        raise UsageError(f"--store: there is no folder {folder}", "check the path; nothing was made")
    return None


def _shadows(entries: Sequence[Stored]) -> int:
    """Answers of shadows; what was asked of them beside is not counted."""
    return sum(entry.what == "shadow" for entry in entries)


def _say(text: str) -> None:
    from privacy_gate.cli.console import console

    console().print(text, markup=False, soft_wrap=True)


def _line(entry: Stored) -> str:
    """A finished shadow in 80 columns; the whole key is in --json."""
    return f"{entry.key[:40]}  {entry.size / 1e6:9.2f} MB  {_moment(entry.used)[:16].replace('T', ' ')} UTC"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
