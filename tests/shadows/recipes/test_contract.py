"""What every recipe promises, run over the catalog: a new recipe is tested by being given a working example here."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from privacy_gate.datamodel import Description
from privacy_gate.request import Recipe
from privacy_gate.sandbox import models
from privacy_gate.shadows.recipes import CATALOG, Context, choose, label_values

RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 3)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)
CLASSES = ("no", "yes")

SOURCE = """
import torch
from sklearn.ensemble import RandomForestClassifier

def make():
    return torch.nn.Linear(3, 2)

def train(features, labels, *, seed):
    return RandomForestClassifier(5, random_state=seed % 2**32).fit(features, labels)
"""

# The model is a folder that MLflow loads by its own code.
TRAINER = """
import pathlib, sys
import numpy as np
train, out, seed = sys.argv[1:]
records, folder = np.load(train), pathlib.Path(out)
centres = np.stack([records["x"][records["y"] == name].mean(0) for name in ("no", "yes")])
np.save(folder / "centres.npy", centres + np.random.default_rng(int(seed)).normal(scale=0.1, size=centres.shape))
(folder / "code").mkdir()
(folder / "code" / "nearest_centre.py").write_text('''
import numpy as np
class Nearest:
    def __init__(self, centres):
        self.centres = centres
    def predict(self, rows, params=None):
        near = np.exp(-((np.asarray(rows)[:, None, :] - self.centres) ** 2).sum(-1))
        return near / near.sum(1, keepdims=True)
def _load_pyfunc(path):
    return Nearest(np.load(path))
''')
(folder / "MLmodel").write_text(
    "flavors: {python_function: {loader_module: nearest_centre, code: code, data: centres.npy}}"
)
"""

SETTINGS = {
    "clone": {"clone": True},
    "model": {"model": "net.py:make", "training": {"epochs": 2}},
    "head": {"head": {"epochs": 2}},
    "python": {"python": "net.py:train"},
    "command": {"command": ["python", "trainer.py", "{train}", "{out}", "{seed}"]},
}


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Context]:
    """A working configuration of each recipe; the candidate is a small forest, or has a last layer."""
    monkeypatch.setattr(sys, "path", list(sys.path))  # user code may bring its neighbours
    (tmp_path / "net.py").write_text(SOURCE)
    forest = RandomForestClassifier(5, random_state=0).fit(X, label_values(Y, CLASSES))
    linear = LogisticRegression().fit(X, label_values(Y, CLASSES))
    (tmp_path / "trainer.py").write_text(TRAINER)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def make(name: str) -> Context:
        if name != "command":  # which loads the model that its trainer left
            monkeypatch.setattr(models, "load", lambda folder, flavor: linear if name == "head" else forest)
        settings = Recipe.model_validate(SETTINGS[name])
        return Context(settings, tmp_path, tmp_path, "sklearn", CLASSES)

    return make


def test_every_recipe_has_an_example() -> None:
    assert set(SETTINGS) == set(CATALOG.names())


@pytest.mark.parametrize("name", sorted(SETTINGS))
class TestEveryRecipe:
    def train(self, context: Context, name: str, seed: int) -> np.ndarray:
        recipe = CATALOG[name]
        given = Y if recipe.labels == "indices" else label_values(Y, CLASSES)
        return models.query(recipe.train(X, given, seed, context), X).values

    def test_is_chosen_by_its_own_field(self, name: str) -> None:
        assert choose(Recipe.model_validate(SETTINGS[name])).id == name

    def test_says_what_it_does(self, name: str) -> None:
        assert CATALOG[name].summary.endswith(".")

    def test_answers_for_every_record_and_class(self, name: str, example: Callable[[str], Context]) -> None:
        values = self.train(example(name), name, 1)
        assert values.shape == (len(X), len(CLASSES))
        assert np.isfinite(values).all()

    def test_is_a_function_of_its_seed(self, name: str, example: Callable[[str], Context]) -> None:
        one, same, other = (self.train(example(name), name, seed) for seed in (1, 1, 2))
        np.testing.assert_array_equal(one, same)
        assert not np.array_equal(one, other)

    def test_leaves_the_records_alone(self, name: str, example: Callable[[str], Context]) -> None:
        before = X.copy(), Y.copy()
        self.train(example(name), name, 1)
        np.testing.assert_array_equal(X, before[0])
        np.testing.assert_array_equal(Y, before[1])

    def test_its_identity_is_json_and_stable(self, name: str, example: Callable[[str], Context]) -> None:
        forest = RandomForestClassifier(5, random_state=0)
        description = Description("sklearn", "classifier", CLASSES, models.recipe(forest))
        first, second = (json.dumps(CATALOG[name].identity(example(name), description)) for _ in range(2))
        assert first == second
