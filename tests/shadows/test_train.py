import ast
import hashlib
import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from privacy_gate.datamodel import Candidate
from privacy_gate.errors import ConfigError, ModelOutputUnusable, NotEvaluable, RecipeFailed, UsageError, WorkerDied
from privacy_gate.request import Recipe, TorchTraining
from privacy_gate.sandbox import models
from privacy_gate.sandbox.outputs import Form
from privacy_gate.shadows.plan import balanced
from privacy_gate.shadows.store import Store
from privacy_gate.shadows.train import Progress, cpu_features, keys, numeric_path, prepare, train, usable_cores

U = 60
RECIPE = """
import os, pathlib, time
import numpy as np
HERE = pathlib.Path(__file__).parent

class Mean:
    '''Remembers how often each class was seen, and its seed.'''
    def __init__(self, features, labels, seed):
        noise = np.random.default_rng(seed).random(3)
        self.p = np.bincount(labels, minlength=3) + noise
        self.p = self.p / self.p.sum() * 0.5
        self.centre = features.mean()
    def predict_proba(self, features):
        p = np.tile(self.p, (len(features), 1))
        p[np.arange(len(p)), (features[:, 0] > self.centre).astype(int)] += 0.5
        return p

def note():
    number = len(list(HERE.glob("trained-*")))
    (HERE / f"trained-{os.getpid()}-{time.monotonic_ns()}").touch()

def train(features, labels, *, seed):
    note()
    print("printed by the recipe")
    {body}
    return Mean(features, labels, seed)
"""


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


class World:
    """A small plan, a store, and a recipe whose body each test chooses."""

    def __init__(self, folder, count=4):
        self.folder = folder
        rng = np.random.default_rng(0)
        self.features, self.labels = rng.normal(size=(U, 3)), rng.integers(0, 3, U)
        row = np.arange(U)
        self.plan = balanced(row, row < 30, row >= 30, row < 0, count, 30, 0)
        self.store = Store(folder / "store")

    def recipe(self, body="pass"):
        (self.folder / "recipe.py").write_text(RECIPE.replace("{body}", body))
        return self.task(Recipe(python="recipe.py:train"))

    def task(self, settings, candidate=None, description=None, class_values=(0, 1, 2)):
        return prepare(
            settings,
            folder=self.folder,
            candidate=candidate,
            description=description,
            features=self.features,
            labels=self.labels,
            class_values=class_values,
        )

    def trained(self):
        return len(list(self.folder.glob("trained-*")))

    def stored(self):
        return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (self.store.root / "shadows").iterdir()}


def test_shadows_come_in_the_order_of_the_plan_and_from_the_store_afterwards(world, capfd):
    task, told = world.recipe(), []
    shadows = train(world.plan, task, world.store, jobs=2, progress=told.append)
    assert (shadows.trained, shadows.cached, shadows.corrupt) == (4, 0, 0)
    for s, outputs in enumerate(shadows.outputs):  # the recipe's formula, by hand
        mask = world.plan.member[s]
        noise = np.random.default_rng(int(world.plan.seeds[s])).random(3)
        p = np.bincount(world.labels[mask], minlength=3) + noise
        expected = np.tile(p / p.sum() * 0.5, (U, 1))
        expected[np.arange(U), (world.features[:, 0] > world.features[mask].mean()).astype(int)] += 0.5
        assert (outputs.values == expected).all()
        correct = expected.argmax(axis=1) == world.labels
        assert shadows.accuracy_in[s] == correct[mask].mean()
        assert shadows.accuracy_out[s] == correct[~mask].mean()
    assert [p.done for p in told] == [0, 1, 2, 3, 4]
    assert told[0].remaining is None
    assert told[-1].remaining == 0
    again = train(world.plan, task, world.store)
    assert (again.trained, again.cached) == (0, 4)
    assert all((a.values == b.values).all() for a, b in zip(shadows.outputs, again.outputs, strict=True))
    assert world.trained() == 4
    assert "printed" not in "".join(capfd.readouterr())
    assert list((world.store.root / "work").iterdir()) == []  # no training record is left behind
    assert list((world.store.root / "logs").iterdir()) == []


