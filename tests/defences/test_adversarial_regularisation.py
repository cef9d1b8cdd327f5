import numpy as np
import pytest
import torch
from torch.nn import functional

from privacy_gate.defences.adversarial_regularisation import AdversarialRegularisation, probabilities
from privacy_gate.request import TorchTraining
from privacy_gate.shadows.recipes.torch_module import fit

K, D = 4, 20
CENTRES = np.random.default_rng(9).normal(size=(K, D)) * 0.5


def records(seed, n):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, K, n)
    return torch.as_tensor(CENTRES[y] + rng.normal(size=(n, D)), dtype=torch.float32), torch.as_tensor(y)


def module(seed):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(D, 64), torch.nn.ReLU(), torch.nn.Linear(64, K))


def advantage(model, members, others):
    """What the best threshold on the loss gains: true-positive rate minus false-positive rate."""
    with torch.inference_mode():
        inside, outside = (
            functional.cross_entropy(model(x), y, reduction="none").numpy() for x, y in (members, others)
        )
    return max((inside <= t).mean() - (outside <= t).mean() for t in np.concatenate([inside, outside]))


def test_the_attacker_gains_less_than_against_plain_training():
    plan = TorchTraining(epochs=60, batch_size=50, learning_rate=3e-3)
    defence = AdversarialRegularisation(strength=3.0, hidden=(64,), learning_rate=3e-3, steps=2)
    gained = {True: [], False: []}
    for seed in range(3):
        members, reference, others = records(3 * seed, 200), records(3 * seed + 1, 200), records(3 * seed + 2, 1000)
        for defended in gained:
            chosen = (defence,) if defended else ()
            order = torch.Generator().manual_seed(seed)
            model = fit(module(seed), *members, plan, order, defences=chosen, seed=seed, reference=reference)
            gained[defended].append(advantage(model, members, others))
    # Standard error of one advantage at worst (two shares of one half), of the difference of two means of three.
    error = np.sqrt(0.25 / 200 + 0.25 / 1000) * np.sqrt(2 / 3)
    assert np.mean(gained[False]) - np.mean(gained[True]) > 3 * error


@pytest.mark.parametrize(("gain", "of"), [("log", torch.log), ("probability", lambda share: share)])
def test_one_step_by_hand(gain, of):
    """One epoch of one batch; a single reference record, so that nothing is drawn."""
    x, y = records(0, 12)
    x_other, y_other = records(1, 1)
    defence = AdversarialRegularisation(strength=2.0, hidden=(5, 3), learning_rate=0.01, gain=gain, steps=2)
    start = {}

    class Spy(AdversarialRegularisation):
        def _attacker(self, classes, seed):
            made = super()._attacker(classes, seed)
            start.update({name: value.clone() for name, value in made.state_dict().items()})
            return made

    plan = TorchTraining(epochs=1, batch_size=12, optimizer="sgd", learning_rate=0.5)
    trained = fit(
        module(0), x, y, plan, torch.Generator(), defences=(Spy(**defence.model_dump()),), seed=4,
        reference=(x_other, y_other),
    )  # fmt: skip

    model, attacker = module(0), defence._attacker(K, 0)
    attacker.load_state_dict(start)
    adam = torch.optim.Adam(attacker.parameters(), lr=0.01)

    def membership(x, y):
        rows = [torch.cat([torch.softmax(model(one), 0), torch.eye(K)[label]]) for one, label in zip(x, y, strict=True)]
        return torch.sigmoid(attacker(torch.stack(rows)).reshape(-1))

    for _ in range(2):
        gained = membership(x, y).log().mean() / 2 + (1 - membership(x_other, y_other)).log().mean() / 2
        adam.zero_grad()
        (-gained).backward()
        adam.step()
    model.zero_grad()
    (functional.cross_entropy(model(x), y) + 2.0 * of(membership(x, y)).mean()).backward()
    for learnt, before in zip(trained.parameters(), model.parameters(), strict=True):
        # float32: a few hundred products of numbers of order one.
        assert torch.allclose(learnt, before - 0.5 * before.grad, atol=1e-5)


def test_asking_for_the_attacker_teaches_the_model_nothing():
    """Batch normalisation would learn from the reference records, and dropout would draw for them."""
    x, y = records(0, 20)

    def statistics(reference):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(D, K), torch.nn.BatchNorm1d(K), torch.nn.Dropout(0.5))
        plan = TorchTraining(epochs=1, batch_size=20)
        defence = AdversarialRegularisation(strength=1.0, hidden=(3,))
        fit(net, x, y, plan, torch.Generator().manual_seed(0), defences=(defence,), reference=reference)
        return net[1].running_mean

    one, other = records(1, 5), records(2, 5)
    assert torch.equal(statistics(one), statistics((other[0] + 100, other[1])))


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_one_column_means_two_classes(shape):
    p = probabilities(torch.tensor([0.0, 2.0, -1.0]).reshape(shape))
    assert p.shape == (3, 2)
    assert torch.allclose(p[:, 1], torch.sigmoid(torch.tensor([0.0, 2.0, -1.0])))
    assert torch.allclose(p.sum(dim=1), torch.ones(3))
