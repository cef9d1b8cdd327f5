import sys

import pytest

from privacy_gate.errors import ConfigError, RecipeFailed
from privacy_gate.shadows.source import locate

KEY = "shadows.recipe.python"


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)


def test_a_missing_file_suggests_its_neighbour(tmp_path):
    write(tmp_path, training="def train(): pass")
    with pytest.raises(ConfigError) as caught:
        locate("trainign.py:train", tmp_path, KEY)
    assert "trainign.py" in caught.value.what
    assert KEY in caught.value.what
    assert "did you mean 'training.py'?" in caught.value.hint
    assert caught.value.exit_code == 2


def test_a_missing_function_suggests_its_neighbour_without_running_the_file(tmp_path):
    write(tmp_path, recipe="raise SystemExit('ran')\ndef train_model(): pass\nfitting = train_model")
    with pytest.raises(ConfigError) as caught:
        locate("recipe.py:train_modle", tmp_path, KEY)
    assert caught.value.hint == "did you mean 'train_model'?"
    assert locate("recipe.py:fitting", tmp_path, KEY).function == "fitting"


@pytest.mark.parametrize("reference", ["recipe.py", "recipe.py:", ":train", "recipe.py:a b"])
def test_not_a_reference(tmp_path, reference):
    with pytest.raises(ConfigError, match="is not path"):
        locate(reference, tmp_path, KEY)


def test_a_syntax_error_names_its_line(tmp_path):
    write(tmp_path, recipe="x = 1\ndef train(:\n")
    with pytest.raises(ConfigError, match=r"recipe\.py:2"):
        locate("recipe.py:train", tmp_path, KEY)


@pytest.mark.parametrize("hidden", ["from other import *", "try:\n    def train(): pass\nexcept OSError:\n    pass"])
def test_names_that_only_running_would_show_are_left_to_the_worker(tmp_path, hidden):
    write(tmp_path, recipe=hidden)
    assert locate("recipe.py:train", tmp_path, KEY).function == "train"


def test_the_identity_follows_imports_beside_the_file(tmp_path):
    write(tmp_path, recipe="import numpy\nimport nets\ndef train(): pass", nets="from layers import wide", unrelated="")
    (tmp_path / "layers").mkdir()
    (tmp_path / "layers" / "__init__.py").write_text("from . import wide")
    (tmp_path / "layers" / "wide.py").write_text("width = 3")
    source = locate("recipe.py:train", tmp_path, KEY)
    before = source.digests()
    assert set(before) == {"recipe.py", "nets.py", "layers/__init__.py", "layers/wide.py"}
    (tmp_path / "layers" / "wide.py").write_text("width = 4")
    after = source.digests()
    assert {name for name in before if before[name] != after[name]} == {"layers/wide.py"}
    write(tmp_path, unrelated="changed = True")
    assert source.digests() == after


def test_loading_twice_starts_afresh(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    write(
        tmp_path,
        fresh_state="calls = []",
        recipe="import fresh_state\ndef train():\n    fresh_state.calls.append(1)\n    return len(fresh_state.calls)",
    )
    source = locate("recipe.py:train", tmp_path, KEY)
    assert [source.load()() for _ in range(3)] == [1, 1, 1]


def test_a_file_that_raises_names_the_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    write(tmp_path, recipe="x = 1\n1 / 0\ndef train(): pass")
    with pytest.raises(RecipeFailed, match=r"ZeroDivisionError.*recipe\.py:2"):
        locate("recipe.py:train", tmp_path, KEY).load()
