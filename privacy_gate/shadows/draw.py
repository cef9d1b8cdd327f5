"""What the reference models of an evaluation were drawn from: with another draw it is another look at the model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_gate.datamodel import Outputs, ShadowPlan
from privacy_gate.policy.attempts import NO_REFERENCES
from privacy_gate.shadows.train import TrainingTask
from privacy_gate.storage import sha256_of_json


def draw(
    plan: ShadowPlan | None, task: TrainingTask | None, loaded: Sequence[Outputs] = (), models: Sequence[str] = ()
) -> str:
    """sha256 over what chooses these shadows and no others, beside records and labels; NO_REFERENCES without shadows.

    loaded  [U, K] answers of each, where they were loaded
    models  digests of the models that gave them; () for finished answers, which stand for themselves
    The plan, its seeds, the recipe and the defences of the training count. Where, on what device, with which versions
    and in how many processes they are trained does not: that makes nearly the same shadows. A recipe that draws lots
    of its own, or that other files than the recipe's change, is not seen through.
    """
    if plan is None:
        return NO_REFERENCES
    found: dict[str, Any] = {
        "plan": plan.kind,
        "shape": list(plan.member.shape),
        "member": _digest(np.packbits(plan.member)),
        "seeds": [int(seed) for seed in plan.seeds],
    }
    if task is not None:
        found["recipe"] = {"id": task.recipe, **task.identity}
        found["defences"] = [[name, dict(settings)] for name, settings in task.context.defences.items()]
        for name, values in (("reference", task.reference), ("weights", task.weights), ("persons", task.persons)):
            found[name] = None if values is None else _digest(values)
    found["loaded"] = list(models) or [_digest(outputs.values) for outputs in loaded]
    return sha256_of_json(found)


def _digest(values: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
