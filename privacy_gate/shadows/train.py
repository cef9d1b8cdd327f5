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
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_gate import features as tables
from privacy_gate.datamodel import Bools, Candidate, Description, Floats, Ints, Outputs, ShadowPlan
from privacy_gate.defences import configure
from privacy_gate.errors import (
    ConfigError,
    GateError,
    ModelOutputUnusable,
    NotEvaluable,
    RecipeFailed,
    StorageFailed,
    WorkerDied,
)
from privacy_gate.features import AnyFeatures
from privacy_gate.request import Recipe
from privacy_gate.sandbox.outputs import AUTO, Form
from privacy_gate.sandbox.runtime import HERE, Runtime
from privacy_gate.sandbox.untrusted import clean
from privacy_gate.shadows.pool import Answer, Pool, Worker
from privacy_gate.shadows.recipes import CATALOG, Context, choose
from privacy_gate.shadows.recipes.command import named
from privacy_gate.shadows.store import FORMAT, Extra, Store, Trained
from privacy_gate.shadows.worker import Order
from privacy_gate.signals import PROBES
from privacy_gate.storage import sha256_of_json

_POLL = 0.1  # seconds between two looks at the clock
_TRACE = ""  # stands for the trace among the names of probes
_START_LIMIT = 300.0  # seconds that a worker may take to import its libraries


@dataclass(frozen=True, slots=True, eq=False)
class TrainingTask:
    """What is to be trained, checked and ready to run.

    recipe        id in the catalog of recipes
    context       what the recipe may know
    identity      what the recipe's models depend on beside records and seed
    features      [U] rows
    labels        [U] class index
    form          of the candidate's answers: shadows are read the same way
    numeric_path  how numbers are computed here: CPU features, threads, precision of matrix products
    environment   settings for the workers
    probes        what is asked of finished shadows, sorted; those that shadows can be asked (`Probe.shadows`)
    protect       settings of the defences; those that answer row by row stand between shadow and probe
    asked         [U] records that probes are asked about; None: all
    reference     [U] the seen records, where a training defence or the recipe uses them; None: no
    weights       [U] sample weights; None: all records weigh the same
    persons       [U] index of the person, where the recipe uses it; None: no
    trace         whether shadows are asked about all records after each epoch or stage of their training
    """

    recipe: str
    context: Context
    identity: Mapping[str, Any]
    features: AnyFeatures
    labels: Ints
    form: Form
    numeric_path: Mapping[str, Any]
    environment: Mapping[str, str] = field(repr=False)  # it may hold secrets
    probes: tuple[str, ...] = ()
    protect: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    asked: Bools | None = None
    reference: Bools | None = None
    trace: bool = False
    weights: Floats | None = None
    persons: Ints | None = None

    @property
    def probed(self) -> Bools:
        """[U] records that probes are asked about."""
        return np.ones(len(self.labels), dtype=bool) if self.asked is None else self.asked

    @property
    def extras(self) -> tuple[str, ...]:
        """What is wanted beside the outputs: the probes, and "" for the trace."""
        return (*self.probes, *([_TRACE] if self.trace else []))


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
    probes                     per shadow: probe -> [U] or [U, d], NaN where it was not asked; the same probes in all
    traces                     per shadow: [E, U, K] float32 answers after its first E steps; None where it told of none
    trace_steps                the steps of the longest trace; the others have the first of them
    absent                     probe -> why a shadow, and therefore none, has it
    failed                     probe -> class of the error that it raised; these are in `absent`, too
    log                        private file with what workers printed, where probes failed; None where none did
    """

    outputs: tuple[Outputs, ...]
    trained: int
    cached: int
    corrupt: int
    accuracy_in: tuple[float | None, ...]
    accuracy_out: tuple[float | None, ...]
    probes: tuple[Mapping[str, Floats], ...] = ()
    traces: tuple[NDArray[np.float32] | None, ...] = ()
    trace_steps: tuple[int, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    log: Path | None = None


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns beside the features; None: there is no such column."""

    label: str = "y"
    weight: str | None = None
    person: str | None = None


