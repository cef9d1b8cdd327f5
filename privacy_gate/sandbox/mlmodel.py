"""What an MLmodel file tells, without loading anything."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import yaml

from privacy_gate.errors import CandidateNotFound, UsageError
from privacy_gate.sandbox.untrusted import clean

MLMODEL = "MLmodel"

Flavor = Literal["sklearn", "pytorch", "lightgbm", "xgboost", "pyfunc"]
MLmodel = Mapping[str, Any]

# What PyYAML lets through of a date, number or tag that is none (2024-99-99, !!int "", !!bool x, !!timestamp x).
_YAML_LEAKS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
_MOST = 1 << 24  # characters and values of a document, written out in full
_MOST_BYTES = 1 << 23  # of a file: 65,536 columns of a signature have a third of it
_MOST_EVENTS = 1 << 16  # of the parser, which takes seconds for a million, and much memory


def read_mlmodel(folder: Path) -> MLmodel:
    """The MLmodel file of a model folder; raises CandidateNotFound if there is none, UsageError if it is junk."""
    try:
        with (folder / MLMODEL).open("rb") as stream:
            told = parsed(stream.read(_MOST_BYTES + 1))
    except FileNotFoundError:
        raise CandidateNotFound(
            f"{clean(folder)}: no MLflow model there (it has no {MLMODEL} file)", "log it with log_model()"
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{clean(folder)}: its {MLMODEL} file cannot be read", "log the model again") from error
    if not isinstance(told, dict) or not isinstance(told.get("flavors"), dict):
        raise UsageError(f"{clean(folder)}: its {MLMODEL} file names no flavors", "log the model again")
    return cast("MLmodel", told)


def flavors(mlmodel: MLmodel) -> dict[str, Mapping[str, Any]]:
    """Flavor name -> its settings."""
    return {str(name): value if isinstance(value, dict) else {} for name, value in mlmodel["flavors"].items()}


def flavor_of(mlmodel: MLmodel) -> Flavor:
    """The flavor to load a model by: a native one that tells probabilities, else pyfunc."""
    names: tuple[Flavor, ...] = ("pytorch", "sklearn", "lightgbm", "xgboost")
    return next((name for name in names if name in mlmodel["flavors"]), "pyfunc")


def parsed(content: bytes | str) -> Any:
    """YAML of a stranger's. Raises ValueError for what is none, or too large, also by aliases that repeat it."""
    if len(content) > _MOST_BYTES:
        raise ValueError("too large")
    try:
        if next(itertools.islice(yaml.parse(content, yaml.SafeLoader), _MOST_EVENTS, None), None) is not None:
            raise ValueError("too many values")
        loader = yaml.SafeLoader(content)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            if _size(node, {}) > _MOST:
                raise ValueError("too large, written out in full")
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except (yaml.YAMLError, *_YAML_LEAKS) as error:
        raise ValueError("no plain YAML") from error


def _size(node: yaml.Node, known: dict[int, float]) -> float:
    """Characters and values below a node, each as often as aliases repeat it; infinite where it holds itself."""
    if id(node) not in known:
        known[id(node)] = math.inf
        if isinstance(node, yaml.MappingNode):
            inner = sum(_size(part, known) for pair in node.value for part in pair)
        elif isinstance(node, yaml.SequenceNode):
            inner = sum(_size(part, known) for part in node.value)
        else:
            inner = len(node.value)
        known[id(node)] = 1 + inner
    return known[id(node)]
