"""Gradients of single records: every closed form against one backward pass per record and layer."""

import re
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn
from torch.nn import functional

from privacy_gate.datamodel import Outputs
from privacy_gate.errors import NotEvaluable
from privacy_gate.sandbox.models import differentiable
from privacy_gate.signals import PROBES
from privacy_gate.signals.per_sample import gradients, summaries

N, FLOOR = 9, 1e-12


@dataclass
class Loaded:
    """The access that a probe gets: a module, and what a caller of it sees."""

    model: Any
    kind: str = "logits"
    classes: int = 3
    asked: list[int] = field(default_factory=list)

    def answers(self, features):
        self.asked.append(len(features))
        return Outputs(np.full((len(features), self.classes), 1 / self.classes), self.kind)

    def module(self):
        if self.model is None:
            raise NotEvaluable("a forest has no gradients")
        return self.model


def norms(access, features, labels):
    return PROBES["gradient_norms"].compute(access, features, labels, 0)


# --- the models -------------------------------------------------------------------------------------------------------


class Tuple(nn.Module):
    """Answers with (logits, something else)."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x):
        hidden = torch.tanh(self.body(x))
        return self.head(hidden), hidden


class Named(Tuple):
    """Answers with an object that has `.logits`."""

    def forward(self, x):
        return SimpleNamespace(logits=super().forward(x)[0])


class Reused(nn.Module):
    """One weight at work five times: on two halves of the input, from the other side, transposed."""

    def __init__(self):
        super().__init__()
        self.shared, self.head = nn.Linear(3, 4), nn.Linear(3, 3)

    def forward(self, x):
        hidden = torch.tanh(self.shared(x[:, :3])) * torch.sigmoid(self.shared(x[:, 3:]))
        back = hidden @ self.shared.weight
        return self.head(back + torch.tanh(back @ self.shared.weight.t()) @ self.shared.weight)


class Products(nn.Module):
    """Weights that no layer owns, multiplied in every way that is known."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(5, 4)), nn.Parameter(torch.randn(4, 4))
        self.c, self.d = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(3))

    def forward(self, x):
        hidden = torch.tanh(torch.mm(torch.tanh(x @ self.a), self.b.T))
        return torch.addmm(self.d, hidden, self.c.t())


class Odd(nn.Module):
    """Parameters without a closed form beside a layer that has one."""

    def __init__(self):
        super().__init__()
        self.scale, self.start = nn.Parameter(torch.randn(5)), nn.Parameter(torch.randn(1, 5))
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(torch.tanh(x * self.scale + self.start))


