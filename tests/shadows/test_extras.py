"""What shadows are asked beside their answers: by probes, while they are trained, and with the defence's records."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from privacy_gate.datamodel import Candidate, Outputs
from privacy_gate.errors import ModelOutputUnusable, NotEvaluable, RecipeFailed
from privacy_gate.request import Recipe
from privacy_gate.sandbox import models
from privacy_gate.sandbox.outputs import AUTO, Form
from privacy_gate.shadows import worker
from privacy_gate.shadows.pool import Pool
from privacy_gate.shadows.recipes import CATALOG, RecipeKind
from privacy_gate.shadows.store import Extra, Store
from privacy_gate.shadows.train import extra_keys, keys, prepare, train
from privacy_gate.signals import PROBES, Probe
from tests.shadows.test_train import U, World

RECIPE = """
import pathlib, uuid
import numpy as np
from privacy_gate.errors import NotEvaluable
from privacy_gate.signals import PROBES, Probe
HERE = pathlib.Path(__file__).parent

def confidence(access, features, labels, seed):
    return access.answers(features).values[np.arange(len(labels)), labels]

def draws(access, features, labels, seed):
    # The seed that was given, and the global generator, which starts anew for each probe.
    return np.stack([np.random.default_rng(seed).random(len(labels)), np.random.random(len(labels))], axis=1)

def weights(access, features, labels, seed):
    return access.module()

def broken(access, features, labels, seed):
    raise KeyError("Alice Secret")

def enter(name, compute, vector=False):
    if name not in PROBES._items:  # one worker imports this file for each shadow
        PROBES.add(name, Probe(name, "", "", "answers", "", compute, vector))

enter("test_confidence", confidence)
enter("test_draws", draws, True)
enter("test_weights", weights)
enter("test_broken", broken)

class Mean:
    def __init__(self, features, labels, seed):
        self.classes_ = np.array([2, 0, 1])  # in another order than the candidate's
        self.p = np.bincount(labels, minlength=3)[self.classes_] + np.random.default_rng(seed).random(3)
        self.centre = features.mean()
    def predict_proba(self, features):
        p = np.tile(self.p / self.p.sum() / 2, (len(features), 1))
        p[np.arange(len(p)), (features[:, 0] > self.centre).astype(int)] += 0.5
        return p

class Dice(Mean):
    def predict_proba(self, features):
        p = super().predict_proba(features) + np.random.random((len(features), 3))
        return p / p.sum(axis=1, keepdims=True)

def train(features, labels, *, seed):
    (HERE / f"trained-{uuid.uuid4()}").touch()
    return Mean(features, labels, seed)

def dice(features, labels, *, seed):
    (HERE / f"trained-{uuid.uuid4()}").touch()
    return Dice(features, labels, seed)
"""
NAMES = ("test_broken", "test_confidence", "test_draws", "test_weights")


@pytest.fixture(autouse=True)
def _probes(monkeypatch):
    """The gate knows them, too; what they compute is the workers' business."""
    len(PROBES)  # everything that is in the folder comes first
    for name in NAMES:
        found = Probe(name, "", "", "answers", "", lambda *_: 1 / 0, vector=name == "test_draws")
        monkeypatch.setitem(PROBES._items, name, found)
    target_only = Probe("test_target", "", "", "answers", "", lambda *_: 1 / 0, shadows=False)
    monkeypatch.setitem(PROBES._items, "test_target", target_only)


class Asked(World):
    """The world of the training's tests, with probes."""

    def __init__(self, folder, count=3):
        super().__init__(folder, count)
        (folder / "recipe.py").write_text(RECIPE)
        self.asked = np.arange(U) % 3 > 0

    def task(self, function="train", **extras):
        return prepare(
            Recipe(python=f"recipe.py:{function}"),
            folder=self.folder,
            candidate=None,
            description=None,
            features=self.features,
            labels=self.labels,
            class_values=(0, 1, 2),
            **extras,
        )


@pytest.fixture
def world(tmp_path):
    return Asked(tmp_path)


COARSE = {"output_coarsening": {"decimals": 1}}


