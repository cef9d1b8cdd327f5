"""What every training defence owes: a new one is tested by being given an example here."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from privacy_gate.defences import CATALOG, TrainingDefence, configure
from privacy_gate.errors import GateError, UsageError
from privacy_gate.request import TorchTraining
from privacy_gate.shadows.recipes.torch_module import fit

# name -> settings, whether torch modules can have it, an estimator with parameters that can have it (or None)
EXAMPLES = {
    "adversarial_regularisation": ({"strength": 1.0, "hidden": [4]}, True, None),
    "dp_sgd": ({"noise_multiplier": 1.0}, True, None),
    "dropout": ({"rate": 0.3}, True, None),
    "early_stopping": ({"epochs": 1}, True, ("MLPClassifier", {"max_iter": 200})),
    "label_smoothing": ({"epsilon": 0.1}, True, None),
    "tree_limits": ({"min_samples_leaf": 5}, False, ("DecisionTreeClassifier", {})),
    "weight_decay": ({"decay": 0.1}, True, ("RidgeClassifier", {})),
}
every_defence = pytest.mark.parametrize("name", sorted(EXAMPLES))

RNG = np.random.default_rng(0)
X = torch.as_tensor(RNG.normal(size=(40, 3)), dtype=torch.float32)
Y = torch.as_tensor(RNG.integers(0, 2, 40))


def trained(defences=(), **training):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(8, 2))
    settings = TorchTraining(**{"epochs": 2, "batch_size": 10, **training})
    for defence in defences:
        settings, module = defence.training(settings), defence.module(module)
    order = torch.Generator().manual_seed(1)
    fit(module, X, Y, settings, order, defences=defences, seed=3, reference=(X[:7] + 1, Y[:7]))
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_every_training_defence_has_an_example():
    assert set(EXAMPLES) == {defence.id for defence in CATALOG if defence.kind == "training"}


@every_defence
class TestEveryTrainingDefence:
    def example(self, name, **changes):
        return CATALOG[name].configure({**EXAMPLES[name][0], **changes})

    def test_says_what_it_is(self, name):
        assert CATALOG[name].summary.endswith(".")
        assert CATALOG[name].paper
        assert CATALOG[name].on
        assert all(field.description for field in CATALOG[name].settings.model_fields.values())

    def test_unknown_settings_are_refused(self, name):
        with pytest.raises(ValidationError):
            self.example(name, strenght=1)
        with pytest.raises(UsageError, match=rf"defence\.{name}\.strenght"):
            configure({name: {**EXAMPLES[name][0], "strenght": 1}})

    def test_nothing_set_is_refused(self, name):
        with pytest.raises(ValidationError):
            CATALOG[name].configure({})

    def test_settings_are_frozen(self, name):
        with pytest.raises(ValidationError, match="frozen"):
            self.example(name).in_recipe = True

    def test_settings_survive_json(self, name):
        settings = self.example(name)
        assert CATALOG[name].configure(json.loads(json.dumps(settings.model_dump(mode="json")))) == settings

    def test_in_the_recipe_already_it_changes_nothing(self, name):
        assert configure({name: {**EXAMPLES[name][0], "in_recipe": True}}).training == ()
        assert configure({name: EXAMPLES[name][0]}).training == (self.example(name),)

    def test_a_torch_module_trains_with_it_or_is_refused(self, name):
        defence = self.example(name)
        if not EXAMPLES[name][1]:
            with pytest.raises(UsageError, match="torch module"):
                trained((defence,))
            return
        if defence.package and find_spec(defence.package) is None:
            pytest.skip(f"{defence.package} is not installed")
        with_it, again = trained((defence,)), trained((defence,))
        assert torch.isfinite(with_it).all()
        assert torch.equal(with_it, again)  # whatever it draws, it draws from the seed
        assert not torch.equal(with_it, trained())

    def test_an_estimator_gets_parameters_or_is_refused(self, name):
        known = EXAMPLES[name][2]
        if known:
            assert self.example(name).parameters(*known)
        with pytest.raises(UsageError) as caught:
            self.example(name).parameters("own.Classifier", {})
        assert "in_recipe: true" in caught.value.hint

    def test_it_needs_its_records_where_it_says_so(self, name):
        if CATALOG[name].reference:
            with pytest.raises(UsageError, match="reference") as caught:
                fit(
                    torch.nn.Linear(3, 2),
                    X,
                    Y,
                    TorchTraining(epochs=1),
                    torch.Generator(),
                    defences=(self.example(name),),
                )
            assert "data.seen" in caught.value.hint


def test_defences_add_up():
    names = ("label_smoothing", "dropout", "early_stopping", "weight_decay", "adversarial_regularisation")
    chosen = configure({name: EXAMPLES[name][0] for name in names}).training
    together = trained(chosen)
    assert torch.isfinite(together).all()
    for one in chosen:
        assert not torch.equal(together, trained(tuple(other for other in chosen if other is not one)))


@pytest.mark.parametrize("name", ["early_stopping", "dp_sgd", "tree_limits"])
def test_what_the_recipe_has_need_not_be_told_in_full(name):
    assert CATALOG[name].configure({"in_recipe": True}).in_recipe


def test_by_default_a_defence_leaves_a_module_alone():
    class Nothing(TrainingDefence):
        """Does nothing."""

    assert torch.equal(trained((Nothing(),)), trained())
    with pytest.raises(GateError):
        Nothing().parameters("LogisticRegression", {})
