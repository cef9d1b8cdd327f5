"""The candidate's own last layer, refitted on the candidate's own features: cheap where training is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from privacy_gate import features as tables
from privacy_gate.datamodel import Description
from privacy_gate.errors import RecipeFailed, UsageError
from privacy_gate.features import AnyFeatures, Features
from privacy_gate.request import Head, Recipe
from privacy_gate.sandbox import models
from privacy_gate.shadows.recipes import Context, recipe, training_defences
from privacy_gate.storage import sha256_of_file, sha256_of_json

if TYPE_CHECKING:
    import torch

    from privacy_gate.shadows.last_layer import Cut

# The candidate of this worker: loaded and asked about all records once, whatever the number of shadows.
_CUT: dict[str, Cut] = {}


def proxy_reason(settings: Recipe) -> str | None:
    """Why refitted heads are not the candidate's own recipe; None where they are."""
    if settings.head is None or settings.head.frozen:
        return None
    return (
        "heads refitted on the candidate's own features know the members that they were not trained on through these"
        " features: attacks look weaker than they are"
    )


def _identity(context: Context, description: Description | None) -> Mapping[str, Any]:
    if chosen := training_defences(context):
        raise UsageError(
            f"the defence {chosen[0].title} cannot be put on a refitted head",
            "say `in_recipe: true` if the features were trained with it and the last layer was not, or train whole"
            " models",
        )
    if context.snapshot is None or context.flavor not in ("pytorch", "sklearn"):
        raise UsageError(
            f"shadows.recipe.head: the candidate (flavor {context.flavor}) has no last layer that could be refitted",
            "it is for PyTorch modules and scikit-learn pipelines; train whole models: shadows.recipe.clone, python or"
            " command",
        )
    # Whether the features were trained on the records changes what heads are worth, not what they are.
    settings = _settings(context).model_dump(mode="json", exclude={"frozen"})
    versions = {} if description is None else dict(description.versions)
    return {"candidate": _content(context.snapshot), "head": settings, "versions": versions}


def _settings(context: Context) -> Head:
    return context.settings.head or Head()


def _content(folder: Path) -> str:
    """sha256 over names and content of all files below a folder."""
    return sha256_of_json(
        {p.relative_to(folder).as_posix(): sha256_of_file(p) for p in sorted(folder.rglob("*")) if p.is_file()}
    )


@recipe(id="head", labels="indices", imports=("torch",), identity=_identity, tuned=True, proxy=proxy_reason)
def head(features: Features, labels: NDArray[Any], seed: int, context: Context) -> Any:
    """A new last layer for the candidate, trained on the candidate's features of the shadow's records.

    Adam on the whole set at once, from random weights; all else of the candidate stays as it is. It answers as the
    candidate does, in its class order.
    """
    import torch

    cut = _cut(context, features)
    classes = len(context.class_values)
    if cut.columns != classes and not (cut.columns == 1 and classes == 2):
        raise RecipeFailed(
            f"the candidate's last layer has {cut.columns} outputs for {classes} classes",
            "list the classes in the order of its columns: data.classes",
        )
    inputs = cut.features_of(features).to(cut.dtype)
    if not bool(torch.isfinite(inputs).all()):
        raise RecipeFailed("the candidate's features are not finite", "look for overflow in the model")
    (draw,) = (int(n) for n in np.random.SeedSequence(seed).generate_state(1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw)
        layer = torch.nn.Linear(cut.width, cut.columns, bias=cut.bias, dtype=cut.dtype)
    model = cut.refitted(layer)
    watch = context.watch
    fit(
        layer,
        inputs,
        torch.as_tensor(np.array(labels, dtype=np.int64)),
        _settings(context),
        None if watch is None else lambda epoch: watch(model, epoch),
    )
    return model


def _cut(context: Context, features: Features) -> Cut:
    """The candidate before its last layer, with its features of all records."""
    from privacy_gate.shadows.last_layer import cut

    if context.snapshot is None:
        raise RecipeFailed("there is no candidate whose last layer could be refitted")
    records: AnyFeatures = features if context.records is None else context.records
    device = context.runtime.device
    key = sha256_of_json([_content(context.snapshot), tables.digest(records), device])
    if key not in _CUT:
        _CUT.clear()  # a worker has one candidate; two would need the memory of two
        found = cut(models.load(context.snapshot, context.flavor), records, device)
        found.features_of(records)
        _CUT[key] = found
    _CUT[key].about(records)
    return _CUT[key]


def fit(
    layer: torch.nn.Linear,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    settings: Head,
    watch: Callable[[int], None] | None = None,
) -> None:
    """Train a linear layer in place: cross-entropy of its softmax, or of the sigmoid of its one output.

    inputs  [n, d]
    labels  [n] class index
    watch   called with the number of epochs done after each
    """
    import torch
    from torch.nn import functional

    optimizer = torch.optim.Adam(
        layer.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    for epoch in range(1, settings.epochs + 1):
        optimizer.zero_grad(set_to_none=True)
        out = layer(inputs)
        if out.shape[1] > 1:
            loss = functional.cross_entropy(out, labels)
        else:
            loss = functional.binary_cross_entropy_with_logits(out[:, 0], labels.to(out.dtype))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if watch is not None:
            watch(epoch)
