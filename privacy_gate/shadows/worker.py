"""A worker process: one shadow at a time, one thread, everything random from the shadow's own seed.

`python -I -m privacy_gate.shadows.worker FOLDER GATE PIPE` reads jobs from stdin, a line "number shadow seed" each,
and leaves number.values and number.json in FOLDER/answers; number.trace and number.probe0, ... where a trace and probes
were asked for. The gate imports this module for its names alone: model and user code runs in `run`, which only workers
call.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import pickle
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from privacy_gate import features as tables
from privacy_gate.datamodel import Bools, Floats, Ints, Outputs
from privacy_gate.errors import GateError, ModelOutputUnusable, RecipeFailed, StorageFailed
from privacy_gate.sandbox import asking, models
from privacy_gate.sandbox.asking import Nothing, dice_kept, modes_kept, seed_globals
from privacy_gate.sandbox.outputs import BATCH, Form, Kind, checked, kind_of, one_hot
from privacy_gate.shadows.recipes import CATALOG, Answered, Context, label_values
from privacy_gate.shadows.source import failed

# What a worker says into its pipe, and all that it says.
READY = b"ready\n"
DONE = b"done %d\n"
_MODULES = {"scikit-learn": "sklearn"}  # distribution -> module, where they differ


@dataclass(frozen=True, slots=True)
class Order:
    """The part of a training task that all shadows share.

    recipe        id in the catalog
    form          what the candidate's answers are
    features      file written by `features.save`; beside it lie member.npy [S, U] and, all [U], labels.npy, asked.npy,
                  reference.npy and, where training uses them, weights.npy and persons.npy
    numeric_path, probes, protect, trace  as in `TrainingTask`
    """

    recipe: str
    context: Context
    form: Form
    features: Path
    numeric_path: Mapping[str, Any]
    probes: tuple[str, ...] = ()
    protect: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    trace: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """All that one shadow was asked.

    outputs  [U, K] in the candidate's class order
    probes   what each found on the records asked about, in the order of `Order.probes`
    watch    what it answered while it was trained
    """

    outputs: Outputs
    probes: tuple[Floats | Nothing, ...]
    watch: Watch


def main(folder: Path, parent: int, pipe: int) -> None:
    """Work off the jobs on stdin until it ends."""
    # The user's code gets an empty stdin and a log as stdout: neither jobs nor tokens pass through them.
    jobs = os.fdopen(os.dup(0), "rb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.set_inheritable(pipe, False)
    confine(parent)
    with (folder / "order.pkl").open("rb") as stream:
        order: Order = pickle.load(stream)  # noqa: S301  # written by the gate
    start(CATALOG[order.recipe].imports, order.numeric_path)
    os.write(pipe, READY)
    for line in jobs:
        job, shadow, seed = map(int, line.split())
        answer(order, shadow, seed, folder / "answers" / str(job))
        os.write(pipe, DONE % job)


def answer(order: Order, shadow: int, seed: int, stem: Path) -> None:
    """Leave `stem`.values and `stem`.json; the whole story of an error goes to the log, where records may be quoted."""
    try:
        meta = _told(run(order, shadow, seed), stem)
    except BaseException as error:
        with contextlib.suppress(Exception):  # the user's code may have closed or replaced stderr
            traceback.print_exc()
        if isinstance(error, OSError):
            told: GateError = StorageFailed(f"a worker cannot write: {error.strerror}", "free some space")
        else:
            told = error if isinstance(error, GateError) else failed("training", error, order.context.folder)
        meta = {"error": {"class": type(told).__name__, "what": told.what, "hint": told.hint}}
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):  # the user's code may have closed them
                stream.flush()
    with contextlib.suppress(OSError):  # a full disk: the gate misses the answer
        stem.with_suffix(".json").write_text(json.dumps(meta))


def _told(told: Told, stem: Path) -> dict[str, Any]:
    """Write the arrays; what it takes to read them."""
    meta = _write(told.outputs.values, stem.with_suffix(".values")) | {"kind": told.outputs.kind}
    meta["probes"] = [_found(one, stem.with_suffix(f".probe{i}")) for i, one in enumerate(told.probes)]
    if told.watch.steps:
        _write(np.stack(told.watch.answers), stem.with_suffix(".trace"))
        meta["trace"] = {"steps": told.watch.steps, "kind": told.outputs.kind}
    return meta


def _found(found: Floats | Nothing, path: Path) -> dict[str, Any]:
    if not isinstance(found, np.ndarray):
        return {"failed": found.failed, "where": found.where} if found.failed else {"absent": found.reason}
    _write(found, path)
    return {"width": found.shape[1] if found.ndim == 2 else 0}


def _write(values: NDArray[Any], path: Path) -> dict[str, Any]:
    """Bare bytes, so that the gate need not trust a header, and what it takes to make an array of them again."""
    # Sums over columns depend on the layout in their last bits: it travels along.
    order: Literal["C", "F"] = "F" if values.flags.f_contiguous and not values.flags.c_contiguous else "C"
    path.write_bytes(values.tobytes(order))
    return {"dtype": values.dtype.name, "order": order}


def confine(parent: int) -> None:
    """Die with the gate, leave no core file behind, write nothing that others can read."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the gate ends its workers itself
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # the gate went away before the line above
        os._exit(1)


