"""What can be known without opacus, and what cannot."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from privacy_gate.defences.dp_sgd import DpSgd
from privacy_gate.errors import RecipeFailed
from privacy_gate.request import TorchTraining
from privacy_gate.shadows.recipes.torch_module import fit

RNG = np.random.default_rng(0)
X = torch.as_tensor(RNG.normal(size=(40, 4)), dtype=torch.float32)
Y = torch.as_tensor(RNG.integers(0, 3, 40))
needs_opacus = partial(pytest.importorskip, "opacus", reason="opacus is an extra")


def train(defence, module=None, **training):
    torch.manual_seed(0)
    plan = TorchTraining(**{"epochs": 1, "batch_size": 40, "optimizer": "sgd", "learning_rate": 0.5, **training})
    defences = () if defence is None else (defence,)
    return fit(module or torch.nn.Linear(4, 3), X, Y, plan, torch.Generator(), defences=defences, seed=1)


def test_one_of_noise_and_target():
    with pytest.raises(ValidationError, match="one of noise_multiplier and target_epsilon"):
        DpSgd(noise_multiplier=1.0, target_epsilon=1.0)


@pytest.mark.filterwarnings("ignore:Full backward hook")
class TestWithOpacus:
    @pytest.fixture(autouse=True)
    def opacus(self):
        return needs_opacus()

    def test_one_step_by_hand(self):
        """Every record in the batch, next to no noise: each gradient clipped, then their mean."""
        torch.manual_seed(0)
        module = torch.nn.Linear(4, 3)
        steps = [torch.zeros_like(p) for p in module.parameters()]
        clipped = 0
        for x, y in zip(X, Y, strict=True):
            gradient = torch.autograd.grad(functional.cross_entropy(module(x), y), list(module.parameters()))
            norm = math.sqrt(sum(float((g**2).sum()) for g in gradient))
            clipped += norm > 1.5
            steps = [s + g * min(1.0, 1.5 / norm) / len(X) for s, g in zip(steps, gradient, strict=True)]
        assert 0 < clipped < len(X)
        trained = train(DpSgd(noise_multiplier=1e-9, max_grad_norm=1.5))
        for learnt, before, step in zip(trained.parameters(), module.parameters(), steps, strict=True):
            assert torch.allclose(learnt, before - 0.5 * step, atol=1e-5)  # float32; opacus adds 1e-6 to each norm

    def test_the_noise_is_as_strong_as_said(self):
        """Nothing to learn but noise: gradients clipped to next to nothing at a clipping norm that scales the noise."""
        module = torch.nn.Linear(4, 3000)
        before = module.weight.detach().clone()
        trained = train(DpSgd(noise_multiplier=1000.0, max_grad_norm=0.01), module)
        moved = (trained.weight.detach() - before).numpy()
        # rate * noise * norm / batch, over 12000 draws: a standard deviation is off by 1 / sqrt(2 * 12000), 5 of them.
        expected = 0.5 * 1000.0 * 0.01 / 40
        assert moved.std() == pytest.approx(expected, rel=5 / math.sqrt(24000))

    def test_nothing_of_it_stays_in_the_model(self):
        module = torch.nn.Sequential(torch.nn.Linear(4, 3))
        trained = train(DpSgd(noise_multiplier=1.0), module)
        assert trained is module
        assert not any(hasattr(p, "grad_sample") for p in trained.parameters())
        assert not trained[0]._forward_hooks

    def test_batches_without_a_record(self):
        # The expected size is one: an empty batch comes up in about a third of the steps, and is a step of noise.
        module = train(DpSgd(noise_multiplier=1.0), batch_size=1)
        assert all(torch.isfinite(p).all() for p in module.parameters())

    def test_epsilon_is_that_of_the_renyi_accountant(self):
        """Twin: the sampled Gaussian's moments at whole orders (Mironov et al. 2019, equation 3 in section 3.3)."""
        plan, records, noise, delta = TorchTraining(epochs=20, batch_size=50), 1000, 1.3, 1e-4
        q, steps = 50 / 1000, 20 * 20

        def moment(order):
            terms = [
                math.log(math.comb(order, k))
                + k * math.log(q)
                + (order - k) * math.log1p(-q)
                + (k * k - k) / (2 * noise**2)
                for k in range(order + 1)
            ]
            top = max(terms)
            return (top + math.log(sum(math.exp(t - top) for t in terms))) / (order - 1)

        # Conversion of Canonne, Kamath & Steinke 2020, proposition 12.
        by_hand = min(steps * moment(a) + math.log1p(-1 / a) - math.log(delta * a) / (a - 1) for a in range(2, 64))
        spent = DpSgd(noise_multiplier=noise, delta=delta).spent(records, plan)
        # Orders in between are allowed there: a little less, never more.
        assert by_hand * 0.97 < spent <= by_hand + 1e-9

    def test_the_target_is_kept(self):
        plan = TorchTraining(epochs=10, batch_size=20)
        defence = DpSgd(target_epsilon=2.0, delta=1e-3)
        assert 1.9 < defence.spent(400, plan) <= 2.0  # opacus searches to 0.01
        assert DpSgd(noise_multiplier=defence.noise(400, plan), delta=1e-3).spent(400, plan) == defence.spent(400, plan)

    def test_batch_normalisation_is_refused(self):
        with pytest.raises(RecipeFailed, match="dp_sgd: BatchNorm") as caught:
            train(DpSgd(noise_multiplier=1.0), torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3)))
        assert "GroupNorm" in caught.value.hint
