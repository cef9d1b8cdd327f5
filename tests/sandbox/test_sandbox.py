"""Candidates scored in a process of their own. Each test pays for one real child."""

from __future__ import annotations

import os
import re
import stat
import sys
import time

import cloudpickle
import numpy as np
import pandas as pd
import psutil
import pytest

from privacy_gate import sandbox
from privacy_gate.datamodel import Candidate
from privacy_gate.errors import DataError, ModelOutputUnusable, NotEvaluable, UnsupportedModel, WorkerDied
from tests.sandbox import strange_models

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

X = np.random.default_rng(0).normal(size=(1500, 4))
Y = (X[:, 0] > 0).astype(int)


def candidate(folder, flavor="sklearn", executes_code=True):
    return Candidate(
        uri="m", resolved_uri="m", snapshot=folder, digest="0" * 64, flavor=flavor, executes_code=executes_code
    )


@pytest.fixture
def saved(tmp_path):
    """Save a scikit-learn-like model as an MLflow model folder."""
    import mlflow.sklearn

    def save(model, how="cloudpickle"):
        cloudpickle.register_pickle_by_value(strange_models)
        folder = tmp_path / "model"
        try:
            mlflow.sklearn.save_model(model, str(folder), pip_requirements=[], serialization_format=how)
        finally:
            cloudpickle.unregister_pickle_by_value(strange_models)
        return candidate(folder)

    return save


def leftovers(folder):
    return [p for p in psutil.process_iter(["cwd"]) if str(folder) in (p.info["cwd"] or "")]


def test_a_pipeline_is_described_and_scored_like_in_process(saved, tmp_path):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.5)).fit(X, Y)
    description, scored = sandbox.examine(saved(model, "skops"), X, tmp_path / "work")
    assert description.kind == "classifier"
    assert description.classes == (0, 1)
    assert description.recipe["class"] == "sklearn.pipeline.Pipeline"
    assert description.versions["scikit-learn"]
    np.testing.assert_array_equal(scored.outputs.values, model.predict_proba(X))
    assert scored.outputs.kind == "probabilities"
    assert (scored.deterministic, scored.queries, scored.changed) == (True, 1, 0)
    # Only the log outlives the child, and only its owner can read it.
    assert list((tmp_path / "work").iterdir()) == [scored.log]
    assert stat.S_IMODE(scored.log.stat().st_mode) == 0o600


@pytest.mark.slow
def test_a_frame_arrives_with_its_names_and_types(saved, tmp_path):
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    frame = pd.DataFrame({"age": X[:200, 0], "city": pd.Categorical(np.where(Y[:200], "a", "b"))})
    labels = np.where(Y[:200], "yes", "no")
    columns = make_column_transformer((OneHotEncoder(), ["city"]), remainder="passthrough")
    model = make_pipeline(columns, RandomForestClassifier(5, random_state=0)).fit(frame, labels)
    description, scored = sandbox.examine(saved(model), frame, tmp_path / "work")
    assert description.classes == ("no", "yes")
    np.testing.assert_array_equal(scored.outputs.values, model.predict_proba(frame))


@pytest.mark.slow
def test_a_module_without_code_is_scored_without_pickle(tmp_path):
    import mlflow.pytorch
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
    example = X[:3].astype(np.float32)
    mlflow.pytorch.save_model(net, str(tmp_path / "model"), pip_requirements=[], input_example=example)
    description, scored = sandbox.examine(
        candidate(tmp_path / "model", "pytorch", executes_code=False), X, tmp_path / "work"
    )
    assert (description.kind, description.recipe) == ("module", None)
    assert scored.outputs.kind == "logits"
    with torch.inference_mode():
        expected = net(torch.as_tensor(X, dtype=torch.float32)).numpy()
    # Ten float32 sums of a handful of terms around 1: 1e-5 is 100 units in the last place.
    np.testing.assert_allclose(scored.outputs.values, expected, atol=1e-5)


