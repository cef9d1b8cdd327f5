"""Probes of a candidate: in a process of their own, and what it may have written there."""

from __future__ import annotations

import json
import os
import stat

import cloudpickle
import numpy as np
import pytest

from privacy_gate import sandbox
from privacy_gate.datamodel import Candidate, Outputs
from privacy_gate.defences import FittedDefence, RandomDefence
from privacy_gate.errors import ModelOutputUnusable, NotEvaluable, UsageError, WorkerDied
from privacy_gate.sandbox import asking, models
from privacy_gate.sandbox.jobs import Job
from privacy_gate.sandbox.outputs import Form
from privacy_gate.signals import PROBES, Probe
from tests.sandbox import strange_models

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

X = np.random.default_rng(0).normal(size=(60, 4))
Y = (X[:, 0] > 0).astype(np.int64)
NAMES = ("broken", "confidence", "infinite", "leave", "pair", "unfit", "weights")


@pytest.fixture(autouse=True)
def _known(monkeypatch):
    """The gate knows the probes that the model brings; it never computes one."""
    len(PROBES)  # everything that is in the folder comes first
    for name in NAMES:
        found = Probe(f"test_{name}", "", "", "answers", "", lambda *_: 1 / 0, vector=name == "pair")
        monkeypatch.setitem(PROBES._items, f"test_{name}", found)


@pytest.fixture
def candidate(tmp_path):
    import mlflow.sklearn

    cloudpickle.register_pickle_by_value(strange_models)
    try:
        model = strange_models.Probing().fit(X, Y)
        mlflow.sklearn.save_model(model, tmp_path / "model", pip_requirements=[], serialization_format="cloudpickle")
    finally:
        cloudpickle.unregister_pickle_by_value(strange_models)
    return Candidate("m", "m", tmp_path / "model", "0" * 64, "sklearn", executes_code=True)


def test_values_come_back_and_failures_stay_in_the_log(candidate, tmp_path):
    names = [f"test_{name}" for name in NAMES if name != "leave"]
    protect = {"output_coarsening": {"decimals": 1}}
    work, logs = tmp_path / "work", tmp_path / "logs"
    told = sandbox.probe(candidate, X, Y, names, work, protect=protect, classes=2, seed=7, logs=logs)
    assert sorted(told.values) == ["test_confidence", "test_pair"]
    p = 1 / (1 + np.exp(-X[:, 0]))
    # Rounded by the defence, in the child as here.
    assert (told.values["test_confidence"] == np.round(np.where(Y == 1, p, 1 - p), 1)).all()
    # The seed that was given, and a global generator that starts anew for each probe.
    assert (told.values["test_pair"][:, 0] == 7).all()
    assert (told.values["test_pair"][:, 1] == np.random.RandomState(7).random_sample(60)).all()
    assert told.failed == {"test_broken": "KeyError", "test_infinite": "ModelOutputUnusable"}
    assert told.absent["test_weights"] == "a Probing cannot be differentiated"
    assert told.absent["test_unfit"] == "no red here"
    assert "KeyError in" in told.absent["test_broken"]
    assert sorted(told.absent) == ["test_broken", "test_infinite", "test_unfit", "test_weights"]
    assert "Alice" not in str(told)
    # A failure is worth its log; nothing else is left, and nobody else can read it.
    assert "Alice Secret" in told.log.read_text()
    assert told.log.parent == logs
    assert stat.S_IMODE(told.log.stat().st_mode) == 0o600
    assert list(work.iterdir()) == []


@pytest.mark.slow
def test_a_probe_that_dies_is_named(candidate, tmp_path):
    names = ["test_confidence", "test_leave", "test_pair"]
    with pytest.raises(WorkerDied, match=r"without an answer \(exit code 0\), at the probe test_leave"):
        sandbox.probe(candidate, X, Y, names, tmp_path / "work", protect={}, classes=2, seed=0)
    assert [path.suffix for path in (tmp_path / "work").iterdir()] == [".log"]


def test_nothing_is_started_for_nothing_and_for_a_misspelt_probe(tmp_path):
    nobody = Candidate("m", "m", tmp_path / "nothing", "0" * 64, "sklearn", executes_code=True)
    told = sandbox.probe(nobody, X, Y, [], tmp_path / "work", protect={}, classes=2, seed=0)
    assert (told.values, told.absent, told.failed, told.log) == ({}, {}, {}, None)
    with pytest.raises(UsageError, match="no probe is called 'test_confidenc'"):
        sandbox.probe(nobody, X, Y, ["test_confidenc"], tmp_path / "work", protect={}, classes=2, seed=0)
    assert not (tmp_path / "work").exists()


