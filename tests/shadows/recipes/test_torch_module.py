import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from privacy_gate.errors import ConfigError, RecipeFailed
from privacy_gate.request import Recipe, TorchTraining
from privacy_gate.shadows.recipes import CATALOG, Context
from privacy_gate.shadows.recipes.torch_module import batches, fit

FACTORY = """
import torch
def factory():
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Dropout(0.3), torch.nn.Linear(8, 3))
def binary():
    return torch.nn.Linear(4, 1)
def log_softmax():
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LogSoftmax(dim=1))
def tokens():
    return torch.nn.Sequential(torch.nn.EmbeddingBag(10, 5), torch.nn.Linear(5, 3))
def normalised():
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 3))
def nothing():
    return {"weights": 1}
def broken():
    raise KeyError("width")
"""

rng = np.random.default_rng(0)
X = rng.normal(size=(65, 4))
Y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0)


@pytest.fixture
def train(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "net.py").write_text(FACTORY)

    def call(factory="factory", features=X, labels=Y, classes=(0, 1, 2), seed=5, **training):
        settings = Recipe(model=f"net.py:{factory}", training=TorchTraining(**{"epochs": 3, **training}))
        context = Context(settings, Path(tmp_path), None, "pytorch", classes)
        CATALOG["model"].identity(context, None)
        return CATALOG["model"].train(features, labels, seed, context)

    return call


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_everything_comes_from_the_seed(train):
    first = train()
    torch.manual_seed(99)
    torch.randn(10)
    assert torch.equal(weights(train()), weights(first))
    assert not torch.equal(weights(train(seed=6)), weights(first))
    assert not first.training


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "step"])
def test_it_learns_with_each_optimizer_and_schedule(train, optimizer, schedule):
    rate = 0.5 if optimizer == "sgd" else 0.05
    module = train(optimizer=optimizer, schedule=schedule, step_size=20, epochs=40, batch_size=8, learning_rate=rate)
    with torch.inference_mode():
        answers = module(torch.as_tensor(X, dtype=torch.float32)).argmax(1).numpy()
    assert (answers == Y).mean() > 0.85  # two straight borders: chance is 0.5


def test_one_step_of_sgd_by_hand():
    # Full batch, one epoch: w <- w - rate * gradient, whatever the order; float32 rounding of 5 terms stays below 1e-6.
    torch.manual_seed(0)
    module = torch.nn.Linear(2, 2)
    x, y = torch.tensor([[1.0, 2.0], [0.5, -1.0], [3.0, 0.0]]), torch.tensor([0, 1, 1])
    before = module.weight.detach().clone().requires_grad_()
    loss = functional.cross_entropy(x @ before.T + module.bias.detach(), y, label_smoothing=0.1)
    (gradient,) = torch.autograd.grad(loss, before)
    training = TorchTraining(optimizer="sgd", learning_rate=0.5, epochs=1, label_smoothing=0.1)
    fit(module, x, y, training, torch.Generator().manual_seed(1))
    assert torch.allclose(module.weight, before - 0.5 * gradient, atol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    # Cosine over 4 epochs: (1 + cos(pi e / 4)) / 2.
    [("constant", [1, 1, 1, 1]), ("step", [1, 1, 0.1, 0.1]), ("cosine", [1, 0.85355339, 0.5, 0.14644661])],
)
def test_rates_of_a_schedule(schedule, rates):
    class Slope(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x):
            seen.append(-self.w.item())
            return torch.stack([-self.w.expand(len(x)), torch.zeros(len(x))], dim=1)  # nll of class 0 is w: slope 1

    seen = []
    training = TorchTraining(
        optimizer="sgd", learning_rate=1.0, epochs=4, loss="nll", schedule=schedule, step_size=2, gamma=0.1
    )
    module = fit(Slope(), torch.zeros(3, 1), torch.zeros(3, dtype=torch.long), training, torch.Generator())
    fallen = np.diff([*seen, -module.w.item()])
    assert fallen == pytest.approx(rates, abs=1e-6)  # float32


def test_binary_cross_entropy_on_one_column(train):
    module = train("binary", labels=(X[:, 0] > 0).astype(int), classes=("no", "yes"), loss="bce_with_logits", epochs=60)
    with torch.inference_mode():
        assert module(torch.as_tensor(X, dtype=torch.float32)).shape == (65, 1)


def test_nll_is_cross_entropy_of_log_probabilities(train):
    plain = {"optimizer": "sgd", "label_smoothing": 0.2, "learning_rate": 0.1}
    # log_softmax is idempotent: both losses see the same numbers up to rounding, float32 over 6 steps.
    assert torch.allclose(
        weights(train("log_softmax", loss="nll", **plain)), weights(train("log_softmax", **plain)), atol=1e-5
    )


def test_token_ids_stay_integers(train):
    train("tokens", features=rng.integers(0, 10, (65, 4)))


def test_frames(train):
    import pandas as pd

    frame = pd.DataFrame(X, columns=list("abcd"))
    assert torch.equal(weights(train(features=frame)), weights(train()))


def test_a_single_left_over_row_does_not_break_batch_normalisation(train):
    train("normalised", batch_size=64)  # 65 rows


@pytest.mark.parametrize(("n", "size"), [(10, 3), (9, 3), (1, 4), (2, 1), (5, 8), (65, 64)])
def test_an_epoch_sees_each_row_once(n, size):
    parts = list(batches(n, size, torch.Generator().manual_seed(0)))
    assert sorted(torch.cat(parts).tolist()) == list(range(n))
    assert all(len(part) <= size + 1 for part in parts)
    assert n == 1 or size == 1 or all(len(part) > 1 for part in parts)


@pytest.mark.parametrize(
    ("factory", "said"), [("nothing", "returned dict"), ("broken", r"raised KeyError .*net\.py:16")]
)
def test_factories_that_make_no_module(train, factory, said):
    with pytest.raises(RecipeFailed, match=said):
        train(factory)


def test_a_module_of_the_wrong_width(train):
    with pytest.raises(RecipeFailed, match=r"training the module of net\.py raised RuntimeError"):
        train(features=X[:, :3])


def test_text_features(train):
    with pytest.raises(RecipeFailed, match="do not fit into a tensor"):
        train(features=np.full((65, 4), "x"))


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"schedule": "step"}, "step_size"),
        ({"momentum": 0.9}, "momentum belongs to sgd"),
        ({"loss": "bce_with_logits"}, "2 classes, the data has 3"),
    ],
)
def test_settings_that_contradict_each_other_are_found_before_training(train, training, said):
    with pytest.raises(ConfigError, match=said):
        train(**training)
