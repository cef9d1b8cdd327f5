"""Train the shadows of a plan in worker processes; keep each as soon as it is finished, and never train one twice."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import platform
import re
import selectors
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np

from privacy_gate import features as tables
from privacy_gate.datamodel import Bools, Candidate, Description, Ints, Outputs, ShadowPlan
from privacy_gate.errors import GateError, NotEvaluable, RecipeFailed, StorageFailed, WorkerDied
from privacy_gate.features import Features
from privacy_gate.request import Recipe
from privacy_gate.shadows.pool import Pool, Worker
from privacy_gate.shadows.recipes import CATALOG, Context, choose
from privacy_gate.shadows.store import FORMAT, Store, Trained
from privacy_gate.shadows.worker import Order
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
    environment   settings for the workers
    """

    recipe: str
    context: Context
    identity: Mapping[str, Any]
    features: Features
    labels: Ints
    kind: Literal["auto", "logits", "probabilities"]
    numeric_path: Mapping[str, Any]
    environment: Mapping[str, str]


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
    # A model that is classified as plain data must load as plain data, in a worker as in the sandbox.
    plain = recipe.id == "clone" and candidate is not None and not candidate.executes_code
    environment = {"OMP_WAIT_POLICY": "PASSIVE"} | ({"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"} if plain else {})
    path = numeric_path(tuned=recipe.tuned)
    return TrainingTask(recipe.id, context, identity, features, labels, kind, path, environment)


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
            shape = len(task.labels), len(task.context.class_values)
            order, log = _hand_over(plan, task, folder), store.log()
            pool = Pool.of(order, folder, log, shape, task.environment)
            try:
                _Training(plan, task, pool, log, timeout, retries, keep).run(missing, width)
            finally:
                pool.close()
    ordered = [have[s] for s in range(len(names))]
    return Shadows(
        outputs=tuple(shadow.outputs for shadow in ordered),
        trained=len(missing),
        cached=cached,
        corrupt=store.corrupt - corrupt,
        accuracy_in=tuple(shadow.accuracy_in for shadow in ordered),
        accuracy_out=tuple(shadow.accuracy_out for shadow in ordered),
    )


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores that this process may use: its affinity and its cgroup's quota (v2, else v1), not what the machine has."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = map(int, " ".join((cgroup / name).read_text() for name in files).split())
        except (OSError, ValueError):  # no such file, or the quota is "max"
            continue
        if quota > 0 and period > 0:
            return max(1, min(cores, math.ceil(quota / period)))
    return cores


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


def _hand_over(plan: ShadowPlan, task: TrainingTask, folder: Path) -> Order:
    """Write what workers read, once, into a private folder."""
    try:
        path = tables.save(task.features, folder / "features")
        np.save(folder / "labels.npy", task.labels.astype(np.int64))
        np.save(folder / "member.npy", plan.member)
    except OSError as error:
        raise StorageFailed(
            f"{folder}: {error.strerror or error}", "free some space, or choose another store"
        ) from error
    return Order(task.recipe, task.context, task.kind, path.absolute(), task.numeric_path)


# --- workers --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Training:
    """Rounds of worker processes until no shadow is missing."""

    plan: ShadowPlan
    task: TrainingTask
    pool: Pool
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
            # Once more, one by one: a shadow that needs all of the memory gets all of it.
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
                f"the worker of shadow {' and '.join(map(str, lost))} died {self.retries + 1} times (out of memory?);"
                " finished shadows are kept",
                f"run again to go on; fewer --jobs need less memory; what workers printed is in {self.log}",
            )

    def _round(self, waiting: deque[int], width: int) -> list[int]:
        """Take shadows from `waiting` until none is left, or a worker died: then those whose worker did."""
        workers: list[Worker] = []
        died: list[int] = []
        try:
            while True:
                while waiting and not died and sum(w.shadow is not None for w in workers) < width:
                    self._give(workers, waiting[0])
                    waiting.popleft()
                busy = [w for w in workers if w.shadow is not None]
                if not busy:
                    return sorted(died)
                died += self._collect(workers, _ready(busy))
                self._look_at_the_clock(workers)
        finally:
            for worker in workers:
                worker.end()

    def _give(self, workers: list[Worker], shadow: int) -> None:
        """To a worker without a shadow, else to a new one."""
        for idle in [w for w in workers if w.shadow is None]:
            if not idle.grown() and idle.give(self.pool.number(), shadow, int(self.plan.seeds[shadow])):
                return
            workers.remove(idle)
            idle.end()
        workers.append(worker := self.pool.worker())
        if not worker.give(self.pool.number(), shadow, int(self.plan.seeds[shadow])):
            # It ended at once. That must count, or another one would be started without end.
            worker.shadow, worker.since = shadow, time.monotonic()

    def _collect(self, workers: list[Worker], speaking: Iterable[Worker]) -> list[int]:
        """Keep what is finished; returns the shadows whose worker died."""
        died: list[int] = []
        wrong: list[GateError] = []
        for worker in sorted(speaking, key=lambda w: w.job):
            shadow = worker.shadow
            if shadow is None:
                continue
            try:
                if worker.listen():
                    self.keep(shadow, self._trained(shadow, self.pool.answer(worker.job, shadow)))
            except EOFError:
                workers.remove(worker)
                worker.end()
                died.append(shadow)
            except StorageFailed:
                raise
            except GateError as error:  # after the others are kept
                wrong.append(error)
        if wrong:
            hint = f"{wrong[0].hint}; what workers printed is in {self.log}".lstrip("; ")
            raise type(wrong[0])(wrong[0].what, hint) from wrong[0]
        return died

    def _trained(self, shadow: int, outputs: Outputs) -> Trained:
        member: Bools = self.plan.member[shadow]
        correct: Bools = outputs.values.argmax(axis=1) == self.task.labels
        return Trained(outputs, _mean(correct[member]), _mean(correct[~member]))

    def _look_at_the_clock(self, workers: Iterable[Worker]) -> None:
        now = time.monotonic()
        for worker in workers:
            if worker.shadow is None:
                continue
            if not worker.ready and now - worker.since > _START_LIMIT:
                raise WorkerDied(
                    f"no worker took shadow {worker.shadow} within {_START_LIMIT:g} s",
                    f"is the machine overloaded? what workers printed is in {self.log}",
                )
            if worker.ready and now - worker.since > self.timeout:
                raise RecipeFailed(
                    f"shadow {worker.shadow} was not trained within {self.timeout:g} s (shadows.timeout)",
                    "raise shadows.timeout, or make the recipe faster; finished shadows are kept, what workers"
                    f" printed is in {self.log}",
                )


def _ready(busy: Sequence[Worker]) -> list[Worker]:
    """Those that said something, or whose process ended; waits a moment for the first."""
    with selectors.DefaultSelector() as selector:
        for worker in busy:
            selector.register(worker.heard, selectors.EVENT_READ, worker)
        speaking: list[Worker] = [key.data for key, _ in selector.select(_POLL)]
    # A process that the recipe left behind may hold a dead worker's pipe open.
    return speaking + [w for w in busy if w not in speaking and w.process.poll() is not None]


def _mean(correct: Bools) -> float | None:
    return float(correct.mean()) if len(correct) else None