def prepare(
    settings: Recipe,
    *,
    folder: Path,
    candidate: Candidate | None,
    description: Description | None,
    features: AnyFeatures,
    labels: Ints,
    class_values: Sequence[Any],
    form: Form = AUTO,
    defences: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    reference: Bools | None = None,
    probes: Iterable[str] = (),
    protect: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    asked: Bools | None = None,
    trace: bool = False,
    weights: Floats | None = None,
    persons: Ints | None = None,
    columns: Columns = Columns(),
    runtime: Runtime = HERE,
) -> TrainingTask:
    """Choose and check the recipe, without running any code of the model or the user.

    folder        where relative paths of the settings start
    labels        [U] index into class_values, which are the label values in the order of the candidate's columns
    defences      settings of the training defences that the recipe puts on
    reference, probes, protect, asked, trace  as in `TrainingTask`; probes that shadows cannot be asked are left out
    persons       [U] index of the person; None: the records have none
    columns       names of the columns beside the features, for recipes that write files
    Raises ConfigError (a file or function is missing), UsageError (the candidate cannot be cloned).
    """
    recipe = choose(settings)
    context = Context(
        settings=settings,
        folder=folder.resolve(),
        snapshot=candidate.snapshot.resolve() if candidate else None,
        flavor=candidate.flavor if candidate else "none",
        class_values=tuple(class_values),
        defences={name: dict(given) for name, given in defences.items()},
        label=columns.label,
        weight=columns.weight,
        person=columns.person,
        positive=form.positive,
        runtime=runtime,
    )
    if recipe.seen(settings) and (reference is None or not reference.any()):
        raise ConfigError(
            "the recipe uses the seen records (its validation set); the config names none", "name them under data.seen"
        )
    identity = recipe.identity(context, description)
    # A model that is classified as plain data must load as plain data, in a worker as in the sandbox.
    plain = recipe.id in ("clone", "head") and candidate is not None and not candidate.executes_code
    environment = {"OMP_WAIT_POLICY": "PASSIVE"} | ({"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"} if plain else {})
    environment |= recipe.passed(settings)
    path = numeric_path(tuned=recipe.tuned, runtime=runtime)
    return TrainingTask(
        recipe.id, context, identity, features, labels, form, path, environment,
        probes=tuple(sorted({name for name in probes if PROBES[name].shadows})),
        protect={name: dict(given) for name, given in protect.items()},
        asked=asked,
        # Records that neither a training defence nor the recipe uses are no part of what is trained.
        reference=reference
        if reference is not None and (defences or recipe.seen(settings)) and reference.any()
        else None,
        trace=trace,
        weights=weights,
        persons=persons if recipe.persons(settings) else None,
    )  # fmt: skip


def keys(plan: ShadowPlan, task: TrainingTask) -> list[str]:
    """[S] the store's names for the shadows of a plan: sha256 over all that each depends on."""
    shared = {
        "format": FORMAT,
        "recipe": {"id": task.recipe, **task.identity},
        "data": tables.digest(task.features),
        "labels": _digest(np.ascontiguousarray(task.labels, dtype=np.int64)),
        "classes": [[type(value).__name__, str(value)] for value in task.context.class_values],
        "kind": task.form.kind,
        "versions": _versions(CATALOG[task.recipe].imports, task.context.runtime),
        "numeric_path": dict(task.numeric_path),
    }
    if task.context.defences:  # only then: shadows without keep the names that they have
        shared["defences"] = [[name, dict(settings)] for name, settings in task.context.defences.items()]
    if task.reference is not None:
        shared["reference"] = _digest(np.packbits(task.reference))
    if task.weights is not None:
        shared["weights"] = _digest(task.weights)
    if task.persons is not None:
        shared["persons"] = _digest(task.persons)
    if task.form.positive != 1:
        shared["positive"] = task.form.positive
    if task.form.column is not None:
        shared["column"] = task.form.column
    shared |= task.context.runtime.identity
    return [
        sha256_of_json({**shared, "member": _digest(np.packbits(mask)), "seed": int(seed)})
        for mask, seed in zip(plan.member, plan.seeds, strict=True)
    ]


def extra_keys(key: str, seed: int, task: TrainingTask) -> dict[str, str]:
    """What is wanted of the shadow of this key beside its outputs -> the store's name for it."""
    asked, protect = _digest(np.packbits(task.probed)), configure(task.protect).digest
    found = {
        name: sha256_of_json(
            {
                "shadow": key,
                "probe": name,
                "version": PROBES[name].version,
                "protect": protect,
                "asked": asked,
                "seed": seed,
            }
        )
        for name in task.probes
    }
    found = {name: f"{digest}.probe" for name, digest in found.items()}
    return found | ({_TRACE: f"{sha256_of_json({'shadow': key, 'trace': 1})}.trace"} if task.trace else {})


