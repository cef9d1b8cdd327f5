import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier
from sklearn.linear_model import SGDClassifier
from sklearn.neural_network import MLPClassifier

from privacy_gate.defences.early_stopping import EarlyStopping
from privacy_gate.errors import RecipeFailed, UsageError
from privacy_gate.request import TorchTraining
from privacy_gate.shadows.recipes.torch_module import fit

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 5)).astype(np.float32)
Y = RNG.integers(0, 3, 60)  # noise: every epoch but the first few makes it worse on records held back


def train(defence=None, seed=1, watch=None, **training):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(5, 30), torch.nn.Tanh(), torch.nn.Linear(30, 3))
    settings = TorchTraining(**{"epochs": 12, "batch_size": 20, "learning_rate": 0.02, **training})
    order = torch.Generator().manual_seed(2)
    chosen = () if defence is None else (defence,)
    return fit(module, torch.as_tensor(X), torch.as_tensor(Y), settings, order, defences=chosen, seed=seed, watch=watch)


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("epochs", [1, 5, 12])
def test_it_is_the_model_that_the_full_training_was_after_so_many_epochs(epochs):
    seen, on_the_way = [], {}

    def watch(module, done):
        on_the_way[done] = [p.detach().clone() for p in module.parameters()]

    train(watch=watch, schedule="cosine")
    stopped = train(EarlyStopping(epochs=epochs), watch=lambda _, done: seen.append(done), schedule="cosine")
    assert seen == list(range(1, epochs + 1))
    # The cosine is that of 12 epochs: stopping early is not a faster schedule.
    assert all(torch.equal(p, q) for p, q in zip(stopped.parameters(), on_the_way[epochs], strict=True))


@pytest.mark.parametrize("patience", [1, 3])
def test_patience_ends_at_the_best_epoch_on_records_that_it_did_not_train_on(patience):
    """The twin keeps all epochs' weights and looks afterwards."""
    weights, asked = {}, []
    defence = EarlyStopping(patience=patience, fraction=0.25)

    class Spy(EarlyStopping):
        def loop(self, loop):
            made = super().loop(loop)
            asked.append(made)
            return made

    def watch(module, done):
        weights[done] = {name: value.clone() for name, value in module.state_dict().items()}

    stopped = train(Spy(**defence.model_dump()), watch=watch, epochs=200)
    (loop,) = asked
    kept = {tuple(row) for row in loop.x.tolist()}
    held = [row for row, x in enumerate(X.tolist()) if tuple(x) not in kept]
    assert (len(loop.x), len(held)) == (45, 15)
    losses = {}
    for done, state in weights.items():
        probe = torch.nn.Sequential(torch.nn.Linear(5, 30), torch.nn.Tanh(), torch.nn.Linear(30, 3))
        probe.load_state_dict(state)
        with torch.no_grad():
            losses[done] = torch.nn.functional.cross_entropy(
                probe(torch.as_tensor(X[held])), torch.as_tensor(Y[held])
            ).item()
    best = min(losses, key=lambda done: losses[done])
    assert max(weights) == best + patience < 200
    assert all(torch.equal(stopped.state_dict()[name], value) for name, value in weights[best].items())


def test_the_records_held_back_come_from_the_seed():
    defence = EarlyStopping(patience=2, fraction=0.3)
    assert same(train(defence, seed=1), train(defence, seed=1))
    assert not same(train(defence, seed=1), train(defence, seed=2))


def test_too_few_records_to_hold_some_back():
    with pytest.raises(RecipeFailed, match="59 of 60 training records held back"):
        train(EarlyStopping(patience=1, fraction=0.99))


@pytest.mark.parametrize(
    ("estimator", "count"),
    [
        (GradientBoostingClassifier(), lambda m: m.n_estimators_),
        (HistGradientBoostingClassifier(min_samples_leaf=2), lambda m: m.n_iter_),
        (MLPClassifier((4,)), lambda m: m.n_iter_),
        (SGDClassifier(loss="log_loss", tol=None), lambda m: m.n_iter_),
    ],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_estimators_stop_after_so_many_rounds(estimator, count):
    name = type(estimator).__name__
    changes = EarlyStopping(epochs=7).parameters(name, estimator.get_params())
    assert count(estimator.set_params(**changes).fit(X, Y)) == 7


@pytest.mark.parametrize(
    "estimator", [GradientBoostingClassifier(), HistGradientBoostingClassifier(), MLPClassifier(), SGDClassifier()]
)
def test_estimators_that_watch_records_themselves(estimator):
    changes = EarlyStopping(patience=3, fraction=0.2).parameters(type(estimator).__name__, estimator.get_params())
    changed = estimator.set_params(**changes).get_params()
    assert (changed["n_iter_no_change"], changed["validation_fraction"]) == (3, 0.2)
    assert changed.get("early_stopping", True) is True


def test_estimators_that_cannot():
    with pytest.raises(UsageError, match="cannot hold records back"):
        EarlyStopping(patience=3).parameters("LGBMClassifier", {})
    with pytest.raises(UsageError, match="cannot be put on a RandomForestClassifier"):
        EarlyStopping(epochs=3).parameters("RandomForestClassifier", {"n_estimators": 100})


def test_a_stop_after_the_end_is_refused():
    with pytest.raises(UsageError, match=r"13 is more than shadows\.recipe\.training\.epochs, which is 12"):
        EarlyStopping(epochs=13).training(TorchTraining(epochs=12))
    with pytest.raises(UsageError, match="100: it stops nothing"):
        EarlyStopping(epochs=101).parameters("GradientBoostingClassifier", {"n_estimators": 100})
    assert EarlyStopping(epochs=12).training(TorchTraining(epochs=12)).epochs == 12


def test_one_of_epochs_and_patience():
    with pytest.raises(ValidationError, match="one of epochs and patience"):
        EarlyStopping(epochs=1, patience=1)
