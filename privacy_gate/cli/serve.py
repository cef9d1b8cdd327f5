"""`privacy-gate serve`: the gate as a service."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from privacy_gate.cli import app

FILE = Path("subscriptions.yaml")


@app.command()
def serve(
    subscriptions: Annotated[
        Path, typer.Option(help="Which versions are judged, by what, and how the service runs.")
    ] = FILE,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8484,
    role: Annotated[
        str, typer.Option(help="all; or receiver, worker: one of them alone, on as many hosts as wanted.")
    ] = "all",
    workers: Annotated[int, typer.Option(min=1, help="Versions that are judged at the same time.")] = 1,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate with its chain, PEM.", show_default=False)] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key, PEM without a password.", show_default=False)] = None,
    log_format: Annotated[str, typer.Option(help="text or json, on stderr.")] = "text",
    example: Annotated[bool, typer.Option("--example", help="Print a commented subscriptions.yaml and end.")] = False,
    name: Annotated[str | None, typer.Option(hidden=True)] = None,
    follow: Annotated[bool, typer.Option("--follow", hidden=True)] = False,
) -> int:
    """Take in an MLflow registry's webhooks, sweep it, judge what is new, and show how that goes on a page.

    Needs the extra `server`, and MLFLOW_TRACKING_URI or tracking_uri: in the subscriptions. Secrets come from the
    environment, or from the files that NAME_FILE names:
    PRIVACY_GATE_WEBHOOK_SECRET, PRIVACY_GATE_SERVICE_TOKEN, PRIVACY_GATE_SIGNING_KEY, PRIVACY_GATE_QUEUE_URL.

    Ends with 0 when it is told to (SIGTERM), with 130 after Ctrl-C, and gives back what it was at.
    """
    if example:
        from privacy_gate.resources import template

        typer.echo(template("scaffolds", "subscriptions.yaml.jinja").read_text(encoding="utf-8"), nl=False)
        return 0
    _known("--role", role, ("all", "receiver", "worker"))
    _known("--log-format", log_format, ("text", "json"))
    there(subscriptions)
    with extra():
        from privacy_gate.service import logs
        from privacy_gate.service.serve import Options
        from privacy_gate.service.serve import serve as run
    logs.configure(cast("Literal['json', 'text']", log_format), sys.stderr)
    code = run(
        Options(
            subscriptions=subscriptions,
            host=host,
            port=port,
            role=cast("Literal['all', 'receiver', 'worker']", role),
            workers=workers,
            tls_cert=tls_cert,
            tls_key=tls_key,
            log_format=cast("Literal['json', 'text']", log_format),
            name=name,
            follow=follow,
        )
    )
    if role == "worker":
        # All is written and closed. A sweep that is still at it, in the depths of some library, could hold up the
        # interpreter's own end for ever.
        sys.stderr.flush()
        os._exit(code)
    return code


def there(subscriptions: Path) -> None:
    """Raises UsageError, with how to begin, where there is no such file."""
    from privacy_gate.errors import UsageError

    if not subscriptions.exists():
        raise UsageError(
            f"--subscriptions {subscriptions}: there is no such file",
            f"privacy-gate serve --example > {FILE} writes one to begin with",
        )


@contextlib.contextmanager
def extra() -> Iterator[None]:
    """Around the imports of what the extra [server] brings; raises UsageError where it is missing."""
    from privacy_gate.errors import UsageError

    try:
        yield
    except ModuleNotFoundError as error:
        raise UsageError(f"the service needs the package {error.name}", "pip install 'privacy-gate[server]'") from error


def _known(option: str, value: str, names: tuple[str, ...]) -> None:
    from privacy_gate.catalog import did_you_mean
    from privacy_gate.errors import UsageError

    if value not in names:
        raise UsageError(f"{option}: {value!r} is none of {', '.join(names)}", did_you_mean(value, list(names)))