# --- what the child may have written --------------------------------------------------------------------------------


@pytest.fixture
def job(tmp_path):
    (tmp_path / "out").mkdir()
    return Job(tmp_path, tmp_path / "out", tmp_path, tmp_path / "log", None)


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


def _liar(path):
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)})


@pytest.mark.parametrize(
    ("leave", "said"),
    [
        (lambda path: None, "no readable predictions"),
        (lambda path: path.write_bytes(b"junk"), "no readable predictions"),
        (lambda path: path.symlink_to("/dev/zero"), "no readable predictions"),
        (os.mkfifo, "no readable predictions"),
        (_liar, "no readable predictions"),
        (lambda path: np.save(path, np.array([Bomb()] * 5), allow_pickle=True), "no readable predictions"),
        (lambda path: np.save(path, np.array(["1"] * 5)), "no array of numbers"),
        (lambda path: np.save(path, np.ones(5, complex)), "no array of numbers"),
        (lambda path: np.save(path, np.ones(4)), r"shape \[4\] for 5 records"),
        (lambda path: np.save(path, np.float64(1)), r"shape \[\] for 5 records"),
        (lambda path: np.save(path, np.ones((5, 2))), r"shape \[5, 2\] for 5 records"),
        (lambda path: np.save(path, np.array([1, 2, 3, 4, np.nan])), "NaN or infinity"),
    ],
)
def test_what_a_hostile_child_left_is_refused(job, monkeypatch, leave, said):
    monkeypatch.chdir(job.folder)
    leave(job.out / "probe_0.npy")
    with pytest.raises(ModelOutputUnusable, match=f"^test_confidence: .*{said}"):
        sandbox._probed([{}], ["test_confidence"], 5, job)
    assert not (job.folder / "exploded").exists()


@pytest.mark.parametrize("shape", [(5,), (5, 0), (5, 2, 1), (5, 5000)])
def test_a_vector_has_two_sides_of_a_sensible_length(job, shape):
    np.save(job.out / "probe_0.npy", np.ones(shape))
    with pytest.raises(ModelOutputUnusable, match="test_pair: a probe gives an array of shape"):
        sandbox._probed([{}], ["test_pair"], 5, job)


@pytest.mark.parametrize("told", [None, {}, [], [{}, {}], ["probe"], 1])
def test_what_says_nothing_about_each_probe_is_refused(job, told):
    with pytest.raises(ModelOutputUnusable, match="no readable answer"):
        sandbox._probed(told, ["test_confidence"], 5, job)


def test_names_of_errors_are_names(job):
    told = [{"failed": "Alice Secret", "where": ["x"]}, {"absent": json.loads('"\\u001b[31mred\\u202e"')}]
    found = sandbox._probed(told, ["test_broken", "test_unfit"], 5, job)
    assert found.failed == {"test_broken": "an error"}
    assert found.absent["test_broken"] == "the probe failed: an error"
    assert found.absent["test_unfit"] == "red"


# --- access to a loaded model ---------------------------------------------------------------------------------------


def loaded(model, kind="auto", classes=2, **settings):
    def answer(rows, kind):
        return models.query(model, rows, Form(kind))

    return asking.Loaded(model, classes, answer, lambda outputs: outputs, kind, **settings)


def test_the_first_answer_tells_the_kind_of_all():
    def model(x):
        return np.where(x[:, :1] > 0, [[0.5, 0.5]], [[2.0, -2.0]])

    access = loaded(model)
    assert access.answers(X).kind == "logits"
    assert access.answers(X[X[:, 0] > 0]).kind == "logits"  # alone they would pass for probabilities


def test_a_model_with_other_columns_than_classes():
    with pytest.raises(ModelOutputUnusable, match="2 columns, expected 3"):
        loaded(lambda x: np.ones((len(x), 2)) / 2, classes=3).answers(X)


def test_a_model_cannot_say_that_a_probe_does_not_fit_it(monkeypatch):
    def refuse(x):
        raise NotEvaluable("this is no attack for Alice Secret")

    monkeypatch.setitem(PROBES._items, "test_pair", Probe("test_pair", "", "", "answers", "", _top))
    (found,) = asking.ask(loaded(refuse), ["test_pair"], X, Y, 0)
    assert (found.reason, found.failed) == ("", "ModelOutputUnusable")


def _top(access, features, labels, seed):
    return access.answers(features).values.max(axis=1)


def test_weights_in_another_order_are_not_handed_out():
    with pytest.raises(NotEvaluable, match="another order"):
        loaded(object(), aligned=False).module()


