"""Candidates, cut before their last linear layer: what it is given for records, and the same model with another one.

Loads torch: import it inside functions. Runs model code: in shadow workers only.
"""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from privacy_gate.errors import UsageError
from privacy_gate.features import AnyFeatures, Features, in_memory, take
from privacy_gate.sandbox import models

_SAMPLE = 4  # records that tell what comes after the last layer
_MIXED = 64  # records that are asked in batches of two sizes
_HEAD = "privacy_gate_head"  # name of the last layer of an exported graph
_LINEAR = (torch.ops.aten.linear.default, torch.ops.aten.addmm.default)
_TRANSPOSED = (
    torch.ops.aten.t.default,
    torch.ops.aten.permute.default,
    torch.ops.aten.transpose.int,
    torch.ops.aten.numpy_T.default,
)
# What may stand between the last layer and the answer.
_TAILS: dict[str, Callable[[Tensor], Tensor]] = {
    "nothing": lambda out: out,
    "softmax": lambda out: torch.softmax(out, dim=1),
    "log_softmax": lambda out: torch.log_softmax(out, dim=1),
    "sigmoid": torch.sigmoid,
}


def misfit(what: str) -> UsageError:
    """The error for a candidate whose last layer cannot be refitted."""
    return UsageError(
        f"shadows.recipe.head cannot refit this candidate: {what}",
        "it takes torch modules and exported graphs that end in a linear layer, and scikit-learn pipelines that end in"
        " a logistic regression; for others train whole models: shadows.recipe.clone, model, python or command",
    )


class Cut(Protocol):
    """A candidate before its last linear layer. It is never changed.

    columns, width, bias, dtype  of the last layer
    """

    @property
    def columns(self) -> int:
        """Outputs of the last layer."""

    @property
    def width(self) -> int:
        """Its inputs: d."""

    @property
    def bias(self) -> bool:
        """Whether it adds something."""

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""

    def about(self, records: AnyFeatures) -> None:
        """From now on these are the records: of the same content as before."""

    def features_of(self, table: AnyFeatures) -> Tensor:
        """[n, d] what the last layer is given; of the records it is remembered."""

    def refitted(self, layer: nn.Linear) -> Any:
        """The candidate with this layer in the place of its last one."""


def cut(model: Any, records: AnyFeatures, device: str) -> Cut:
    """Cut a loaded candidate; a few records tell where. Raises UsageError where it cannot be."""
    sample = [in_memory(take(records, np.array([i]))) for i in range(min(_SAMPLE, len(records)))]
    if models.is_module(model):
        found = _cut_network(model, sample, device)
        _same_in_any_batch(found, in_memory(take(records, np.arange(min(_MIXED, len(records))))))
        return found
    if hasattr(model, "steps") or hasattr(model, "coef_"):
        return _cut_linear(model, sample, records)
    raise misfit(f"a {type(model).__name__} has no last linear layer")


# --- torch modules and exported graphs ------------------------------------------------------------------------------


def row_keys(rows: Tensor) -> list[bytes]:
    """[n] names of rows by their content."""
    table = rows.detach().cpu().contiguous().reshape(len(rows), -1).numpy()
    return [hashlib.blake2b(row.data, digest_size=16).digest() for row in table]


@dataclass(slots=True, eq=False)
class _Memory:
    """Features by the content of the records that they are of."""

    places: dict[bytes, int] = field(default_factory=dict)
    parts: list[Tensor] = field(default_factory=list)
    whole: Tensor | None = None

    def recall(self, rows: Tensor) -> Tensor | None:
        """[n, d]; None where one of the rows is unknown."""
        places = [self.places.get(key) for key in row_keys(rows)]
        known = [place for place in places if place is not None]
        if len(known) < len(places):
            return None
        if self.whole is None:
            self.whole = torch.cat(self.parts)
            self.parts = [self.whole]
        return self.whole[torch.tensor(known)]

    def keep(self, rows: Tensor, features: Tensor) -> None:
        start = sum(map(len, self.parts))
        for i, key in enumerate(row_keys(rows)):
            self.places.setdefault(key, start + i)
        self.parts.append(features.detach().cpu())
        self.whole = None