class Attention(nn.Module):
    """Tokens, padding, positions, attention."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 4, padding_idx=0)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, tokens):
        x = self.table(tokens)
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        return self.head(x.mean(1))


class TimeFirst(nn.Module):
    """The layer sees places first, records second: a closed form that takes places for records is wrong."""

    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Linear(2, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.inner(x.transpose(0, 1))).mean(0))


class Folded(nn.Module):
    """Places folded into the axis of the records."""

    def __init__(self):
        super().__init__()
        self.inner, self.norm, self.head = nn.Linear(2, 4), nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, x):
        each = self.norm(self.inner(x.reshape(-1, 2)))
        return self.head(torch.tanh(each).reshape(len(x), -1, 4).mean(1))


class Recurrent(nn.Module):
    """A GRU: no closed form at all."""

    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(2, 3, batch_first=True), nn.Linear(3, 3)

    def forward(self, x):
        return self.head(self.gru(x)[0][:, -1])


def mlp(*end):
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU(inplace=True), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3), *end)


def one_logit(*end):
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1), *end)


def cnn():
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), dilation=(1, 2), groups=2),
        nn.GroupNorm(3, 6),
        nn.Tanh(),
        nn.Conv2d(6, 3, 1),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(12, 3),
    )
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(0.5, 2)
    nn.init.normal_(model[1].weight)
    return model


def signal_cnn():
    return nn.Sequential(
        nn.Conv1d(2, 4, 3, stride=2, padding=2), nn.BatchNorm1d(4), nn.Tanh(), nn.Flatten(), nn.Linear(20, 3)
    )


def tokens():
    return nn.Sequential(
        nn.Embedding(7, 4, padding_idx=0), nn.LayerNorm(4), nn.Linear(4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(15, 3)
    )


def long_sequences():
    return nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3))


NUMBERS, PLACES, TOKENS = (5,), (6, 2), "tokens"
MODELS = {
    "mlp": (mlp, NUMBERS),
    "cnn": (cnn, (2, 7, 6)),
    "signal cnn": (signal_cnn, (2, 8)),
    "tokens": (tokens, TOKENS),
    "long sequences": (long_sequences, PLACES),
    "tuple": (Tuple, NUMBERS),
    "named": (Named, NUMBERS),
    "reused": (Reused, (6,)),
    "products": (Products, NUMBERS),
    "odd": (Odd, NUMBERS),
    "attention": (Attention, TOKENS),
    "time first": (TimeFirst, PLACES),
    "time first, as many places as a batch": (TimeFirst, (gradients.BATCH, 2)),
    "folded": (Folded, PLACES),
    "recurrent": (Recurrent, PLACES),
}
BY_ONE = {
    "odd": {"scale", "start"},
    "attention": {f"attention.{n}" for n in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")},
    "time first": {"inner.weight", "inner.bias"},
    "time first, as many places as a batch": {"inner.weight", "inner.bias"},
    "recurrent": {f"gru.{kind}_{way}_l0" for kind in ("weight", "bias") for way in ("ih", "hh")},
}
every_model = pytest.mark.parametrize("name", MODELS)


def made(name, n=N):
    """The model in float64 and evaluation mode, features and labels."""
    torch.manual_seed(3)
    build, shape = MODELS[name]
    model = build().double().eval()
    if shape == TOKENS:
        features = np.random.default_rng(1).integers(0, 7, size=(n, 5))
        features[0] = [0, 3, 3, 0, 3]
    else:
        features = np.random.default_rng(1).normal(size=(n, *shape))
    return model, features, np.arange(n) % 3


# --- the twin ---------------------------------------------------------------------------------------------------------


def logits_of(answer):
    answer = getattr(answer, "logits", answer)
    return answer[0] if isinstance(answer, tuple) else answer


def alone(model, row, label, loss=functional.cross_entropy):
    """{"": input's, parameter: its gradient} of one record, by one backward pass of the module as it is."""
    x = torch.as_tensor(row)[None]
    if x.is_floating_point():
        x.requires_grad_()
    named = dict(model.named_parameters())
    value = loss(logits_of(model(x)), torch.tensor([label]))
    found = torch.autograd.grad(value, [*named.values(), *([x] if x.requires_grad else [])])
    inputs = found[-1] if x.requires_grad else torch.zeros(1)
    return {"": inputs.numpy().ravel()} | {n: g.numpy().ravel() for n, g in zip(named, found, strict=False)}


def in_order(names):
    return sorted(names, key=lambda name: [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", name)])


def twin_norms(model, features, labels, loss=functional.cross_entropy):
    rows = []
    for row, label in zip(features, labels, strict=True):
        found = alone(model, row, label, loss)
        layers = {}
        for name in in_order(n for n in found if n):
            layers.setdefault(name.rpartition(".")[0], []).append(found[name])
        rows.append([np.linalg.norm(found[""]), *(np.linalg.norm(np.concatenate(g)) for g in layers.values())])
    return np.log(np.array(rows) + FLOOR)


def seven(g):
    """The features of one gradient, from their definitions."""
    size = np.abs(g)
    mean, flat = g.mean() / FLOOR, np.ptp(g) <= 1e-6 * size.max()
    skewness, kurtosis = (0.0, 0.0) if flat else (scipy.stats.skew(g), scipy.stats.kurtosis(g, fisher=False))
    logs = np.log(np.array([size.sum(), np.sqrt((g**2).sum()), size.min(), size.max()]) + FLOOR)
    return [*logs, np.sign(mean) * np.log1p(abs(mean)), np.sign(skewness) * np.log1p(abs(skewness)), np.log1p(kurtosis)]


# --- closed forms -----------------------------------------------------------------------------------------------------


@every_model
def test_norms_are_those_of_single_records(name):
    model, features, labels = made(name)
    found = norms(Loaded(model), features, labels)
    assert found.dtype == np.float64
    # float64 sums in another order: 1e-9 leaves five digits beside what the longest sum here can lose.
    np.testing.assert_allclose(found, twin_norms(model, features, labels), rtol=1e-9, atol=1e-9)


@every_model
def test_features_are_those_of_single_records(name):
    model, features, labels = made(name)
    found = PROBES["gradient_features"].compute(Loaded(model), features, labels, 0)
    each = [alone(model, row, label) for row, label in zip(features, labels, strict=True)]
    expected = np.array([seven(one.pop("")) + seven(np.concatenate(list(one.values()))) for one in each])
    # Central moments are differences of power sums; a mean of 1e-18 is rounding, and 1e-6 on its scale.
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-4)


@every_model
def test_only_what_has_no_closed_form_is_differentiated_record_by_record(name):
    model, features, labels = made(name)
    asked = gradients._Model.of(Loaded(model), features, features, labels)
    asked.gradients(features, labels, check=True)
    assert asked.alone == BY_ONE.get(name, set())


@pytest.mark.parametrize("largest", [1, 50])
def test_small_chunks_change_nothing(largest, monkeypatch):
    model, features, labels = made("cnn")
    whole = [norms(Loaded(model), features, labels), shapes(model, features, labels)]
    monkeypatch.setattr(summaries, "LARGEST", largest)
    np.testing.assert_allclose(norms(Loaded(model), features, labels), whole[0], rtol=1e-12)
    np.testing.assert_allclose(shapes(model, features, labels), whole[1], rtol=1e-9, atol=1e-4)


def shapes(model, features, labels):
    return PROBES["gradient_features"].compute(Loaded(model), features, labels, 0)


def test_the_gram_form_and_the_sum_agree():
    rng = torch.Generator().manual_seed(0)
    for places, out, into in ((7, 2, 3), (3, 8, 5)):
        delta = torch.randn(4, 2, places, out, generator=rng, dtype=torch.float64)
        active = torch.randn(4, 2, places, into, generator=rng, dtype=torch.float64)
        product = summaries.Product(delta, active)
        assert (places**2 <= out * into) == (places == 3), "one of each kind"
        slow = [sum(float((delta[r, g].T @ active[r, g]).square().sum()) for g in range(2)) for r in range(len(delta))]
        np.testing.assert_allclose(product.squares(), slow, rtol=1e-12)


def test_more_records_than_a_batch():
    model, features, labels = made("mlp", gradients.BATCH + 5)
    found = norms(Loaded(model), features, labels)
    np.testing.assert_allclose(found, twin_norms(model, features, labels), rtol=1e-9)
    order = np.random.default_rng(0).permutation(len(labels))
    np.testing.assert_allclose(norms(Loaded(model), features[order], labels[order]), found[order], rtol=1e-9)


def test_layers_are_in_the_order_of_their_numbers():
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(11))).double().eval()
    features, labels = np.random.default_rng(0).normal(size=(4, 3)), np.array([0, 1, 2, 0])
    found = norms(Loaded(model), features, labels)
    by_layer = [
        [np.linalg.norm(np.concatenate([one[f"{k}.weight"], one[f"{k}.bias"]])) for k in range(11)]
        for one in (alone(model, r, y) for r, y in zip(features, labels, strict=True))
    ]
    np.testing.assert_allclose(found[:, 1:], np.log(np.array(by_layer) + FLOOR), rtol=1e-9)


