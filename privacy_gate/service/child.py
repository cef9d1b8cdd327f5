"""One version judged, in a process of its own: `python -m privacy_gate.service.child JOB.json`.

The worker wrote the file; the exit code is that of `check`, a crash is 3. What is said here goes into the job's log.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from privacy_gate.errors import ExitCode, GateError, UsageError
from privacy_gate.request import Settings
from privacy_gate.sandbox.guard import keep_nice, shut
from privacy_gate.sandbox.untrusted import clean, where
from privacy_gate.storage import private_dir

if TYPE_CHECKING:
    from privacy_gate.request import CheckRequest

ERROR = "error: "  # how the lines begin that the worker shows to people


class RunRecords(Settings):
    """Where the run names its records; see `run_config.records`."""

    run: str
    roots: tuple[str, ...] = ()
    closed: tuple[Path, ...] = ()


class Order(Settings):
    """JOB.json.

    config        privacy-gate.yaml of the service, absolute
    tracking_uri, registry_uri  of the service; they win over the config's; None: it names none
    out           folder of the report
    store         of finished shadows, where neither config nor environment names one
    records       None: the config names them
    nice          how far everything else on the machine comes first
    """

    model: str
    config: Path
    tracking_uri: str | None = None
    registry_uri: str | None = None
    policy: Path | None = None
    profile: str | None = None
    waivers: Path | None = None
    suite: str = "full"
    trust: str = "data"
    out: Path
    store: Path
    records: RunRecords | None = None
    nice: int = 0


class _Told:
    """Writes each step into the log."""

    def stage(self, text: str) -> None:
        """One line."""
        _say(text)

    def shadows(self, done: int, total: int, cached: int, remaining: float | None) -> None:
        """Nothing: there may be hundreds."""

    def close(self) -> None:
        """Nothing."""


def main(path: str) -> int:
    """Judge what JOB.json asks for; the exit code."""
    try:
        order = read(Path(path))
        _lower(order.nice)
        shut()  # the registry's token is in its environment, and the model's code in processes of the same user
        from privacy_gate.pipeline import check

        private_dir(order.out)
        with tempfile.TemporaryDirectory(dir=order.out.parent) as work:
            return check(requested(order, Path(work)), _Told()).exit_code
    except GateError as error:
        _say(f"{ERROR}{error.what}")
        if error.hint:
            _say(f"hint: {error.hint}")
        return int(error.exit_code)
    except Exception as error:
        # Its words may quote a record: the log's readers get its place, the debugger's all of it.
        _say(f"{ERROR}unexpected {type(error).__name__} in {where(error)}")
        if os.environ.get("PRIVACY_GATE_DEBUG"):
            traceback.print_exc()
        return int(ExitCode.FAILED)


def _lower(nice: int) -> None:
    with contextlib.suppress(OSError):
        os.nice(nice)
    keep_nice()


def read(path: Path) -> Order:
    """JOB.json; raises UsageError."""
    try:
        return Order.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise UsageError(f"{path.name}: not a job ({type(error).__name__})", "the worker writes it") from error


def requested(order: Order, work: Path) -> CheckRequest:
    """The check that is asked for; raises UsageError, ConfigError, and what fetching a run's file raises."""
    from privacy_gate.build import build
    from privacy_gate.registry import open_registry
    from privacy_gate.service import run_config
    from privacy_gate.terms import shown, store_path

    request = build(
        config=shown(order.config),  # as `subscriptions` reads it: reports quote it
        model=order.model,
        policy=order.policy,
        profile=order.profile,
        waivers=order.waivers,
        suite=order.suite,
        trust=order.trust,
        out=order.out,
        formats=("json",),
    )
    # Not where a link leads: a mounted config map is made of links, and its files are found beside them.
    request = request.model_copy(update={"config_dir": order.config.parent})
    config = request.config
    assert config is not None
    uris = {"tracking_uri": order.tracking_uri, "registry_uri": order.registry_uri}
    config = config.model_copy(update={name: uri for name, uri in uris.items() if uri is not None})
    if config.store is None and not os.environ.get("PRIVACY_GATE_STORE"):
        request = request.model_copy(update={"store": order.store})
    if order.records is not None:
        named = order.records
        registry = open_registry(config.tracking_uri, config.registry_uri)
        closed = [*named.closed, store_path(request)]
        data = run_config.records(registry, named.run, named.roots, closed, work / "run")
        config = config.model_copy(update={"data": data})
        request = request.model_copy(update={"notes": (run_config.note(clean(named.run, 100)),)})
    return request.model_copy(update={"config": config})


def _say(text: str) -> None:
    """Line by line, without what steers a terminal."""
    for line in text.splitlines():
        sys.stderr.write(clean(line) + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