def test_row_wise_defences_stand_before_a_probe_and_fitted_ones_do_not(monkeypatch):
    class Fitted:
        def fitted(self, known, member, seed):
            raise AssertionError

    class Random:
        def drawn(self, seed):
            return lambda outputs: Outputs(outputs.values + seed, "logits")

    class Inside:
        in_model = True

        def protect(self, outputs):
            return Outputs(outputs.values * 2, "logits")

    assert isinstance(Fitted(), FittedDefence)
    assert isinstance(Random(), RandomDefence)
    chosen = asking.Defences((("fitted", Fitted()), ("random", Random()), ("inside", Inside())))
    monkeypatch.setattr(asking, "configure", lambda settings: chosen)
    given = Outputs(np.ones((1, 2)), "logits")
    assert asking.stand_between({}, 3, released=True)(given).values.tolist() == [[4, 4]]
    assert asking.stand_between({}, 3, released=False)(given).values.tolist() == [[8, 8]]


# --- asked again ----------------------------------------------------------------------------------------------------


class Sequence:
    """Answers from a list, by the number of the call; counts the records that it was asked about."""

    def __init__(self, noise):
        self.noise, self.calls = noise, []

    def __call__(self, rows, kind):
        self.calls.append(len(rows))
        p = 0.5 + self.noise(len(self.calls)) * np.ones(len(rows))
        return Outputs(np.stack([p, 1 - p], axis=1), "probabilities")


def test_a_model_that_repeats_itself_is_asked_for_the_first_batch_again_and_no_more():
    model = Sequence(lambda call: 0.0)
    assert asking.settled(model, X, "auto", X[:10]).values.tolist() == [[0.5, 0.5]] * 60
    assert model.calls == [60, 10]


def test_last_bits_that_depend_on_the_length_of_the_table_are_no_dice():
    model = Sequence(lambda call: 0.0 if call == 1 else 1e-5)
    assert asking.settled(model, X, "auto", X[:10]).values.tolist() == [[0.5, 0.5]] * 60
    assert model.calls == [60, 10, 10]
    late = Sequence(lambda call: 0.0 if call == 1 else 0.1)  # too much for rounding, however steady from then on
    asking.settled(late, X, "auto", X[:10])
    assert late.calls == [60, 10] + [60] * 15


def test_a_model_that_throws_dice_is_asked_sixteen_times_and_averaged():
    model = Sequence(lambda call: call / 100)
    found = asking.settled(model, X, "auto", X[:10])
    assert model.calls == [60, 10] + [60] * 15
    mean = 0.5 + np.mean([1, *range(3, 18)]) / 100
    # Sixteen sums of numbers below 1: a few units of 1e-16 each.
    np.testing.assert_allclose(found.values, [[mean, 1 - mean]] * 60, rtol=0, atol=1e-14)


# --- torch ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 3])
def test_an_exported_model_from_the_registry_has_gradients(tmp_path, rows):
    import mlflow.pytorch
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    net.eval()
    example = X[:rows].astype(np.float32)  # one row freezes the batch size for ever
    mlflow.pytorch.save_model(net, str(tmp_path / "model"), pip_requirements=[], input_example=example)
    access = loaded(models.load(tmp_path / "model", "pytorch"), "logits", 3)
    module = access.module()
    for n in (1, 2, 5):
        x = torch.as_tensor(X[:n], dtype=torch.float32).requires_grad_()
        labels = torch.arange(n) % 3
        torch.nn.functional.cross_entropy(module(x), labels).backward()
        wanted = torch.as_tensor(X[:n], dtype=torch.float32).requires_grad_()
        net.zero_grad()
        torch.nn.functional.cross_entropy(net(wanted), labels).backward()
        # Ten float32 sums of a handful of terms around 1: 1e-5 is 100 units in the last place.
        torch.testing.assert_close(x.grad, wanted.grad, rtol=0, atol=1e-5)
        for ours, theirs in zip(module.parameters(), net.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-5)
        access.module()  # clears what is left of the last one
        assert all(weight.grad is None for weight in module.parameters())
        module = access.module()


def test_a_module_is_handed_out_in_evaluation_mode_and_frozen_weights_are_thawed():
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Dropout(0.5)).train()
    for weight in net.parameters():
        weight.requires_grad_(False)
    module = loaded(net).module()
    assert module is net
    assert not any(part.training for part in module.modules())
    assert all(weight.requires_grad for weight in module.parameters())
    partly = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    partly[0].requires_grad_(False)
    assert [w.requires_grad for w in loaded(partly).module().parameters()] == [False, False, True, True]
    with pytest.raises(NotEvaluable, match="no weights"):
        loaded(torch.nn.Sequential(torch.nn.ReLU())).module()
    with pytest.raises(NotEvaluable, match="a function cannot be differentiated"):
        loaded(lambda x: x).module()
