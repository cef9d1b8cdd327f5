"""What training left behind in plain text: the settings that a run logged, the columns in a booster's file.

Nothing is loaded. A stranger wrote these texts: what comes out of them is checked, and is a draft for a person to read.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_READ = 1 << 22  # bytes at either end of a model's text
_UNNAMED, _NUMBERED = re.compile(r"Column_\d+"), re.compile(r"f\d+|\d+")
_NAMES = b"feature_names"  # in XGBoost's files

_WHOLE = frozenset(
    """
    max_depth max_leaves max_bin num_parallel_tree max_cat_to_onehot max_cat_threshold max_cached_hist_node top_k
    """.split()  # noqa: SIM905
)
_NUMBERS = frozenset(
    """
    eta learning_rate gamma min_split_loss min_child_weight max_delta_step subsample colsample_bytree colsample_bylevel
    colsample_bynode lambda reg_lambda alpha reg_alpha scale_pos_weight rate_drop skip_drop missing
    """.split()  # noqa: SIM905
)
_SWITCHES = frozenset({"one_drop", "refresh_leaf"})
_WORDS = frozenset(
    "sampling_method grow_policy tree_method sample_type normalize_type updater feature_selector".split()  # noqa: SIM905
)
_CONSTRAINTS = frozenset({"monotone_constraints", "interaction_constraints"})
# In the model's file, or of one run and its machine, or said elsewhere in the config.
_BESIDE = frozenset(
    """
    objective num_class booster multi_strategy base_score eval_metric disable_default_eval_metric enable_categorical
    feature_types feature_weights num_boost_round n_estimators early_stopping_rounds custom_metric feval obj maximize
    verbose_eval verbose verbosity silent seed random_state seed_per_iteration n_jobs nthread device gpu_id predictor
    validate_parameters importance_type use_label_encoder callbacks evals evals_result xgb_model
    """.split()  # noqa: SIM905
)


@dataclass(frozen=True, slots=True)
class Logged:
    """Settings of XGBoost that a run logged.

    params  name -> value, of XGBoost's own type
    left    names that mean nothing to XGBoost, or whose value could not be read; sorted
    """

    params: Mapping[str, Any]
    left: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns that a LightGBM or XGBoost model was trained with.

    names   in its order; in LightGBM's spaces have become underscores; () where they had no names
    levels  name -> levels of a category, in the model's order
    """

    names: tuple[str, ...] = ()
    levels: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


def xgboost_settings(params: Mapping[str, str]) -> Logged | None:
    """The settings that grew the trees, as a run logged them; None where it logged no name of XGBoost's."""
    known = _WHOLE | _NUMBERS | _SWITCHES | _WORDS | _CONSTRAINTS
    if not known & params.keys():
        return None
    found: dict[str, Any] = {}
    left = []
    for name, text in sorted(params.items()):
        if name in _BESIDE or (name in known and text.strip() in ("None", "", "nan")):
            continue
        value = _value(name, text.strip()) if name in known else None
        if value is None:
            left.append(name)
        else:
            found[name] = value
    return Logged(found, tuple(left))


def _value(name: str, text: str) -> Any:
    """A logged text as the type that XGBoost has for it; None where it is not of that type."""
    if name in _WORDS:
        return text if re.fullmatch(r"\w+(,\w+)*", text) else None
    if name in _SWITCHES:
        return {"True": True, "1": True, "False": False, "0": False}.get(text)
    try:
        if name in _CONSTRAINTS:
            return _constraints(ast.literal_eval(text))
        number = float(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if not math.isfinite(number) or (name in _WHOLE and number % 1):
        return None
    return int(number) if number % 1 == 0 and (name in _WHOLE or re.fullmatch(r"-?\d+", text)) else number


def _constraints(told: Any) -> Any:
    """Directions by column, or lists of columns that may meet; None for anything else."""
    if isinstance(told, dict):
        fits = all(isinstance(key, str) and value in (-1, 0, 1) for key, value in told.items())
        return told if told and fits else None
    if isinstance(told, tuple | list) and told:
        inner = [list(one) if isinstance(one, tuple | list) else one for one in told]
        flat = [item for one in inner for item in (one if isinstance(one, list) else [one])]
        return inner if all(isinstance(item, int | str) for item in flat) else None
    return None


def lightgbm_columns(file: Path) -> Columns:
    """The columns in the text of a LightGBM model; none where the file is something else."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            head = stream.read(_READ).decode("utf-8", "replace")
            stream.seek(max(0, size - _READ))
            tail = stream.read(_READ).decode("utf-8", "replace")
    except OSError:
        return Columns()
    names = tuple(_line(head, "feature_names=").split(" ")) if head.startswith("tree\n") else ()
    if not all(names) or len(set(names)) < len(names) or all(map(_UNNAMED.fullmatch, names)):
        return Columns()
    numbers = re.findall(r"\d+", _line(tail, "[categorical_feature: "))
    try:
        levels = json.loads(_line(tail, "pandas_categorical:") or "null")
    except (ValueError, RecursionError):
        levels = None
    fits = isinstance(levels, list) and len(levels) == len(numbers) and all(isinstance(each, list) for each in levels)
    if not fits or any(int(number) >= len(names) for number in numbers):
        return Columns(names)
    return Columns(names, {names[int(i)]: tuple(each) for i, each in zip(numbers, levels, strict=True)})


def xgboost_columns(file: Path) -> Columns:
    """The columns in a model of XGBoost's, JSON or UBJSON, where they stand before the trees; none in anything else."""
    try:
        with file.open("rb") as stream:
            head = stream.read(_READ)
    except OSError:
        return Columns()
    names = _in_json(head) if head.startswith(b'{"') else _in_ubjson(head) if head.startswith(b"{L") else []
    fits = all(names) and len(set(names)) == len(names) and not all(map(_NUMBERED.fullmatch, names))
    return Columns(tuple(names)) if fits else Columns()


def _in_json(head: bytes) -> list[str]:
    _, found, rest = head.decode("utf-8", "replace").partition('"feature_names":')
    try:
        names = json.JSONDecoder().raw_decode(rest)[0] if found else []
    except (ValueError, RecursionError):
        return []
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []


def _in_ubjson(head: bytes) -> list[str]:
    """`[#L` and how many, then each as `SL`, its length, its bytes; numbers have eight bytes, the highest first."""
    _, found, rest = head.partition(b"L" + len(_NAMES).to_bytes(8, "big") + _NAMES + b"[#L")
    names: list[str] = []
    at = 8
    for _ in range(min(int.from_bytes(rest[:8], "big"), len(rest)) if found else 0):
        size = int.from_bytes(rest[at + 2 : at + 10], "big")
        if rest[at : at + 2] != b"SL" or at + 10 + size > len(rest):
            return []
        names.append(rest[at + 10 : at + 10 + size].decode("utf-8", "replace"))
        at += 10 + size
    return names


def _line(text: str, begin: str) -> str:
    """What stands behind `begin` on the last line that begins so; "" where none does."""
    start = text.rfind("\n" + begin)
    return "" if start < 0 else text[start + 1 + len(begin) :].partition("\n")[0].rstrip("\r")