def test_probes_see_the_defended_answers_in_the_gates_order_and_are_kept(world):
    plain = train(world.plan, world.task(), world.store, jobs=1)
    before = world.stored()
    wanted = ("test_draws", "test_confidence", "test_target")
    task = world.task(probes=wanted, protect=COARSE, asked=world.asked)
    assert task.probes == ("test_confidence", "test_draws")
    found = train(world.plan, task, world.store, jobs=1)
    # The outputs were there, what probes find was not: trained again, to the same bytes.
    assert (found.trained, found.cached, world.trained()) == (3, 0, 6)
    assert {name: digest for name, digest in world.stored().items() if name in before} == before
    assert len(world.stored()) == 3 + 3 * 2
    for s, outputs in enumerate(plain.outputs):
        assert (found.outputs[s].values == outputs.values).all()
        confidence, drawn = found.probes[s]["test_confidence"], found.probes[s]["test_draws"]
        expected = np.round(outputs.values[np.arange(U), world.labels], 1)
        assert (confidence[world.asked] == expected[world.asked]).all()
        assert np.isnan(confidence[~world.asked]).all()
        seed, rows = int(world.plan.seeds[s]), int(world.asked.sum())
        assert drawn.shape == (U, 2)
        assert (drawn[world.asked, 0] == np.random.default_rng(seed).random(rows)).all()
        assert (drawn[world.asked, 1] == np.random.RandomState(seed % 2**32).random_sample(rows)).all()
        assert np.isnan(drawn[~world.asked]).all()
    again = train(world.plan, task, world.store, jobs=1)
    assert (again.trained, again.cached, world.trained()) == (0, 3, 6)
    for one, other in zip(found.probes, again.probes, strict=True):
        assert {name: values.tobytes() for name, values in one.items()} == {n: v.tobytes() for n, v in other.items()}
    assert train(world.plan, world.task(), world.store, jobs=1).trained == 0
    assert world.store.verify() == []


def test_a_corrupt_extra_or_one_of_another_model_is_asked_again(world):
    task = world.task(probes=["test_confidence"])
    found = train(world.plan, task, world.store, jobs=1)
    names = [extra_keys(k, int(s), task) for k, s in zip(keys(world.plan, task), world.plan.seeds, strict=True)]
    path = world.store.path(names[0]["test_confidence"])
    path.write_bytes(path.read_bytes()[:-70] + b"x" * 70)
    strange = world.store.beside(names[1]["test_confidence"])
    world.store.put(names[1]["test_confidence"], replace(strange, of="0" * 64))
    again = train(world.plan, task, world.store, jobs=1)
    assert (again.trained, again.cached, again.corrupt) == (2, 1, 1)
    for one, other in zip(found.probes, again.probes, strict=True):
        assert (one["test_confidence"] == other["test_confidence"]).all()


def test_what_does_not_fit_is_remembered_and_what_failed_is_not(world):
    task = world.task(probes=["test_confidence", "test_weights"])
    found = train(world.plan, task, world.store, jobs=1)
    assert [sorted(each) for each in found.probes] == [["test_confidence"]] * 3
    assert found.absent == {"test_weights": "shadow 0: the model has its classes in another order than the records"}
    assert found.failed == {}
    again = train(world.plan, task, world.store, jobs=1)
    assert (again.trained, again.absent) == (0, found.absent)
    failing = world.task(probes=["test_broken"])
    told = train(world.plan, failing, world.store, jobs=1)
    assert told.failed == {"test_broken": "KeyError"}
    assert told.absent["test_broken"].startswith(
        "shadow 0: the probe failed: KeyError in privacy_gate_recipe_recipe.broken (recipe.py:"
    )
    assert "Alice" not in str(told.absent)
    assert "Alice Secret" in told.log.read_text()
    assert (found.log, again.log) == (None, None)
    assert len(world.stored()) == 3 + 3 * 2  # outputs, confidences, and why there are no weights


def test_a_shadow_that_throws_dice_is_asked_sixteen_times_whatever_the_jobs(world, tmp_path):
    task = world.task("dice", probes=["test_confidence", "test_draws"])
    one = train(world.plan, task, world.store, jobs=1)
    other = Store(tmp_path / "other")
    train(world.plan, task, other, jobs=2)
    files = {path.name: path.read_bytes() for path in (world.store.root / "shadows").iterdir()}
    assert {path.name: path.read_bytes() for path in (other.root / "shadows").iterdir()} == files
    assert len(files) == 3 * 3
    for outputs in one.outputs:
        np.testing.assert_allclose(outputs.values.sum(axis=1), 1, rtol=0, atol=1e-12)
        # A share (p + u) / (1 + sum of u) of one answer varies by far more than a mean of 16 does.
        assert outputs.values.std(axis=0).max() < 0.2


