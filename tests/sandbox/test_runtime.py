"""Model code in another interpreter than the gate's own: loaded there, trained there, named by what is there."""

import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from privacy_gate import sandbox
from privacy_gate.request import Recipe
from privacy_gate.sandbox import interpreters
from privacy_gate.sandbox.environment import clean_environment
from privacy_gate.sandbox.runtime import HERE, PACKAGE, Portable, Runtime
from privacy_gate.shadows.plan import balanced
from privacy_gate.shadows.store import Store
from privacy_gate.shadows.train import keys, numeric_path, prepare, train
from tests.sandbox import elsewhere

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

RECIPE = """
import sys
import cloudpickle
import numpy as np

class Told:
    def predict_proba(self, features):
        p = np.tile([0.25, 0.75], (len(features), 1))
        p[0] = float(cloudpickle.__version__ == "3.99.0"), float(cloudpickle.__version__ != "3.99.0")
        p[1] = float("privacy_gate" in sys.modules["privacy_gate"].__file__), 0
        p[1, 1] = 1 - p[1, 0]
        return p

def train(features, labels, *, seed):
    print(sys.prefix)
    return Told()
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    return elsewhere.make(tmp_path_factory.mktemp("elsewhere") / "env")


def task(folder, runtime):
    (folder / "recipe.py").write_text(RECIPE)
    rng = np.random.default_rng(0)
    return prepare(
        Recipe(python="recipe.py:train"),
        folder=folder,
        candidate=None,
        description=None,
        features=rng.normal(size=(40, 3)),
        labels=rng.integers(0, 2, 40),
        class_values=(0, 1),
        runtime=runtime,
    )


def plan():
    row = np.arange(40)
    return balanced(row, row < 20, row >= 20, row < 0, 2, 20, 0)


def test_the_other_environment_has_the_gates_package_and_nothing_else_of_its_code(python):
    told = subprocess.run([python, "-I", "-c", "import privacy_gate"], capture_output=True, text=True, check=False)
    assert "No module named 'privacy_gate'" in told.stderr
    command = [*Runtime(python).command("privacy_gate.release"), "argument"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert "-I" in command
    # The folder that the package lies in is not searched: what is beside it stays unknown there.
    assert str(PACKAGE.parent) not in [part for part in command if part != str(PACKAGE)]


def test_arguments_arrive_as_with_m(python, tmp_path, monkeypatch):
    package = tmp_path / "privacy_gate"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "told.py").write_text(
        "import sys\nif __name__ == '__main__':\n    print(sys.argv[1:], sys.flags.isolated, sys.dont_write_bytecode)\n"
    )
    monkeypatch.setattr("privacy_gate.sandbox.runtime.PACKAGE", package)
    told = subprocess.run(
        [*Runtime(python).command("privacy_gate.told"), "a b", "-c"], capture_output=True, text=True, check=True
    )
    assert told.stdout == "['a b', '-c'] 1 True\n"
    assert not list(package.rglob("__pycache__"))


def test_here_the_command_is_the_gates_own():
    assert HERE.command("privacy_gate.sandbox.child") == [sys.executable, "-I", "-m", "privacy_gate.sandbox.child"]
    assert HERE.identity == {}
    assert list(HERE.lines()) == []


def test_a_candidate_is_loaded_and_scored_there(python, tmp_path):
    from sklearn.linear_model import LogisticRegression

    x = np.random.default_rng(0).normal(size=(60, 3))
    model = LogisticRegression().fit(x, x[:, 0] > 0)
    candidate = elsewhere.candidate(tmp_path / "model", model)
    description, scored = sandbox.examine(candidate, x, tmp_path / "work", runtime=Runtime(python))
    assert description.kind == "classifier"
    np.testing.assert_array_equal(scored.outputs.values, model.predict_proba(x))


def test_shadows_are_trained_there_and_named_by_what_is_there(python, tmp_path):
    versions = interpreters.versions(python)
    assert versions["cloudpickle"] == elsewhere.OTHER
    runtime = Runtime(python, versions=versions)
    store = Store(tmp_path / "store")
    made = train(plan(), task(tmp_path, runtime), store, jobs=1)
    assert made.trained == 2
    for outputs in made.outputs:
        # Only the other cloudpickle answers 1 here, and only the gate's package was brought along.
        assert outputs.values[:2].tolist() == [[1, 0], [1, 0]]
    there, here = (keys(plan(), task(tmp_path, one)) for one in (runtime, HERE))
    assert set(there).isdisjoint(here)
    assert all(key in store for key in there)
    newer = Runtime(python, versions={**versions, "cloudpickle": "4.0.0"})
    assert set(keys(plan(), task(tmp_path, newer))).isdisjoint(there)
    moved = Runtime(Path("/elsewhere/python"), versions=versions)
    assert keys(plan(), task(tmp_path, moved)) == there  # what is there counts, not where it lies


def test_the_device_names_shadows_and_what_was_measured_here_does_not_count_elsewhere(python, tmp_path):
    one, two = Runtime(device="cuda", gpu="A"), Runtime(device="cuda", gpu="B")
    names = [keys(plan(), task(tmp_path, runtime))[0] for runtime in (HERE, one, two)]
    assert len(set(names)) == 3
    assert numeric_path(tuned=True, runtime=Runtime(python))["matmul"] == "highest"
    assert numeric_path(tuned=True, runtime=one)["matmul"] == "highest"
    assert numeric_path(tuned=True, runtime=HERE) == numeric_path(tuned=True)


def test_paths_are_handed_over_without_their_class():
    runtime = Runtime(Path("/a/python"), versions={"python": "3.12.0"})
    stream = io.BytesIO()
    Portable(stream).dump({"runtime": runtime, "path": Path("relative/x")})
    # From Python 3.13, a plain pickle of a path names a module that older ones do not have.
    assert b"pathlib" not in stream.getvalue()
    found = pickle.loads(stream.getvalue())
    assert found == {"runtime": runtime, "path": Path("relative/x")}


def test_programs_of_the_other_environment_come_first(python, tmp_path):
    own = {"PATH": "/usr/bin", "VIRTUAL_ENV": "/gate", "CUDA_VISIBLE_DEVICES": "1", "MLFLOW_TRACKING_TOKEN": "SECRET"}
    kept = clean_environment(own, tmp_path, Runtime(python))
    assert kept["PATH"] == f"{python.parent}{os.pathsep}/usr/bin"
    assert kept["VIRTUAL_ENV"] == str(python.parent.parent)
    assert "CUDA_VISIBLE_DEVICES" not in kept
    bare = clean_environment(own, tmp_path, Runtime(Path("/usr/bin/python3")))
    assert "VIRTUAL_ENV" not in bare
    gpu = clean_environment(own, tmp_path, Runtime(device="cuda"))
    assert (gpu["CUDA_VISIBLE_DEVICES"], gpu["CUBLAS_WORKSPACE_CONFIG"]) == ("1", ":4096:8")
    assert gpu["VIRTUAL_ENV"] == "/gate"
    assert "SECRET" not in {*kept.values(), *bare.values(), *gpu.values()}


def test_plan_says_where_models_run():
    runtime = Runtime(
        Path("/env/bin/python"),
        "cuda",
        {"python": "3.12.1", "torch": "2.6.0", "other": "1"},
        "NVIDIA X (capability 8.0, CUDA 12.4, cuDNN 90100)",
        ("torch 2.5.0, here 2.6.0",),
    )
    assert list(runtime.lines()) == [
        "python   /env/bin/python (Python 3.12.1, torch 2.6.0)",
        "device   NVIDIA X (capability 8.0, CUDA 12.4, cuDNN 90100)",
    ]
