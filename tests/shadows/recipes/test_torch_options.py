"""What the recipe `model` takes from files: augmentation, initial weights, a teacher; and what shadows depend on."""

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from privacy_gate.errors import ConfigError, RecipeFailed, UsageError
from privacy_gate.request import Recipe, TorchTraining
from privacy_gate.sandbox import models
from privacy_gate.shadows.recipes import CATALOG, Context
from privacy_gate.storage import sha256_of_file

FACTORY = """
import torch
def factory():
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Dropout(0.3), torch.nn.Linear(8, 3))
def teacher():
    return torch.nn.Linear(4, 3)
"""
AUGMENT = """
import torch
from shapes import scale
def noise(batch, generator):
    return batch + scale * torch.randn(batch.shape, generator=generator)
def broken(batch, generator):
    raise KeyError(f"record {batch[0].tolist()}")
"""
RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 4))
Y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "net.py").write_text(FACTORY)
    (tmp_path / "aug.py").write_text(AUGMENT)
    (tmp_path / "shapes.py").write_text("scale = 0.1\n")
    torch.manual_seed(7)
    torch.save(torch.nn.Linear(4, 3).state_dict(), tmp_path / "teacher.pt")
    torch.save(network().state_dict(), tmp_path / "start.pt")
    return tmp_path


def network():
    torch.manual_seed(8)
    return torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Dropout(0.3), torch.nn.Linear(8, 3)
    )  # fmt: skip


def context(folder, model="net.py:factory", defences=None, **training):
    settings = Recipe(model=model, training=TorchTraining(**{"epochs": 2, **training}))
    return Context(settings, Path(folder), None, "pytorch", (0, 1, 2), defences=defences or {})


def identity(folder, **options):
    return json.dumps(CATALOG["model"].identity(context(folder, **options), None), sort_keys=True)


def train(folder, features=X, seed=5, **options):
    told = context(folder, **options)
    CATALOG["model"].identity(told, None)
    return CATALOG["model"].train(features, Y, seed, told)


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


TEACHER = {"model": "net.py:teacher", "weights": "teacher.pt"}
OPTIONS = {
    "augment": "aug.py:noise",
    "sampler": "balanced",
    "precision": "bfloat16",
    "clip": 0.1,
    "initial": "start.pt",
    "frozen": ["0.*"],
    "teacher": TEACHER,
}


# --- what shadows depend on -----------------------------------------------------------------------------------------


def test_without_the_options_shadows_keep_their_names(folder):
    """Written down as it was before there were any: stores are full of shadows that are called after it."""
    found = identity(folder, schedule="step", step_size=2, loss="cross_entropy")
    assert found == (
        '{"files": {"net.py": "' + sha256_of_file(folder / "net.py") + '"}, "function": "factory", "training": '
        '{"batch_size": 64, "epochs": 2, "gamma": 0.1, "label_smoothing": 0.0, "learning_rate": 0.001, '
        '"loss": "cross_entropy", "momentum": 0.0, "optimizer": "adam", "schedule": "step", "step_size": 2, '
        '"weight_decay": 0.0}}'
    )
    defaults = {"sampler": "shuffle", "precision": "float32", "clip": None, "frozen": [], "teacher": None}
    assert identity(folder, schedule="step", step_size=2, **defaults) == found


def test_each_precision_has_shadows_of_its_own(folder):
    found = {identity(folder, precision=precision) for precision in ("float32", "bfloat16", "float16")}
    assert len(found) == 3
    trained = [weights(train(folder, precision=precision)) for precision in ("float32", "bfloat16", "float16")]
    assert not torch.equal(trained[0], trained[2])
    assert not torch.equal(trained[1], trained[2])


def test_each_option_makes_other_shadows(folder):
    found = {identity(folder), *(identity(folder, **{name: value}) for name, value in OPTIONS.items())}
    assert len(found) == 1 + len(OPTIONS)
    plain = weights(train(folder))
    for name, value in OPTIONS.items():
        trained = train(folder, **{name: value})
        assert not torch.equal(weights(trained), plain), name
        assert torch.equal(weights(trained), weights(train(folder, **{name: value}))), name
        assert not torch.equal(weights(trained), weights(train(folder, seed=6, **{name: value}))), name


@pytest.mark.parametrize("file", ["aug.py", "shapes.py", "start.pt", "teacher.pt", "net.py"])
def test_the_content_of_each_file_counts_wherever_it_lies(folder, tmp_path_factory, file):
    before = identity(folder, **OPTIONS)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for path in folder.iterdir():
        if path.is_file():
            (elsewhere / path.name).write_bytes(path.read_bytes())
    (elsewhere / "renamed.pt").write_bytes((folder / "start.pt").read_bytes())
    assert identity(elsewhere, **{**OPTIONS, "initial": "renamed.pt"}) == before
    with (elsewhere / file).open("ab") as stream:
        stream.write(b"\n")
    assert identity(elsewhere, **OPTIONS) != before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"augment": "aug.py:nois"}, "training.augment: aug.py defines no 'nois'"),
        ({"augment": "gone.py:noise"}, "training.augment: there is no file"),
        ({"initial": "gone.pt"}, "training.initial: there is no file"),
        ({"teacher": {**TEACHER, "model": "net.py:teach"}}, "training.teacher.model: net.py defines no 'teach'"),
        ({"teacher": {**TEACHER, "weights": "gone.pt"}}, "training.teacher.weights: there is no file"),
    ],
)
def test_what_is_missing_is_found_before_training(folder, options, said):
    with pytest.raises(ConfigError, match=said):
        identity(folder, **options)