def test_the_keys_of_extras_follow_all_that_they_depend_on(world, monkeypatch):
    base = world.task(probes=["test_draws"], asked=world.asked)
    seen = [extra_keys("k", 1, base)]
    seen.append(extra_keys("other", 1, base))
    seen.append(extra_keys("k", 2, base))
    seen.append(extra_keys("k", 1, world.task(probes=["test_draws"])))
    seen.append(extra_keys("k", 1, world.task(probes=["test_draws"], asked=world.asked, protect=COARSE)))
    changed = replace(PROBES["test_draws"], version=2)
    monkeypatch.setitem(PROBES._items, "test_draws", changed)
    seen.append(extra_keys("k", 1, base))
    assert len({each["test_draws"] for each in seen}) == len(seen)
    assert all(each["test_draws"].endswith(".probe") for each in seen)
    # The shadow itself is the same, whatever it is asked.
    assert keys(world.plan, base) == keys(world.plan, world.task(trace=True, protect=COARSE))


def test_the_defence_and_its_records_enter_the_shadows_own_key(world):
    settings = {"early_stopping": {"epochs": 3, "in_recipe": True}}
    plain, rows = keys(world.plan, world.task()), np.arange(U) >= 50
    assert keys(world.plan, world.task(reference=rows)) == plain  # no defence: nobody reads them
    defended = keys(world.plan, world.task(defences=settings))
    fitted = keys(world.plan, world.task(defences=settings, reference=rows))
    assert len({*plain, *defended, *fitted}) == 3 * len(plain)
    with pytest.raises(NotEvaluable, match="records of the defence"):
        train(world.plan, world.task(defences=settings, reference=world.plan.member[0]), world.store)


# --- the trace ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_trace_of_a_boosted_clone_is_its_stages(world):
    import mlflow.sklearn
    from sklearn.ensemble import GradientBoostingClassifier

    from privacy_gate.shadows.recipes.clone import seeded

    estimator = GradientBoostingClassifier(n_estimators=4, max_depth=2, random_state=0)
    estimator.fit(world.features, world.labels)
    folder = world.folder / "model"
    mlflow.sklearn.save_model(estimator, folder, serialization_format="cloudpickle", pip_requirements=["scikit-learn"])
    candidate = Candidate("m", "m", folder, "0" * 64, "sklearn", executes_code=True)
    task = prepare(
        Recipe(),
        folder=world.folder,
        candidate=candidate,
        description=models.describe(estimator, "sklearn"),
        features=world.features,
        labels=world.labels,
        class_values=(2, 0, 1),
        form=Form("probabilities"),
        trace=True,
    )
    task = replace(task, labels=np.argsort([2, 0, 1])[world.labels])
    found = train(world.plan, task, world.store, jobs=1)
    assert found.trace_steps == (1, 2, 3, 4)
    for s, trace in enumerate(found.traces):
        assert trace.dtype == np.float32
        assert (trace[-1] == found.outputs[s].values.astype(np.float32)).all()
        rows = world.plan.member[s]
        by_hand = seeded(GradientBoostingClassifier(n_estimators=4, max_depth=2), int(world.plan.seeds[s]))
        by_hand.fit(world.features[rows], world.labels[rows])
        stages = np.stack([p[:, [2, 0, 1]] for p in by_hand.staged_predict_proba(world.features)])
        # float32 has steps of 6e-8 below 1; the rest is room for another order of summation.
        np.testing.assert_allclose(trace, stages, rtol=0, atol=1e-6)
    again = train(world.plan, task, world.store, jobs=1)
    assert (again.trained, again.trace_steps) == (0, (1, 2, 3, 4))
    assert all((a == b).all() for a, b in zip(found.traces, again.traces, strict=True))


def test_a_recipe_without_steps_has_no_trace(world):
    task = world.task(trace=True)
    found = train(world.plan, task, world.store, jobs=1)
    assert (found.traces, found.trace_steps) == ((None, None, None), ())
    assert train(world.plan, task, world.store, jobs=1).trained == 0


class Drawing:
    """Draws from the global generator whenever it is asked or trained."""

    def __init__(self):
        self.p = np.zeros(3)

    def step(self):
        self.p = self.p + np.random.random(3)  # noqa: NPY002

    def predict_proba(self, features):
        p = np.tile(self.p, (len(features), 1)) + np.random.random((len(features), 3))  # noqa: NPY002
        return p / p.sum(axis=1, keepdims=True)


def order_of(world, monkeypatch, body, *, trace, reference=None, labels="indices"):
    """An order for a recipe that lives in this process."""

    def made(features, labels, seed, context):
        return body(features, labels, seed, context)

    kind = RecipeKind("test", labels, (), False, lambda *_: {}, made)
    len(CATALOG)
    monkeypatch.setitem(CATALOG._items, "test", kind)
    folder = world.folder / "handed"
    folder.mkdir(exist_ok=True)
    np.save(folder / "features.npy", world.features)
    np.save(folder / "labels.npy", world.labels)
    np.save(folder / "member.npy", world.plan.member)
    np.save(folder / "asked.npy", np.ones(U, bool))
    np.save(folder / "reference.npy", np.zeros(U, bool) if reference is None else reference)
    context = replace(world.task().context, class_values=("x", "y", "z"))
    return worker.Order("test", context, Form("probabilities"), folder / "features.npy", {}, trace=trace)


