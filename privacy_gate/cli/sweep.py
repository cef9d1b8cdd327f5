"""`privacy-gate sweep`: what the service does on a timer, once: for cron, and for registries without webhooks."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from privacy_gate.cli import app
from privacy_gate.cli.serve import FILE, extra, there
from privacy_gate.errors import ExitCode

if TYPE_CHECKING:
    from privacy_gate.registry import Registry
    from privacy_gate.service.queue import Queue
    from privacy_gate.service.subscriptions import Subscribed
    from privacy_gate.service.sweep import Looked, Swept


@app.command()
def sweep(
    subscriptions: Annotated[
        Path, typer.Option(help="Which versions are judged, by what, and how the service runs.")
    ] = FILE,
    no_run: Annotated[bool, typer.Option("--no-run", help="Only queue; workers elsewhere judge.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Believe that the files of judged versions are as they were.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Versions that are judged at the same time.")] = 1,
    exit_zero: Annotated[bool, typer.Option("--exit-zero", help="End with 0 instead of 1.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> int:
    """Find every version that the subscriptions cover and that has no effective verdict, and judge it.

    Also puts the alias of each model where it belongs.

    Ends with the worst verdict of the versions that are covered
    (2, 1, 3, 4, 0 in this order), with 4 if none is, and with --no-run with 0 unless something could not be looked at.
    """
    import os
    import sys
    import time

    there(subscriptions)
    with extra():
        from privacy_gate.service import health, logs
        from privacy_gate.service.queue import open_queue
        from privacy_gate.service.subscriptions import load, queue_url
        from privacy_gate.service.sweep import looks, told
        from privacy_gate.service.sweep import sweep as look
    from privacy_gate.registry import open_registry
    from privacy_gate.storage import private_dir

    logs.configure("text", sys.stderr)
    subscribed = load(subscriptions)
    private_dir(subscribed.state)
    key = None if no_run else health.signing_key(os.environ)
    registry = open_registry(subscribed.tracking_uri, subscribed.registry_uri)
    queue = open_queue(queue_url(subscribed, os.environ))
    try:
        swept = look(subscribed, registry, queue, verify=not quick, now=time.time(), owner="privacy-gate sweep")
        if not no_run:
            _judge(subscribed, queue, jobs, key)
        seen = [] if no_run and not as_json else list(looks(subscribed, registry, queue, time.time()))
        rows = [_row(looked, subscribed) for looked in seen]
    finally:
        queue.close()
    code = _code(swept, None if no_run else [row["exit_code"] for row in rows])
    excused = exit_zero and code == ExitCode.VIOLATED
    ended = int(ExitCode.PASS) if excused else code
    if as_json:
        typer.echo(json.dumps({"exit_code": ended, "exit_zero": excused, **told(swept), "versions": rows}, indent=2))
    _show(swept, rows, excused, lines=not as_json)
    return ended


def _judge(subscribed: Subscribed, queue: Queue, jobs: int, key: Any) -> None:
    """Work until nothing in the queue is due; what is at hand when this is interrupted is given back."""
    import os
    import socket
    import threading
    from concurrent.futures import ThreadPoolExecutor

    from privacy_gate.registry import open_registry
    from privacy_gate.service.worker import work_one

    stop = threading.Event()

    def work(number: int) -> None:
        registry: Registry = open_registry(subscribed.tracking_uri, subscribed.registry_uri)
        name = f"{socket.gethostname()}:{os.getpid()}:{number}"
        while not stop.is_set() and work_one(subscribed, registry, queue, name, key=key, stop=stop):
            pass

    with ThreadPoolExecutor(jobs) as pool:
        try:
            for done in [pool.submit(work, number + 1) for number in range(jobs)]:
                done.result()
        except BaseException:
            stop.set()
            raise


def _row(looked: Looked, subscribed: Subscribed) -> dict[str, Any]:
    """One version, for people and machines; what strangers wrote is cleaned."""
    from privacy_gate.sandbox.untrusted import clean
    from privacy_gate.service.sweep import Standing

    version, judged = looked.version, looked.judged
    effective = judged if looked.standing is Standing.JUDGED else None
    said = looked.why or (looked.job.outcome if looked.job else "")
    return {
        "model": clean(version.name, 200),
        "version": clean(version.version, 20),
        "standing": str(looked.standing),
        "status": effective.status if effective else None,
        "exit_code": _of(looked, subscribed.value.service.attempts),
        "valid_until": effective.valid_until if effective else None,
        "run_id": clean(effective.run_id, 100) if effective and effective.run_id else None,
        "approved": subscribed.value.service.alias in version.aliases,
        "said": clean(effective.headline if effective else said, 600),
    }


def _of(looked: Looked, attempts: int) -> int:
    """The exit code that a version stands for: its verdict's; of what has none, why it has none."""
    from privacy_gate.service.sweep import Standing

    if looked.standing is Standing.JUDGED and looked.judged is not None:
        return looked.judged.exit_code
    tries = looked.job.attempts if looked.job else 0
    if looked.standing is Standing.PARKED:
        # What is refused is parked at once, what breaks after so many attempts.
        return int(ExitCode.USAGE if tries < attempts else ExitCode.FAILED)
    if looked.standing is Standing.WAITING and tries:
        return int(ExitCode.FAILED)
    return int(ExitCode.INCONCLUSIVE)  # nothing is known of it yet


_WORST_FIRST = (ExitCode.USAGE, ExitCode.VIOLATED, ExitCode.FAILED, ExitCode.INCONCLUSIVE)


def _code(swept: Swept, codes: Iterable[int] | None) -> int:
    """The worst of all; None: nothing was to be judged."""
    if codes is None:
        return int(ExitCode.FAILED if swept.failures else ExitCode.PASS)
    found = {*codes, *([ExitCode.FAILED] if swept.failures else [])} or {ExitCode.INCONCLUSIVE}
    return int(next((code for code in _WORST_FIRST if code in found), ExitCode.PASS))


def _show(swept: Swept, rows: list[dict[str, Any]], excused: bool, *, lines: bool) -> None:
    from privacy_gate.cli.console import MARKS, clean
    from privacy_gate.service.sweep import told

    def say(text: str) -> None:
        typer.echo(clean(text), err=True)

    about = told(swept)
    if not swept.alone:
        say("another sweep is at work; this one only judged what was in the queue")
    for row in about["asked"] if lines else ():
        say(f"· models:/{row['model']}/{row['version']}: {row['why']}")
    for row in rows if lines else ():
        mark, _ = MARKS.get(row["status"] or ("error" if row["standing"] == "parked" else "inconclusive"), ("?", ""))
        status = row["status"] or row["standing"]
        approved = " (approved)" if row["approved"] else ""
        typer.echo(clean(f"{mark} models:/{row['model']}/{row['version']}  {status}{approved}  {row['said']}"))
    for moved in about["moved"]:
        say(f"{moved['alias']} of {moved['model']}: {moved['before'] or 'nothing'} -> {moved['after'] or 'nothing'}")
    for broken in about["errors"]:
        say(f"error: {broken['uri']}: {broken['what']}")
    if swept.failures > len(swept.broken):
        say(f"error: {swept.failures - len(swept.broken)} more could not be looked at")
    if swept.alone and not swept.covered:
        say("no version is covered by the subscriptions: see their names, and versions:")
    if swept.alone:
        said = f"{swept.covered} versions are covered, {about['queued']} were asked for"
        say(f"{said}; {swept.unknown} models have no subscription")
    if excused:
        say("--exit-zero: a policy is violated, the exit code is 0 because you asked for it")
