"""Shadows that somebody else trained: an .npz of their answers on the gate's records. Nothing is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_gate.datamodel import Bools, Outputs, ShadowPlan
from privacy_gate.errors import DataError
from privacy_gate.features import read_npz

_CONTRACT = "an .npz with probs or logits [S, U, K] and member [S, U] (bool), no pickles"


def finished(path: Path, records: int, classes: int, pool: Bools, train_size: int) -> tuple[ShadowPlan, list[Outputs]]:
    """Plan (kind `loaded`) and outputs of finished shadows.

    records, classes  U records in the gate's order (audited, then population) and K columns in the candidate's order
    pool              [U] records whose answers set the shadow thresholds: the audited ones
    train_size        records the target was trained on
    Raises DataError, naming what is missing or of the wrong shape.
    """
    arrays = _read(path)
    kinds = [name for name in ("probs", "logits") if name in arrays]
    if len(kinds) != 1 or "member" not in arrays:
        raise DataError(f"{path} holds {', '.join(sorted(arrays)) or 'nothing'}", f"it must be {_CONTRACT}")
    values, member = arrays[kinds[0]], arrays["member"]
    if values.ndim != 3 or values.shape[1:] != (records, classes) or len(values) == 0:
        raise DataError(
            f"{path}: {kinds[0]} has shape {values.shape}, expected [S, {records}, {classes}]",
            "records: members, then non-members, then population, in the order of the manifest; one column per class",
        )
    if values.dtype.kind != "f":
        raise DataError(f"{path}: {kinds[0]} is of type {values.dtype}", "store floats")
    if member.dtype != np.bool_ and not (member.dtype.kind in "iu" and np.isin(member, (0, 1)).all()):
        raise DataError(f"{path}: member is of type {member.dtype}", "store True where it trained on the record")
    if member.shape != values.shape[:2]:
        raise DataError(f"{path}: member has shape {member.shape}, expected {values.shape[:2]}", f"store {_CONTRACT}")
    for s, (answer, mask) in enumerate(zip(values, member, strict=True)):
        _check_shadow(f"{path}: shadow {s}", answer, mask.astype(bool), kinds[0] == "probs")
    mask = member.astype(bool)
    plan = ShadowPlan("loaded", mask, pool.copy(), np.zeros(len(mask), dtype=np.int64), train_size, _notes(mask, pool))
    kind: Any = "probabilities" if kinds[0] == "probs" else "logits"
    return plan, [Outputs(answer, kind) for answer in values]


def _read(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise DataError(f"shadows.recipe.load: there is no file {path}", "paths start beside the config")
    try:
        return read_npz(path)
    except DataError as error:
        raise DataError(error.what, f"it must be {_CONTRACT}") from error


def _check_shadow(where: str, values: NDArray[Any], mask: Bools, probabilities: bool) -> None:
    if not np.isfinite(values).all():
        raise DataError(f"{where} has answers that are not finite", "leave the shadow out or train it again")
    if mask.all() or not mask.any():
        raise DataError(f"{where} trained on {'all' if mask.all() else 'none'} of the records", "check member")
    # float16 and float32 rows add up to one within their rounding only.
    if probabilities and ((values < 0).any() or (np.abs(values.sum(axis=1, dtype=np.float64) - 1) > 1e-3).any()):
        raise DataError(f"{where}: rows of probs do not add up to one", "store logits as `logits`")


def _notes(member: Bools, pool: Bools) -> tuple[str, ...]:
    inside, outside = member[:, pool].sum(axis=0), (~member[:, pool]).sum(axis=0)
    short = int(((inside < 2) | (outside < 2)).sum())
    return (f"{short} of {int(pool.sum())} records are in, or out of, fewer than 2 loaded shadows",) if short else ()