def test_looking_does_not_change_what_is_looked_at(world, monkeypatch):
    def body(features, labels, seed, context):
        model = Drawing()
        for step in (1, 2, 5):
            model.step()
            if context.watch is not None:
                context.watch(model, step)
        return model

    unseen = worker.run(order_of(world, monkeypatch, body, trace=False), 0, 7)
    seen = worker.run(order_of(world, monkeypatch, body, trace=True), 0, 7)
    assert (seen.outputs.values == unseen.outputs.values).all()
    assert seen.watch.steps == [1, 2, 5]
    assert unseen.watch.steps == []


def test_parts_in_training_mode_stay_in_it(world):
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 3)).train()
    net[0].eval()  # a frozen layer
    watch = worker.Watch(worker.Order("model", world.task().context, Form("logits"), Path(), {}), world.features)
    state = torch.get_rng_state()
    watch(net, 1)
    assert [part.training for part in net.modules()] == [True, False, True, True]
    assert (torch.get_rng_state() == state).all()
    with torch.no_grad():
        expected = net.eval()(torch.as_tensor(world.features, dtype=torch.float32)).numpy()
    np.testing.assert_array_equal(watch.answers[0], expected)


def test_steps_go_upwards(world, monkeypatch):
    def body(features, labels, seed, context):
        for step in (2, 2):
            context.watch(lambda x: np.tile([0.2, 0.3, 0.5], (len(x), 1)), step)

    with pytest.raises(RecipeFailed, match="step 2 after step 2"):
        worker.run(order_of(world, monkeypatch, body, trace=True), 0, 7)


def test_a_trace_of_another_kind_than_the_answers(world, monkeypatch):
    def body(features, labels, seed, context):
        context.watch(lambda x: np.tile([0.2, 0.3, 0.5], (len(x), 1)), 1)
        return lambda x: np.tile([2.0, 3.0, -5.0], (len(x), 1))

    order = replace(order_of(world, monkeypatch, body, trace=True), form=AUTO)
    with pytest.raises(ModelOutputUnusable, match="probabilities while it is trained, and with logits"):
        worker.run(order, 0, 7)


@pytest.mark.parametrize("labels", ["indices", "values"])
def test_the_defences_records_reach_the_recipe_as_its_own_do(world, monkeypatch, labels):
    rows = np.arange(U) % 7 == 0
    given = []

    def body(features, labels, seed, context):
        given.append(context.reference)
        return lambda x: np.tile([0.2, 0.3, 0.5], (len(x), 1)) * np.ones((1, 3))

    worker.run(order_of(world, monkeypatch, body, trace=False, reference=rows, labels=labels), 0, 7)
    worker.run(order_of(world, monkeypatch, body, trace=False), 0, 7)
    (features, found), nothing = given
    assert (features == world.features[rows]).all()
    expected = world.labels[rows] if labels == "indices" else np.array(["x", "y", "z"])[world.labels[rows]]
    assert found.tolist() == expected.tolist()
    assert nothing is None


# --- what a worker may have written ---------------------------------------------------------------------------------


GOOD = {"dtype": "float64", "order": "C", "kind": "probabilities"}


@pytest.fixture
def pool(world, tmp_path):
    """The gate's side of a worker that left whatever a test writes."""
    order = worker.Order("python", world.task().context, AUTO, Path(), {}, ("test_confidence", "test_draws"), {}, True)
    (tmp_path / "work").mkdir()
    (tmp_path / "log").touch()
    made = Pool.of(order, tmp_path / "work", tmp_path / "log", (4, 3, 2), {})
    yield made
    made.close()


def leave(pool, *, probes, trace=None, files=None):
    answers = pool.folder / "answers"
    (answers / "0.values").write_bytes(np.full((4, 3), 1 / 3).tobytes())
    for name, content in {
        "probe0": np.ones(2).tobytes(),
        "probe1": np.ones((2, 2)).tobytes(),
        "trace": np.full((2, 4, 3), 1 / 3, np.float32).tobytes(),
        **(files or {}),
    }.items():
        if callable(content):
            content(answers / f"0.{name}")
        else:
            (answers / f"0.{name}").write_bytes(content)
    meta = GOOD | {"probes": probes, "trace": {"steps": [1, 2], "kind": "probabilities"} if trace is None else trace}
    (answers / "0.json").write_text(json.dumps(meta))