@dataclass(frozen=True, slots=True, eq=False)
class _Finished:
    """A shadow and what was wanted of it; failed: probe -> class of the error that it raised, which is not kept."""

    shadow: Trained
    extras: Mapping[str, Extra]
    failed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class _Shelf:
    """The part of the store that one plan is about: everything of a shadow, or nothing."""

    store: Store
    names: Sequence[str]
    extras: Sequence[Mapping[str, str]]

    @classmethod
    def of(cls, plan: ShadowPlan, task: TrainingTask, store: Store) -> _Shelf:
        names = keys(plan, task)
        return cls(store, names, [extra_keys(n, int(s), task) for n, s in zip(names, plan.seeds, strict=True)])

    def get(self, shadow: int) -> _Finished | None:
        """All that is wanted of a shadow; None where some of it is missing, or is of another model than the outputs."""
        found = self.store.get(self.names[shadow])
        extras = {what: self.store.beside(key) for what, key in self.extras[shadow].items()}
        if found is None:
            return None
        of = _digest(found.outputs.values)
        fitting = {what: extra for what, extra in extras.items() if extra is not None and extra.of == of}
        return _Finished(found, fitting) if len(fitting) == len(extras) else None

    def put(self, shadow: int, trained: Trained, answer: Answer) -> _Finished:
        """Keep all that was wanted, but for what failed: that may go better another time."""
        self.store.put(self.names[shadow], trained)
        of = _digest(trained.outputs.values)
        extras = {}
        for what, key in self.extras[shadow].items():
            extras[what] = _extra(what, answer, of)
            if what not in answer.failed:
                self.store.put(key, extras[what])
        return _Finished(trained, extras, answer.failed)


def _extra(what: str, answer: Answer, of: str) -> Extra:
    if what != _TRACE:
        return Extra(of, answer.probes.get(what), reason=answer.absent.get(what, ""))
    reason = "" if answer.trace is not None else "the recipe tells of no steps"
    return Extra(of, answer.trace, answer.steps, answer.outputs.kind, reason)


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
    if task.reference is not None and (plan.member & task.reference).any():
        raise NotEvaluable("shadows would train on the records of the defence", "name those under data.seen alone")
    shelf, corrupt, count = _Shelf.of(plan, task, store), store.corrupt, len(plan.seeds)
    have = {s: found for s in range(count) if (found := shelf.get(s)) is not None}
    cached, began = len(have), time.monotonic()

    def tell(last: int | None = None) -> None:
        progress(Progress(len(have), count, cached, began, time.monotonic(), last))

    def keep(shadow: int, trained: Trained, answer: Answer) -> None:
        have[shadow] = shelf.put(shadow, trained, answer)
        tell(shadow)

    tell()
    log: Path | None = None
    missing = [s for s in range(count) if s not in have]
    if missing:
        width = min(jobs or usable_cores(), len(missing))
        with store.workdir() as folder:
            shape = len(task.labels), len(task.context.class_values), int(task.probed.sum())
            order, log = _hand_over(plan, task, folder, retries), store.log()
            pool = Pool.of(order, folder, log, shape, task.environment)
            try:
                _Training(plan, task, pool, log, timeout, retries, keep).run(missing, width)
            finally:
                pool.close()
    ordered = [have[s] for s in range(count)]
    failed = {name: kind for one in reversed(ordered) for name, kind in one.failed.items()}
    probes, absent = _probes(task, ordered)
    traces, steps = _traces(task, ordered)
    return Shadows(
        outputs=tuple(one.shadow.outputs for one in ordered),
        trained=len(missing),
        cached=cached,
        corrupt=store.corrupt - corrupt,
        accuracy_in=tuple(one.shadow.accuracy_in for one in ordered),
        accuracy_out=tuple(one.shadow.accuracy_out for one in ordered),
        probes=probes,
        traces=traces,
        trace_steps=steps,
        absent=absent,
        failed=failed,
        log=log if failed else None,
    )


def _probes(
    task: TrainingTask, shadows: Sequence[_Finished]
) -> tuple[tuple[Mapping[str, Floats], ...], dict[str, str]]:
    """Per shadow, the probes that all of them have; why there are no others."""
    absent: dict[str, str] = {}
    for name in task.probes:
        each = [one.extras[name] for one in shadows]
        lost = next((extra.reason for extra in each if extra.values is None), None)
        if lost is not None:
            absent[name] = lost
        elif len({extra.values.shape[1:] for extra in each if extra.values is not None}) > 1:
            absent[name] = "shadows give vectors of several lengths"
    kept = [name for name in task.probes if name not in absent]
    return tuple({name: _spread(one.extras[name].values, task.probed) for name in kept} for one in shadows), absent