def test_a_pickle_that_was_classified_as_data_is_not_loaded(saved, tmp_path):
    folder = saved(strange_models.Fair().fit(X, Y)).snapshot
    with pytest.raises(ModelOutputUnusable, match=r"MlflowException in mlflow.sklearn"):
        sandbox.describe(candidate(folder, executes_code=False), tmp_path / "work")
    [log] = (tmp_path / "work").glob("*.log")
    assert "MLFLOW_ALLOW_PICKLE_DESERIALIZATION" in log.read_text()


def test_what_a_model_prints_disturbs_nothing_and_secrets_stay_out(saved, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "SECRET")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRET")
    monkeypatch.setenv("SECRET_THING", "1")
    subject = saved(strange_models.Chatty().fit(X, Y))
    capfd.readouterr()
    scored = sandbox.score(subject, X, tmp_path / "work")
    assert scored.outputs.values.shape == (1500, 2)
    log = scored.log.read_text()
    assert "raw stdout" in log
    assert "raw stderr" in log
    assert "stdin: ''" in log
    assert "SECRET" not in log
    assert "AWS" not in log
    assert "MLFLOW_TRACKING" not in log
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_model_that_throws_dice_is_noticed(saved, tmp_path):
    scored = sandbox.score(saved(strange_models.Dice().fit(X, Y)), X, tmp_path / "work")
    assert not scored.deterministic
    assert scored.max_difference > 0.1  # of 1,024 pairs of uniform numbers
    assert scored.queries == 16
    # The mean of 16 uniform numbers has a deviation of 0.289 / 4; 1,500 of them tell it within 0.0013, six times that.
    spread = scored.outputs.values[:, 1].std()
    assert abs(spread - np.sqrt(1 / 12) / 4) < 0.008
    # Of two fair coins, half the pairs differ: 0.5 with a deviation of 0.013.
    assert abs(scored.changed - 0.5) < 0.08


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "error", "says"),
    [
        ("Broken", ModelOutputUnusable, "NaN or infinity for 2 of 1500"),
        ("Constant", NotEvaluable, "the same answer to all 1500"),
        ("Extra", ModelOutputUnusable, "3 columns and knows 2 classes"),
        ("Quitter", WorkerDied, r"without an answer \(exit code 0\)\n  hint"),
        (
            "Raiser",
            ModelOutputUnusable,
            r"ValueError in \S*Raiser.predict_proba \(strange_models.py:\d+\); it was given 4",
        ),
        ("Linker", ModelOutputUnusable, "no readable predictions"),
        ("Liar", ModelOutputUnusable, "no readable predictions"),
    ],
)
def test_a_model_that_does_not_answer_properly_is_named(saved, tmp_path, model, error, says):
    with pytest.raises(error, match=says) as caught:
        sandbox.examine(saved(getattr(strange_models, model)().fit(X, Y)), X, tmp_path / "work")
    assert "\x1b" not in str(caught.value)
    if error is not NotEvaluable and model != "Extra":
        [log] = (tmp_path / "work").glob("*.log")
        assert log.name in caught.value.hint
        assert str(tmp_path) not in str(caught.value)


def test_a_record_in_an_error_goes_to_the_log_that_is_kept_and_nowhere_else(saved, tmp_path):
    frame = pd.DataFrame({"name": ["Alice Secret", "Bob"], "age": [3, 4]})
    with pytest.raises(ModelOutputUnusable) as caught:
        sandbox.examine(
            saved(strange_models.Quoter().fit(X[:, :2], Y)),
            frame,
            tmp_path / "store/work",
            logs=tmp_path / "store/logs",
        )
    told = str(caught.value)
    assert "Alice" not in told
    assert "ValueError in" in told
    assert "2 feature columns, 1 of them no numbers" in told
    [log] = (tmp_path / "store/logs").iterdir()
    assert f"logs/{log.name} in the store" in caught.value.hint
    assert str(tmp_path) not in told
    assert "Alice Secret" in log.read_text()
    assert "could not convert" in log.read_text()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert stat.S_IMODE(log.parent.stat().st_mode) == 0o700
    assert list((tmp_path / "store/work").iterdir()) == []