def test_a_corrupt_entry_is_trained_again(world):
    task = world.recipe()
    before = train(world.plan, task, world.store, jobs=1)
    path = world.store.path(keys(world.plan, task)[2])
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    after = train(world.plan, task, world.store, jobs=1)
    assert (after.trained, after.cached, after.corrupt) == (1, 3, 1)
    assert (after.outputs[2].values == before.outputs[2].values).all()


@pytest.mark.slow
def test_the_number_of_jobs_changes_no_byte(world):
    (world.folder / "net.py").write_text(
        "import torch\n"
        "def net():\n"
        "    return torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.Dropout(0.2), torch.nn.Linear(16, 3))\n"
    )
    training = TorchTraining(epochs=2, batch_size=8)
    task = world.task(Recipe(model="net.py:net", training=training))
    train(world.plan, task, world.store, jobs=1)
    one = world.stored()
    world.store.prune(max_bytes=0)
    train(world.plan, task, world.store, jobs=2)
    assert world.stored() == one
    assert len(one) == 4


@pytest.mark.slow
def test_clones_of_a_registered_model(world):
    import mlflow
    from sklearn.linear_model import LogisticRegression

    values = ("b", "a", "c")  # not the order in which scikit-learn has them
    raw = np.array(values)[world.labels]
    estimator = LogisticRegression(C=0.5).fit(world.features, raw)
    folder = world.folder / "model"
    mlflow.sklearn.save_model(estimator, folder, serialization_format="cloudpickle", pip_requirements=["scikit-learn"])
    candidate = Candidate("models:/m/1", "models:/m/1", folder, "0" * 64, "sklearn", executes_code=True)
    task = world.task(Recipe(), candidate, models.describe(estimator, "sklearn"), values)
    shadows = train(world.plan, task, world.store, jobs=1)
    order = [estimator.classes_.tolist().index(v) for v in values]
    for mask, outputs in zip(world.plan.member, shadows.outputs, strict=True):
        same = LogisticRegression(C=0.5).fit(world.features[mask], raw[mask])
        # lbfgs on one thread here and there; the tolerance allows for another summation order in the BLAS.
        assert np.allclose(outputs.values, same.predict_proba(world.features)[:, order], rtol=0, atol=1e-6)
        assert outputs.kind == "probabilities"


