"""Label smoothing, weight decay, dropout."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, RidgeClassifier, SGDClassifier
from sklearn.neural_network import MLPClassifier

from privacy_gate.defences import configure
from privacy_gate.defences.dropout import Dropout
from privacy_gate.defences.weight_decay import WeightDecay
from privacy_gate.errors import RecipeFailed, UsageError
from privacy_gate.request import TorchTraining
from privacy_gate.shadows.recipes.torch_module import fit

RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 6)).astype(np.float32)
Y = RNG.integers(0, 3, 50)


def train(name=None, settings=None, **training):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(6, 40), torch.nn.ReLU(), torch.nn.Dropout(0.0), torch.nn.Linear(40, 3))
    defences = configure({name: settings}).training if name else ()
    plan = TorchTraining(**{"epochs": 100, "batch_size": 25, "learning_rate": 0.02, **training})
    for defence in defences:
        plan, module = defence.training(plan), defence.module(module)
    return fit(
        module, torch.as_tensor(X), torch.as_tensor(Y), plan, torch.Generator().manual_seed(1), defences=defences
    )


def confidence(module):
    with torch.inference_mode():
        return torch.softmax(module(torch.as_tensor(X)), dim=1).max(dim=1).values


def test_smoothed_labels_are_what_a_fitted_model_says():
    # The loss is least at 1 - eps + eps / K for the label: 0.8 here. A memorised record comes to it from both sides.
    smoothed = confidence(train("label_smoothing", {"epsilon": 0.3}))
    assert smoothed.median().item() == pytest.approx(0.8, abs=0.03)
    assert confidence(train()).median().item() > 0.98


def test_the_defence_takes_the_place_of_what_the_settings_say():
    plan = TorchTraining(epochs=1, label_smoothing=0.5, weight_decay=0.5)
    assert configure({"label_smoothing": {"epsilon": 0.1}}).training[0].training(plan).label_smoothing == 0.1
    assert WeightDecay(decay=0.2).training(plan).weight_decay == 0.2


def norm(module):
    return float(sum((p.detach() ** 2).sum() for p in module.parameters()))


def test_decay_shrinks_the_weights():
    norms = [norm(train()), *(norm(train("weight_decay", {"decay": d})) for d in (0.01, 0.1, 1.0))]
    assert norms == sorted(norms, reverse=True)
    assert norms[-1] < 0.1 * norms[0]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "estimator",
    [LogisticRegression(), RidgeClassifier(), SGDClassifier(random_state=0), MLPClassifier((5,), random_state=0)],
)
def test_estimators_shrink_too(estimator):
    def weights(decay):
        changes = WeightDecay(decay=decay).parameters(type(estimator).__name__, estimator.get_params())
        fitted = estimator.set_params(**changes).fit(X, Y)
        return sum((np.asarray(w) ** 2).sum() for w in (fitted.coefs_ if hasattr(fitted, "coefs_") else [fitted.coef_]))

    assert weights(100.0) < 0.5 * weights(0.01)


def test_c_is_the_inverse():
    assert WeightDecay(decay=4.0).parameters("LogisticRegression", LogisticRegression().get_params()) == {"C": 0.25}


@pytest.mark.parametrize("params", [{"penalty": None}, {"penalty": "l1"}, {"penalty": "elasticnet", "l1_ratio": 1}])
def test_a_penalty_of_another_kind(params):
    with pytest.raises(UsageError, match="not an L2 one"):
        WeightDecay(decay=1.0).parameters("LogisticRegression", params)


def test_dropout_sets_every_layer():
    module = torch.nn.Sequential(
        torch.nn.Dropout(0.1), torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout2d())
    )
    assert Dropout(rate=0.7).module(module) is module
    assert (module[0].p, module[1][1].p) == (0.7, 0.7)


def test_dropout_is_at_work_while_training_only():
    with_it, without = train("dropout", {"rate": 0.9}), train()
    assert torch.equal(confidence(with_it), confidence(with_it))
    # Nine of ten units are missing at each step: nothing is learnt by heart that way.
    assert confidence(with_it).mean() < confidence(without).mean() - 0.1


def test_a_module_without_dropout():
    with pytest.raises(RecipeFailed, match="Linear has no dropout layer") as caught:
        Dropout(rate=0.5).module(torch.nn.Linear(2, 2))
    assert "torch.nn.Dropout" in caught.value.hint
