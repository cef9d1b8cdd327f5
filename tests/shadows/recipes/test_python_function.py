import sys
from pathlib import Path

import numpy as np
import pytest

from privacy_gate.errors import RecipeFailed
from privacy_gate.request import Recipe
from privacy_gate.shadows.recipes import CATALOG, Context

X, Y = np.arange(12.0).reshape(6, 2), np.array(["no", "yes"] * 3)


@pytest.fixture
def train(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))

    def call(text):
        (tmp_path / "recipe.py").write_text(text)
        context = Context(Recipe(python="recipe.py:train"), Path(tmp_path), None, "none", ("no", "yes"))
        return CATALOG["python"].train(X, Y, 7, context)

    return call


def test_it_gets_rows_label_values_and_the_seed(train):
    model = train("def train(features, labels, *, seed):\n    return lambda x: (features, labels, seed)")
    features, labels, seed = model(None)
    assert (features == X).all()
    assert labels.tolist() == Y.tolist()
    assert seed == 7


def test_what_it_raises_is_told_with_its_line(train, tmp_path):
    with pytest.raises(RecipeFailed) as caught:
        train(
            "def deep(x):\n    raise ValueError('bad rate')\ndef train(features, labels, *, seed):\n    deep(features)"
        )
    assert "raised ValueError (" in caught.value.what
    assert "bad rate" not in caught.value.what  # the text may quote a record
    assert f"{tmp_path / 'recipe.py'}:2" in caught.value.what


def test_an_error_inside_a_library_names_the_users_line(train, tmp_path):
    with pytest.raises(RecipeFailed) as caught:
        train("import json\ndef train(features, labels, *, seed):\n\n    json.loads('{')")
    assert f"{tmp_path / 'recipe.py'}:4" in caught.value.what


@pytest.mark.parametrize(
    ("returned", "said"), [("None", "NoneType"), ("'model'", "str"), ("(1, 2)", "tuple"), ("exit(0)", "SystemExit")]
)
def test_what_is_not_a_model(train, returned, said):
    with pytest.raises(RecipeFailed, match=said):
        train(f"def train(features, labels, *, seed):\n    return {returned}")


def test_the_wrong_signature(train):
    with pytest.raises(RecipeFailed, match=r"train\(\) raised TypeError"):
        train("def train(features, labels):\n    return print")
