"""From `environment:` and `--device` to the runtime that loads the candidate and trains its shadows."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Literal

from privacy_gate.datamodel import Candidate
from privacy_gate.errors import EvaluationFailed, ModelOutputUnusable, WorkerDied
from privacy_gate.sandbox import interpreters, logged, virtual
from privacy_gate.sandbox.runtime import Runtime

CURRENT, MODEL = "current", "model"


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
    return f"the model was logged with other versions than it is loaded with: {'; '.join(runtime.differs)}"


@contextlib.contextmanager
def explained(runtime: Runtime) -> Iterator[None]:
    """A model that cannot be loaded, or asked, may be of other versions: then the error says so."""
    try:
        yield
    except (ModelOutputUnusable, WorkerDied) as error:
        if not runtime.differs:
            raise
        way = "environment: /path/to/python names another interpreter"
        if runtime.python is None:
            way = f"environment: model loads it with its own versions, {way}"
        hint = f"the model was logged with {'; '.join(runtime.differs)}: {way}"
        raise type(error)(error.what, f"{hint}; {error.hint}" if error.hint else hint) from error
