"""`privacy-gate attest`: sign what a report says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privacy_gate.cli import app

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from privacy_gate.attestation import Attested

DEFAULT_FOLDER = Path("privacy-gate-report")  # where `check` writes


@app.command()
def attest(
    report: Annotated[
        Path | None,
        typer.Argument(help="Folder of a report. Default: privacy-gate-report.", show_default=False),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            help="Private ed25519 key (PEM). Default: PRIVACY_GATE_SIGNING_KEY, or the file that "
            "PRIVACY_GATE_SIGNING_KEY_FILE names; PRIVACY_GATE_SIGNING_PASSWORD opens an encrypted one.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Default: attestation.json beside the report.", show_default=False)
    ] = None,
    new_key: Annotated[
        Path | None,
        typer.Option(help="Make a pair of keys instead: FILE and FILE.pub.", metavar="FILE", show_default=False),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", help="Names the registry. Default: privacy-gate.yaml in this folder.", show_default=False
        ),
    ] = None,
    no_mlflow_log: Annotated[bool, typer.Option("--no-mlflow-log", help="Write nothing back to MLflow.")] = False,
) -> None:
    """Sign report.json: an in-toto statement about the model's files, in a DSSE envelope.

    The statement names the digests of the model, policy, attacks and report, and the verdict, whatever it is. Who signs
    answers for the report, which has no key of its own: keep the key where the check runs. Report and attestation are
    also put into the evidence run that the report names, if the config or MLFLOW_TRACKING_URI says where that is.
    """
    from privacy_gate.build import registry_named
    from privacy_gate.errors import UsageError

    if new_key is not None:
        _alone(
            {"REPORT": report, "--key": key, "--out": out, "--config": config, "--no-mlflow-log": no_mlflow_log or None}
        )
        _make(new_key)
        return
    if no_mlflow_log and config is not None:
        raise UsageError("--config only names the registry, and --no-mlflow-log keeps away from it", "leave one out")
    uris = None if no_mlflow_log else registry_named(config)
    _sign(_folder(report or DEFAULT_FOLDER), _key(key), out, uris)


def _alone(given: dict[str, object]) -> None:
    from privacy_gate.errors import UsageError

    named = [option for option, value in given.items() if value is not None]
    if named:
        raise UsageError(f"--new-key only makes keys; {', '.join(named)} has no meaning with it", "leave one out")


def _folder(given: Path) -> Path:
    """The report's folder; its report.json is taken for it."""
    from privacy_gate.attestation import REPORT
    from privacy_gate.errors import UsageError

    if given.is_dir():
        return given
    if given.name == REPORT:
        return given.parent
    raise UsageError(f"{given}: no folder of a report", "give the folder that `check` wrote")


def _key(given: Path | None) -> Ed25519PrivateKey:
    from privacy_gate.attestation import SIGNING_PASSWORD, private_key, read_private
    from privacy_gate.errors import UsageError
    from privacy_gate.service.secrets import SIGNING_KEY, secret

    place = os.environ.get(f"{SIGNING_KEY}_FILE")
    pem: str | bytes | None
    if given is not None:
        pem = read_private(given)
    elif place is not None and SIGNING_KEY not in os.environ:
        pem = read_private(Path(place))
    else:
        pem = secret(SIGNING_KEY, os.environ)
    if pem is None:
        raise UsageError(
            "there is no key to sign with",
            f"give --key FILE, or set {SIGNING_KEY}; privacy-gate attest --new-key FILE makes a pair",
        )
    return private_key(pem, os.environ.get(SIGNING_PASSWORD))


def _make(path: Path) -> None:
    """Both files or none; an old key is never overwritten, for what it signed could not be verified any more."""
    from privacy_gate.attestation import SIGNING_PASSWORD, public_keys
    from privacy_gate.attestation import new_key as pair

    private, public = pair(os.environ.get(SIGNING_PASSWORD))
    beside = path.with_name(f"{path.name}.pub")
    _create(path, private, 0o600)
    try:
        _create(beside, public, 0o644)
    except BaseException:
        path.unlink()
        raise
    (id,) = public_keys(public)
    typer.echo(_line(f"key {id}"))
    typer.echo(_line(f"{path} signs: keep it secret\n{beside} verifies: give it to everybody"), err=True)


def _create(path: Path, content: bytes, mode: int) -> None:
    from privacy_gate.errors import StorageFailed, UsageError

    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    except FileExistsError as error:
        raise UsageError(f"{path}: is there already, and is not overwritten", "choose another name") from error
    except OSError as error:
        raise StorageFailed(f"{path}: {error.strerror or error}", "choose another folder") from error
    with os.fdopen(descriptor, "wb") as stream:
        os.fchmod(descriptor, mode)
        stream.write(content)


_Uris = tuple[str | None, str | None]  # of tracking and registry; None: those of the environment


def _sign(folder: Path, key: Ed25519PrivateKey, out: Path | None, uris: _Uris | None) -> None:
    """uris: None: nothing is put into the registry."""
    import time

    from privacy_gate.attestation import FILE, key_id, opened, signed
    from privacy_gate.storage import atomic_write

    envelope = signed(folder, key, time.time())
    path = out or folder / FILE
    with atomic_write(path) as stream:
        stream.write(envelope)
    public = key.public_key()
    attested = opened(envelope, {key_id(public): public})
    typer.echo(_line(_summary(attested)))
    typer.echo(_line(path), err=True)
    if uris is not None:
        typer.echo(_line(_attach(folder, envelope, attested, uris)), err=True)


def _summary(attested: Attested) -> str:
    until = f", valid until {attested.valid_until}" if attested.valid_until else ""
    word = attested.status.replace("_", " ")
    return (
        f"signed {attested.subject} (sha256 {attested.model_sha256[:12]}): {attested.result}, {word}{until}; "
        f"key {attested.key_id[:12]}"
    )


def _attach(folder: Path, envelope: bytes, attested: Attested, uris: _Uris) -> str:
    """Put what was signed into the evidence run; what was done, for people."""
    import tempfile

    from privacy_gate.attestation import FILE, PAGE, REPORT
    from privacy_gate.registry import open_registry
    from privacy_gate.reports.document import read

    logged = read((folder / REPORT).read_bytes()).run.mlflow
    if logged is None or logged.run_id is None:
        return "not attached: the report names no evidence run"
    if not any((*uris, os.environ.get("MLFLOW_TRACKING_URI"), os.environ.get("MLFLOW_REGISTRY_URI"))):
        return (
            f"not attached to run {logged.run_id}, so that promote does not find it there: no registry is named; set "
            "MLFLOW_TRACKING_URI, or tracking_uri: in privacy-gate.yaml"
        )
    names = [REPORT] if attested.html_sha256 is None else [REPORT, PAGE]
    with tempfile.TemporaryDirectory() as copies:
        # Under its own name, wherever --out has put it.
        (Path(copies) / FILE).write_bytes(envelope)
        open_registry(*uris).attach(logged.run_id, [*(folder / name for name in names), Path(copies) / FILE])
    return f"attached to run {logged.run_id}: {', '.join([*names, FILE])}"


def _line(text: object) -> str:
    from privacy_gate.cli.console import clean

    return clean(text)
