"""The gate's own training loop for torch modules: data in memory, everything random from given generators.

Whatever an option of `training:` does is here: what a batch is made of, what the loss is, which weights move.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from privacy_gate.catalog import did_you_mean
from privacy_gate.defences import Loop, TrainingDefence
from privacy_gate.errors import RecipeFailed, UsageError
from privacy_gate.request import TorchTraining

if TYPE_CHECKING:
    import torch

_LOSS_SCALE = 2.0**16  # PyTorch's own beginning
_NOTHING = 2.0**-126  # smallest normal number of float32

Augment = Callable[["torch.Tensor", "torch.Generator"], Any]

# Settings that DP-SGD cannot be trained with, and why.
_NOT_WITH_DP_SGD = {
    "augment": "a function of the whole batch may mix records, and one record's gradient would be another's, too",
    "sampler": "its batches are drawn by Poisson sampling, or the guarantee does not hold",
    "precision": "its clipping and its noise are computed for gradients in float32",
    "clip": "it clips each record's gradient itself: set max_grad_norm of the defence instead",
    "teacher": "its guarantee does not cover what the teacher knows of the records",
}


def refuse(training: TorchTraining, defences: tuple[TrainingDefence, ...]) -> None:
    """UsageError where a setting and a training defence cannot go together."""
    if not any(defence.title == "dp_sgd" for defence in defences):
        return
    for name, why in _NOT_WITH_DP_SGD.items():
        if getattr(training, name) != TorchTraining.model_fields[name].default:
            raise UsageError(
                f"the defence dp_sgd cannot be trained with shadows.recipe.training.{name}: {why}",
                "leave one of them out, or train with both in a function of your own (shadows.recipe.python) and say"
                " `in_recipe: true`",
            )


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
    augment: Augment | None = None,
    teacher: torch.nn.Module | None = None,
) -> torch.nn.Module:
    """Train in place on x [n, ...], y [n] class index; returns the module in evaluation mode.

    order      of the rows, epoch by epoch; what `sampler` draws, too
    defences   whose settings and modules are in `training` and `module` already; seed, reference: theirs
    watch      called as watch(module in evaluation mode, epochs done) after each epoch; it must not change the module
    augment    the function of `training.augment`; its generator, on the CPU, comes from `seed`
    teacher    the trained module of `training.teacher`
    """
    refuse(training, defences)
    held = _freeze(module, training.frozen)
    optimizer = _optimizer(module, training)
    schedule = _schedule(optimizer, training)
    loop = Loop(
        module, x, y, training, _loss(training), optimizer,
        lambda n: batches(n, training.batch_size, order), seed, reference,
    )  # fmt: skip
    for defence in defences:
        loop = defence.loop(loop)
    if training.sampler == "balanced":  # of the records that a defence left over
        loop = replace(loop, batches=lambda n: balanced(loop.y, training.batch_size, order))
    scaled = _Scaled.of(x.device.type) if training.precision == "float16" else None
    step = _Step(loop, _augmented(loop, augment), _imitation(training, teacher), scaled)
    loop.module.train()
    for epoch in range(1, training.epochs + 1):
        for rows in loop.batches(len(loop.x)):
            step(rows)
        if schedule is not None:
            schedule.step()
        said = [after(epoch) for after in loop.after]
        if watch is not None:
            watch(module.eval(), epoch)
            module.train()
        if any(said):
            break
    if scaled is not None:
        scaled.require_steps()
    for finish in loop.finish:
        finish()
    for hook in held:
        hook.remove()
    return module.eval()


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """One step on a batch.

    inputs   what the module is given for the batch's rows
    imitate  (inputs, answers, objective) -> objective
    scaled   of float16, whose gradients would vanish; None: gradients are as they are
    """

    loop: Loop
    inputs: Callable[[torch.Tensor], torch.Tensor]
    imitate: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    scaled: _Scaled | None = None

    def __call__(self, rows: torch.Tensor) -> None:
        import torch

        loop, training = self.loop, self.loop.training
        for before in loop.before:
            before(rows)
        loop.optimizer.zero_grad(set_to_none=True)
        inputs, labels = self.inputs(loop.x[rows]), loop.y[rows]
        with _precision(training, inputs):
            answers = loop.module(inputs)
            if training.precision != "float32":
                answers = answers.float()  # a softmax over 8 or 11 bits would not be worth its name
            objective = self.imitate(inputs, answers, loop.loss(answers, labels))
        for penalty in loop.penalties:
            objective = objective + penalty(answers, labels)
        if self.scaled is None:
            objective.backward()  # type: ignore[no-untyped-call]
        else:
            self.scaled.backward(objective, loop.optimizer)
        if training.clip is not None:
            torch.nn.utils.clip_grad_norm_(loop.module.parameters(), training.clip)
        if self.scaled is None:
            loop.optimizer.step()
        else:
            self.scaled.step(loop.optimizer)


@dataclass(slots=True, eq=False)
class _Scaled:
    """The loss times a number that keeps small gradients above float16's smallest one, for a whole training.

    A step whose gradients overflow changes no weight, and halves the number: training goes on with the next batch.
    tried  steps so far, those without effect among them
    """

    scaler: torch.amp.GradScaler
    tried: int = 0

    @classmethod
    def of(cls, device: str) -> _Scaled:
        import torch

        return cls(torch.amp.GradScaler(device, init_scale=_LOSS_SCALE))

    def backward(self, objective: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Leave the gradients of the objective itself: whoever clips them must see their true size."""
        self.scaler.scale(objective).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        self.scaler.step(optimizer)
        self.scaler.update()
        self.tried += 1

    def require_steps(self) -> None:
        """Raises RecipeFailed where every step overflowed, or so many that the number is as good as 0 by now."""
        if self.tried and self.scaler.get_scale() <= max(math.ldexp(_LOSS_SCALE, -self.tried), _NOTHING):
            raise RecipeFailed(
                f"shadows.recipe.training.precision: in float16, gradients overflowed step after step ({self.tried} in"
                " all), and the module stopped learning",
                "scale the features, or say precision: bfloat16, which reaches as far as float32",
            )


