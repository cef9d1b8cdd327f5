"""Train the shadows of a plan in worker processes; keep each as soon as it is finished, and never train one twice."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import os
import platform
import re
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np

from privacy_gate import features as tables
from privacy_gate.datamodel import Candidate, Description, Ints, Outputs, ShadowPlan
from privacy_gate.errors import (
    GateError,
    ModelOutputUnusable,
    NotEvaluable,
    RecipeFailed,
    StorageFailed,
    WorkerDied,
)
from privacy_gate.features import Features
from privacy_gate.request import Recipe
from privacy_gate.shadows import worker
from privacy_gate.shadows.recipes import CATALOG, Context, choose
from privacy_gate.shadows.store import FORMAT, Store, Trained
from privacy_gate.storage import sha256_of_json

_POLL = 0.1  # seconds between two looks at the clock
_START_LIMIT = 300.0  # seconds that a worker may take to import its libraries


@dataclass(frozen=True, slots=True, eq=False)
class TrainingTask:
    """What is to be trained, checked and ready to run.

    recipe        id in the catalog of recipes
    context       what the recipe may know
    identity      what the recipe's models depend on beside records and seed
    features      [U] rows
    labels        [U] class index
    kind          of the candidate's answers: shadows are read the same way
    numeric_path  how numbers are computed here: CPU features, threads, precision of matrix products
    """

    recipe: str
    context: Context
    identity: Mapping[str, Any]
    features: Features
    labels: Ints
    kind: Literal["auto", "logits", "probabilities"]
    numeric_path: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the training is. Seconds are of the monotonic clock."""

    done: int  # shadows that exist, cached ones included
    total: int
    cached: int
    started_at: float
    now: float
    last: int | None = None  # shadow that was finished last

    @property
    def remaining(self) -> float | None:
        """Estimate of the seconds left: the mean pace so far; None before the first shadow is finished."""
        trained = self.done - self.cached
        return (self.now - self.started_at) / trained * (self.total - self.done) if trained else None


@dataclass(frozen=True, slots=True, eq=False)
class Shadows:
    """Finished shadows, in the order of the plan.

    outputs                    S times [U, K]
    trained, cached            how many were trained now, and how many were in the store
    corrupt                    entries of the store that were thrown away and trained again
    accuracy_in, accuracy_out  [S] on the records that each trained on, and on the others; None where there are none
    """

    outputs: tuple[Outputs, ...]
    trained: int
    cached: int
    corrupt: int
    accuracy_in: tuple[float | None, ...]
    accuracy_out: tuple[float | None, ...]


def prepare(
    settings: Recipe,
    *,
    folder: Path,
    candidate: Candidate | None,
    description: Description | None,
    features: Features,
    labels: Ints,
    class_values: Sequence[Any],
    kind: Literal["auto", "logits", "probabilities"] = "auto",
) -> TrainingTask:
    """Choose and check the recipe, without running any code of the model or the user.

    folder        where relative paths of the settings start
    labels        [U] index into class_values, which are the label values in the order of the candidate's columns
    Raises ConfigError (a file or function is missing), UsageError (the candidate cannot be cloned).
    """
    recipe = choose(settings)
    context = Context(
        settings=settings,
        folder=folder.resolve(),
        snapshot=candidate.snapshot.resolve() if candidate else None,
        flavor=candidate.flavor if candidate else "none",
        class_values=tuple(class_values),
    )
    identity = recipe.identity(context, description)
    return TrainingTask(recipe.id, context, identity, features, labels, kind, numeric_path(tuned=recipe.tuned))


