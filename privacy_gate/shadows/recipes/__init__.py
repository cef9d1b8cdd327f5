"""How a shadow model comes to be. One recipe per file; the folder is the list.

A recipe has two sides. In the gate's own process `identity` checks what was asked for, without running any code of
the model or of the user, and says what the shadows depend on (it enters the store key). In a worker process `train`
makes one model from (features, labels, seed) and nothing else: same arguments, same model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from privacy_gate.catalog import Catalog
from privacy_gate.datamodel import Description
from privacy_gate.errors import UsageError
from privacy_gate.features import Features
from privacy_gate.request import Recipe


@dataclass(frozen=True, slots=True)
class Context:
    """What a recipe may know beside the records; travels to the worker.

    settings      the config's `shadows.recipe`
    folder        relative paths of the settings start here
    snapshot      private copy of the candidate; None when there is none
    flavor        of the candidate, as in `Candidate.flavor`
    class_values  [K] the label values behind the class indices, in the order of the candidate's columns
    """

    settings: Recipe
    folder: Path
    snapshot: Path | None
    flavor: str
    class_values: tuple[Any, ...]


Identity = Callable[[Context, Description | None], Mapping[str, Any]]
Train = Callable[[Features, NDArray[Any], int, Context], Any]


@dataclass(frozen=True, slots=True)
class RecipeKind:
    """One way of making shadows.

    id        name of the field of `shadows.recipe` that chooses it
    labels    what `train` gets: the label values as in the data, or class indices 0..K-1
    imports   packages whose versions the shadows depend on, and which a worker imports before its first shadow
    tuned     whether the gate owns the training loop, and so may choose its numeric path
    identity  JSON-like description of all that the shadows depend on; raises ConfigError or UsageError
    train     a fitted model that `sandbox.models.query` accepts; raises RecipeFailed
    """

    id: str
    labels: Literal["values", "indices"]
    imports: tuple[str, ...]
    tuned: bool
    identity: Identity
    train: Train

    @property
    def summary(self) -> str:
        """First line of the docstring of `train`."""
        return (self.train.__doc__ or "").strip().splitlines()[0]


CATALOG: Catalog[RecipeKind] = Catalog("recipe", __name__)


def recipe(
    *,
    id: str,
    labels: Literal["values", "indices"],
    imports: tuple[str, ...],
    identity: Identity,
    tuned: bool = False,
) -> Callable[[Train], Train]:
    """Enter a training function into the catalog."""

    def register(train: Train) -> Train:
        CATALOG.add(id, RecipeKind(id, labels, imports, tuned, identity, train))
        return train

    return register


def choose(settings: Recipe) -> RecipeKind:
    """The recipe that a config asks for; clone when it asks for none. Finished shadows (`load`) need no recipe."""
    if settings.load:
        raise UsageError(
            "shadows.recipe.load names finished shadows: there is nothing to train",
            "read them instead: recipes.load.finished",
        )
    asked = [name for name in CATALOG.names() if getattr(settings, name, None)]
    return CATALOG[asked[0] if asked else "clone"]


def label_values(labels: NDArray[np.int64], class_values: tuple[Any, ...]) -> NDArray[Any]:
    """[n] the label values behind class indices, in the type that a column of such values has."""
    return np.asarray(class_values)[labels]
