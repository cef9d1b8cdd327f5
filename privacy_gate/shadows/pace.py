"""How long a shadow takes: measured when shadows are trained, kept in the store, told by `plan`."""

from __future__ import annotations

import json
import math
from pathlib import Path

from privacy_gate.shadows.store import Store
from privacy_gate.shadows.train import TrainingTask
from privacy_gate.storage import atomic_write, private_dir, sha256_of_json

_LIMIT = 1 << 10  # bytes of one measurement


def remember(store: Store, task: TrainingTask, train_size: int, seconds: float) -> None:
    """Keep the seconds that one shadow took one worker. Raises StorageFailed on a full disk."""
    with atomic_write(_path(store, task, train_size)) as stream:
        stream.write(json.dumps({"seconds": seconds}).encode())


def recall(store: Store, task: TrainingTask, train_size: int) -> float | None:
    """Seconds of one shadow of this recipe with so many records; None where none was measured here."""
    try:
        with _path(store, task, train_size).open("rb") as stream:
            seconds = json.loads(stream.read(_LIMIT))["seconds"]
    except (OSError, ValueError, LookupError, TypeError):  # an estimate that cannot be read is none
        return None
    known = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    return float(seconds) if known and math.isfinite(seconds) and seconds >= 0 else None


def _path(store: Store, task: TrainingTask, train_size: int) -> Path:
    """One file per recipe and size: neither the draw of the records nor the number of shadows changes the pace."""
    name = sha256_of_json({"recipe": task.recipe, "identity": dict(task.identity), "train_size": train_size})
    return private_dir(store.root / "pace") / f"{name}.json"
