"""Loading, describing and querying models, in this process: these models are our own."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from privacy_gate.errors import ModelOutputUnusable, ModuleMissing, UnsupportedModel
from privacy_gate.sandbox import jobs, models
from privacy_gate.sandbox.outputs import Form

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

X = np.random.default_rng(0).normal(size=(60, 4))
Y = (X[:, 0] > 0).astype(int)


def net(seed=0, dropout=0.0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Dropout(dropout), torch.nn.Linear(8, 3))


def exported(module, rows, dynamic=True):
    """What mlflow.pytorch.load_model gives for a pt2 file."""
    example = (torch.zeros(rows, 4),)
    shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
    return torch.export.export(module, example, dynamic_shapes=shapes).module()


def forward(module, x):
    with torch.inference_mode():
        return module(torch.as_tensor(x, dtype=torch.float32)).numpy()


# float32 sums of 8 terms around 1, in batches of another size: within 100 units in the last place.
CLOSE = {"atol": 1e-5, "rtol": 0}


# --- torch ---


@pytest.mark.parametrize("batch_size", [1, 7, 59, 60, 1024])
def test_batches_do_not_change_answers(batch_size):
    module = net()
    outputs = models.query(module, X, batch_size=batch_size)
    assert outputs.kind == "logits"
    np.testing.assert_allclose(outputs.values, forward(module.eval(), X), **CLOSE)


def test_a_module_left_in_training_mode_is_evaluated():
    module = net(dropout=0.5).train()
    first, second = models.query(module, X), models.query(module, X)
    np.testing.assert_array_equal(first.values, second.values)


@pytest.mark.parametrize("frozen", [1, 3])
@pytest.mark.parametrize("n", [1, 2, 4, 60])
def test_a_graph_exported_for_a_fixed_batch_is_fed_that_batch(frozen, n):
    module = net().eval()
    graph = exported(module, frozen, dynamic=False)
    np.testing.assert_allclose(models.query(graph, X[:n]).values, forward(module, X[:n]), **CLOSE)


@pytest.mark.parametrize(("n", "batch_size"), [(1, 8), (2, 8), (9, 8), (17, 8), (60, 1)])
def test_a_dynamic_graph_takes_a_last_batch_of_one(n, batch_size):
    module = net().eval()
    graph = exported(module, 3)
    np.testing.assert_allclose(
        models.query(graph, X[:n], batch_size=batch_size).values, forward(module, X[:n]), **CLOSE
    )


def test_a_graph_exported_in_training_mode_throws_dice():
    graph = exported(net(dropout=0.5).train(), 3)
    assert np.abs(models.query(graph, X).values - models.query(graph, X).values).max() > 0


def test_an_error_that_is_no_frozen_batch_is_raised():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        models.query(net(), X[:, :3])


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float16, np.float64, bool])
def test_numbers_of_any_type_become_float32(dtype):
    x = (X > 0).astype(dtype)
    np.testing.assert_allclose(models.query(net(), x).values, forward(net().eval(), x), **CLOSE)


def test_token_ids_stay_integers():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.EmbeddingBag(10, 4), torch.nn.Linear(4, 3))
    tokens = np.arange(20).reshape(5, 4) % 10
    with torch.inference_mode():
        expected = module.eval()(torch.as_tensor(tokens)).numpy()
    np.testing.assert_allclose(models.query(module, tokens).values, expected, **CLOSE)


class Wrapped(torch.nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.inner, self.shape = net(), shape

    def forward(self, x):
        return self.shape(self.inner(x))


@pytest.mark.parametrize(
    "shape", [lambda z: (z, None), lambda z: [z], lambda z: {"loss": None, "logits": z}], ids=["tuple", "list", "dict"]
)
def test_logits_are_found_in_what_forward_returns(shape):
    np.testing.assert_allclose(models.query(Wrapped(shape), X).values, forward(net().eval(), X), **CLOSE)


def test_softmax_is_recognised_and_one_column_is_the_second_class():
    probabilities = models.query(Wrapped(lambda z: z.softmax(1)), X)
    assert probabilities.kind == "probabilities"
    assert probabilities.resolution == pytest.approx(2**-24)
    single = models.query(Wrapped(lambda z: z[:, :1] * 100), X)
    assert single.kind == "logits"
    np.testing.assert_array_equal(single.values[:, 0], 0)
    sigmoid = models.query(Wrapped(lambda z: z[:, 0].sigmoid()), X)
    assert sigmoid.kind == "probabilities"
    np.testing.assert_allclose(sigmoid.values.sum(axis=1), 1, atol=1e-6)


# --- anything that predicts ---


def test_forest_probabilities_are_passed_on_to_the_bit():
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(7, random_state=0).fit(X, Y)
    outputs = models.query(forest, X)
    np.testing.assert_array_equal(outputs.values, forest.predict_proba(X))
    assert outputs.kind == "probabilities"


def test_margins_are_logits():
    from sklearn.svm import LinearSVC

    binary = LinearSVC().fit(X, Y)
    outputs = models.query(binary, X)
    assert outputs.kind == "logits"
    np.testing.assert_array_equal(outputs.values[:, 1], binary.decision_function(X))
    many = LinearSVC().fit(X, np.arange(60) % 3)
    np.testing.assert_array_equal(models.query(many, X).values, many.decision_function(X))


def test_functions_and_frames_work():
    p = 1 / (1 + np.exp(-X[:, 0]))
    both = np.stack([1 - p, p], axis=1)
    frame = pd.DataFrame(X, columns=list("abcd"))
    np.testing.assert_array_equal(models.query(lambda f: both, X).values, both)
    np.testing.assert_array_equal(models.query(lambda f: pd.DataFrame(both), frame).values, both)
    np.testing.assert_array_equal(models.query(lambda f: {"probabilities": both}, X).values, both)


class Booster:
    """Answers like a LightGBM booster: the probability of class 1."""

    def predict(self, x):
        return 1 / (1 + np.exp(-np.asarray(x)[:, 0]))


def test_a_booster_tells_the_second_class():
    outputs = models.query(Booster(), X)
    np.testing.assert_array_equal(outputs.values[:, 1], Booster().predict(X))
    assert outputs.kind == "probabilities"


def test_labels_are_not_probabilities():
    for answer in (Y, Y.astype(float), np.where(Y, "yes", "no"), Y[:, None], Y.astype(bool)):
        with pytest.raises(ModelOutputUnusable, match=r"class labels only|not with numbers"):
            models.query(lambda _, answer=answer: answer, X)


def test_what_cannot_be_asked_is_named():
    with pytest.raises(ModelOutputUnusable, match="type int"):
        models.query(3, X)


def test_several_labels_are_refused():
    from sklearn.ensemble import RandomForestClassifier

    model = RandomForestClassifier(3).fit(X, np.stack([Y, 1 - Y], axis=1))
    with pytest.raises(UnsupportedModel, match="several labels"):
        models.query(model, X)
    with pytest.raises(UnsupportedModel, match="several labels"):
        models.describe(model, "sklearn")


# --- describe ---


def test_kinds():
    from sklearn.cluster import KMeans
    from sklearn.linear_model import LinearRegression, LogisticRegression

    assert models.describe(LogisticRegression().fit(X, Y), "sklearn").kind == "classifier"
    assert models.describe(LinearRegression().fit(X, Y), "sklearn").kind == "regressor"
    assert models.describe(net(), "pytorch").kind == "module"
    assert models.describe(Booster(), "lightgbm").kind == "unknown"
    with pytest.raises(UnsupportedModel, match="KMeans is not a classifier"):
        models.describe(KMeans(2).fit(X), "sklearn")


def test_one_class_is_refused():
    from sklearn.dummy import DummyClassifier

    with pytest.raises(UnsupportedModel, match="one class only"):
        models.describe(DummyClassifier().fit(X, np.zeros(60)), "sklearn")


def test_classes_keep_their_type():
    from sklearn.dummy import DummyClassifier

    for classes in ([3, 7], ["no", "yes"], [False, True]):
        model = DummyClassifier().fit(X, np.array(classes)[Y])
        assert models.describe(model, "sklearn").classes == tuple(classes)
        assert [type(c) for c in models.describe(model, "sklearn").classes] == [type(c) for c in classes]


def pipeline(c=1.0, seed=0, jobs=None, weight=None):
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    inner = LogisticRegression(C=c, random_state=seed, n_jobs=jobs, class_weight=weight)
    return make_pipeline(FunctionTransformer(np.tanh), CalibratedClassifierCV(inner, n_jobs=jobs))


def test_a_recipe_is_canonical_json_and_nested():
    recipe = models.recipe(pipeline(c=np.float64(0.5)))
    assert json.loads(json.dumps(recipe, allow_nan=False)) == recipe
    calibrated = dict(recipe["params"]["steps"])["calibratedclassifiercv"]
    assert calibrated["params"]["estimator"]["params"]["C"] == 0.5
    assert calibrated["params"]["estimator"]["class"].endswith("LogisticRegression")


def test_a_recipe_ignores_seeds_and_threads_and_nothing_else():
    assert models.recipe(pipeline(seed=1, jobs=2)) == models.recipe(pipeline(seed=2, jobs=None))
    different = [pipeline(), pipeline(c=2.0), pipeline(weight={0: 1.0}), pipeline(weight={"0": 1.0})]
    texts = {json.dumps(models.recipe(model), sort_keys=True) for model in different}
    assert len(texts) == len(different)


def test_a_fitted_model_has_the_recipe_of_an_unfitted_one():
    fitted = pipeline().fit(X, Y)
    assert models.recipe(fitted) == models.recipe(pipeline())


def test_odd_parameters_have_a_place_in_a_recipe():
    from sklearn.base import BaseEstimator

    class Odd(BaseEstimator):
        def __init__(self, value=None):
            self.value = value

    values = [np.arange(3), np.arange(3.0), np.array([3, 4, 5]), float("nan"), float("inf"), np.float32, np.dtype("i4")]
    values += [{"a": 1}, [1, 2], "line\nbreak", "line break", 1, 1.5, True, None, len, max, Odd(1), Odd]
    texts = [json.dumps(models.recipe(Odd(value)), allow_nan=False) for value in values]
    assert len(set(texts)) == len(values)
    assert texts == [json.dumps(models.recipe(Odd(value)), allow_nan=False) for value in values]
    assert "\\n" not in models.recipe(Odd("plain"))["params"]["value"]


def test_only_estimators_have_recipes():
    assert models.recipe(net()) is None
    assert models.recipe(Booster()) is None


def test_expected_features():
    from sklearn.linear_model import LogisticRegression

    assert models.expected_features(LogisticRegression().fit(X, Y)) == 4
    assert models.expected_features(Booster()) is None


# --- load ---


def test_real_flavors_load(tmp_path):
    import mlflow
    from sklearn.linear_model import LogisticRegression

    module, fitted = net().eval(), LogisticRegression().fit(X, Y)
    example = X[:1].astype(np.float32)
    mlflow.pytorch.save_model(module, str(tmp_path / "one"), pip_requirements=[], input_example=example)
    mlflow.pytorch.save_model(module, str(tmp_path / "pickle"), pip_requirements=[], serialization_format="pickle")
    mlflow.sklearn.save_model(fitted, str(tmp_path / "skops"), pip_requirements=[])
    for name in ("one", "pickle"):
        outputs = models.query(models.load(tmp_path / name, "pytorch"), X)
        np.testing.assert_allclose(outputs.values, forward(module, X), **CLOSE)
    # Loaded as pyfunc, the classifier inside is found: predict() would have told labels only.
    for flavor in ("sklearn", "pyfunc"):
        outputs = models.query(models.load(tmp_path / "skops", flavor), X)
        np.testing.assert_array_equal(outputs.values, fitted.predict_proba(X))


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(models.NATIVE, "xgboost", "no_such_library.xgboost")
    with pytest.raises(ModuleMissing, match="needs the module 'no_such_library'") as caught:
        models.load(tmp_path, "xgboost")
    job = jobs.Job(tmp_path, tmp_path, tmp_path, tmp_path / "log", None)
    # As it travels; and of a model that imports it only when it is asked.
    told = {"class": type(caught.value).__name__, "what": caught.value.what, "hint": caught.value.hint, "gate": True}
    later = {"class": "ModuleNotFoundError", "where": "predict (m.py:3)", "gate": False}
    assert [type(jobs._reported(one, None, job)) for one in (told, later)] == [ModuleMissing] * 2
    assert type(jobs._reported({**later, "class": "ImportError"}, None, job)) is ModelOutputUnusable


# --- answers of other kinds ---


BINARY = Form(labels=(0, 1))


@pytest.mark.parametrize("n", [1, 8, 9])
def test_a_module_that_squeezes_its_one_column_gives_one_row_per_record(n):
    torch.manual_seed(0)
    inner = torch.nn.Linear(4, 1)

    class Squeezed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x).squeeze().sigmoid()

    with torch.inference_mode():
        expected = inner(torch.as_tensor(X[:n], dtype=torch.float32)).sigmoid().numpy()[:, 0]
    outputs = models.query(Squeezed(), X[:n], Form(classes=("no", "yes"), positive=0), batch_size=4)
    np.testing.assert_allclose(outputs.values[:, 0], expected, **CLOSE)
    np.testing.assert_array_equal(outputs.values[:, 1], 1 - outputs.values[:, 0])


def test_a_module_that_tells_its_decision_is_read_as_labels():
    module = Wrapped(lambda z: z.argmax(1))
    outputs = models.query(module, X, Form(labels=(0, 1, 2)))
    assert outputs.labels_only
    np.testing.assert_array_equal(outputs.values.argmax(axis=1), forward(net().eval(), X).argmax(axis=1))
    with pytest.raises(ModelOutputUnusable, match="class labels only"):
        models.query(module, X)


def test_an_ensemble_that_votes_has_labels_and_nothing_else():
    from sklearn.ensemble import VotingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    y = np.where(Y, "yes", "no")
    voters = VotingClassifier([("one", LogisticRegression()), ("two", LinearSVC()), ("three", LogisticRegression(C=9))])
    read = models.answered(voters.fit(X, y), X)
    assert read.outputs.labels_only
    assert read.classes == ("no", "yes")
    assert (np.array(read.classes)[read.outputs.values.argmax(axis=1)] == voters.predict(X)).all()


def test_scores_are_not_given_up_because_the_config_says_labels():
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    labels = Form("labels", (0, 1))
    for model in (LogisticRegression().fit(X, Y), LinearSVC().fit(X, Y), Booster(), net()):
        form = Form("labels", (0, 1, 2)) if models.is_module(model) else labels
        with pytest.raises(ModelOutputUnusable, match="scores, not with labels alone"):
            models.query(model, X, form)
        decided = models.answered(model, X, form, decide=True).outputs
        scores = models.query(model, X).values
        assert decided.labels_only
        np.testing.assert_array_equal(decided.values.argmax(axis=1), scores.argmax(axis=1))


def test_a_shadow_decides_as_its_own_predict_does():
    class Cautious:
        classes_ = np.array(["no", "yes"])

        def predict_proba(self, x):
            return np.tile([0.4, 0.6], (len(x), 1))

        def predict(self, x):  # its threshold is another one than one half
            return np.array(["no"] * len(x))

    read = models.answered(Cautious(), X, Form("labels", ("yes", "no")), decide=True)
    assert read.classes == ("no", "yes")
    assert (read.outputs.values == [1.0, 0.0]).all()


def test_probabilities_may_come_as_nested_lists():
    class Listing:
        def predict_proba(self, x):
            return [[0.25, 0.75] for _ in x]

    np.testing.assert_array_equal(models.query(Listing(), X).values, np.tile([0.25, 0.75], (60, 1)))


def test_boosters_tell_the_second_class_and_take_categories():
    lightgbm, xgboost = pytest.importorskip("lightgbm"), pytest.importorskip("xgboost")
    frame = pd.DataFrame({"a": X[:, 0], "kind": pd.Categorical(np.where(X[:, 1] > 0, "u", "v"))})
    one = lightgbm.train({"objective": "binary", "verbose": -1}, lightgbm.Dataset(frame, Y), 5)
    two = xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(frame, Y, enable_categorical=True), 5)
    three = xgboost.train({"objective": "binary:hinge"}, xgboost.DMatrix(frame, Y, enable_categorical=True), 5)
    matrix = xgboost.DMatrix(frame, enable_categorical=True)
    np.testing.assert_array_equal(models.query(one, frame, BINARY).values[:, 1], one.predict(frame))
    np.testing.assert_array_equal(models.query(two, frame, BINARY).values[:, 1], two.predict(matrix))
    hinge = models.query(three, frame, BINARY)
    assert hinge.labels_only
    np.testing.assert_array_equal(hinge.values[:, 1], three.predict(matrix))
