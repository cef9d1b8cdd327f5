"""What happens in a worker process: one shadow at a time, one thread, everything random from the shadow's own seed.

Imported by the gate for its names alone; model and user code runs in `run`, which only workers call.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import random
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from privacy_gate import features as tables
from privacy_gate.datamodel import Bools, Ints, Outputs
from privacy_gate.errors import GateError, ModelOutputUnusable
from privacy_gate.shadows.recipes import CATALOG, Context, label_values
from privacy_gate.shadows.source import failed
from privacy_gate.shadows.store import Trained

# Two processes with two threads each on two cores are not half as fast but a hundredth.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}
_MODULES = {"scikit-learn": "sklearn"}  # distribution -> module, where they differ


@dataclass(frozen=True, slots=True)
class Order:
    """The part of a training task that all shadows share.

    recipe    id in the catalog
    kind      what the candidate's answers are
    features  file written by `features.save`; labels.npy [U] and member.npy [S, U] lie beside it
    """

    recipe: str
    context: Context
    kind: Literal["auto", "logits", "probabilities"]
    features: Path


def start(parent: int, log: Path, imports: tuple[str, ...], numeric_path: Mapping[str, Any]) -> None:
    """Prepare a worker: die with the gate, print into the private log, one thread, a heap that keeps its pages."""
    os.umask(0o077)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the gate ends its workers itself
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # the gate went away before the line above
        os._exit(1)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
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


def run(order: Order, shadow: int, seed: int, started: Path) -> Trained:
    """Train one shadow and ask it about all U records. Touches `started` first: from then on its time counts."""
    started.touch()
    features = tables.load(order.features)
    labels: Ints = np.load(order.features.with_name("labels.npy"))
    member: Bools = np.load(order.features.with_name("member.npy"), mmap_mode="r")[shadow]
    try:
        model = _fitted(order, tables.take(features, np.asarray(member)), labels[member], seed)
        outputs = _answers(order, model, features)
    except GateError as error:
        raise type(error)(f"shadow {shadow}: {error.what}", error.hint) from error
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # the user's code may have closed them
                stream.flush()
    correct = outputs.values.argmax(axis=1) == labels
    return Trained(outputs, _mean(correct[member]), _mean(correct[~member]))


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


def _mean(correct: Bools) -> float | None:
    return float(correct.mean()) if len(correct) else None