@dataclass(frozen=True, slots=True, eq=False)
class _Network:
    """A torch candidate.

    model   as loaded, in evaluation mode; exported graphs have their last layer as a module
    name    of the last layer in it
    tail    what comes after the last layer
    device  where it is asked
    """

    model: nn.Module
    name: str
    tail: str
    device: str
    memory: _Memory

    @property
    def layer(self) -> nn.Linear:
        layer = self.model.get_submodule(self.name)
        assert isinstance(layer, nn.Linear)
        return layer

    @property
    def columns(self) -> int:
        return self.layer.out_features

    @property
    def width(self) -> int:
        return self.layer.in_features

    @property
    def bias(self) -> bool:
        return self.layer.bias is not None

    @property
    def dtype(self) -> torch.dtype:
        return self.layer.weight.dtype

    def about(self, records: AnyFeatures) -> None:
        pass  # it remembers rows by their content

    def features_of(self, table: AnyFeatures) -> Tensor:
        # Asked as the candidate is scored: the same types, batches and device.
        asked = _Asked(self)
        models.query(asked, table, device=self.device)
        return torch.cat(asked.given)

    def refitted(self, layer: nn.Linear) -> nn.Module:
        return Refitted(self, layer)

    def seen_by(self, model: nn.Module) -> nn.Module:
        """A module that answers with what the last layer of `model` is given."""
        inner = _Inputs(model, self.name)
        return _any_batch(inner) if _is_graph(self.model) else inner


class _Inputs(nn.Module):
    """What a layer of a module is given."""

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, rows: Tensor) -> Tensor:
        given: list[Tensor] = []
        layer = self.model.get_submodule(self.name)
        hook = layer.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
        try:
            self.model(rows)
        finally:
            hook.remove()
        return given[-1]

    def train(self, mode: bool = True) -> _Inputs:
        return self


class _Asked(nn.Module):
    """Gathers features on their way, batch by batch; what it does not remember it asks the candidate for."""

    def __init__(self, network: _Network) -> None:
        super().__init__()
        self.network, self.given = network, list[Tensor]()
        self.inner = network.seen_by(network.model)

    def forward(self, rows: Tensor) -> Tensor:
        memory = self.network.memory
        features = memory.recall(rows)
        if features is None:
            features = self.inner(rows)
            memory.keep(rows, features)
        self.given.append(features.detach().cpu())
        layer = self.network.layer
        answer: Tensor = _TAILS[self.network.tail](layer(features.to(layer.weight.device)))
        return answer

    def train(self, mode: bool = True) -> _Asked:
        return self


class Refitted(nn.Module):
    """The candidate with another last layer: its features of records that were asked before are not computed again.

    Gradients go through all of it. It stays in evaluation mode: dropout or running statistics of the candidate that
    wake up would make other features.
    """

    def __init__(self, network: _Network, layer: nn.Linear) -> None:
        super().__init__()
        model = copy.deepcopy(network.model)
        if network.name:
            parent, _, leaf = network.name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, layer)
        else:
            model = layer
        layer.eval()
        self.full = _any_batch(model) if _is_graph(network.model) else model
        self._memory, self._tail = network.memory, _TAILS[network.tail]
        self._last = (layer,)  # in a tuple: it is a part of `full` already

    def forward(self, rows: Tensor) -> Any:
        """What the candidate would answer with this last layer."""
        if torch.is_inference_mode_enabled() and (features := self._memory.recall(rows)) is not None:
            (layer,) = self._last
            return self._tail(layer(features.to(layer.weight.device)))
        return self.full(rows)

    def train(self, mode: bool = True) -> Refitted:
        """Nothing: see above."""
        return self


def _is_graph(model: Any) -> bool:
    return isinstance(model, torch.fx.GraphModule)


def _any_batch(graph: nn.Module) -> nn.Module:
    """Around a graph that may take one number of rows only."""
    batched: nn.Module = models._in_batches(graph)
    # Exported graphs refuse to be told a mode.
    batched.train = lambda mode=True: batched  # type: ignore[method-assign]
    return batched