def _spread(values: Any, rows: Bools) -> Floats:
    """[U] or [U, d], NaN beside the rows."""
    everywhere = np.full((len(rows), *values.shape[1:]), np.nan)
    everywhere[rows] = values
    return everywhere


def _traces(
    task: TrainingTask, shadows: Sequence[_Finished]
) -> tuple[tuple[NDArray[np.float32] | None, ...], tuple[int, ...]]:
    """Per shadow its trace; the steps of the longest."""
    if not task.trace:
        return (None,) * len(shadows), ()
    each = [one.extras[_TRACE] for one in shadows]
    steps = max((extra.steps for extra in each), key=len, default=())
    for s, extra in enumerate(each):
        if extra.steps != steps[: len(extra.steps)]:
            raise ModelOutputUnusable(f"shadow {s} tells of other steps than the others", "number steps 1, 2, 3, ...")
    return tuple(None if e.values is None else e.values.astype(np.float32, copy=False) for e in each), steps


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


def numeric_path(*, tuned: bool, runtime: Runtime = HERE) -> dict[str, Any]:
    """What decides the last bits of a result on this machine; enters the store key.

    tuned  whether the gate may choose the precision mode of matrix products, by CPU features and measured error
    """
    path: dict[str, Any] = {"machine": platform.machine(), "cpu": cpu_features(), "threads": 1}
    if not tuned:
        return path
    # What was measured with the gate's own torch on the CPU says nothing of another one, or of a GPU.
    measured = runtime.python is None and runtime.device == "cpu"
    return {**path, "matmul": _matmul_precision(path["cpu"]) if measured else "highest"}


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


def _versions(packages: Iterable[str], runtime: Runtime = HERE) -> dict[str, str]:
    """Of Python, numpy and those packages that the recipe may use, where it runs; absence is a version, too."""
    if runtime.python is not None:
        wanted = {"python", "numpy", "scikit-learn", "torch", *packages}
        return {name: version for name, version in sorted(runtime.versions.items()) if name in wanted}
    found = {"python": platform.python_version()}
    for package in sorted({"numpy", "scikit-learn", "torch", *packages}):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _digest(array: np.ndarray[Any, Any]) -> str:
    return hashlib.sha256(f"{array.dtype.str}{array.shape}".encode() + array.tobytes()).hexdigest()


def _hand_over(plan: ShadowPlan, task: TrainingTask, folder: Path, retries: int) -> Order:
    """Write what workers read, once, into a private folder."""
    try:
        path = tables.save(task.features, folder / "features")
        np.save(folder / "labels.npy", task.labels.astype(np.int64))
        np.save(folder / "member.npy", plan.member)
        np.save(folder / "asked.npy", task.probed)
        np.save(
            folder / "reference.npy", np.zeros(len(task.labels), bool) if task.reference is None else task.reference
        )
        if task.weights is not None:
            np.save(folder / "weights.npy", task.weights)
        if task.persons is not None:
            np.save(folder / "persons.npy", task.persons)
    except OSError as error:
        raise StorageFailed(
            f"{folder}: {error.strerror or error}", "free some space, or choose another store"
        ) from error
    context = replace(task.context, retries=retries)
    return Order(
        task.recipe, context, task.form, path.absolute(), task.numeric_path, task.probes, task.protect, task.trace
    )


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
    keep: Callable[[int, Trained, Answer], None]
    failed: list[str] = field(default_factory=list)  # probes of finished shadows: their words are in the log

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
        if not self.failed:
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
                    answer = self.pool.answer(worker.job, shadow)
                    self.keep(shadow, self._trained(shadow, answer.outputs), answer)
                    self.failed.extend(answer.failed)
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
                    f"shadow {worker.shadow} was not trained{_by(self.task)} within {self.timeout:g} s"
                    " (shadows.timeout)",
                    "raise shadows.timeout, or make the recipe faster; finished shadows are kept, what workers"
                    f" printed is in {self.log}",
                )


def _by(task: TrainingTask) -> str:
    """Who trains, where it is a program of the user's."""
    command = task.context.settings.command
    return f" by the command {clean(named(command), 120)}" if command else ""


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