def test_frames_with_typed_columns(world):
    import pandas as pd

    world.features = pd.DataFrame({"age": np.arange(U), "town": pd.Categorical(["x", "y"] * (U // 2))})
    (world.folder / "recipe.py").write_text(
        "def train(features, labels, *, seed):\n"
        "    assert str(features.dtypes['town']) == 'category'\n"
        "    assert features.index.tolist() == list(range(30))\n"
        "    return lambda x: [[1.0, 0.0, 0.0]] * (len(x) - 1) + [[0.0, 0.5, 0.5]]\n"
    )
    shadows = train(world.plan, world.task(Recipe(python="recipe.py:train")), world.store, jobs=1)
    assert shadows.outputs[0].values.shape == (U, 3)


# --- the store key --------------------------------------------------------------------------------------------------


def test_the_key_follows_everything_that_a_shadow_depends_on(world):
    task = world.recipe()
    base = keys(world.plan, task)
    assert len(set(base)) == 4
    assert keys(world.plan, task) == base
    row = np.arange(U)
    assert not set(base) & set(keys(balanced(row, row < 30, row >= 30, row < 0, 4, 30, 1), task))
    more = balanced(row, row < 30, row >= 30, row < 0, 4, 28, 0)
    assert not set(base) & set(keys(more, task))
    world.features = world.features + 1e-12
    assert not set(base) & set(keys(world.plan, world.recipe()))
    world = World(world.folder)
    world.labels[0] = (world.labels[0] + 1) % 3
    assert not set(base) & set(keys(world.plan, world.recipe()))
    world = World(world.folder)
    assert keys(world.plan, world.recipe()) == base
    assert not set(base) & set(keys(world.plan, world.recipe("x = 1")))
    text = world.task(Recipe(python="recipe.py:train"), class_values=("0", "1", "2"))
    number = world.task(Recipe(python="recipe.py:train"))
    assert not set(keys(world.plan, text)) & set(keys(world.plan, number))
    forms = [Form(column=column) for column in (None, "score", 1, ("a", "b", "c"), ("b", "a", "c"))]
    named = [keys(world.plan, replace(number, form=form))[0] for form in forms]
    assert len(set(named)) == len(forms)
    assert named[0] == keys(world.plan, number)[0]  # what came later leaves names as they were


def test_the_key_follows_the_training_settings(world):
    (world.folder / "net.py").write_text("def net(): pass")
    found = set()
    for rate in (0.1, 0.2):
        training = TorchTraining(epochs=2, learning_rate=rate)
        found |= set(keys(world.plan, world.task(Recipe(model="net.py:net", training=training))))
    assert len(found) == 8


def test_a_misspelt_recipe_is_found_before_anything_is_trained(world):
    world.recipe()
    with pytest.raises(ConfigError, match="trian"):
        world.task(Recipe(python="recipe.py:trian"))
    with pytest.raises(UsageError):
        world.task(Recipe(load="shadows.npz"))
    with pytest.raises(UsageError):
        world.task(Recipe())


def test_a_single_class(world):
    world.labels[:] = 1
    with pytest.raises(NotEvaluable, match="single class"):
        train(world.plan, world.recipe(), world.store)


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_a_recipe_that_raises(world):
    task = world.recipe(f"if seed == {world.plan.seeds[3]}: raise ValueError('no luck')")
    with pytest.raises(RecipeFailed) as caught:
        train(world.plan, task, world.store, jobs=1)
    line = RECIPE[: RECIPE.index("{body}")].count("\n") + 1
    # The text may quote a record: it stays in the private log, with the traceback.
    assert caught.value.what == f"shadow 3: train() raised ValueError ({world.folder / 'recipe.py'}:{line})"
    log = Path(caught.value.hint.rpartition(" ")[2])
    assert "printed by the recipe" in log.read_text()
    assert "ValueError: no luck" in log.read_text()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert len(world.stored()) == 3  # the others are kept


@pytest.mark.parametrize(
    ("body", "error", "said"),
    [
        ("return None", RecipeFailed, "shadow 0: .*NoneType"),
        ("return lambda x: np.full((len(x), 3), np.nan)", ModelOutputUnusable, "shadow 0: .*NaN"),
        ("return lambda x: np.ones((len(x), 5))", ModelOutputUnusable, "shadow 0: .*5 columns"),
        ("return lambda x: 1 / 0", ModelOutputUnusable, "shadow 0: .*ZeroDivisionError"),
        ("return lambda x: 'yes'", ModelOutputUnusable, "shadow 0: "),
    ],
)
def test_a_recipe_that_returns_nonsense(world, body, error, said):
    with pytest.raises(error, match=said):
        train(world.plan, world.recipe(body), world.store, jobs=1)
    assert world.stored() == {}


def test_a_recipe_that_hangs(world):
    task = world.recipe("time.sleep(600)")
    with pytest.raises(RecipeFailed, match=r"shadow [01] .* 2 s \(shadows.timeout\)"):
        train(world.plan, task, world.store, jobs=2, timeout=2)
    assert alive() == []


def test_a_worker_that_dies_once(world):
    now = f"seed == {world.plan.seeds[1]} and not (HERE / 'died').exists()"
    task = world.recipe(f"if {now}: (HERE / 'died').touch(); os.kill(os.getpid(), 9)")
    shadows = train(world.plan, task, world.store, jobs=2, retries=1)
    assert shadows.trained == 4
    assert (world.folder / "died").exists()


@pytest.mark.parametrize("how", ["os.kill(os.getpid(), 9)", "os._exit(0)"])
def test_a_worker_that_always_dies(world, how):
    task = world.recipe(f"if seed == {world.plan.seeds[1]}: {how}")
    with pytest.raises(WorkerDied, match="shadow 1 died 2 times") as caught:
        train(world.plan, task, world.store, jobs=2, retries=1)
    assert caught.value.exit_code == 3
    assert "kept" in caught.value.what
    assert keys(world.plan, task)[1] not in world.store
    assert alive() == []


WORKER = "privacy_gate.shadows.worker"


def alive():
    """Workers of this process that still run."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = [p for p in psutil.Process().children(recursive=True) if WORKER in cmdline(p)]
        if not found:
            return []
        time.sleep(0.05)
    return found


def cmdline(process):
    try:
        return process.cmdline() if process.status() != psutil.STATUS_ZOMBIE else []
    except psutil.NoSuchProcess:
        return []


SCRIPT = """
    import sys
    from pathlib import Path
    import numpy as np
    sys.path.insert(0, {tests!r})
    from privacy_gate.shadows.train import train
    from test_train import World
    # No main guard: a user's script may call the gate at its top level.
    world = World(Path({folder!r}))
    shadows = train(world.plan, world.recipe({body!r}), world.store, jobs=2)
    print(shadows.trained, shadows.cached)
"""


def gate(folder, body):
    script = SCRIPT.format(tests=str(Path(__file__).parent), folder=str(folder), body=body)
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_killed_gate_loses_only_the_shadows_in_flight(world):
    # Two shadows finish; the others wait for a file that never comes, until the gate is killed.
    slow = [int(seed) for seed in world.plan.seeds[2:]]
    body = f"while seed in {slow} and not (HERE / 'go').exists(): time.sleep(0.02)"
    first = gate(world.folder, body)
    try:
        wait_for(lambda: len(world.stored()) == 2 and world.trained() == 4, first)
        workers = [p for p in psutil.Process(first.pid).children(recursive=True) if WORKER in cmdline(p)]
        assert len(workers) >= 2
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.communicate()
    _, left = psutil.wait_procs(workers, timeout=20)
    assert left == []  # workers die with the gate
    assert len(world.stored()) == 2
    (world.folder / "go").touch()
    second = gate(world.folder, body)
    out, err = second.communicate(timeout=60)
    assert out.split() == ["2", "2"], err
    assert world.trained() == 4 + 2
    assert list((world.store.root / "work").iterdir()) == []


def test_two_gates_share_a_store(world):
    # Both begin before either has finished a shadow, so that both write all four.
    wait = "while len(list(HERE.glob('trained-*'))) < 2 * 2: time.sleep(0.02)"
    both = [gate(world.folder, wait) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=100)
        assert out.split() == ["4", "0"], err
    assert len(world.stored()) == 4
    assert world.store.verify() == []


def test_ctrl_c_ends_the_workers(world):
    first = gate(world.folder, "time.sleep(600)")
    try:
        wait_for(lambda: world.trained() == 2, first)
        workers = [p for p in psutil.Process(first.pid).children(recursive=True) if WORKER in cmdline(p)]
        first.send_signal(signal.SIGINT)
        _, err = first.communicate(timeout=60)
    finally:
        first.kill()
    assert "KeyboardInterrupt" in err
    assert psutil.wait_procs(workers, timeout=20)[1] == []


def wait_for(condition, process, limit=60):
    deadline = time.monotonic() + limit
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


# --- recipes that attack the gate -----------------------------------------------------------------------------------

BOMB = """
import pickle, sys
class Bomb:
    def __reduce__(self):
        return (open, (str(HERE / "ran"), "w"))
FOLDER, _, PIPE = sys.argv[1:]
ANSWERS, PIPE = pathlib.Path(FOLDER) / "answers", int(PIPE)
"""


def attack(world, body):
    """A recipe that begins with tools for an attack; the body is the attack."""
    lines = textwrap.dedent(body).strip().replace("\n", "\n    ")
    task = world.recipe(lines)
    path = world.folder / "recipe.py"
    path.write_text(path.read_text().replace("class Mean:", BOMB + "\nclass Mean:"))
    return task


@pytest.mark.parametrize(
    ("body", "error", "said"),
    [
        # an answer that is a pickle, in the place of the worker's own
        (
            """
            from privacy_gate.shadows import worker
            told = {"dtype": "float64", "order": "C"}
            worker._write = lambda values, path: path.write_bytes(pickle.dumps(Bomb())) and told
            """,
            ModelOutputUnusable,
            "no readable answer",
        ),
        (
            """
            from privacy_gate.shadows import worker
            worker.json.dumps = lambda meta: pickle.dumps(Bomb(), 0).decode()
            """,
            ModelOutputUnusable,
            "no readable answer",
        ),
        # an array of objects under the worker's own hand
        (
            """
            class Model:
                def predict_proba(self, features):
                    return np.array([[Bomb()] * 3] * len(features), dtype=object)
            return Model()
            """,
            ModelOutputUnusable,
            "type object",
        ),
        ("return Bomb()", RecipeFailed, "not a model"),
        # acknowledgements: too early, of other jobs, too long; bytes of a pickle
        ("os.write(PIPE, b'done 0\\n')\ntime.sleep(600)", ModelOutputUnusable, "no readable answer"),
        ("os.write(PIPE, b'done 3\\n')\ntime.sleep(600)", ModelOutputUnusable, "out of turn"),
        ("os.write(PIPE, b'd' * 60000)\ntime.sleep(600)", ModelOutputUnusable, "out of turn"),
        ("os.write(PIPE, pickle.dumps(Bomb()))\ntime.sleep(600)", ModelOutputUnusable, "out of turn"),
        # answers that would make the gate wait, read without end, or read something else
        (
            "os.mkfifo(ANSWERS / '0.json')\nos.write(PIPE, b'done 0\\n')\ntime.sleep(600)",
            ModelOutputUnusable,
            "no readable answer",
        ),
        (
            "(ANSWERS / '0.json').symlink_to('/dev/zero')\nos.write(PIPE, b'done 0\\n')\ntime.sleep(600)",
            ModelOutputUnusable,
            "no readable answer",
        ),
        (
            "(ANSWERS / '0.json').write_text('[' * 16000)\nos.write(PIPE, b'done 0\\n')\ntime.sleep(600)",
            ModelOutputUnusable,
            "no readable answer",
        ),
        (
            "open(ANSWERS / '0.json', 'w').truncate(1 << 40)\nos.write(PIPE, b'done 0\\n')\ntime.sleep(600)",
            ModelOutputUnusable,
            "no readable answer",
        ),
        # an error of the attacker's own making
        (
            """
            told = '{"error": {"class": "__builtins__", "what": "\\\\u001b[31mred", "hint": 1}}'
            (ANSWERS / '0.json').write_text(told)
            os.write(PIPE, b'done 0\\n')
            time.sleep(600)
            """,
            RecipeFailed,
            "^shadow 0: red",
        ),
    ],
)
def test_nothing_of_a_hostile_worker_runs_in_the_gate(world, body, error, said):
    with pytest.raises(error, match=said):
        train(world.plan, attack(world, body), world.store, jobs=1, timeout=60)
    assert not (world.folder / "ran").exists()
    assert world.stored() == {}
    assert alive() == []


def test_forged_numbers_are_checked_like_any_answer(world):
    # Not probabilities at all, with the worker's own functions out of the way.
    body = """
    (ANSWERS / '0.values').write_bytes(np.full((60, 3), 7.0).tobytes())
    (ANSWERS / '0.json').write_text('{"dtype": "float64", "order": "C", "kind": "probabilities"}')
    os.write(PIPE, b'done 0\\n')
    time.sleep(600)
    """
    with pytest.raises(ModelOutputUnusable, match="shadow 0: 60 of 60 answers are not probabilities"):
        train(world.plan, attack(world, body), world.store, jobs=1, timeout=60)
    assert world.stored() == {}


def test_processes_that_a_recipe_leaves_behind_end_with_its_worker(world):
    body = """
    if os.fork() == 0:
        (HERE / f"left-{os.getpid()}").touch()
        time.sleep(600)
    while not list(HERE.glob("left-*")): time.sleep(0.01)
    """
    task = world.recipe(textwrap.dedent(body).strip().replace("\n", "\n    "))
    assert train(world.plan, task, world.store, jobs=1).trained == 4
    left = [int(path.name.removeprefix("left-")) for path in world.folder.glob("left-*")]
    assert left
    wait_until(lambda: not any(map(runs, left)))


def test_a_process_left_behind_does_not_hide_that_its_worker_died(world):
    task = world.recipe("if os.fork() == 0: time.sleep(600)\n    os._exit(1)")
    with pytest.raises(WorkerDied, match="shadow 0 died 1 times"):
        train(world.plan, task, world.store, jobs=1, retries=0, timeout=60)


def runs(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(condition, limit=20):
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


# --- small things ---------------------------------------------------------------------------------------------------


def test_workers_see_an_allow_list_and_no_secrets(world, monkeypatch):
    for name in ("GH_PAT", "DATABASE_URL", "GITHUB_ENV", "MLFLOW_TRACKING_TOKEN", "PYTHONSTARTUP", "MY_SETTING"):
        monkeypatch.setenv(name, "hunter2")
    task = world.recipe("(HERE / 'seen').write_text(repr(dict(os.environ)))")
    train(world.plan, task, world.store, jobs=1)
    seen = ast.literal_eval((world.folder / "seen").read_text())
    assert "hunter2" not in seen.values()
    assert seen["HOME"].startswith(str(world.store.root))
    assert seen["OMP_NUM_THREADS"] == "1"
    assert seen["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 4),
        ({"cpu.max": "max 100000\n"}, 4),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "1000 100000\n"}, 1),
        ({"cpu.max": "900000 100000\n"}, 4),
        ({"cpu.max": "strange"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "300000\n"}, 4),
    ],
)
def test_usable_cores(tmp_path, monkeypatch, files, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 5}, raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cores(tmp_path) == cores


def test_the_estimate_is_the_mean_pace():
    # 10 of 16 exist, 4 of them were cached: 6 took 30 s, so 6 more take 30 s.
    assert Progress(done=10, total=16, cached=4, started_at=100.0, now=130.0).remaining == 30.0
    assert Progress(done=4, total=16, cached=4, started_at=100.0, now=130.0).remaining is None


def test_cpu_features(tmp_path):
    (tmp_path / "cpuinfo").write_text("vendor_id\t: GenuineIntel\nflags\t\t: fpu avx2 avx512f amx_bf16 smep\n")
    assert cpu_features(tmp_path / "cpuinfo") == ["GenuineIntel", "amx_bf16", "avx2", "avx512f"]
    (tmp_path / "arm").write_text("Features\t: fp asimd sve\n")
    assert cpu_features(tmp_path / "arm") == ["asimd", "sve"]


def test_the_numeric_path_is_the_same_when_asked_twice():
    assert numeric_path(tuned=True) == numeric_path(tuned=True)
    assert numeric_path(tuned=True)["matmul"] in {"medium", "highest"}
    assert "matmul" not in numeric_path(tuned=False)