def _cut_network(model: nn.Module, sample: list[Features], device: str) -> _Network:
    if _is_graph(model):
        model = _with_last_layer(model)
    names = {layer: name for name, layer in model.named_modules() if type(layer) is nn.Linear}
    calls: list[tuple[nn.Linear, Tensor, Tensor]] = []
    hooks = [
        model.register_forward_pre_hook(lambda *_: calls.clear()),
        *(layer.register_forward_hook(lambda of, given, out: calls.append((of, given[0], out))) for layer in names),
    ]
    try:
        seen = []
        for rows in sample:
            answer = models.query(model, rows, device=device).values
            if not calls:
                raise misfit("it has no torch.nn.Linear layer")
            seen.append((*calls[-1], len([of for of, _, _ in calls if of is calls[-1][0]]), answer))
    finally:
        for hook in hooks:
            hook.remove()
    layer, given, *_ = seen[0]
    if any(times > 1 or of is not layer for of, _, _, times, _ in seen) or given.ndim != 2 or len(given) == 0:
        raise misfit("its last linear layer is not called once, on one row for each record")
    if sum(weight is layer.weight for _, weight in model.named_parameters(remove_duplicate=False)) > 1:
        raise misfit("its last layer shares its weights with another one")
    if layer.weight.dtype not in (torch.float32, torch.float64):
        raise misfit(f"its last layer computes in {layer.weight.dtype}")
    tail = _tail([(out[:1], answer) for _, _, out, _, answer in seen])
    if tail is None:
        raise misfit("its answers are not those of its last linear layer")
    return _Network(model, names[layer], tail, device, _Memory())


def _same_in_any_batch(network: _Network, rows: Features) -> None:
    """UsageError where features of a record depend on dice, or on the records beside it: they cannot be remembered."""
    halves = [take(rows, part) for part in np.array_split(np.arange(len(rows)), 2) if len(part)]
    one = replace(network, memory=_Memory()).features_of(rows)
    other = torch.cat([replace(network, memory=_Memory()).features_of(half) for half in halves])
    # Sums in another order: float32 keeps 7 digits of the largest terms; dice and batches change the first ones.
    if not torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(one.abs().amax())):
        raise misfit("what its last layer is given throws dice, or depends on the other records of the batch")


def _tail(seen: list[tuple[Tensor, NDArray[Any]]]) -> str | None:
    """What makes the answers [1, K] of what the last layer gives [1, K]; one column is the second of two."""
    for name, tail in _TAILS.items():
        made = [(tail(out.detach().double()).cpu().numpy(), answer) for out, answer in seen]
        if all(
            one.shape[1] in (answer.shape[1], 1)
            # Rounding of float32, and of answers that are made to add up to one.
            and np.allclose(one, answer[:, -one.shape[1] :], rtol=1e-4, atol=1e-5)
            for one, answer in made
        ):
            return name
    return None


def _with_last_layer(graph: Any) -> Any:
    """The same graph with its last linear operation as a module of its own."""
    nodes = [n for n in graph.graph.nodes if n.op == "call_function" and n.target in _LINEAR]
    if not nodes:
        raise misfit("the exported graph has no linear operation")
    node = nodes[-1]
    given, *parts = _arguments(node)
    weight, bias = (None if part is None else _value(graph, part) for part in parts)
    if weight is None or (bias is None and parts[1] is not None):
        raise misfit("the weights of the last linear operation of the graph are computed, or used elsewhere, too")
    columns, width = weight.shape
    layer = nn.Linear(width, columns, bias=bias is not None, dtype=weight.dtype, device=weight.device)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    graph.add_submodule(_HEAD, layer)
    with graph.graph.inserting_after(node):
        made = graph.graph.call_module(_HEAD, (given,))
    node.replace_all_uses_with(made)
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph


def _arguments(node: Any) -> tuple[Any, Any, Any]:
    """Nodes of the input, the weight [K, d] and the bias of a linear operation; None for a weight that is computed."""
    if node.target is torch.ops.aten.linear.default:
        given, weight, bias = (*node.args, None)[:3]
        return given, weight, bias
    bias, given, turned = node.args[:3]
    plain = turned.target in _TRANSPOSED and not node.kwargs
    return given, turned.args[0] if plain else None, bias