def test_a_column_of_mixed_values_is_refused_without_its_values(tmp_path):
    frame = pd.DataFrame({"name": [1.5, "Alice Secret", b"x"]})
    with pytest.raises(DataError, match="cannot be handed over") as caught:
        sandbox.examine(candidate(tmp_path), frame, tmp_path / "work")
    assert "Alice" not in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux hands orphans to the watcher")
def test_a_process_that_left_its_session_and_its_parent_is_ended(saved, tmp_path):
    scored = sandbox.score(saved(strange_models.Orphaner().fit(X, Y)), X, tmp_path / "work")
    [pid] = re.findall(r"left behind: (\d+)", scored.log.read_text())
    assert not psutil.pid_exists(int(pid))
    assert leftovers(tmp_path / "work") == []


@pytest.mark.slow
def test_a_model_that_never_answers_is_ended_with_all_its_processes(saved, tmp_path):
    work = tmp_path / "work"
    with pytest.raises(WorkerDied, match="did not answer within"):
        sandbox.examine(saved(strange_models.Sleeper().fit(X, Y)), X, work, timeout=8)
    deadline = time.monotonic() + 10
    while leftovers(work) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert leftovers(work) == []
    assert [p.suffix for p in work.iterdir()] == [".log"], "training records were left behind"


def test_wrong_columns_are_counted(saved, tmp_path):
    from sklearn.linear_model import LogisticRegression

    with pytest.raises(DataError, match="takes 4 feature columns, the data has 3") as caught:
        sandbox.examine(saved(LogisticRegression().fit(X, Y)), X[:, :3], tmp_path / "work")
    assert caught.value.exit_code == 2


def test_a_regressor_is_refused(saved, tmp_path):
    from sklearn.linear_model import LinearRegression

    with pytest.raises(UnsupportedModel, match="LinearRegression is a regressor") as caught:
        sandbox.examine(saved(LinearRegression().fit(X, Y)), X, tmp_path / "work")
    assert caught.value.exit_code == 2


@pytest.mark.slow
def test_the_child_dies_with_the_gate(saved, tmp_path):
    """The gate is killed without a chance to clean up; its child must not go on alone."""
    import signal
    import subprocess

    subject = saved(strange_models.Sleeper().fit(X, Y))
    work = tmp_path / "work"
    code = (
        "import sys, numpy as np\nfrom pathlib import Path\nfrom privacy_gate import sandbox\n"
        "from privacy_gate.datamodel import Candidate\n"
        "c = Candidate('m', 'm', Path(sys.argv[1]), '0' * 64, 'sklearn', True)\n"
        "sandbox.score(c, np.zeros((9, 4)), Path(sys.argv[2]))\n"
    )
    gate = subprocess.Popen([sys.executable, "-c", code, str(subject.snapshot), str(work)], env=dict(os.environ))
    deadline = time.monotonic() + 60
    while not leftovers(work) and gate.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert leftovers(work)
    # The watcher's first step is to follow the gate; the model is loaded, and forks, a second later.
    time.sleep(4)
    gate.send_signal(signal.SIGKILL)
    gate.wait()
    deadline = time.monotonic() + 20
    while (alive := leftovers(work)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in alive:
        process.kill()
    assert alive == []


@pytest.mark.parametrize(
    "told",
    [
        [[0], [1]], [None, 1], [0, 0], [1, True], [1, 1.0], [float("nan"), 1], [float("inf"), 1], [10**400, 1],
        [{"a": 1}, 1], ["a" * 1001, "b"], ["a\x1b[2J", "a"],
    ],
)  # fmt: skip
def test_classes_that_are_no_label_values_are_the_models_fault_and_are_not_quoted(tmp_path, told):
    job = sandbox.Job(tmp_path, tmp_path, tmp_path, tmp_path / "log", None)
    meta = {"description": {"kind": "classifier", "classes": told}}
    with pytest.raises(ModelOutputUnusable, match="are no plain label values, or two are the same") as caught:
        sandbox._described(candidate(tmp_path), meta, job)
    assert len(str(caught.value)) < 200
    good = {"description": {"kind": "classifier", "classes": ["no", "yes", 1, 2.5, False]}}
    assert sandbox._described(candidate(tmp_path), good, job).classes == ("no", "yes", 1, 2.5, False)