def test_what_dp_sgd_cannot_do_is_found_before_training(folder):
    with pytest.raises(UsageError, match=r"dp_sgd cannot be trained with shadows\.recipe\.training\.clip"):
        identity(folder, clip=1.0, defences={"dp_sgd": {"noise_multiplier": 1.0}})
    identity(folder, clip=1.0, defences={"dp_sgd": {"in_recipe": True}})


# --- files ----------------------------------------------------------------------------------------------------------


def test_training_starts_from_the_weights_of_the_file(folder):
    trained = train(folder, initial="start.pt", frozen=["0.*", "3.weight"])
    start = network()
    assert torch.equal(trained[0].weight, start[0].weight)
    assert torch.equal(trained[3].weight, start[3].weight)
    assert not torch.equal(trained[3].bias, start[3].bias)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("0.bias"), r"1 weights missing \(0\.bias\)"),
        (lambda s: [s.pop(n) for n in list(s)[:3]], r"3 weights missing \(0\.weight, \.\.\.\)"),
        (lambda s: s.update(head=torch.zeros(1)), r"1 weights unexpected \(head\)"),
        (lambda s: s.update({"3.bias": torch.zeros(7)}), r"1 weights of another shape \(3\.bias\)"),
        (
            lambda s: (s.pop("3.bias"), s.update(a=torch.zeros(1), b=torch.zeros(1))),
            r"1 .* missing .*, 2 .* unexpected",
        ),
    ],
)
def test_weights_that_do_not_fit(folder, change, said):
    state = dict(network().state_dict())
    change(state)
    torch.save(state, folder / "start.pt")
    with pytest.raises(RecipeFailed, match=said) as caught:
        train(folder, initial="start.pt")
    assert "training.initial: start.pt" in caught.value.what


class Harmful:
    """Whoever unpickles it leaves a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("what", ["harmful", "module", "pickle", "text", "truncated", "list", "numbers", "empty"])
def test_files_that_hold_no_weights(folder, what):
    path, mark = folder / "start.pt", folder / "touched"
    whole = path.read_bytes()
    match what:
        case "harmful":
            torch.save({"0.weight": Harmful(mark)}, path)
        case "module":
            torch.save(network(), path)
        case "pickle":
            path.write_bytes(pickle.dumps(Harmful(mark)))
        case "list":
            torch.save([torch.zeros(3)], path)
        case "numbers":
            torch.save({"0.weight": 1.0}, path)
        case _:
            path.write_bytes({"text": b"weights\n" * 99, "truncated": whole[: len(whole) // 2], "empty": b""}[what])
    with pytest.raises(RecipeFailed, match=r"start\.pt (cannot be read as weights|holds no state_dict)") as caught:
        train(folder, initial="start.pt")
    assert "torch.save(module.state_dict(), path)" in caught.value.hint
    assert not mark.exists()


def test_the_teacher_draws_nothing_from_the_modules_seed(folder):
    nothing = {**TEACHER, "share": 0.0}
    assert torch.equal(weights(train(folder, teacher=nothing)), weights(train(folder)))


def test_an_augmentation_that_breaks_is_told_with_its_line(folder):
    with pytest.raises(RecipeFailed) as caught:
        train(folder, augment="aug.py:broken")
    assert f"broken() of aug.py raised KeyError ({folder / 'aug.py'}:7)" in caught.value.what
    assert "record" not in caught.value.what  # the text quotes one


# --- inputs ---------------------------------------------------------------------------------------------------------

SEEING = """
import torch
class Seeing(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.rows, self.last = [], torch.nn.LazyLinear(3)
    def forward(self, x):
        self.rows.append(x.clone())
        return self.last(x.flatten(1))
def seeing():
    return Seeing()
"""


@pytest.mark.parametrize("kind", ["uint8 CHW", "uint8 HWC", "float16", "bool", "mixed frame", "nullable frame"])
def test_shadows_train_on_what_the_scorer_asks_about(folder, kind):
    import pandas as pd

    frame = pd.DataFrame({"a": X[:, 0], "b": X[:, 1] > 0, "c": np.arange(40)})
    rows = {
        "uint8 CHW": RNG.integers(0, 256, (40, 3, 5, 4)).astype(np.uint8),
        "uint8 HWC": RNG.integers(0, 256, (40, 5, 4, 3)).astype(np.uint8),
        "float16": X.astype(np.float16),
        "bool": X > 0,
        "mixed frame": frame,
        "nullable frame": frame.astype({"a": "Float64", "b": "boolean", "c": "Int64"}),
    }[kind]
    (folder / "seeing.py").write_text(SEEING)
    module = train(folder, rows, model="seeing.py:seeing", epochs=1, batch_size=40)
    trained = module.rows[-1]
    module.rows.clear()
    models.query(module, rows)
    (asked,) = module.rows
    assert trained.dtype == asked.dtype == torch.float32

    def sort(x):
        return sorted(map(tuple, x.flatten(1).tolist()))

    assert trained.shape == asked.shape
    assert sort(trained) == sort(asked)  # the order of the epoch apart


@pytest.mark.parametrize("column", ["category", "text", "date", "numbers as a category"])
def test_frames_of_other_things_than_numbers_do_not_become_tensors(folder, column):
    import pandas as pd

    values = {
        "category": pd.Categorical(["secret", "other"] * 20),
        "text": ["secret", "other"] * 20,
        "date": pd.date_range("2020-01-01", periods=40),
        "numbers as a category": pd.Categorical([1, 2] * 20),
    }[column]
    frame = pd.DataFrame(X, columns=list("abcd")).assign(d=values)
    with pytest.raises(RecipeFailed, match="1 of 4 feature columns are no numbers") as caught:
        train(folder, frame)
    assert "secret" not in str(caught.value)
    assert "shadows.recipe.python" in caught.value.hint
