"""From `environment:` and `--device` to the runtime that loads the candidate and trains its shadows."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Literal

from privacy_gate.datamodel import Candidate
from privacy_gate.errors import EvaluationFailed, ModelOutputUnusable, ModuleMissing, WorkerDied
from privacy_gate.sandbox import interpreters, logged, virtual
from privacy_gate.sandbox.runtime import Runtime

CURRENT, MODEL = "current", "model"
_HANDFUL = 5  # differences that one line tells


def choose(
    environment: str,
    device: Literal["cpu", "cuda"],
    candidate: Candidate,
    *,
    folder: Path,
    store: Path,
    stage: Callable[[str], None] = lambda _: None,
) -> Runtime:
    """The runtime, examined; nothing of the model is loaded.

    environment  current, model, or a path
    folder       where a relative path starts
    store        root of the gate's store, for built environments
    stage        is told what takes long
    Raises UsageError (no such interpreter, too old, lacks packages; no CUDA device), EvaluationFailed (pip failed).
    """
    python = None
    if environment == MODEL:
        wanted = logged.requirements(candidate.snapshot)
        python = virtual.environment(wanted, logged.python_wanted(candidate.snapshot), store, stage=stage)
    elif environment != CURRENT:
        python = interpreters.located(environment, folder)
    versions = {} if python is None else interpreters.versions(python, candidate.flavor)
    made = logged.made_with(candidate.snapshot)
    differs = logged.differences(made, versions or _own(made), candidate.flavor, logged.pickled(candidate.snapshot))
    built = virtual.content(python) if python is not None and environment == MODEL else ""
    found = Runtime(python, device, versions, differs=differs, content=built)
    return found if device == "cpu" else replace(found, gpu=interpreters.gpu(found))


def require_unchanged(runtime: Runtime) -> None:
    """Raises EvaluationFailed where a built environment is no longer what it was: its model may have written to it."""
    if runtime.python is not None and runtime.content and virtual.content(runtime.python) != runtime.content:
        raise EvaluationFailed(
            "environment: model: the environment was changed while the model was loaded and scored",
            "it is built anew in the next run; a model that changes it again is not to be trusted",
        )


def _own(names: Iterable[str]) -> dict[str, str]:
    """The gate's own versions of these distributions."""
    found = {"python": platform.python_version()}
    for name in {*names, *logged.ALSO.values()}:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.setdefault(name, metadata.version(name))
    return found


def warning(runtime: Runtime) -> str:
    """What a report says where the model may not be what it was: other versions load it than it was logged with."""
    return f"the model was logged with other versions than it is loaded with: {_told(runtime.differs)}"


def _told(differs: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = len(differs) - _HANDFUL
    return "; ".join([*differs[:_HANDFUL], *([f"and {more} more"] if more > 0 else [])])


@contextlib.contextmanager
def explained(runtime: Runtime) -> Iterator[None]:
    """A model that cannot be loaded, or asked, may be of other versions, or lack a module: then the error says so."""
    try:
        yield
    except (ModelOutputUnusable, WorkerDied) as error:
        if not runtime.differs and not (isinstance(error, ModuleMissing) and runtime.python is None):
            raise
        way = "environment: /path/to/python names another interpreter"
        if runtime.python is None:
            way = f"environment: model loads it with its own versions, {way}"
        hint = f"the model was logged with {_told(runtime.differs)}: {way}" if runtime.differs else way
        raise type(error)(error.what, f"{hint}; {error.hint}" if error.hint else hint) from error