# --- what the model answers with --------------------------------------------------------------------------------------


def second_class(z, y):
    return functional.binary_cross_entropy_with_logits(z[:, 0], y.double())


def test_one_logit_is_the_second_class():
    torch.manual_seed(0)
    model = one_logit().double().eval()
    _, features, labels = made("mlp")
    found = norms(Loaded(model, classes=2), features, labels % 2)
    np.testing.assert_allclose(found, twin_norms(model, features, labels % 2, second_class), rtol=1e-9)


def test_a_final_softmax_or_sigmoid_is_taken_off():
    _, features, labels = made("mlp")
    for ended, bare, classes, loss in (
        (mlp(nn.Softmax(1)), mlp(), 3, functional.cross_entropy),
        (one_logit(nn.Sigmoid()), one_logit(), 2, second_class),
    ):
        # Logits in the hundreds: the probability of the wrong class, and of the right one's rest, are lost in float32.
        with torch.no_grad():
            ended[-2].weight *= 300
        bare.load_state_dict(ended.state_dict())
        found = norms(Loaded(ended.eval(), "probabilities", classes), features, labels % classes)
        expected = twin_norms(bare.double().eval(), features, labels % classes, loss)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_probabilities_without_a_softmax_have_the_loss_of_their_logarithm():
    class Shares(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def forward(self, x):
            weights = functional.softplus(self.layer(x))
            return weights / weights.sum(1, keepdim=True)

    _, features, labels = made("mlp")
    model = Shares().double().eval()
    expected = twin_norms(model, features, labels, lambda p, y: functional.nll_loss(p.log(), y))
    np.testing.assert_allclose(norms(Loaded(model, "probabilities"), features, labels), expected, rtol=1e-9)


def test_a_defence_that_answers_with_probabilities_does_not_make_logits_probabilities():
    model, features, labels = made("mlp")
    found = norms(Loaded(model, "probabilities"), features, labels)
    np.testing.assert_array_equal(found, norms(Loaded(model), features, labels))


def test_confident_answers_keep_their_digits():
    z = torch.tensor([[40.0, 0.0, 0.0], [90.0, 0.0, 0.0], [0.0, 800.0, 0.0]], dtype=torch.float32, requires_grad=True)
    loss = gradients.losses(z, torch.tensor([0, 0, 0]), probabilities=False)
    (slope,) = torch.autograd.grad(loss.sum(), z)
    np.testing.assert_allclose(loss.detach(), [2 * np.exp(-40.0), 2 * np.exp(-90.0), 800], rtol=1e-12)
    # The second is subnormal in float32.
    np.testing.assert_allclose(slope[:, 0], [-2 * np.exp(-40.0), -2 * np.exp(-90.0), -1], rtol=1e-5)


# --- exported graphs --------------------------------------------------------------------------------------------------


def exported(model, features, *, rows="dynamic", decomposed=False):
    example = torch.as_tensor(features[:4])
    shapes = ({0: torch.export.Dim.DYNAMIC},) if rows == "dynamic" else None
    program = torch.export.export(model, (example[:1] if rows == "frozen" else example,), dynamic_shapes=shapes)
    return (program.run_decompositions() if decomposed else program).module()


@pytest.mark.parametrize("name", ["mlp", "cnn", "tokens", "long sequences"])
def test_exported_graphs_give_the_same(name):
    model, features, labels = made(name)
    graph = exported(model, features)
    found = norms(Loaded(graph), features, labels)
    np.testing.assert_allclose(found, norms(Loaded(model), features, labels), rtol=1e-9, atol=1e-9)
    asked = gradients._Model.of(Loaded(graph), features, features, labels)
    asked.gradients(features, labels, check=True)
    assert not asked.alone


def test_graphs_of_one_row_and_decomposed_graphs():
    model, features, labels = made("mlp")
    expected = norms(Loaded(model), features, labels)
    for how in ({"rows": "frozen"}, {"decomposed": True}):
        np.testing.assert_allclose(
            norms(Loaded(exported(model, features, **how)), features, labels), expected, rtol=1e-9
        )
    np.testing.assert_allclose(norms(Loaded(exported(model, features)), features[:1], labels[:1]), expected[:1])


@pytest.mark.parametrize("rows", ["dynamic", "frozen"])
def test_graphs_as_the_sandbox_hands_them_over(rows):
    model, features, labels = made("mlp")
    access = Loaded(differentiable(exported(model, features, rows=rows)))
    np.testing.assert_allclose(norms(access, features, labels), norms(Loaded(model), features, labels), rtol=1e-9)
    asked = gradients._Model.of(access, features, features, labels)
    asked.gradients(features[: asked.batch], labels[: asked.batch], check=True)
    assert not asked.alone


# --- what cannot be -------------------------------------------------------------------------------------------------


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x):
        return self.layer(functional.dropout(x, 0.5, training=True))


