"""The gradient of each record's loss with respect to every parameter and to the input, batch by batch.

One forward and one backward pass per batch. A mode of torch watches the calls that use a parameter, in modules and in
exported graphs alike: linear layers, convolutions, normalisations and embeddings have closed forms from what goes in
and the derivative of what comes out (Goodfellow, "Efficient per-example gradient computations", 2015). What uses a
parameter in any other way is differentiated record by record. Closed forms hold where the first axis counts records and
every parameter sees each record apart; that is tested on the first batch of every model, against single records.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from privacy_gate.datamodel import Floats, Ints
from privacy_gate.errors import NotEvaluable
from privacy_gate.features import Features
from privacy_gate.signals import Access
from privacy_gate.signals.per_sample.summaries import Convolution, Dense, Gradient, Product, Rows

BATCH = 64

_CHECKED = 2  # records of the first batch that are differentiated alone as well
_AGREE = 1e-2  # of two squared norms: float32 sums in another order differ by far less, wrong forms by far more
_SAME = 1e-3  # of two losses
_ROUNDINGS = 32  # where numbers are coarser (bfloat16), so many of their steps
_NOTHING = 1e-24  # a squared norm that the summaries' floor hides


@dataclass(frozen=True, slots=True, eq=False)
class Gradients:
    """Of b records: parameter name -> gradient, in the order of `names`; and of the input, of no number for tokens."""

    parameters: Mapping[str, Gradient]
    inputs: Gradient

    def layers(self) -> dict[str, list[Gradient]]:
        """Layer -> gradients of its parameters. A layer is what owns them: `0.weight` and `0.bias` are of `0`."""
        found: dict[str, list[Gradient]] = {}
        for name, gradient in self.parameters.items():
            found.setdefault(name.rpartition(".")[0], []).append(gradient)
        return found


def each_batch(access: Access, features: Features, labels: Ints) -> Iterator[Gradients]:
    """Gradients of the cross-entropy of n records, in order, up to BATCH at a time.

    Raises NotEvaluable where the model has no parameters that can be differentiated, where its answer to a record
    depends on the other records of the batch or on chance, and where a gradient is not finite.
    """
    torch.set_num_threads(1)
    access.module()  # says what a model is that has no gradients, before its records are looked at
    try:
        table = features if isinstance(features, np.ndarray) else features.to_numpy(np.float32)
    except (ValueError, TypeError) as error:
        raise NotEvaluable("some columns hold no numbers: there is no gradient in their direction") from error
    model = _Model.of(access, features, table, labels)
    for start in range(0, len(table), model.batch):
        rows, marks = table[start : start + model.batch], labels[start : start + model.batch]
        yield model.gradients(rows, marks, check=start == 0)


def summarised(access: Access, features: Features, labels: Ints, summary: Callable[[Gradients], Tensor]) -> Floats:
    """[n, d] a summary of the gradients of each record. Raises NotEvaluable as `each_batch`, and where it overflows."""
    parts = [summary(gradients).numpy() for gradients in each_batch(access, features, labels)]
    values = np.concatenate(parts) if parts else np.zeros((0, 0))
    broken = int(np.count_nonzero(~np.isfinite(values).all(axis=1)))
    if broken:
        raise NotEvaluable(
            f"the gradients of {broken} of {len(values)} records are not finite",
            "look for overflow in the model's layers",
        )
    return np.asarray(values, dtype=np.float64)


# --- the loss -------------------------------------------------------------------------------------------------------


def losses(answer: Tensor, labels: Tensor, probabilities: bool) -> Tensor:
    """[b] -log p_y in float64 from [b, K] logits or probabilities; one column is the second class's.

    From logits as log(1 + e^-phi), whose derivative 1 - p_y keeps its digits where p_y rounds to 1.
    """
    wide = answer.double().reshape(len(answer), -1)
    if wide.shape[1] == 1:
        wide = torch.cat([1 - wide if probabilities else torch.zeros_like(wide), wide], dim=1)
    own = wide.gather(1, labels[:, None])[:, 0]
    if probabilities:
        return -torch.log(own + torch.finfo(torch.float32).tiny)
    others = wide.masked_fill(functional.one_hot(labels, wide.shape[1]).bool(), -torch.inf)
    return functional.softplus(torch.logsumexp(others, 1) - own, threshold=40.0)


def _prediction(answer: Any) -> Tensor:
    """The tensor out of what forward() returned: itself, the first of several, or `.logits`."""
    answer = getattr(answer, "logits", answer)
    if isinstance(answer, Mapping):
        answer = next((answer[key] for key in ("logits", "probabilities", "probs", "scores") if key in answer), answer)
    if isinstance(answer, list | tuple):
        answer = answer[0]
    if not isinstance(answer, Tensor):
        raise NotEvaluable(
            f"the model answers with a {type(answer).__name__}, which cannot be differentiated",
            "return a tensor of one score per class",
        )
    return answer


def _are_probabilities(values: Tensor) -> bool:
    wide = values.detach().double().reshape(len(values), -1)
    if wide.shape[1] == 1:
        return bool(((wide >= 0) & (wide <= 1)).all())
    return bool((wide >= 0).all() and ((wide.sum(1) - 1).abs() <= 1e-3).all())


# --- the model ------------------------------------------------------------------------------------------------------

# A graph exported with one example row accepts that number of rows only.
_FROZEN = re.compile(r"size\(\)\[0\] == (\d+)|shape\[0\] to be equal to (\d+)")


@dataclass(slots=True, eq=False)
class _Model:
    """A module and how it wants to be asked.

    parameters     name -> its values, apart from the module: nothing here changes the module
    dtype          of the features
    probabilities  what the module answers with
    floor          rows that one record alone is repeated to
    batch          rows per forward pass
    alone          parameters without a closed form
    """

    module: Any
    parameters: dict[str, Tensor]
    dtype: torch.dtype
    device: torch.device
    probabilities: bool
    floor: int = 1
    batch: int = BATCH
    alone: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, access: Access, features: Features, table: Any, labels: Ints) -> _Model:
        module = access.module()
        module = getattr(module, "_orig_mod", module)  # what torch.compile wraps
        if isinstance(module, torch.jit.ScriptModule):
            raise NotEvaluable(
                "the gradients of a TorchScript module cannot be taken apart", "log the module itself, or export it"
            )
        owned = {n: p.detach() for n, p in module.named_parameters() if p.dtype.is_floating_point}
        if not owned:
            raise NotEvaluable(
                "the model has no parameters that can be differentiated", "white-box attacks do not apply to it"
            )
        if int(labels.max(initial=0)) >= access.classes or int(labels.min(initial=0)) < 0:
            raise NotEvaluable("a label is none of the model's classes", "name the classes in the model's order")
        first = next(iter(owned.values()))
        # Exported graphs have dynamic sizes from 2 upwards.
        floor = 2 if any(isinstance(part, torch.fx.GraphModule) for part in module.modules()) else 1
        kind = access.answers(features).kind if len(table) else "logits"
        names = sorted(owned, key=_natural)
        model = cls(
            module, {n: owned[n] for n in names}, first.dtype, first.device, kind == "probabilities", floor=floor
        )
        if len(table):
            model._try(table)
        return model

    def _try(self, table: Any) -> None:
        """One forward pass, to learn which batches and numbers the model takes and what it answers with."""
        for _ in range(3):
            try:
                with torch.no_grad():
                    answer = _prediction(self.module(self.tensor(table[: self.batch], self.batch)))
                break
            except NotEvaluable:
                raise
            except Exception as error:
                frozen = _FROZEN.search(str(error))
                if frozen and (size := int(frozen[1] or frozen[2])) != self.batch:
                    self.batch = self.floor = size
                elif "indices" in str(error) and table.dtype.kind in "iu" and self.dtype.is_floating_point:
                    self.dtype = torch.int64  # token ids, not numbers
                else:
                    raise _not_differentiable(error) from error
        else:
            raise NotEvaluable("the model takes no batch of records", "export it with a dynamic number of rows")
        if self.floor > 1 and isinstance(takes := getattr(self.module, "size", None), int):
            self.batch = self.floor = takes  # what feeds a graph the number of rows that it takes found it out
        # A defence may answer with probabilities for a module that gives logits.
        self.probabilities = self.probabilities and _are_probabilities(answer)

    def tensor(self, rows: Any, size: int) -> Tensor:
        """[size, ...] the rows, repeated in turn to the size of a batch."""
        chosen = np.asarray(rows)[np.arange(size) % len(rows)]
        return torch.as_tensor(np.ascontiguousarray(chosen)).to(self.device, self.dtype)

    def run(self, inputs: Tensor, labels: Tensor, watch: _Watch, parameters: Mapping[str, Tensor]) -> Tensor:
        """[rows] losses."""
        with watch:
            answer = torch.func.functional_call(self.module, dict(parameters), (inputs,))
        prediction = _prediction(answer)
        probabilities = self.probabilities
        if probabilities and watch.end is not None and watch.end[0] is prediction:
            # Whoever has the weights takes off the softmax that ends the module, and loses no digits to it.
            prediction, probabilities = watch.end[1], False
        return losses(prediction, labels, probabilities)

    def gradients(self, rows: Any, labels: Ints, *, check: bool) -> Gradients:
        """Of one batch of at most `self.batch` records."""
        with torch.enable_grad():
            found, loss = self._together(rows, labels)
            if check:
                self._compare(found, loss, rows, labels)
            for name in self.alone:
                found.pop(name, None)
            if self.alone:
                found |= self._one_by_one(rows, labels)
        inputs = found.pop("")
        return Gradients({name: found[name] for name in self.parameters}, inputs)

    def _together(self, rows: Any, labels: Ints) -> tuple[dict[str, Gradient], Tensor]:
        """Closed forms of one backward pass: name -> gradient, "" the input's; and the losses [b]."""
        inputs = self.tensor(rows, self.batch)
        marks = torch.as_tensor(labels[np.arange(self.batch) % len(labels)], device=self.device)
        if inputs.is_floating_point():
            inputs.requires_grad_()
        watch = _Watch(self.parameters, self.batch)
        try:
            loss = self.run(inputs, marks, watch, self.parameters)
            leaves = [*watch.taps, *([inputs] if inputs.requires_grad else [])]
            slopes = (
                torch.autograd.grad(loss.sum(), leaves, allow_unused=True, materialize_grads=True)
                if leaves and loss.requires_grad
                else [torch.zeros_like(leaf) for leaf in leaves]
            )
        except NotEvaluable:
            raise
        except Exception as error:
            raise _not_differentiable(error) from error
        self.alone |= watch.unknown
        count = len(rows)
        found: dict[str, Gradient] = {"": _input_gradient(slopes[-1] if inputs.requires_grad else None, count)}
        for name, values in self.parameters.items():
            uses = [use for use in watch.uses if use.name == name]
            if name in self.alone:
                continue
            if len({use.form for use in uses}) > 1:
                self.alone.add(name)
            elif not uses:
                found[name] = Dense(torch.zeros(count, values.numel(), dtype=torch.float64))
            elif (form := _FORMS[uses[0].form](uses, [slopes[use.tap] for use in uses], self.batch, count)) is not None:
                found[name] = form
            else:
                self.alone.add(name)
        return found, loss.detach()[:count]

    def _alone(self, rows: Any, labels: Ints, names: Sequence[str]) -> tuple[dict[str, Gradient], Tensor]:
        """The same of one record, without any closed form."""
        inputs = self.tensor(rows, self.floor)
        if inputs.is_floating_point():
            inputs.requires_grad_()
        marks = torch.as_tensor(np.repeat(labels, self.floor), device=self.device)
        leaves = {name: self.parameters[name].clone().requires_grad_() for name in names}
        wanted = [*leaves.values(), *([inputs] if inputs.requires_grad else [])]
        try:
            loss = self.run(inputs, marks, _Watch({}, self.floor), self.parameters | leaves)[:1]
            slopes = torch.autograd.grad(loss.sum(), wanted, allow_unused=True, materialize_grads=True)
        except NotEvaluable:
            raise
        except Exception as error:
            raise _not_differentiable(error) from error
        found: dict[str, Gradient] = {
            name: Dense(slope.detach().double().reshape(1, -1).cpu())
            for name, slope in zip(leaves, slopes, strict=False)
        }
        found[""] = _input_gradient(slopes[-1] if inputs.requires_grad else None, 1)
        return found, loss.detach()

    def _one_by_one(self, rows: Any, labels: Ints) -> dict[str, Gradient]:
        names = [name for name in self.parameters if name in self.alone]
        each = [self._alone(rows[i : i + 1], labels[i : i + 1], names)[0] for i in range(len(rows))]
        return {name: Dense(torch.cat([cast("Dense", one[name]).values for one in each])) for name in names}

    def _compare(self, found: Mapping[str, Gradient], loss: Tensor, rows: Any, labels: Ints) -> None:
        """The records of the largest losses, each alone: what does not agree has no closed form."""
        coarse = _ROUNDINGS * max(torch.finfo(values.dtype).eps for values in self.parameters.values())
        for row in torch.topk(loss, min(_CHECKED, len(loss))).indices.tolist():
            single, own = self._alone(rows[row : row + 1], labels[row : row + 1], list(self.parameters))
            together = {name: found[name].take(torch.tensor([row])) for name in found}
            if not math.isfinite(float(own[0] + loss[row])):
                continue  # the summaries will say so
            apart = abs(float(own[0] - loss[row])) > max(_SAME, coarse) * (1 + abs(float(loss[row])))
            if apart or not _agree(single[""], together[""], coarse):
                raise NotEvaluable(
                    "the model's answer to a record depends on the other records of the batch, or on chance",
                    "log the model in evaluation mode: no statistics of the batch, no dropout",
                )
            self.alone |= {n for n in together if n and not _agree(single[n], together[n], coarse)}


