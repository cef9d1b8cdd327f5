"""`privacy-gate verify`: is a signed verdict genuine, and about this model, this report and this policy?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privacy_gate.cli import app

if TYPE_CHECKING:
    from privacy_gate.attestation import Attested, Finding, NotVerified


_ASKS = {
    "subject": "--model hashes its files",
    "report": "--report names it",
    "policy": "--policy or --profile names it",
}

MENDS = {
    "signature": "give the attestation.json that `privacy-gate attest` wrote, and the public key of whoever signed it",
    "subject": "these are not the files that were judged: check this model, or name the one that the verdict is about",
    "name": "check this model by its own records",
    "report": "take report.json from where attestation.json is, or run `privacy-gate attest` again beside the report",
    "report.html": "render it again from report.json: privacy-gate report; or take the one that was signed",
    "policy": "name the policy that the check was given (--policy, --profile); for another one, check the model again",
    "freshness": "check the model again: a verdict is for so many days",
    "result": "the report says why it is no pass, and what to do about it",
}


def mend(broken: list[str]) -> str:
    """What to do about the first finding that does not hold; "" for what nobody can say more about."""
    return next((MENDS[name] for name in broken if name in MENDS), "")


@app.command(no_args_is_help=True)
def verify(
    attestation: Annotated[Path, typer.Argument(help="attestation.json, or its folder.", show_default=False)],
    key: Annotated[
        Path | None,
        typer.Option(help="Public keys (PEM, one or several): whose signature counts. Required.", show_default=False),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Default: the report.json beside the attestation.", show_default=False)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Download and hash this model: a URI as for check, or a folder.", show_default=False),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="The policy file that the verdict has to be by.", show_default=False)
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="The same: strict, standard or internal.", show_default=False)
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            help="Names the registry of --model. Default: privacy-gate.yaml in this folder.",
            show_default=False,
        ),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="As on that day (YYYY-MM-DD, UTC). Default: today.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Check a signed verdict; each check is one line, and what was not checked is said.

    Ends with 0 if nothing failed and the verdict lets the model through, with 1 if something does not hold, with 3 if
    the registry does not answer. A 0 speaks of what was checked: to release a model, give --model and --policy.
    """
    from privacy_gate.attestation import FILE, NotVerified, opened, public_keys
    from privacy_gate.errors import ExitCode, UsageError

    if key is None:
        raise UsageError("--key is missing", "give the public key of those whose signature counts")
    path = attestation / FILE if attestation.is_dir() else attestation
    keys, envelope = public_keys(_read(key)), _read(path)
    against = _against(path, report, policy, profile, at)
    attested: Attested | None = None
    try:
        attested = opened(envelope, keys)
    except NotVerified as error:
        found = _refused(error)
    else:
        found = _examined(attested, against, None if model is None else _hashed(model, config))
    _tell(path, attested, found, as_json)
    raise typer.Exit(int(ExitCode.VIOLATED if any(f.ok is False for f in found) else ExitCode.PASS))


@dataclass(frozen=True, slots=True)
class _Against:
    """What is at hand; None: not given, and not beside the attestation."""

    report: bytes | None
    html: bytes | None
    policy_sha256: str | None
    now: float


def _against(path: Path, report: Path | None, policy: Path | None, profile: str | None, at: str | None) -> _Against:
    from privacy_gate.attestation import PAGE, REPORT
    from privacy_gate.cli.policy import day
    from privacy_gate.errors import UsageError
    from privacy_gate.policy import resolve

    if policy is not None and profile is not None:
        raise UsageError("--policy and --profile exclude each other", "give the one that `check` was given")
    named = report or path.with_name(REPORT)
    page = named.with_name(PAGE)
    by = policy or profile
    return _Against(
        report=_read(named) if report is not None or named.is_file() else None,
        html=_read(page) if page.is_file() else None,
        policy_sha256=None if by is None else resolve(by).digest,
        now=datetime.combine(day(at), time(), UTC).timestamp(),
    )


def _read(path: Path) -> bytes:
    from privacy_gate.errors import UsageError

    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}", "name a file that this user may read") from error


def _refused(error: NotVerified) -> list[Finding]:
    """Nothing that an unverified file says is worth a look."""
    from privacy_gate.attestation import Finding

    others = ("subject", "report", "policy", "freshness", "result")
    return [Finding("signature", False, error.what), *(Finding(name, None, "") for name in others)]


def _examined(attested: Attested, against: _Against, model_sha256: str | None) -> list[Finding]:
    from privacy_gate.attestation import PAGE, Finding, examine

    found = examine(
        attested,
        model_sha256=model_sha256,
        report=against.report,
        html=against.html,
        policy_sha256=against.policy_sha256,
        now=against.now,
    )
    if attested.html_sha256 is None or against.html is not None:
        return list(found)
    missing = Finding(PAGE, None, f"{PAGE}, sha256 {attested.html_sha256}; it is not beside the report")
    place = [f.name for f in found].index("report") + 1
    return [*found[:place], missing, *found[place:]]


def _hashed(model: str, config: Path | None) -> str:
    """Digest of the model's files as they are now; nothing of the model is loaded."""
    import tempfile

    from privacy_gate.build import registry_named
    from privacy_gate.registry import open_registry

    uris = registry_named(config)
    with tempfile.TemporaryDirectory() as work:
        return open_registry(*uris, model).resolve(model, Path(work)).digest


def _tell(path: Path, attested: Attested | None, found: list[Finding], as_json: bool) -> None:
    from privacy_gate.sandbox.untrusted import clean

    if as_json:
        import json

        checks = [{"name": f.name, "ok": f.ok, "detail": f.detail} for f in found]
        said = None if attested is None else asdict(attested)
        whole = {"file": str(path), "holds": not _broken(found), "signed": said, "checks": checks}
        typer.echo(json.dumps(whole, indent=2))
        return
    for finding in found:
        told = [finding.detail]
        if finding.ok is None:
            told = ["not checked", finding.detail, _ASKS.get(finding.name, "") if attested is not None else ""]
        mark = {True: "✔", False: "✖", None: "–"}[finding.ok]
        typer.echo(f"{mark} {finding.name:<11} {clean('; '.join(filter(None, told)))}")
    typer.echo(_closing(attested, found))
    if hint := mend(_broken(found)):
        typer.echo(f"  hint: {hint}", err=True)


def _broken(found: list[Finding]) -> list[str]:
    return [finding.name for finding in found if finding.ok is False]


def _closing(attested: Attested | None, found: list[Finding]) -> str:
    """The whole in one line, which never says more than what was checked."""
    if attested is None:
        return "does not hold: nothing in this file is believed"
    open_ = [finding.name for finding in found if finding.ok is None]
    rest = f"; not checked: {', '.join(open_)}" if open_ else ""
    broken = _broken(found)
    return f"does not hold: {', '.join(broken)}{rest}" if broken else f"holds{rest}"