def _value(graph: Any, node: Any) -> Tensor | None:
    """The parameter that a node reads, if nothing else does."""
    if node is None or node.op != "get_attr" or len(node.users) != 1:
        return None
    value: Any = graph
    for part in node.target.split("."):
        value = getattr(value, part)
    return value if isinstance(value, Tensor) and value.ndim <= 2 else None


# --- scikit-learn ---------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Linear:
    """A scikit-learn candidate.

    before   fitted steps before the last one
    records  whose features are remembered
    """

    before: tuple[Any, ...]
    columns: int
    width: int
    bias: bool
    records: AnyFeatures
    known: Tensor | None = None
    dtype: torch.dtype = torch.float64

    def about(self, records: AnyFeatures) -> None:
        self.records = records

    def features_of(self, table: AnyFeatures) -> Tensor:
        if table is not self.records:
            return self._transformed(table)
        if self.known is None:
            self.known = self._transformed(table)
        return self.known

    def _transformed(self, table: AnyFeatures) -> Tensor:
        values: Any = in_memory(table)
        for step in self.before:
            values = step.transform(values)
        dense = values.toarray() if hasattr(values, "toarray") else values
        return torch.as_tensor(np.array(dense, dtype=np.float64))

    def refitted(self, layer: nn.Linear) -> RefittedLinear:
        return RefittedLinear(self, layer)


@dataclass(frozen=True, slots=True, eq=False)
class RefittedLinear:
    """A scikit-learn candidate with another last step: softmax of a linear layer, sigmoid of one column."""

    model: _Linear
    layer: nn.Linear

    def predict_proba(self, features: AnyFeatures) -> NDArray[np.float64]:
        """[n, K] probabilities in the candidate's class order."""
        with torch.inference_mode():
            out = self.layer(self.model.features_of(features))
            one = torch.sigmoid(out)
            p = torch.softmax(out, dim=1) if self.model.columns > 1 else torch.cat([1 - one, one], dim=1)
        found: NDArray[np.float64] = p.numpy()
        return found


def _cut_linear(model: Any, sample: list[Features], records: AnyFeatures) -> Cut:
    *before, last = _steps(model)
    weight = np.asarray(getattr(last, "coef_", 0.0), dtype=np.float64)
    if weight.ndim != 2 or not hasattr(model, "predict_proba"):
        raise misfit(f"its last step, {type(last).__name__}, is no linear model with probabilities")
    offset = np.broadcast_to(np.asarray(last.intercept_, dtype=np.float64), len(weight))
    columns, width = weight.shape
    cut = _Linear(tuple(before), columns, width, bool(getattr(last, "fit_intercept", True)), records)
    seen = []
    for rows in sample:
        out = cut.features_of(rows) @ torch.as_tensor(weight.T.copy()) + torch.as_tensor(offset.copy())
        seen.append((out, np.asarray(model.predict_proba(rows), dtype=np.float64)))
    seen.append(_unsaturated(last, weight, offset))
    if _tail(seen) != ("softmax" if cut.columns > 1 else "sigmoid"):
        raise misfit(f"the probabilities of its last step, {type(last).__name__}, are no softmax")
    return cut


def _unsaturated(last: Any, weight: NDArray[np.float64], offset: NDArray[np.float64]) -> tuple[Tensor, NDArray[Any]]:
    """Outputs [1, K] of a linear step and its answer, where no probability is 0 or 1: there all answers look alike."""
    row = (np.linspace(-1.0, 1.0, len(weight) + 1)[1:] - offset) @ np.linalg.pinv(weight).T
    with warnings.catch_warnings():  # a step that was fitted on named columns says that these have no names
        warnings.simplefilter("ignore", UserWarning)
        answer = np.asarray(last.predict_proba(row[None]), dtype=np.float64)
    return torch.as_tensor(row @ weight.T + offset)[None], answer


def _steps(model: Any) -> Iterator[Any]:
    """The fitted steps of a pipeline, of pipelines in it, too; those that are left out are none."""
    if not hasattr(model, "steps"):
        yield model
        return
    for _, step in model.steps:
        if step is not None and not isinstance(step, str):
            yield from _steps(step)