def _agree(one: Gradient, other: Gradient, coarse: float) -> bool:
    left, right = float(one.squares()), float(other.squares())
    return abs(left - right) <= max(_AGREE, coarse) * max(left, right) + _NOTHING


def _input_gradient(slope: Tensor | None, count: int) -> Dense:
    if slope is None:
        return Dense(torch.zeros(count, 1, dtype=torch.float64))
    return Dense(slope[:count].detach().double().reshape(count, -1).cpu())


def _natural(name: str) -> list[tuple[int, str]]:
    """Digits by value: layer 10 comes after layer 9, and exporting a module does not change the order."""
    return [(int(part) if part.isdigit() else -1, part) for part in re.split(r"(\d+)", name)]


def _not_differentiable(error: Exception) -> NotEvaluable:
    # Not the error's own words, which may quote a record.
    return NotEvaluable(
        f"the model could not be differentiated: {type(error).__name__}",
        "white-box attacks need a torch module whose forward() takes one batch of features",
    )


# --- what uses a parameter ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Use:
    """One call in which a parameter took part: the closed form, what it needs of the input, the output's tap."""

    name: str
    form: str
    seen: Any
    tap: int


class _Watch(TorchFunctionMode):
    """Notes every use of the parameters, and adds a leaf of zeros to each output whose derivative a form needs.

    The derivative with respect to that leaf is the output's, whatever changes the output in place afterwards.
    """

    def __init__(self, parameters: Mapping[str, Tensor], batch: int) -> None:
        super().__init__()
        self.names = {id(values): name for name, values in parameters.items()}
        self.batch = batch
        self.taps: list[Tensor] = []
        self.uses: list[_Use] = []
        self.unknown: set[str] = set()
        self.end: tuple[Tensor, Tensor] | None = None
        self._turned: dict[int, Tensor] = {}  # transposed parameters, kept alive: their ids are names, too
        self._kept: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = _Call(func, args, kwargs or {})
        used = {id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)} & self.names.keys()
        rule = _RULES.get(call.name)
        if not used:
            out = func(*args, **call.kwargs)
            if call.name in _ENDS and isinstance(out, Tensor):
                self._ends(call, out)
            if call.name in _NORMALISATIONS:
                _not_of_the_batch(call)
            return out
        out = rule(self, call, used) if rule else None
        if out is not None:
            return out
        out = func(*args, **call.kwargs)
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(out)):
            self.unknown |= {self.names[key] for key in used}
        return out

    def name_of(self, tensor: Any) -> str | None:
        """Of a parameter, or of one that was transposed."""
        return self.names.get(id(tensor))

    def tapped(self, out: Tensor, *uses: tuple[str | None, str, Any]) -> Tensor:
        """The output with a leaf of zeros added; uses: (parameter, form, what the form needs of the input)."""
        tap = torch.zeros_like(out, requires_grad=True)
        self.uses += [_Use(name, form, seen, len(self.taps)) for name, form, seen in uses if name is not None]
        self.taps.append(tap)
        return out + tap

    def is_turned(self, tensor: Tensor) -> bool:
        """Whether it is a parameter's transpose."""
        return id(tensor) in self._turned

    def turned(self, values: Tensor, out: Tensor) -> Tensor:
        """A parameter's transpose goes by the parameter's name; that of a transpose is the parameter again."""
        if not self.is_turned(values):
            self._turned[id(out)] = out
        else:
            self._kept.append(out)
        self.names[id(out)] = self.names[id(values)]
        return out

    def _ends(self, call: _Call, out: Tensor) -> None:
        inputs = call.get(0, "input", "self")
        column = out.dim() == 1 or out.shape[1] == 1
        if "sigmoid" in call.name:
            if column:
                self.end = (out, inputs)
        elif not column and out.dim() == 2 and call.get(1, "dim") in (1, -1):
            self.end = (out, inputs)


