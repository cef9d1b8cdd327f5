"""A torch module from the user's factory, trained by the gate on tensors in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from privacy_gate.datamodel import Description
from privacy_gate.defences import Loop, TrainingDefence
from privacy_gate.errors import ConfigError, RecipeFailed
from privacy_gate.features import Features
from privacy_gate.request import TorchTraining
from privacy_gate.shadows.recipes import Context, defended, recipe, training_defences
from privacy_gate.shadows.source import Source, failed, locate

if TYPE_CHECKING:
    import torch


def _training(context: Context) -> TorchTraining:
    training = context.settings.training
    if training is None:
        raise ConfigError("shadows.recipe.model needs shadows.recipe.training", "say at least training: {epochs: N}")
    if training.schedule == "step" and training.step_size is None:
        raise ConfigError("shadows.recipe.training: schedule: step needs step_size", "say after how many epochs")
    if training.momentum and training.optimizer != "sgd":
        raise ConfigError(
            f"shadows.recipe.training: momentum belongs to sgd, not to {training.optimizer}", "remove one of the two"
        )
    if training.loss == "bce_with_logits" and len(context.class_values) != 2:
        raise ConfigError(
            f"shadows.recipe.training: bce_with_logits is for 2 classes, the data has {len(context.class_values)}",
            "use cross_entropy",
        )
    for defence in training_defences(context):
        training = defence.training(training)
    return training


def _source(context: Context) -> Source:
    return locate(context.settings.model or "", context.folder, "shadows.recipe.model")


def _identity(context: Context, description: Description | None) -> Mapping[str, Any]:
    training = _training(context).model_dump(mode="json")
    return {**_source(context).identity(), "training": training, **defended(context)}


@recipe(id="model", labels="indices", imports=("torch",), identity=_identity, tuned=True)
def model(features: Features, labels: NDArray[Any], seed: int, context: Context) -> Any:
    """The module of `path.py:factory`, trained as `training:` says; weights, order and dropout come from the seed."""
    import torch

    training, source = _training(context), _source(context)
    init_seed, order_seed = (int(n) for n in np.random.SeedSequence(seed).generate_state(2))
    torch.manual_seed(init_seed)  # weights now, dropout masks later
    try:
        module = source.load()()
    except (Exception, SystemExit) as error:
        raise failed(f"{source.function}()", error, source.path.parent) from error
    if not isinstance(module, torch.nn.Module):
        raise RecipeFailed(
            f"{source.function}() of {source.path.name} returned {type(module).__name__}, not a torch module",
            "return an untrained torch.nn.Module",
        )
    order = torch.Generator().manual_seed(order_seed)
    defences = training_defences(context)
    for defence in defences:
        module = defence.module(module)
    try:
        x, y = _tensor(features, module), _labels(labels)
        reference = (
            None
            if context.reference is None
            else (_tensor(context.reference[0], module), _labels(context.reference[1]))
        )
        return fit(
            module, x, y, training, order, defences=defences, seed=seed, reference=reference, watch=context.watch
        )
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        # Mostly shapes and label ranges that do not fit the module.
        raise failed(f"training the module of {source.path.name}", error, source.path.parent) from error


def fit(
    module: torch.nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    training: TorchTraining,
    order: torch.Generator,
    *,
    defences: tuple[TrainingDefence, ...] = (),
    seed: int = 0,
    reference: tuple[torch.Tensor, torch.Tensor] | None = None,
    watch: Callable[[Any, int], None] | None = None,
) -> torch.nn.Module:
    """Train in place on x [n, ...], y [n] class index; returns the module in evaluation mode.

    order      of the rows, epoch by epoch
    defences   whose settings and modules are in `training` and `module` already; seed, reference: theirs
    watch      called as watch(module in evaluation mode, epochs done) after each epoch; it must not change the module
    """
    optimizer = _optimizer(module, training)
    schedule = _schedule(optimizer, training)
    loop = Loop(
        module, x, y, training, _loss(training), optimizer,
        lambda n: batches(n, training.batch_size, order), seed, reference,
    )  # fmt: skip
    for defence in defences:
        loop = defence.loop(loop)
    loop.module.train()
    for epoch in range(1, training.epochs + 1):
        for rows in loop.batches(len(loop.x)):
            _step(loop, rows)
        if schedule is not None:
            schedule.step()
        said = [after(epoch) for after in loop.after]
        if watch is not None:
            watch(module.eval(), epoch)
            module.train()
        if any(said):
            break
    for finish in loop.finish:
        finish()
    return module.eval()


def _step(loop: Loop, rows: torch.Tensor) -> None:
    for before in loop.before:
        before(rows)
    loop.optimizer.zero_grad(set_to_none=True)
    answers = loop.module(loop.x[rows])
    objective = loop.loss(answers, loop.y[rows])
    for penalty in loop.penalties:
        objective = objective + penalty(answers, loop.y[rows])
    objective.backward()  # type: ignore[no-untyped-call]
    loop.optimizer.step()


def batches(n: int, size: int, order: torch.Generator) -> Iterator[torch.Tensor]:
    """Row indices of one epoch in random order; a single left-over row joins the batch before it."""
    import torch

    rows = torch.randperm(n, generator=order)
    stops = [*range(size, n, size), n]
    if len(stops) > 1 and stops[-1] - stops[-2] == 1:
        del stops[-2]  # batch normalisation has no variance over one row
    yield from (rows[start:stop] for start, stop in zip([0, *stops], stops, strict=False))


def _labels(labels: NDArray[Any]) -> torch.Tensor:
    import torch

    return torch.as_tensor(np.array(labels, dtype=np.int64))


def _tensor(features: Features, module: torch.nn.Module) -> torch.Tensor:
    """[n, ...] float32, as the candidate is asked too; int64 where the module looks its inputs up in a table."""
    import torch

    array = features if isinstance(features, np.ndarray) else features.to_numpy()
    if array.dtype.kind not in "fiub":
        raise RecipeFailed(f"features of type {array.dtype} do not fit into a tensor", "encode them as numbers first")
    x = torch.as_tensor(np.array(array, dtype=np.float32))
    if array.dtype.kind not in "iu":
        return x
    try:
        with torch.inference_mode():
            module.eval()(x[:2])
    except RuntimeError as error:
        if "indices" in str(error):
            return torch.as_tensor(np.array(array, dtype=np.int64))
        raise
    return x


def _loss(training: TorchTraining) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """(output of the module, class indices) -> mean loss, with label smoothing."""
    from torch.nn import functional

    eps = training.label_smoothing

    def nll(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (1 - eps) * functional.nll_loss(out, y) - eps * out.mean()

    def bce(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        logits = out.reshape(len(y))  # one column, or none; anything else is the user's error
        return functional.binary_cross_entropy_with_logits(logits, y.to(logits.dtype) * (1 - eps) + eps / 2)

    def cross_entropy(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(out, y, label_smoothing=eps)

    return {"nll": nll, "bce_with_logits": bce, "cross_entropy": cross_entropy}[training.loss]


def _optimizer(module: torch.nn.Module, training: TorchTraining) -> torch.optim.Optimizer:
    import torch

    parameters = [p for p in module.parameters() if p.requires_grad]
    # fused: one pass over the weights instead of a dozen small ones, 1.3 times as fast per step, same formulae.
    rate, decay = training.learning_rate, training.weight_decay
    match training.optimizer:
        case "adam":
            return torch.optim.Adam(parameters, lr=rate, weight_decay=decay, fused=True)
        case "adamw":
            return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=True)
        case "sgd":
            return torch.optim.SGD(parameters, lr=rate, momentum=training.momentum, weight_decay=decay, fused=True)


def _schedule(optimizer: torch.optim.Optimizer, training: TorchTraining) -> torch.optim.lr_scheduler.LRScheduler | None:
    from torch.optim import lr_scheduler

    match training.schedule:
        case "constant":
            return None
        case "cosine":
            return lr_scheduler.CosineAnnealingLR(optimizer, T_max=training.epochs)
        case "step":
            return lr_scheduler.StepLR(optimizer, step_size=training.step_size or 1, gamma=training.gamma)