class Centred(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x):
        return self.layer(x - x.mean(0))


class Stubborn(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x):
        return torch.from_numpy(self.layer(x).detach().numpy())


class Wordy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x):
        raise KeyError(f"patient {float(x.sum())}")


REFUSED = {
    "no module": (None, "a forest"),
    "no parameters": (nn.Flatten(), "no parameters"),
    "dropout": (Noisy(), "on chance"),
    "centred by the batch": (Centred(), "depends on the other records"),
    "statistics of the batch": (
        nn.Sequential(nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, 3)),
        "statistics of the batch",
    ),
    "statistics of the batch alone": (
        nn.Sequential(nn.BatchNorm1d(5, affine=False, track_running_stats=False), nn.Linear(5, 3)),
        "statistics of the batch",
    ),
    "outside of torch": (Stubborn(), "could not be differentiated"),
    "raises": (Wordy(), "KeyError"),
}


@pytest.mark.parametrize(("model", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_differentiated_is_said(model, reason):
    torch.manual_seed(0)  # five masks of the dropout may agree by chance, for some weights
    for part in [] if model is None else model.modules():
        if isinstance(part, nn.Linear):
            part.reset_parameters()
    _, features, labels = made("mlp")
    with pytest.raises(NotEvaluable, match=reason) as caught:
        norms(Loaded(model if model is None else model.eval()), features, labels)
    assert caught.value.hint or model is None
    assert "patient" not in str(caught.value), "a model's own words may quote a record"


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_torchscript_is_refused():
    _, features, labels = made("mlp")
    with pytest.raises(NotEvaluable, match="TorchScript"):
        norms(Loaded(torch.jit.script(nn.Linear(5, 3))), features, labels)


def test_graphs_exported_while_training_are_refused():
    _, features, labels = made("mlp")
    for layer, reason in ((nn.BatchNorm1d(5), "statistics of the batch"), (nn.Dropout(0.5), "on chance")):
        graph = exported(nn.Sequential(layer, nn.Linear(5, 3)).double().train(), features)
        with pytest.raises(NotEvaluable, match=reason):
            norms(Loaded(graph), features, labels)


def test_coarse_numbers_are_no_coupling():
    model, features, labels = made("mlp")
    found = norms(Loaded(model.to(torch.bfloat16)), features, labels)
    # bfloat16 keeps 8 bits: a few per cent, logarithms to a tenth.
    np.testing.assert_allclose(found, twin_norms(model.double(), features, labels), atol=0.2)


def test_overflow_and_foreign_labels_are_said():
    model, features, labels = made("mlp")
    with pytest.raises(NotEvaluable, match="none of the model's classes"):
        norms(Loaded(model), features, labels + 1)
    with torch.no_grad():
        model[0].weight[0] = torch.inf
    with pytest.raises(NotEvaluable, match="not finite"):
        norms(Loaded(model), features, labels)


def test_the_module_is_left_as_it_was():
    model, features, labels = made("cnn")
    before = {name: values.clone() for name, values in model.state_dict().items()}
    norms(Loaded(model), features, labels)
    assert all(torch.equal(before[name], values) for name, values in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not model.training


def test_frames_are_tables_of_numbers():
    pd = pytest.importorskip("pandas")
    model, features, labels = made("mlp")
    as_frame = norms(Loaded(model), pd.DataFrame(features.astype(np.float32)), labels)
    np.testing.assert_array_equal(as_frame, norms(Loaded(model), features.astype(np.float32), labels))


def test_catalog():
    for name in ("gradient_norms", "gradient_features"):
        probe = PROBES[name]
        assert probe.needs == "weights"
        assert probe.vector
        assert (probe.compute.__doc__ or "").startswith("[n, ")
