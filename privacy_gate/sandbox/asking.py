"""Ask a loaded model what probes want to know. Runs model code: in the sandbox's child and in shadow workers only."""

from __future__ import annotations

import contextlib
import random
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from privacy_gate.datamodel import Bools, Floats, Ints, Outputs
from privacy_gate.defences import Defences, FittedDefence, Protect, configure
from privacy_gate.errors import ModelOutputUnusable, NotEvaluable
from privacy_gate.features import AnyFeatures, Features
from privacy_gate.sandbox import models
from privacy_gate.sandbox.outputs import QUERIES, SAME, Kind, averaged, kind_of, probed, wobble
from privacy_gate.sandbox.untrusted import where
from privacy_gate.signals import PROBES

Answer = Callable[[AnyFeatures, Kind], Outputs]


@dataclass(frozen=True, slots=True, eq=False)
class Nothing:
    """What a probe has to say instead of numbers.

    reason  the gate's own words, where the probe does not fit; "" where it failed
    failed  class of the error that it raised; "" where it does not fit
    where   function, file and line that raised
    """

    reason: str = ""
    failed: str = ""
    where: str = ""


@dataclass(slots=True, eq=False)
class Loaded:
    """A model as probes get it: `signals.Access`.

    answer   asks the model; columns in the gate's order
    protect  the output defence, as far as it answers row by row
    kind     of its answers; "auto" until the first one tells
    aligned  whether the model's own columns are in the gate's order
    """

    model: Any
    classes: int
    answer: Answer
    protect: Protect
    kind: Kind
    aligned: bool = True

    def answers(self, features: Features) -> Outputs:
        """[n, K] what a caller of the released model sees."""
        try:
            outputs = self.answer(features, self.kind)
        except NotEvaluable as error:
            # Whether a probe fits is for the probe to say: a model that says so would choose its attacks.
            raise ModelOutputUnusable("the model refused to answer the probe") from error
        if outputs.values.shape[1] != self.classes:
            raise ModelOutputUnusable(
                f"the model answers with {outputs.values.shape[1]} columns, expected {self.classes}"
            )
        self.kind = kind_of(outputs)
        return self.protect(outputs)

    def module(self) -> Any:
        """The torch module in evaluation mode, gradients cleared; raises NotEvaluable where the model is none."""
        if not self.aligned:
            raise NotEvaluable(
                "the model has its classes in another order than the records", "train it on class indices 0..K-1"
            )
        return models.differentiable(self.model)


def stand_between(protect: Mapping[str, Mapping[str, Any]], seed: int, *, released: bool) -> Protect:
    """The output defences of these settings, but for those that are fitted to each model: before a probe there is none.

    seed      of this model's noise
    released  whether it is the model from the registry, which may have a defence inside already
    """
    fixed = tuple((id, item) for id, item in configure(protect).items if not isinstance(item, FittedDefence))
    return Defences(fixed).around(_nothing_to_fit, seed, released=released)


def _nothing_to_fit() -> tuple[Outputs, Bools]:
    raise NotEvaluable("a defence that is fitted to each model has no place before a probe")


def settled(ask: Answer, features: AnyFeatures, kind: Kind, batch: AnyFeatures) -> Outputs:
    """What the model answers; the mean of 16 answers where it throws dice. A model that repeats itself is asked once.

    batch  the first rows of `features`, which are asked twice
    """
    one = ask(features, kind)
    kind = kind_of(one)
    if wobble(one, ask(batch, kind), lambda: ask(batch, kind)) <= SAME:
        return one
    return averaged(one if i == 0 else ask(features, kind) for i in range(QUERIES))


def ask(
    access: Loaded, names: Iterable[str], features: Features, labels: Ints, seed: int
) -> Iterator[Floats | Nothing]:
    """What each probe finds, in turn: [n] or [n, d], or nothing. All start from the same seeds."""
    for name in names:
        seed_globals(seed)
        try:
            yield probed(PROBES[name].compute(access, features, labels, seed), len(labels), PROBES[name].vector)
        except NotEvaluable as error:
            yield Nothing(reason=error.what)
        except (Exception, SystemExit) as error:
            with contextlib.suppress(Exception):  # the model may have closed or replaced stderr
                traceback.print_exc()
            yield Nothing(failed=type(error).__qualname__, where=where(error))


def seed_globals(seed: int) -> None:
    """For code that draws from the global generators; ours does not."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  # the legacy generator is the one such code uses
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


@contextlib.contextmanager
def dice_kept() -> Iterator[None]:
    """Leave the global generators as they were: to look at a model must not change how it is trained on."""
    state, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    torch = sys.modules.get("torch")
    own = None if torch is None else torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(legacy)  # noqa: NPY002
        if torch is not None and own is not None:
            torch.set_rng_state(own)


@contextlib.contextmanager
def modes_kept(model: Any) -> Iterator[None]:
    """Leave every part of a torch module in training or evaluation mode as it was; nothing for other models."""
    parts = list(model.modules()) if models.is_module(model) else []
    training = [part.training for part in parts]
    try:
        yield
    finally:
        for part, mode in zip(parts, training, strict=True):
            part.training = mode
