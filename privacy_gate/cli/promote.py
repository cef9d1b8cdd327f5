"""`privacy-gate promote`: point an alias to a version, once its files are hashed and a signed verdict on them holds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from privacy_gate.cli import app

if TYPE_CHECKING:
    from privacy_gate.promotion import Approval, Moved, Refused
    from privacy_gate.request import CheckRequest

KEY_FILE = "PRIVACY_GATE_PUBLIC_KEY_FILE"


@app.command(no_args_is_help=True)
def promote(
    model: Annotated[str, typer.Argument(help="models:/NAME/7 or models:/NAME@ALIAS.", show_default=False)],
    alias: Annotated[
        str | None, typer.Option(help="The alias to move, e.g. champion. Required.", show_default=False)
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            help=f"Public keys (PEM, one or several): whose signature counts. Default: {KEY_FILE}.",
            show_default=False,
        ),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="The policy file that the verdict has to be by.", show_default=False)
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(help="The same: strict, standard or internal. Default: as for check.", show_default=False),
    ] = None,
    attestation: Annotated[
        Path | None,
        typer.Option(help="attestation.json, or its folder; counts beside those in the registry.", show_default=False),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Default: the report.json beside the attestation, or in the registry.", show_default=False),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", help="Default: privacy-gate.yaml in this folder, if there is one.", show_default=False
        ),
    ] = None,
    judged_as: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A registered model whose records and configuration are right for this one, too: verdicts on the "
            "same files that were given to it count. Repeatable.",
            show_default=False,
        ),
    ] = None,
    most_runs: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Evaluations of these files that are looked through; where there are more, it is refused.",
        ),
    ] = 500,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, move nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Move an alias to a version whose files, hashed afresh, have a signed verdict that lets them through.

    Tags count for nothing, and so do passes of the same files under another model's name: they were reached by that
    model's records. A signed verdict that is no pass takes back every pass before it, also from a run that was deleted.

    What took a pass back is known from the registry alone: whoever may remove or rewrite evidence runs there can hide
    it until the pass ends.

    Ends with 0 if the alias points there now, with 1 if it was refused, each reason on a line
    of its own, with 2 for a wrong request or an unknown model, with 3 if the registry does not answer.
    """
    import tempfile
    import time

    from privacy_gate.attestation import public_keys
    from privacy_gate.build import build
    from privacy_gate.errors import ExitCode, UsageError
    from privacy_gate.policy import resolve
    from privacy_gate.promotion import Moved, Refused, approval
    from privacy_gate.promotion import promote as move
    from privacy_gate.registry import open_registry
    from privacy_gate.terms import policy_source

    if not alias:
        raise UsageError("--alias is missing", "name the alias that deployments follow, e.g. champion")
    keys = public_keys(_read(_key(key)))
    request = build(model=model, config=config, policy=policy, profile=profile)
    accepted = frozenset({resolve(policy_source(request)).digest})
    envelope, stored = _given(attestation, report)
    registry = open_registry(*_uris(request), model)
    with tempfile.TemporaryDirectory() as work:
        found = approval(
            registry,
            model,
            Path(work),
            keys,
            envelope=envelope,
            report=stored,
            policies=accepted,
            now=time.time(),
            judged_as=frozenset(judged_as or ()),
            most_runs=most_runs,
        )
    if isinstance(found, Refused):
        _tell_refused(found, alias, str(policy_source(request)), as_json)
        raise typer.Exit(int(ExitCode.VIOLATED))
    if dry_run:
        moved = Moved(found.name, alias, registry.alias(found.name, alias), found.version)
    else:
        moved = move(registry, found, alias)
    _tell_moved(found, moved, dry_run, as_json)


def _key(given: Path | None) -> Path:
    import os

    from privacy_gate.errors import UsageError

    named = given or os.environ.get(KEY_FILE)
    if not named:
        raise UsageError("--key is missing", f"give the public key of those whose signature counts, or set {KEY_FILE}")
    return Path(named)


def _read(path: Path) -> bytes:
    from privacy_gate.errors import UsageError

    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}", "name a file that this user may read") from error


def _given(attestation: Path | None, report: Path | None) -> tuple[bytes | None, bytes | None]:
    """What was named, and the report beside a named attestation."""
    from privacy_gate.attestation import FILE, REPORT

    if attestation is None:
        return None, None if report is None else _read(report)
    path = attestation / FILE if attestation.is_dir() else attestation
    beside = report or path.with_name(REPORT)
    return _read(path), _read(beside) if report is not None or beside.is_file() else None


def _uris(request: CheckRequest) -> tuple[str | None, str | None]:
    return (request.config.tracking_uri, request.config.registry_uri) if request.config else (None, None)


def _tell_refused(refused: Refused, alias: str, policy: str, as_json: bool) -> None:
    if as_json:
        _json(refused.uri, alias, refused.model_sha256, promoted=False, reasons=list(refused.reasons))
        return
    _say(f"refused: {refused.uri}, sha256 {refused.model_sha256}: {alias} was not moved")
    from privacy_gate.cli.console import clean

    for reason in refused.reasons:
        _say(f"  {reason}")
    if hint := _mend(refused.reasons, policy):
        typer.echo(clean(f"  hint: {hint}"), err=True)


def _mend(reasons: tuple[str, ...], policy: str) -> str:
    """About the first reason; `policy`: by which a verdict has to be, for people."""
    from privacy_gate.cli.verify import mend

    names = [reason.partition(":")[0] for reason in reasons if not reason.startswith("tags:")]
    told = {
        "signature": "`privacy-gate attest` signs a report and puts it into its evidence run; or name --attestation",
        "runs": "nobody but the gate needs to write to its experiment; see who made those runs",
        "deleted": "a deleted run speaks against a version, and never for it; `check` judges it again",
        "policy": f"the policy in force is {policy}; --policy or --profile names another, `check` judges by another",
    }
    return told.get(names[0]) or mend(names) if names else ""


def _tell_moved(approval: Approval, moved: Moved, dry_run: bool, as_json: bool) -> None:
    signed = approval.signed
    if as_json:
        _json(
            approval.uri,
            moved.alias,
            approval.model_sha256,
            promoted=not dry_run,
            before=moved.before,
            after=moved.after,
            source=approval.source,
            signed=asdict(signed),
        )
        return
    before = "nothing" if moved.before is None else f"version {moved.before}"
    if moved.before == moved.after:
        _say(f"{moved.alias} of {moved.name} points to version {moved.after} already")
    else:
        verb = "would move" if dry_run else "moved"
        _say(f"{verb} {moved.alias} of {moved.name} from {before} to version {moved.after}")
    verdict = f"{signed.status.replace('_', ' ')}, valid until {signed.valid_until}"
    _say(f"{verdict}; signed by key {signed.key_id}; {approval.source}; model sha256 {approval.model_sha256}")


def _json(uri: str, alias: str, digest: str, **more: Any) -> None:
    """The same keys, whatever the answer is."""
    import json

    same: dict[str, Any] = {
        "promoted": False,
        "before": None,
        "after": None,
        "reasons": [],
        "source": None,
        "signed": None,
    }
    whole = {"model": uri, "alias": alias, "model_sha256": digest, **same, **more}
    typer.echo(json.dumps(whole, indent=2))


def _say(text: str) -> None:
    from privacy_gate.cli.console import clean

    typer.echo(clean(text))