def keys(plan: ShadowPlan, task: TrainingTask) -> list[str]:
    """[S] the store's names for the shadows of a plan: sha256 over all that each depends on."""
    shared = {
        "format": FORMAT,
        "recipe": {"id": task.recipe, **task.identity},
        "data": tables.digest(task.features),
        "labels": _digest(np.ascontiguousarray(task.labels, dtype=np.int64)),
        "classes": [[type(value).__name__, str(value)] for value in task.context.class_values],
        "kind": task.kind,
        "versions": _versions(CATALOG[task.recipe].imports),
        "numeric_path": dict(task.numeric_path),
    }
    return [
        sha256_of_json({**shared, "member": _digest(np.packbits(mask)), "seed": int(seed)})
        for mask, seed in zip(plan.member, plan.seeds, strict=True)
    ]


def train(
    plan: ShadowPlan,
    task: TrainingTask,
    store: Store,
    *,
    jobs: int | None = None,
    timeout: float = 1800.0,
    retries: int = 2,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Shadows:
    """All shadows of the plan: from the store, or trained now. The answers do not depend on `jobs`.

    jobs     worker processes; default: the cores this process may use
    timeout  seconds for one shadow
    retries  how often a shadow is tried again after its worker died
    Raises RecipeFailed, ModelOutputUnusable, WorkerDied, StorageFailed; finished shadows stay in the store.
    """
    for s, mask in enumerate(plan.member):
        if len(np.unique(task.labels[mask])) < 2:
            raise NotEvaluable(f"shadow {s} would train on records of a single class", "more records are needed")
    names = keys(plan, task)
    corrupt = store.corrupt
    have = {s: found for s, key in enumerate(names) if (found := store.get(key)) is not None}
    cached, began = len(have), time.monotonic()

    def tell(last: int | None = None) -> None:
        progress(Progress(len(have), len(names), cached, began, time.monotonic(), last))

    def keep(shadow: int, trained: Trained) -> None:
        store.put(names[shadow], trained)
        have[shadow] = trained
        tell(shadow)

    tell()
    missing = [s for s in range(len(names)) if s not in have]
    if missing:
        width = min(jobs or usable_cores(), len(missing))
        with store.workdir() as folder:
            _Training(plan, task, _hand_over(plan, task, folder), store.log(), timeout, retries, keep).run(
                missing, width
            )
    ordered = [have[s] for s in range(len(names))]
    return Shadows(
        outputs=tuple(shadow.outputs for shadow in ordered),
        trained=len(missing),
        cached=cached,
        corrupt=store.corrupt - corrupt,
        accuracy_in=tuple(shadow.accuracy_in for shadow in ordered),
        accuracy_out=tuple(shadow.accuracy_out for shadow in ordered),
    )


def usable_cores() -> int:
    """Cores that this process may use: its affinity and its cgroup's quota, not what the machine has."""
    import loky

    return int(loky.cpu_count())


def numeric_path(*, tuned: bool) -> dict[str, Any]:
    """What decides the last bits of a result on this machine; enters the store key.

    tuned  whether the gate may choose the precision mode of matrix products, by CPU features and measured error
    """
    path: dict[str, Any] = {"machine": platform.machine(), "cpu": cpu_features(), "threads": 1}
    return {**path, "matmul": _matmul_precision(path["cpu"])} if tuned else path


# Instruction sets that numeric libraries dispatch on; MKL also looks at the vendor.
_DISPATCH = frozenset(
    {"sse4_2", "avx", "avx2", "fma", "avx_vnni", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16"}
    | {"asimd", "sve"}
)


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Vendor and instruction sets of the processor, sorted; its name where the kernel tells no more."""
    if not cpuinfo.is_file():
        return [platform.processor()]
    text = cpuinfo.read_text()
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    vendor = re.search(r"^vendor_id\s*:(.*)$", text, re.MULTILINE)
    named = set(flags[1].split()) & _DISPATCH if flags else set()
    return sorted(named | ({vendor[1].strip()} if vendor else set()))


def _matmul_precision(cpu: Sequence[str]) -> str:
    """`medium` where it computes true float32, and faster; else `highest`.

    MKL runs old code on AMD; `medium` goes to oneDNN, twice as fast. With AMX units it would mean bfloat16, so the
    error decides as well. A stopwatch must not: two runs on one machine have to agree.
    """
    if not {"AuthenticAMD", "avx512f"} <= set(cpu) or "amx_bf16" in cpu:
        return "highest"
    import torch

    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        error = float(((a @ b).double() - exact).norm() / exact.norm())
    finally:
        torch.set_float32_matmul_precision(before)
    return "medium" if error < 1e-6 else "highest"


def _versions(packages: Iterable[str]) -> dict[str, str]:
    """Of Python, numpy and those packages that the recipe may use; absence is a version, too."""
    found = {"python": platform.python_version()}
    for package in sorted({"numpy", "scikit-learn", "torch", *packages}):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _digest(array: np.ndarray[Any, Any]) -> str:
    return hashlib.sha256(f"{array.dtype.str}{array.shape}".encode() + array.tobytes()).hexdigest()


def _hand_over(plan: ShadowPlan, task: TrainingTask, folder: Path) -> worker.Order:
    """Write what workers read, once, into a private folder."""
    try:
        path = tables.save(task.features, folder / "features")
        np.save(folder / "labels.npy", task.labels.astype(np.int64))
        np.save(folder / "member.npy", plan.member)
    except OSError as error:
        raise StorageFailed(
            f"{folder}: {error.strerror or error}", "free some space, or choose another store"
        ) from error
    return worker.Order(task.recipe, task.context, task.kind, path)


# --- workers --------------------------------------------------------------------------------------------------------

_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_KEY|PRIVATE_KEY", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"://[^/@\s]*:[^/@\s]*@")


def worker_environment(own: Mapping[str, str]) -> dict[str, str]:
    """What workers see differently: one thread each, and blanks where the gate has secrets."""
    secrets = [k for k, v in own.items() if _SECRET_NAME.search(k) or _SECRET_VALUE.search(v)]
    return {**dict.fromkeys(secrets, ""), "MLFLOW_DISABLE_TELEMETRY": "true", **worker.ONE_THREAD}


@dataclass(frozen=True, slots=True, eq=False)
class _Training:
    """Rounds of worker processes until no shadow is missing."""

    plan: ShadowPlan
    task: TrainingTask
    order: worker.Order
    log: Path
    timeout: float
    retries: int
    keep: Callable[[int, Trained], None]

    def run(self, missing: Sequence[int], width: int) -> None:
        """Train the missing shadows, `width` at a time; the log stays only if something went wrong."""
        waiting, deaths = deque(missing), Counter[int]()
        while waiting:
            alone = deque(self._round(waiting, width))
            self._count(deaths, alone)
            # The pool cannot tell whose worker died, and takes the neighbours along. Trying them again one by one
            # finds the culprit, and gives a shadow that needs all of the memory all of it.
            while alone:
                died = self._round(alone, 1)
                self._count(deaths, died)
                alone.extendleft(died)
        self.log.unlink(missing_ok=True)

    def _count(self, deaths: Counter[int], died: Iterable[int]) -> None:
        deaths.update(died)
        lost = sorted(s for s in died if deaths[s] > self.retries)
        if lost:
            raise WorkerDied(
                f"the worker of shadow {' or '.join(map(str, lost))} died {self.retries + 1} times (out of memory?);"
                " finished shadows are kept",
                f"run again to go on; fewer --jobs need less memory; what workers printed is in {self.log}",
            )

    def _round(self, waiting: deque[int], width: int) -> list[int]:
        """Take shadows from `waiting` until none is left, or a worker died: then those that it may have been at."""
        from loky.process_executor import BrokenProcessPool

        pool = self._pool(width)
        running: dict[_Future, _Attempt] = {}
        try:
            while waiting or running:
                while waiting and len(running) < width:
                    attempt = _Attempt(waiting[0], self.order.features.with_name(f"started-{waiting[0]}"))
                    attempt.marker.unlink(missing_ok=True)
                    arguments = (self.order, attempt.shadow, int(self.plan.seeds[attempt.shadow]), attempt.marker)
                    try:
                        future = pool.submit(worker.run, *arguments)
                    except BrokenProcessPool:  # broke since we last looked; those in flight will tell
                        break
                    running[future] = attempt
                    waiting.popleft()
                if not running:
                    return []
                done, _ = concurrent.futures.wait(
                    running, timeout=_POLL, return_when=concurrent.futures.FIRST_COMPLETED
                )
                if died := self._collect(done, running):
                    return sorted(died)
                self._look_at_the_clock(running.values())
        finally:
            pool.shutdown(wait=True, kill_workers=True)
        return []

    def _collect(self, done: Iterable[_Future], running: dict[_Future, _Attempt]) -> list[int]:
        """Keep what is finished; returns the shadows whose worker, or whose neighbour's worker, died."""
        from loky.process_executor import BrokenProcessPool

        died: list[int] = []
        errors: list[GateError] = []
        for future in sorted(done, key=lambda f: running[f].shadow):
            shadow = running.pop(future).shadow
            try:
                self.keep(shadow, self._checked(shadow, future.result()))
            except BrokenProcessPool:
                died.append(shadow)
            except StorageFailed:
                raise
            except GateError as error:  # after the others are kept
                errors.append(error)
        if errors:
            raise type(errors[0])(errors[0].what, f"{errors[0].hint}; what workers printed is in {self.log}")
        if died and running:  # a broken pool ends all of its futures
            rest, _ = concurrent.futures.wait(running)
            died += self._collect(rest, running)
        return died

    def _checked(self, shadow: int, trained: Trained) -> Trained:
        """Workers run the code of strangers: what they hand back is looked at again."""
        shape = (len(self.task.labels), len(self.task.context.class_values))
        values = trained.outputs.values
        if values.shape != shape or values.dtype.kind != "f" or not np.isfinite(values).all():
            raise ModelOutputUnusable(
                f"shadow {shadow}: answers of shape {list(values.shape)} and type {values.dtype}, expected finite"
                f" floats of shape {list(shape)}"
            )
        return trained

    def _look_at_the_clock(self, attempts: Iterable[_Attempt]) -> None:
        now = time.monotonic()
        for attempt in attempts:
            if attempt.started is None:
                if attempt.marker.exists():
                    attempt.started = now
                elif now - attempt.submitted > _START_LIMIT:
                    raise WorkerDied(
                        f"no worker took shadow {attempt.shadow} within {_START_LIMIT:g} s",
                        f"is the machine overloaded? what workers printed is in {self.log}",
                    )
            elif now - attempt.started > self.timeout:
                raise RecipeFailed(
                    f"shadow {attempt.shadow} was not trained within {self.timeout:g} s (shadows.timeout)",
                    "raise shadows.timeout, or make the recipe faster; finished shadows are kept, what workers"
                    f" printed is in {self.log}",
                )

    def _pool(self, width: int) -> Any:
        """Fresh interpreters, started without the caller's main module: scripts without a main guard may call us."""
        import loky
        from loky.backend import get_context

        # It stops and replaces a worker whose memory grew, by design; that is no news for the user.
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given", category=UserWarning)
        imports = CATALOG[self.task.recipe].imports
        return loky.ProcessPoolExecutor(
            max_workers=width,
            context=get_context("loky"),
            initializer=worker.start,
            initargs=(os.getpid(), self.log, imports, self.task.numeric_path),
            env=worker_environment(os.environ),
        )


_Future = concurrent.futures.Future[Trained]


@dataclass(slots=True)
class _Attempt:
    """One shadow in flight."""

    shadow: int
    marker: Path  # appears when the worker begins
    submitted: float = field(default_factory=time.monotonic)
    started: float | None = None