FINE = [{"width": 0}, {"width": 2}]


def test_an_honest_answer_is_read_and_its_files_are_removed(pool):
    leave(pool, probes=FINE)
    found = pool.answer(0, 7)
    assert found.probes["test_confidence"].tolist() == [1, 1]
    assert found.probes["test_draws"].shape == (2, 2)
    assert found.trace.shape == (2, 4, 3)
    assert found.steps == (1, 2)
    assert list((pool.folder / "answers").iterdir()) == []


@pytest.mark.parametrize(
    ("probes", "trace", "files", "said"),
    [
        ([{"width": 0}], None, {}, "no readable answer"),
        ("all of them", None, {}, "no readable answer"),
        ([{"width": 0}, {"width": 10**9}], None, {}, "no readable answer"),
        ([{"width": True}, {"width": 2}], None, {}, "no readable answer"),
        ([{"width": 0}, {"width": -1}], None, {}, "no readable answer"),
        ([{"width": 0}, {"width": 3}], None, {}, "no readable answer"),
        ([{"width": 2}, {"width": 2}], None, {"probe0": np.ones((2, 2)).tobytes()}, r"shape \[2, 2\] for 2 records"),
        ([{"width": 0}, {"width": 0}], None, {"probe1": np.ones(2).tobytes()}, r"shape \[2\] for 2 records"),
        (FINE, None, {"probe0": np.array([1, np.nan]).tobytes()}, "NaN or infinity"),
        (FINE, None, {"probe1": np.full((2, 2), np.inf).tobytes()}, "NaN or infinity"),
        (FINE, None, {"probe0": lambda path: path.symlink_to("/dev/zero")}, "no readable answer"),
        (FINE, None, {"probe0": os.mkfifo}, "no readable answer"),
        ([{"failed": 1, "where": 2}, {"absent": []}, {}], None, {}, "no readable answer"),
        (FINE, {"steps": [2, 1], "kind": "probabilities"}, {}, "no readable answer"),
        (FINE, {"steps": [1, 10**9, 2], "kind": "probabilities"}, {}, "no readable answer"),
        (FINE, {"steps": ["1", "2"], "kind": "probabilities"}, {}, "no readable answer"),
        (FINE, {"steps": [1, 2], "kind": "logits"}, {}, "no readable answer"),
        (FINE, {"steps": [1, 2, 3], "kind": "probabilities"}, {}, "no readable answer"),
        (FINE, {"steps": list(range(10**4)), "kind": "probabilities"}, {}, "no readable answer"),
        (FINE, None, {"trace": np.full((2, 4, 3), 7, np.float32).tobytes()}, "4 of 4 answers are not probabilities"),
        (FINE, None, {"trace": np.full((2, 4, 3), np.nan, np.float32).tobytes()}, "NaN or infinity"),
    ],
)
def test_what_a_hostile_worker_left_is_refused(pool, probes, trace, files, said):
    leave(pool, probes=probes, trace=trace, files=files)
    with pytest.raises(ModelOutputUnusable, match=f"^shadow 7: .*{said}"):
        pool.answer(0, 7)
    assert list((pool.folder / "answers").iterdir()) == []


def test_the_words_of_a_failed_probe_are_names_and_those_of_a_misfit_are_clean(pool):
    leave(pool, probes=[{"failed": "Alice Secret\x1b[31m", "where": "x" * 999}, {"absent": "\x1b[31mred\n"}])
    found = pool.answer(0, 7)
    assert found.failed == {"test_confidence": "an error"}
    assert found.absent == {
        "test_confidence": "shadow 7: the probe failed: an error",
        "test_draws": "shadow 7: red ",
    }


def test_an_extra_is_no_shadow_and_a_shadow_no_extra(tmp_path):
    from privacy_gate.shadows.store import Trained

    store = Store(tmp_path)
    store.put("a" * 64, Trained(Outputs(np.ones((2, 2)), "logits"), None, None))
    store.put("b" * 64 + ".probe", Extra("0" * 64, None, reason="none"))
    assert store.verify() == []
    listed = {entry.key: entry.what for entry in store.list()}
    assert listed == {"a" * 64: "shadow", "b" * 64 + ".probe": "probe"}
    assert store.beside("b" * 64 + ".probe").reason == "none"
    assert store.beside("a" * 64) is None
    assert store.get("b" * 64 + ".probe") is None
    assert store.corrupt == 2