def start(imports: tuple[str, ...], numeric_path: Mapping[str, Any]) -> None:
    """Prepare for the first shadow: libraries, one thread, a heap that keeps its pages."""
    _keep_pages()
    for name in imports:
        importlib.import_module(_MODULES.get(name, name))
    if "torch" in imports:
        import torch

        torch.set_num_threads(1)
        torch.set_float32_matmul_precision(numeric_path["matmul"])


def _keep_pages() -> None:
    """Stop glibc from returning each gradient to the kernel: up to 1.4 times as fast; no-op on other C libraries."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version") and hasattr(libc, "mallopt"):
        m_mmap_max, m_trim_threshold, m_top_pad = -4, -1, -2
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
        libc.mallopt(m_top_pad, 64 << 20)


def run(order: Order, shadow: int, seed: int) -> Told:
    """Train one shadow, ask it about all U records, and let the probes ask about theirs."""
    features = tables.load(order.features)
    labels: Ints = np.load(order.features.with_name("labels.npy"))
    member: Bools = np.load(order.features.with_name("member.npy"), mmap_mode="r")[shadow]
    watch = Watch(order, features)
    context = replace(
        order.context,
        reference=_reference(order, features, labels),
        records=features,
        weights=_weights(order, np.asarray(member)),
        persons=_persons(order, np.asarray(member)),
        watch=watch if order.trace else None,
    )
    model = _fitted(order, context, _rows(features, np.asarray(member)), labels[member], seed)
    if isinstance(model, Answered):
        return _answered(order, model, watch)
    ask = _ask(order, model)
    first = np.arange(min(tables.batch_rows(features, BATCH), len(labels)))
    outputs = asking.settled(ask, features, order.form.kind, tables.take(features, first))
    watch.end(outputs)
    return Told(outputs, tuple(_probes(order, model, ask, features, labels, seed)), watch)


def _answered(order: Order, given: Answered, watch: Watch) -> Told:
    """What a recipe without a model tells: nobody can ask it anything else."""
    outputs = checked(given.values, given.kind, len(given.values))
    nothing = Nothing(reason="the command leaves answers, no model that could be asked")
    outputs = align(outputs, given.classes_, order.context.class_values)
    if order.form.kind == "labels":  # the candidate tells no more than the top class
        outputs = one_hot(outputs.values.argmax(axis=1), outputs.values.shape[1])
    return Told(outputs, (nothing,) * len(order.probes), watch)


def _rows(features: tables.AnyFeatures, rows: NDArray[Any]) -> tables.Features:
    """In memory: rows of a memory map are a copy, but of the map's type."""
    taken = tables.in_memory(tables.take(features, rows))
    return np.asarray(taken) if isinstance(taken, np.ndarray) else taken


def _reference(order: Order, features: tables.AnyFeatures, labels: Ints) -> tuple[tables.Features, NDArray[Any]] | None:
    """The records of the training defence, labels as the recipe takes them; None where it has none."""
    rows: Bools = np.load(order.features.with_name("reference.npy"))
    return (_rows(features, rows), _labels(order, labels[rows])) if rows.any() else None


def _weights(order: Order, rows: Bools) -> Floats | None:
    """[n] of the shadow's records; None where training weighs them alike."""
    path = order.features.with_name("weights.npy")
    return np.asarray(np.load(path)[rows], dtype=np.float64) if path.is_file() else None


def _persons(order: Order, rows: Bools) -> Ints | None:
    """[n] of the shadow's records; None where the recipe does not use them."""
    path = order.features.with_name("persons.npy")
    return np.asarray(np.load(path)[rows], dtype=np.int64) if path.is_file() else None


def _labels(order: Order, labels: Ints) -> NDArray[Any]:
    indices = CATALOG[order.recipe].labels == "indices"
    return labels if indices else label_values(labels, order.context.class_values)


def _fitted(order: Order, context: Context, features: tables.Features, labels: Ints, seed: int) -> Any:
    recipe = CATALOG[order.recipe]
    seed_globals(seed)
    try:
        return recipe.train(features, _labels(order, labels), seed, context)
    except GateError:
        raise
    except (Exception, SystemExit) as error:
        raise failed(f"recipe {recipe.id}", error, context.folder.resolve()) from error