def _precision(training: TorchTraining, inputs: torch.Tensor) -> contextlib.AbstractContextManager[Any]:
    import torch

    if training.precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(inputs.device.type, dtype=getattr(torch, training.precision))


# --- batches --------------------------------------------------------------------------------------------------------


def batches(n: int, size: int, order: torch.Generator) -> Iterator[torch.Tensor]:
    """Row indices of one epoch in random order; a single left-over row joins the batch before it."""
    import torch

    yield from _cut(torch.randperm(n, generator=order), size)


def balanced(labels: torch.Tensor, size: int, order: torch.Generator) -> Iterator[torch.Tensor]:
    """Row indices of one epoch: as many as there are rows, with replacement, a class by lot and then one of its rows.

    labels  [n] class index; classes without rows are no classes
    """
    import torch

    labels, n = labels.cpu(), len(labels)
    rows = torch.argsort(labels, stable=True)
    counts = torch.unique_consecutive(labels[rows], return_counts=True)[1]
    starts = torch.cumsum(counts, 0) - counts
    drawn = torch.randint(len(counts), (n,), generator=order)
    place = torch.rand(n, generator=order, dtype=torch.float64) * counts[drawn]
    yield from _cut(rows[starts[drawn] + place.long()], size)


def _cut(rows: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
    n = len(rows)
    stops = [*range(size, n, size), n]
    if len(stops) > 1 and stops[-1] - stops[-2] == 1:
        del stops[-2]  # batch normalisation has no variance over one row
    yield from (rows[start:stop] for start, stop in zip([0, *stops], stops, strict=False))


def _augmented(loop: Loop, augment: Augment | None) -> Callable[[torch.Tensor], torch.Tensor]:
    """The batch as the module gets it, checked."""
    if augment is None:
        return lambda batch: batch
    import torch

    draws = torch.Generator().manual_seed(loop.seed_of("augment"))

    def changed(batch: torch.Tensor) -> torch.Tensor:
        shape, kind = batch.shape, batch.dtype
        made = augment(batch, draws)
        if not isinstance(made, torch.Tensor) or made.shape != shape or made.dtype != kind:
            got = f"{made.dtype} {list(made.shape)}" if isinstance(made, torch.Tensor) else type(made).__name__
            raise RecipeFailed(
                f"shadows.recipe.training.augment returned {got} for a batch of {kind} {list(shape)}",
                "return a tensor of the same shape and type",
            )
        return made

    return changed


# --- the loss -------------------------------------------------------------------------------------------------------


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


def _imitation(
    training: TorchTraining, teacher: torch.nn.Module | None
) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    """The objective with the share that imitates the teacher, who sees what the module sees."""
    if teacher is None or training.teacher is None:
        return lambda inputs, answers, objective: objective
    import torch

    share, temperature = training.teacher.share, training.teacher.temperature
    teacher.eval().requires_grad_(False)

    def with_teacher(inputs: torch.Tensor, answers: torch.Tensor, objective: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            told = teacher(inputs)
        return (1 - share) * objective + share * distillation(answers, told.to(answers.dtype), temperature)

    return with_teacher


def distillation(answers: torch.Tensor, told: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 times the mean over records of KL(teacher at T || student at T), which is T^2 times their distance.

    answers, told  [n, K] logits or log-probabilities, [n] or [n, 1] logits of the second class
    T^2 keeps the size of the gradient whatever T is: Hinton, Vinyals & Dean 2015, section 2.
    """
    import torch

    answers, told = _two(answers), _two(told)
    if answers.shape != told.shape:
        raise RecipeFailed(
            f"the teacher answers with {told.shape[1]} columns, the module with {answers.shape[1]}",
            "name a teacher with the candidate's classes",
        )
    student = torch.log_softmax(answers / temperature, dim=1)
    teacher = torch.log_softmax(told / temperature, dim=1)
    return temperature**2 * (teacher.exp() * (teacher - student)).sum(dim=1).mean()


def _two(out: torch.Tensor) -> torch.Tensor:
    """[n, K]; one column is the second class's logit against nothing."""
    import torch

    if out.ndim == 2 and out.shape[1] > 1:
        return out
    column = out.reshape(-1)
    return torch.stack([torch.zeros_like(column), column], dim=1)


# --- weights --------------------------------------------------------------------------------------------------------


def _freeze(module: torch.nn.Module, patterns: list[str]) -> list[Any]:
    """Stop the training of the parameters that match; hooks to remove when the training is over.

    Batch normalisation whose own weights are all frozen stays in evaluation mode: in training mode its running
    statistics would go on learning from the records. A hook sees to that before each answer, whoever switches modes.
    """
    from torch.nn.modules.batchnorm import _NormBase

    names = [name for name, _ in module.named_parameters(remove_duplicate=False)]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise RecipeFailed(
                f"shadows.recipe.training.frozen: no parameter matches {pattern!r}", did_you_mean(pattern, names[:20])
            )
    for name, weight in module.named_parameters(remove_duplicate=False):
        if _matches(name, patterns):
            weight.requires_grad_(False)
    if patterns and not any(weight.requires_grad for weight in module.parameters()):
        raise RecipeFailed(
            "shadows.recipe.training.frozen leaves no parameter to train", "leave out the pattern of the last layers"
        )
    hooks = []
    for name, layer in module.named_modules():
        if not isinstance(layer, _NormBase) or layer.running_mean is None:
            continue
        own = [f"{name}.{of}".lstrip(".") for of, _ in layer.named_parameters()]
        # One without weights is frozen where its statistics match.
        if all(_matches(one, patterns) for one in own or [f"{name}.running_mean".lstrip(".")]):
            hooks.append(layer.register_forward_pre_hook(_stay))
    return hooks


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _stay(layer: torch.nn.Module, _: Any) -> None:
    layer.eval()


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