class _Call:
    """A call of a torch function by name: `linear` for functions and methods, `aten.linear` in exported graphs."""

    def __init__(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self.func, self.args, self.kwargs = func, args, kwargs
        if isinstance(func, torch._ops.OpOverload):
            self.name = "aten." + func._schema.name.removeprefix("aten::")
        elif func == cast("Any", Tensor.T).__get__:
            self.name = "t"
        else:
            self.name = getattr(func, "__name__", "")

    def get(self, place: int, *names: str, default: Any = None) -> Any:
        """The argument at a place or under one of its names."""
        if place < len(self.args):
            return self.args[place]
        return next((self.kwargs[name] for name in names if name in self.kwargs), default)


_Rule = Callable[[_Watch, _Call, set[int]], "Tensor | None"]


def _linear(watch: _Watch, call: _Call, used: set[int]) -> Tensor | None:
    inputs, weight, bias = call.get(0, "input"), call.get(1, "weight"), call.get(2, "bias")
    return _product(watch, call, used, inputs, weight, bias, by_rows=True)


def _addmm(watch: _Watch, call: _Call, used: set[int]) -> Tensor | None:
    if call.kwargs.keys() & {"beta", "alpha", "out"}:
        return None
    bias = call.get(0, "input", "self")
    if isinstance(bias, Tensor) and bias.dim() != 1:
        return None
    return _product(watch, call, used, call.get(1, "mat1"), call.get(2, "mat2"), bias)


def _matmul(watch: _Watch, call: _Call, used: set[int]) -> Tensor | None:
    return _product(watch, call, used, call.get(0, "input", "self"), call.get(1, "mat2", "other", "tensor2"), None)


def _product(
    watch: _Watch, call: _Call, used: set[int], inputs: Any, weight: Any, bias: Any, by_rows: bool = False
) -> Tensor | None:
    """inputs @ weight + bias, or inputs @ weight^T + bias by rows."""
    if not _only(used, weight, bias) or weight.dim() != 2 or inputs.dim() < 2 or len(inputs) % watch.batch:
        return None
    out = call.func(*call.args, **call.kwargs)
    # The derivative is delta a^T of what was multiplied by rows and a delta^T else; of a transpose, the other way.
    rows_first = by_rows != watch.is_turned(weight)
    return watch.tapped(
        out,
        (watch.name_of(weight), "product", (inputs.detach(), rows_first)),
        (watch.name_of(bias), "shift", (False, out.shape[-1])),
    )


def _transpose(watch: _Watch, call: _Call, used: set[int]) -> Tensor | None:
    values = call.get(0, "input", "self")
    if not _only(used, values) or values.dim() != 2:
        return None
    out = call.func(*call.args, **call.kwargs)
    return watch.turned(values, out) if out.shape == values.shape[::-1] else None


def _convolution(watch: _Watch, call: _Call, used: set[int]) -> Tensor | None:
    inputs, weight, bias = call.get(0, "input"), call.get(1, "weight"), call.get(2, "bias")
    if not _only(used, weight, bias) or weight.dim() not in (3, 4) or len(inputs) != watch.batch:
        return None
    if inputs.dim() != weight.dim():
        return None
    axes = weight.dim() - 2
    padding = call.get(4, "padding", default=0)
    if isinstance(padding, str):
        if padding != "valid":
            return None
        padding = 0
    shape = {
        "stride": _each(call.get(3, "stride", default=1), axes),
        "padding": _each(padding, axes),
        "dilation": _each(call.get(5, "dilation", default=1), axes),
        "kernel_size": tuple(weight.shape[2:]),
    }
    groups = call.get(6, "groups", default=1)
    out = call.func(*call.args, **call.kwargs)
    return watch.tapped(
        out,
        (watch.name_of(weight), "convolution", (inputs.detach(), shape, groups)),
        (watch.name_of(bias), "shift", (True, len(weight))),
    )


def _each(value: Any, axes: int) -> tuple[int, ...]:
    given = tuple(value) if isinstance(value, list | tuple) else (value,)
    return given * axes if len(given) == 1 else given


def _normalisation(watch: _Watch, call: _Call, used: set[int]) -> Tensor | None:
    _not_of_the_batch(call)
    inputs = call.get(0, "input")
    weight_at, bias_at = _NORMALISATIONS[call.name]
    weight, bias = call.get(weight_at, "weight"), call.get(bias_at, "bias")
    if not _only(used, weight, bias) or len(inputs) % watch.batch:
        return None
    args = [None if place in (weight_at, bias_at) else value for place, value in enumerate(call.args)]
    kwargs = {name: None if name in ("weight", "bias") else value for name, value in call.kwargs.items()}
    plain = call.func(*args, **kwargs)
    # Layer normalisation scales its last axes element by element, the others scale channels, axis 1.
    channels = call.name.removeprefix("aten.") != "layer_norm"
    out = plain
    for values, combine in ((weight, torch.mul), (bias, torch.add)):
        if values is not None:
            out = combine(out, values.reshape(-1, *(1,) * (plain.dim() - 2)) if channels else values)
    size = next(values.numel() for values in (weight, bias) if values is not None)
    return watch.tapped(
        out,
        (watch.name_of(weight), "scale", (plain.detach(), channels, size)),
        (watch.name_of(bias), "shift", (channels, size)),
    )


def _not_of_the_batch(call: _Call) -> None:
    name = call.name.removeprefix("aten.")
    if name == "batch_norm" and call.get(5, "training", default=False):
        raise NotEvaluable(
            "the model normalises by the statistics of the batch: its answer to a record depends on the others",
            "log the model in evaluation mode, with running statistics",
        )


def _embedding(watch: _Watch, call: _Call, used: set[int]) -> Tensor | None:
    exported = call.name.startswith("aten.")
    index, weight = call.get(1 if exported else 0, "indices", "input"), call.get(0 if exported else 1, "weight")
    padding = call.get(2, "padding_idx", default=-1 if exported else None)
    by_count = call.get(3 if exported else 5, "scale_grad_by_freq", default=False)
    if not _only(used, weight) or len(index) % watch.batch or by_count:
        return None
    if not exported and call.get(3, "max_norm") is not None:
        return None
    height = len(weight)
    if padding is not None and padding < 0:
        padding = None if exported else padding + height
    out = call.func(*call.args, **call.kwargs)
    return watch.tapped(out, (watch.name_of(weight), "rows", (index, padding, height)))


def _only(used: set[int], *tensors: Any) -> bool:
    """Whether the parameters used are these and no others."""
    return used <= {id(tensor) for tensor in tensors}


_NORMALISATIONS = {
    "batch_norm": (3, 4),
    "aten.batch_norm": (1, 2),
    "layer_norm": (2, 3),
    "aten.layer_norm": (2, 3),
    "group_norm": (2, 3),
    "aten.group_norm": (2, 3),
}

_RULES: dict[str, _Rule] = {
    **{prefix + "linear": _linear for prefix in ("", "aten.")},
    **{prefix + "addmm": _addmm for prefix in ("", "aten.")},
    **dict.fromkeys(("mm", "matmul", "__matmul__", "aten.mm", "aten.matmul"), _matmul),
    **dict.fromkeys(("t", "transpose", "permute", "aten.t", "aten.transpose", "aten.permute"), _transpose),
    **{prefix + name: _convolution for prefix in ("", "aten.") for name in ("conv1d", "conv2d")},
    **dict.fromkeys(_NORMALISATIONS, _normalisation),
    **{prefix + "embedding": _embedding for prefix in ("", "aten.")},
}

_ENDS = frozenset({"softmax", "sigmoid", "aten.softmax", "aten._softmax", "aten.sigmoid"})


# --- closed forms ---------------------------------------------------------------------------------------------------

_Form = Callable[[Sequence[_Use], Sequence[Tensor], int, int], "Gradient | None"]


def _product_form(uses: Sequence[_Use], deltas: Sequence[Tensor], batch: int, count: int) -> Gradient | None:
    """A weight that is used several times is used at more places."""
    left, right = [], []
    for use, delta in zip(uses, deltas, strict=True):
        pair = _places(delta, batch, count), _places(use.seen[0], batch, count)
        left.append(pair[0 if use.seen[1] else 1])
        right.append(pair[1 if use.seen[1] else 0])
    return Product(torch.cat(left, dim=2), torch.cat(right, dim=2))


def _places(values: Tensor, batch: int, count: int) -> Tensor:
    """[count, 1, T, width] of [batch m, ..., width]."""
    return values.detach().reshape(batch, 1, -1, values.shape[-1])[:count].double().cpu()


def _convolution_form(uses: Sequence[_Use], deltas: Sequence[Tensor], batch: int, count: int) -> Gradient | None:
    if len(uses) > 1:
        return None
    inputs, window, groups = uses[0].seen
    delta, inputs = deltas[0][:count].detach().cpu(), inputs[:count].cpu()
    if inputs.dim() == 3:  # a row is an image of height 1
        inputs, delta = inputs[:, :, None], delta[:, :, None]
        window = {name: (int(name in _SPANS), *value) for name, value in window.items()}
    return Convolution(delta, inputs, window, groups)


_SPANS = ("stride", "dilation", "kernel_size")


def _scale_form(uses: Sequence[_Use], deltas: Sequence[Tensor], batch: int, count: int) -> Gradient | None:
    each = [
        _summed(delta.double() * use.seen[0].double(), use.seen[1], use.seen[2], batch, count)
        for use, delta in zip(uses, deltas, strict=True)
    ]
    return Dense(torch.stack(each).sum(0))


def _shift_form(uses: Sequence[_Use], deltas: Sequence[Tensor], batch: int, count: int) -> Gradient | None:
    each = [
        _summed(delta.double(), use.seen[0], use.seen[1], batch, count) for use, delta in zip(uses, deltas, strict=True)
    ]
    return Dense(torch.stack(each).sum(0))


def _summed(values: Tensor, channels: bool, size: int, batch: int, count: int) -> Tensor:
    """[count, size] the sums over places of [batch m, ..., size], or of [batch m, size, ...] for channels."""
    last = values.movedim(1, -1) if channels else values
    return last.detach().reshape(batch, -1, size)[:count].sum(1).cpu()


def _rows_form(uses: Sequence[_Use], deltas: Sequence[Tensor], batch: int, count: int) -> Gradient | None:
    found = []
    for use, delta in zip(uses, deltas, strict=True):
        index, padding, height = use.seen
        width = delta.shape[-1]
        # The row of the padding is never trained.
        kept = delta.detach() if padding is None else delta.detach() * (index != padding)[..., None]
        rows = (kept.reshape(batch, -1, width), index.reshape(batch, -1).long())
        found.append((rows[0][:count].double().cpu(), rows[1][:count].cpu(), height))
    return Rows(torch.cat([f[0] for f in found], dim=1), torch.cat([f[1] for f in found], dim=1), found[0][2])


_FORMS: dict[str, _Form] = {
    "product": _product_form,
    "convolution": _convolution_form,
    "scale": _scale_form,
    "shift": _shift_form,
    "rows": _rows_form,
}
