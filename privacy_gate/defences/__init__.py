"""Defences, one per file. The folder is the list.

An output defence stands between a model and its callers: Outputs in, Outputs out. A training defence changes how a
model is made. Either way target and shadows go through the same one: that is what makes attacks adaptive.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, Field, ValidationError

from privacy_gate.catalog import Catalog
from privacy_gate.datamodel import Bools, Outputs
from privacy_gate.errors import UsageError
from privacy_gate.request import Settings, TorchTraining
from privacy_gate.storage import sha256_of_json

if TYPE_CHECKING:
    import torch

Kind = Literal["output", "fitted output", "training"]
Protect = Callable[[Outputs], Outputs]


@runtime_checkable
class OutputDefence(Protocol):
    """A configured defence that answers row by row, the same for every model."""

    def protect(self, outputs: Outputs) -> Outputs:
        """What a caller of the defended model sees: [n, K] in, [n, K] out."""


@runtime_checkable
class FittedDefence(Protocol):
    """A configured output defence that is fitted to each model it protects."""

    def fitted(self, known: Outputs, member: Bools, seed: int) -> Protect:
        """From the model's answers on its own training records and on the defence's reference records ([n, K], [n])."""


@dataclass(frozen=True, slots=True, eq=False)
class Loop:
    """How a torch module is trained, in parts: a training defence replaces some of them (`dataclasses.replace`).

    module     what is asked for a batch's answer; untrained
    x, y       [n, ...], [n] class index: what it trains on
    training   the `training:` settings, with the defences
    loss       (answers of a batch, its labels) -> mean loss
    optimizer  of the module's weights
    batches    number of rows -> row indices of each batch of one epoch
    seed       whatever a defence draws, it draws from this
    reference  the defence's own records (x, y); None where there are none
    before     called with a batch's rows before each step
    penalties  each (answers, labels) -> what it adds to the loss
    after      called with the number of epochs done after each; one that answers True ends the training
    finish     called in order when the training is over
    """

    module: torch.nn.Module
    x: torch.Tensor
    y: torch.Tensor
    training: TorchTraining
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    optimizer: torch.optim.Optimizer
    batches: Callable[[int], Iterator[torch.Tensor]]
    seed: int = 0
    reference: tuple[torch.Tensor, torch.Tensor] | None = None
    before: tuple[Callable[[torch.Tensor], None], ...] = ()
    penalties: tuple[Callable[[torch.Tensor, torch.Tensor], torch.Tensor], ...] = ()
    after: tuple[Callable[[int], bool], ...] = ()
    finish: tuple[Callable[[], None], ...] = ()

    def seed_of(self, purpose: str) -> int:
        """A seed for one purpose: two defences must not share their random numbers."""
        return int(sha256_of_json([self.seed, purpose])[:15], 16)


@runtime_checkable
class RandomDefence(Protocol):
    """A configured output defence that draws noise: each model has its own, which nobody else can draw again."""

    def drawn(self, seed: int) -> Protect:
        """The output path of the model with this seed; the noise is a function of the row and the seed."""


class TrainingDefence(Settings):
    """A configured defence that changes the training. Subclasses override what they can be put on.

    in_recipe: the recipe, or the estimator that is cloned, trains with the defence already: nothing is added to it.
    `parameters` and `training` also run in the gate's own process, so that what cannot work is refused before training.
    """

    in_recipe: bool = Field(False, description="the recipe (or the cloned estimator) already trains with it")

    title: ClassVar[str] = ""
    package: ClassVar[str] = ""  # what must be installed beside the gate
    extra: ClassVar[str] = ""  # the gate's optional dependencies that bring it
    conflicts: ClassVar[tuple[str, ...]] = ()  # defences that it cannot be trained with

    @classmethod
    def suggestions(cls, estimator: str, training: TorchTraining | None) -> Sequence[Mapping[str, Any]]:
        """Settings worth trying on an estimator of that class ("" for none), or on a module trained like that."""
        return ()

    def parameters(self, estimator: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """What to set on an estimator of that class (with its modules where they are not a known library's)."""
        raise self.misfit(estimator)

    def training(self, training: TorchTraining) -> TorchTraining:
        """The `training:` settings of a torch module with the defence; by default as they are."""
        return training

    def module(self, module: torch.nn.Module) -> torch.nn.Module:
        """The untrained torch module with the defence; by default as it is."""
        return module

    def loop(self, loop: Loop) -> Loop:
        """The training of a torch module with the defence; by default as it is."""
        return loop

    def misfit(self, what: str) -> UsageError:
        """The error for something that the defence cannot be put on."""
        return UsageError(
            f"the defence {self.title} cannot be put on a {what}",
            "train with it in your own recipe and say `in_recipe: true`, or choose another defence",
        )


@dataclass(frozen=True, slots=True)
class Defence:
    """A named defence and the settings model that builds it.

    reference  whether it needs records of its own (`data.seen`), which are then neither members nor non-members
    on         what it can be put on, in words
    """

    id: str
    paper: str
    kind: Kind
    reference: bool
    on: str
    settings: type[BaseModel]

    @property
    def summary(self) -> str:
        """First line of the settings' docstring."""
        return (self.settings.__doc__ or "").strip().splitlines()[0]

    def configure(self, settings: Mapping[str, Any]) -> BaseModel:
        """Validated settings; unknown keys are refused (pydantic's ValidationError)."""
        return self.settings.model_validate(dict(settings))


CATALOG: Catalog[Defence] = Catalog("defence", __name__)


def defence(*, id: str, paper: str, on: str, reference: bool = False) -> Callable[[type[BaseModel]], type[BaseModel]]:
    """Enter a defence's settings model, which does the work itself, into the catalog."""

    def register(settings: type[BaseModel]) -> type[BaseModel]:
        kind: Kind = "output"
        if issubclass(settings, TrainingDefence):
            settings.title = id
            kind = "training"
        elif hasattr(settings, "fitted"):
            kind = "fitted output"
        CATALOG.add(id, Defence(id, paper, kind, reference, on, settings))
        return settings

    return register


@dataclass(frozen=True, slots=True)
class Defences:
    """The configured defences of one model, in the order in which they are listed."""

    items: tuple[tuple[str, Any], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.items)

    @property
    def name(self) -> str:
        """Their names, joined by a plus."""
        return " + ".join(id for id, _ in self.items)

    @property
    def document(self) -> dict[str, dict[str, Any]]:
        """Their settings in full, defaults included: what the digest is taken of."""
        return {id: item.model_dump(mode="json") for id, item in self.items}

    @property
    def digest(self) -> str:
        """sha256 of the settings in full, in order, but not of who applies them: that is no part of the defence."""
        where = {"in_recipe", "in_model"}
        return sha256_of_json(
            [[id, {k: v for k, v in given.items() if k not in where}] for id, given in self.document.items()]
        )

    @property
    def reference(self) -> bool:
        """Whether one of them needs records of its own."""
        return any(CATALOG[id].reference for id, _ in self.items)

    @property
    def training(self) -> tuple[TrainingDefence, ...]:
        """Those that change the training and are not in the recipe already."""
        return tuple(d for _, d in self.items if isinstance(d, TrainingDefence) and not d.in_recipe)

    @property
    def in_training(self) -> dict[str, dict[str, Any]]:
        """The settings of `training`: what the worker that trains a shadow is told."""
        named = {id: item for id, item in self.items if isinstance(item, TrainingDefence) and not item.in_recipe}
        return {id: item.model_dump(mode="json") for id, item in named.items()}

    @property
    def output(self) -> tuple[OutputDefence | RandomDefence | FittedDefence, ...]:
        """Those that stand between the model and its callers."""
        return tuple(d for _, d in self.items if not isinstance(d, TrainingDefence))

    def around(self, known: Callable[[], tuple[Outputs, Bools]], seed: int, *, released: bool = False) -> Protect:
        """The output path of one model: every output defence in turn, fitted ones fitted to this model.

        known     the model's answers on its training records and the defence's reference records, and which are which
        seed      of this model's noise
        released  whether it is the model from the registry: a defence that is `in_model` has answered already
        """
        steps: list[Protect] = []

        def path(outputs: Outputs) -> Outputs:
            for step in steps:
                outputs = step(outputs)
            return outputs

        for item in self.output:
            if released and getattr(item, "in_model", False):
                continue
            if isinstance(item, FittedDefence):
                answers, member = known()
                steps.append(item.fitted(path(answers), member, seed))
            elif isinstance(item, RandomDefence):
                steps.append(item.drawn(seed))
            else:
                steps.append(item.protect)
        return path


NOTHING = Defences()


def configure(settings: Mapping[str, Mapping[str, Any]], where: str = "defence") -> Defences:
    """Defences by name; UsageError for an unknown name or setting."""
    items = []
    for name, given in settings.items():
        try:
            items.append((name, CATALOG[name].configure(given)))
        except ValidationError as error:
            known = ", ".join(CATALOG[name].settings.model_fields)
            place = ".".join(map(str, error.errors()[0]["loc"]))
            raise UsageError(
                f"{where}.{name}{'.' if place else ''}{place}: {error.errors()[0]['msg']}", f"its settings are {known}"
            ) from error
    return Defences(tuple(items))


# --- what the registry declares -------------------------------------------------------------------------------------

_TAG_SHOWN = 200  # characters; no name is as long, so what was cut still matches none


@dataclass(frozen=True, slots=True)
class Declared:
    """The registry's word on a model's defence: tags `defence` (a name, or the settings as JSON) and `defence_digest`.

    name      as declared; "" where nothing is
    digest    of the settings; "" where the tags hold a bare name
    defences  what the settings configure; None where there are none, or where they configure nothing
    """

    name: str = ""
    digest: str = ""
    defences: Defences | None = None


def declared(tags: Mapping[str, str]) -> Declared:
    """Read the tags of a model version. Settings that configure nothing are a name that no configuration matches."""
    text, digest = tags.get("defence", "").strip(), _short(tags.get("defence_digest", "").strip().lower())
    if not text.startswith("{"):
        return Declared(_short(text), digest)
    try:
        given = json.loads(text)
        found = configure(given, "tag defence")
    except (ValueError, AttributeError, TypeError, RecursionError, UsageError):
        return Declared(_short(text), digest)
    # A digest beside the settings binds them: the one that was written down counts.
    return Declared(found.name, digest or found.digest, found)


def _short(text: str) -> str:
    """What is shown of a tag: a registry takes thousands of characters, a report needs enough to find it by."""
    return text if len(text) <= _TAG_SHOWN else text[: _TAG_SHOWN - 1] + "…"