def _ask(order: Order, model: Any) -> Callable[[tables.AnyFeatures, Kind], Outputs]:
    """How the shadow is asked: [n, K] in the candidate's class order."""
    # One column of what the gate trained itself is about class 1, whatever the candidate's own is about.
    own = CATALOG[order.recipe].labels == "indices"
    form = replace(order.form, positive=1) if own else order.form

    def ask(features: tables.AnyFeatures, kind: Kind) -> Outputs:
        try:
            found = models.answered(model, features, form.of(kind), device=order.context.runtime.device, decide=True)
        except GateError:
            raise
        except (Exception, SystemExit) as error:
            told = failed("asking the shadow for its predictions", error, order.context.folder.resolve())
            raise ModelOutputUnusable(told.what, told.hint) from error
        # Columns that the answer itself names are in the order of its own words for them.
        classes = getattr(model, "classes_", None) if found.classes is None else list(found.classes)
        return align(found.outputs, classes, order.context.class_values)

    return ask


def _probes(
    order: Order,
    model: Any,
    ask: Callable[[tables.AnyFeatures, Kind], Outputs],
    features: tables.AnyFeatures,
    labels: Ints,
    seed: int,
) -> Iterator[Floats | Nothing]:
    if not order.probes:
        return
    rows: Bools = np.load(order.features.with_name("asked.npy"))
    classes = getattr(model, "classes_", None)
    columns = list(range(len(order.context.class_values)))
    aligned = classes is None or _indices(np.asarray(classes).tolist(), order.context.class_values) == columns
    path = asking.stand_between(order.protect, seed, released=False)
    access = asking.Loaded(model, len(columns), ask, path, order.form.kind, aligned)
    yield from asking.ask(access, order.probes, _rows(features, rows), labels[rows], seed)


class Watch:
    """Ask a shadow about all U records while it is trained, after each epoch or stage.

    steps    as the recipe numbers them, increasing
    answers  per step [U, K] float32, in the candidate's class order
    kind     of the answers; "auto" until the first one tells
    """

    def __init__(self, order: Order, features: tables.AnyFeatures) -> None:
        self.steps: list[int] = []
        self.answers: list[NDArray[np.float32]] = []
        self.kind: Kind = order.form.kind
        self._order, self._features = order, features

    def __call__(self, model: Any, step: int) -> None:
        """Ask the unfinished model, and leave it and the global generators as they were. Raises RecipeFailed."""
        if self.steps and step <= self.steps[-1]:
            raise RecipeFailed(f"the recipe tells of step {step} after step {self.steps[-1]}", "number steps upwards")
        with dice_kept(), modes_kept(model):
            outputs = _ask(self._order, model)(self._features, self.kind)
        self.kind = kind_of(outputs)
        self.steps.append(int(step))
        self.answers.append(outputs.values.astype(np.float32))

    def end(self, outputs: Outputs) -> None:
        """The finished model's answers; ModelOutputUnusable where they are of another kind."""
        if self.steps and self.kind != kind_of(outputs):
            raise ModelOutputUnusable(
                f"it answers with {self.kind} while it is trained, and with {outputs.kind} afterwards",
                "say which under `output:`",
            )


def align(outputs: Outputs, classes: Any, class_values: tuple[Any, ...]) -> Outputs:
    """Columns in the candidate's class order; a class that the shadow never saw gets no probability.

    outputs       [n, K'] in the order of `classes`
    classes       [K'] label values or class indices that the shadow knows; None: it has the candidate's K columns
    class_values  [K] the candidate's
    """
    columns = len(class_values)
    values = outputs.values
    known = list(range(columns)) if classes is None else _indices(np.asarray(classes).tolist(), class_values)
    if values.shape[1] != len(known):
        raise ModelOutputUnusable(
            f"it answers with {values.shape[1]} columns, expected {len(known)}", "return one column for each class"
        )
    if not np.isfinite(values).all():
        raise ModelOutputUnusable("its answers are not finite", "look for a learning rate that is too high")
    if known == list(range(columns)):
        return outputs
    tiny = float(np.finfo(values.dtype).tiny)  # as little as the type can say: log(0) is not a number to compute with
    floor = 0.0 if outputs.kind == "probabilities" else values.max(axis=1, keepdims=True) + np.log(tiny)
    aligned = np.broadcast_to(np.asarray(floor, dtype=values.dtype), (len(values), columns)).copy()
    aligned[:, known] = values
    return Outputs(aligned, outputs.kind, outputs.resolution)


def _indices(classes: list[Any], class_values: tuple[Any, ...]) -> list[int]:
    position = {value: k for k, value in enumerate(class_values)}
    if all(c in position for c in classes):
        return [position[c] for c in classes]
    if all(isinstance(c, int) and 0 <= c < len(class_values) for c in classes):
        return classes  # trained on class indices
    strange = next(c for c in classes if c not in position)
    raise ModelOutputUnusable(f"it knows a class {strange!r} that the data does not have", "train on the labels given")


if __name__ == "__main__":
    # Under its own name: what the gate pickled refers to it.
    from privacy_gate.shadows import worker

    worker.main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
