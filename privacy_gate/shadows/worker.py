"""A worker process: one shadow at a time, one thread, everything random from the shadow's own seed.

`python -I -m privacy_gate.shadows.worker FOLDER GATE PIPE` reads jobs from stdin, a line "number shadow seed" each,
and leaves number.values and number.json in FOLDER/answers. The gate imports this module for its names alone: model
and user code runs in `run`, which only workers call.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import pickle
import random
import resource
import signal
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from privacy_gate import features as tables
from privacy_gate.datamodel import Bools, Ints, Outputs
from privacy_gate.errors import GateError, ModelOutputUnusable, StorageFailed
from privacy_gate.shadows.recipes import CATALOG, Context, label_values
from privacy_gate.shadows.source import failed

# What a worker says into its pipe, and all that it says.
READY = b"ready\n"
DONE = b"done %d\n"
_MODULES = {"scikit-learn": "sklearn"}  # distribution -> module, where they differ


@dataclass(frozen=True, slots=True)
class Order:
    """The part of a training task that all shadows share.

    recipe        id in the catalog
    kind          what the candidate's answers are
    features      file written by `features.save`; labels.npy [U] and member.npy [S, U] lie beside it
    numeric_path  as in `TrainingTask`
    """

    recipe: str
    context: Context
    kind: Literal["auto", "logits", "probabilities"]
    features: Path
    numeric_path: Mapping[str, Any]


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
        outputs = run(order, shadow, seed)
        meta: dict[str, Any] = _write(outputs.values, stem.with_suffix(".values"))
        meta["kind"] = outputs.kind
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


def run(order: Order, shadow: int, seed: int) -> Outputs:
    """Train one shadow and ask it about all U records: [U, K] in the candidate's class order."""
    features = tables.load(order.features)
    labels: Ints = np.load(order.features.with_name("labels.npy"))
    member: Bools = np.load(order.features.with_name("member.npy"), mmap_mode="r")[shadow]
    model = _fitted(order, tables.take(features, np.asarray(member)), labels[member], seed)
    return _answers(order, model, features)


def _fitted(order: Order, features: tables.Features, labels: Ints, seed: int) -> Any:
    recipe = CATALOG[order.recipe]
    _seed_globals(seed)
    if isinstance(features, np.ndarray):
        features = np.asarray(features)  # rows of a memory map are a copy, but of the map's type
    given: NDArray[Any] = labels if recipe.labels == "indices" else label_values(labels, order.context.class_values)
    try:
        return recipe.train(features, given, seed, order.context)
    except GateError:
        raise
    except (Exception, SystemExit) as error:
        raise failed(f"recipe {recipe.id}", error, order.context.folder.resolve()) from error


def _seed_globals(seed: int) -> None:
    """For code that draws from the global generators; ours does not."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # the legacy generator is the one such code uses
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


def _answers(order: Order, model: Any, features: tables.Features) -> Outputs:
    from privacy_gate.sandbox import models

    try:
        outputs = models.query(model, features, kind=order.kind)
    except GateError:
        raise
    except (Exception, SystemExit) as error:
        told = failed("asking the shadow for its predictions", error, order.context.folder.resolve())
        raise ModelOutputUnusable(told.what, told.hint) from error
    return align(outputs, getattr(model, "classes_", None), order.context.class_values)


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
