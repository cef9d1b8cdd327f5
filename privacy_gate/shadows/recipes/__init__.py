"""How a shadow model comes to be. One recipe per file; the folder is the list.

A recipe has two sides. In the gate's own process `identity` checks what was asked for, without running any code of
the model or of the user, and says what the shadows depend on (it enters the store key). In a worker process `train`
makes one model from (features, labels, seed) and nothing else: same arguments, same model.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from privacy_gate.catalog import Catalog
from privacy_gate.datamodel import Description
from privacy_gate.defences import TrainingDefence, configure
from privacy_gate.errors import UsageError
from privacy_gate.features import AnyFeatures, Features
from privacy_gate.request import Recipe
from privacy_gate.sandbox.runtime import HERE, Runtime


@dataclass(frozen=True, slots=True)
class Context:
    """What a recipe may know beside the records; travels to the worker.

    settings      the config's `shadows.recipe`
    folder        relative paths of the settings start here
    snapshot      private copy of the candidate; None when there is none
    flavor        of the candidate, as in `Candidate.flavor`
    class_values  [K] the label values behind the class indices, in the order of the candidate's columns
    defences      settings of the configured training defences by name, in order, as in the config
    reference     the seen records, labels as `train` gets them, where a defence or the recipe uses them; None: no
    records       [U] all records that the shadow will be asked about
    weights       [n] sample weights of the records that it trains on; None: they weigh the same
    persons       [n] index of the person of each record that it trains on; None: the recipe does not use persons
    label         name of the label column, for recipes that write files
    weight        name of the column of the weights; None: there is none
    person        name of the person column; None: there is none
    retries       how often a program that failed is tried again
    positive      index of the class that a one-column score of the candidate is about
    runtime       interpreter and device; the recipe runs in that interpreter already
    watch         called as watch(model, step) after each epoch or stage, step from 1: an instrumented training
    """

    settings: Recipe
    folder: Path
    snapshot: Path | None
    flavor: str
    class_values: tuple[Any, ...]
    defences: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    reference: tuple[Features, NDArray[Any]] | None = None
    records: AnyFeatures | None = None
    weights: NDArray[np.float64] | None = None
    persons: NDArray[np.int64] | None = None
    label: str = "y"
    weight: str | None = None
    person: str | None = None
    retries: int = 0
    positive: Literal[0, 1] = 1
    runtime: Runtime = HERE
    watch: Callable[[Any, int], None] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """What a recipe returns that has no model, but the answers of one to all records.

    values    [U, K] in the order of `Context.records`
    kind      of the values
    classes_  [K] label values behind the columns; None: the candidate's
    """

    values: NDArray[Any]
    kind: Literal["logits", "probabilities"]
    classes_: NDArray[Any] | None = None


Identity = Callable[[Context, Description | None], Mapping[str, Any]]
Train = Callable[[Features, NDArray[Any], int, Context], Any]


@dataclass(frozen=True, slots=True)
class RecipeKind:
    """One way of making shadows.

    id        name of the field of `shadows.recipe` that chooses it
    labels    what `train` gets: the label values as in the data, or class indices 0..K-1
    imports   packages whose versions the shadows depend on, and which a worker imports before its first shadow
    tuned     whether the gate owns the training loop, and so may choose its numeric path
    seen      whether it uses the seen records (`Context.reference`) with these settings
    persons   whether it uses the persons (`Context.persons`) with these settings
    passed    settings for the worker's environment that it needs with these settings; they enter no key and no log
    proxy     why its shadows, with these settings, are not of the candidate's own kind; None: they are
    identity  JSON-like description of all that the shadows depend on; raises ConfigError or UsageError
    train     a fitted model that `sandbox.models.query` accepts; raises RecipeFailed
    """

    id: str
    labels: Literal["values", "indices"]
    imports: tuple[str, ...]
    tuned: bool
    identity: Identity
    train: Train
    seen: Callable[[Recipe], bool] = lambda settings: False
    persons: Callable[[Recipe], bool] = lambda settings: False
    passed: Callable[[Recipe], Mapping[str, str]] = lambda settings: {}
    proxy: Callable[[Recipe], str | None] = lambda settings: None

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
    seen: Callable[[Recipe], bool] = lambda settings: False,
    persons: Callable[[Recipe], bool] = lambda settings: False,
    passed: Callable[[Recipe], Mapping[str, str]] = lambda settings: {},
    proxy: Callable[[Recipe], str | None] = lambda settings: None,
) -> Callable[[Train], Train]:
    """Enter a training function into the catalog."""

    def register(train: Train) -> Train:
        CATALOG.add(id, RecipeKind(id, labels, imports, tuned, identity, train, seen, persons, passed, proxy))
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


def wants_seen(settings: Recipe) -> bool:
    """Whether the recipe that a config asks for uses the seen records."""
    return not settings.load and choose(settings).seen(settings)


def label_values(labels: NDArray[np.int64], class_values: tuple[Any, ...]) -> NDArray[Any]:
    """[n] the label values behind class indices, in the type that a column of such values has."""
    return np.asarray(class_values)[labels]


# --- training defences ----------------------------------------------------------------------------------------------


def training_defences(context: Context) -> tuple[TrainingDefence, ...]:
    """The defences that the recipe must put on, in order; UsageError where one cannot be.

    Those that are in the recipe already are none of them.
    """
    chosen = configure(context.defences).training
    names = [defence.title for defence in chosen]
    for one in chosen:
        if other := next((name for name in names if name in one.conflicts), None):
            raise UsageError(f"the defences {one.title} and {other} cannot be trained together", "choose one of them")
        if one.package and not _installed(one.package, context.runtime):
            raise UsageError(
                f"the defence {one.title} needs the package {one.package}, which is not installed",
                f"pip install 'privacy-gate[{one.extra}]'",
            )
    return chosen


def defended(context: Context) -> dict[str, Any]:
    """What the defences add to a recipe's identity: nothing where there are none, so that shadows keep their names.

    The defence's own records (`Context.reference`) are no part of it: they are records, as the shadow's own are.
    """
    chosen = training_defences(context)
    if not chosen:
        return {}
    settings = [[one.title, one.model_dump(mode="json", exclude={"in_recipe"})] for one in chosen]
    packages = sorted({one.package for one in chosen if one.package})
    versions = {"packages": {name: _version(name, context.runtime) for name in packages}} if packages else {}
    return {"defences": settings, **versions}


def _installed(package: str, runtime: Runtime) -> bool:
    """Whether the interpreter that trains has it."""
    return importlib.util.find_spec(package) is not None if runtime.python is None else package in runtime.versions


def _version(package: str, runtime: Runtime) -> str:
    return importlib.metadata.version(package) if runtime.python is None else runtime.versions[package]
