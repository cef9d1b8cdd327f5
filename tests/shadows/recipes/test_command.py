"""Programs as trainers: what they are told, what they leave, how they fail, and that nothing of them stays."""

import dataclasses
import os
import pickle
import stat
import sys
import tempfile
import time
import types
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy_gate.errors import ConfigError, DataError, ModelOutputUnusable, RecipeFailed, StorageFailed, UsageError
from privacy_gate.request import Recipe
from privacy_gate.sandbox import guard
from privacy_gate.sandbox.runtime import HERE, Runtime
from privacy_gate.shadows.plan import balanced
from privacy_gate.shadows.recipes import CATALOG, Answered, Context
from privacy_gate.shadows.recipes import command as recipe
from privacy_gate.shadows.store import Store
from privacy_gate.shadows.train import Columns, keys, prepare, train

N = 12
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 3))
Y = np.array(["no", "yes"] * (N // 2))
CLASSES = ("no", "yes")
OK = ["{train}", "{out}"]

# Numpy alone, so that it starts at once. The model is a folder that MLflow loads by its own code.
TRAINER = """
import pathlib, sys
import numpy as np
train, out, seed = sys.argv[1:]
records, folder = np.load(train), pathlib.Path(out)
names = sorted(set(records["y"].tolist()))
centres = np.stack([records["x"][records["y"] == name].mean(0) for name in names])
centres += np.random.default_rng(int(seed)).normal(scale=0.1, size=centres.shape)
np.save(folder / "centres.npy", centres)
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


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The config's folder; temporary files go beside it."""
    scratch, home = tmp_path / "scratch", tmp_path / "team"
    scratch.mkdir()
    home.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setattr(sys, "path", list(sys.path))
    return home


def context(folder, words, *, class_values=CLASSES, **settings):
    own = {f.name for f in dataclasses.fields(Context)}
    beside = {name: settings.pop(name) for name in list(settings) if name in own}
    return Context(Recipe(command=words, **settings), folder, None, "none", class_values, **beside)


def run(folder, words, *, features=X, labels=Y, seed=7, **more):
    return CATALOG["command"].train(features, labels, seed, context(folder, words, **more))


def shell(text):
    """A program of one line, whose arguments are {train} and {out}."""
    return ["sh", "-c", text.replace("{", "{{").replace("}", "}}"), "sh", "{train}", "{out}"]


def script(folder, body):
    """trainer.py, called with {records}, {out} and {seed}; `probs` is what it leaves."""
    (folder / "trainer.py").write_text(
        f"import sys, numpy as np\ntrain, records, out, seed = sys.argv[1:]\nrows = np.load(records)['x']\n{body}\n"
    )
    return ["python", "trainer.py", "{train}", "{records}", "{out}", "{seed}"]


def identity(folder, words, **settings):
    return CATALOG["command"].identity(context(folder, words, **settings), None)


def left(tmp_path):
    """What the last run left in {out}."""
    return next((tmp_path / "scratch").glob("privacy-gate-command-*")) / "run" / "out"


# --- what is asked for ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said", "hint"),
    [
        (["true", "{train}", "{output}"], r"no placeholder \{output\}", "{out}"),
        (["true", "{train}", "{out}", "{}"], r"no placeholder \{\}", "{train}, {validation}, {records}, {out}, {seed}"),
        (["true", "{train!r}", "{out}"], "no placeholder", "{train}"),
        (["true", "{train:>9}", "{out}"], "no placeholder", "{train}"),
        (["true", "{train.x}", "{out}"], "no placeholder", "{train}"),
        (["true", "{train}", "{out}", "a{b"], "single brace", "{{"),
        (["true", "{train}", "{out}", "a}b"], "single brace", "{{"),
        (["true", "{out}"], r"no \{train\}", "labels"),
        (["true", "{train}"], r"no \{out\}", "env OUT={out}"),
        (["true", "{train}", "{out}", "a\0b"], "null character", ""),
        (["{train}", "{out}"], "first word is the program", ""),
        (["", *OK], "first word is the program", ""),
        (["nonesuch-trainer", *OK], "no program 'nonesuch-trainer' on the PATH", "./nonesuch-trainer"),
        (["./missing.sh", *OK], "no program", "paths start at"),
        (["./plain.sh", *OK], "not executable", "chmod"),
        (["python", "-u", "plain.py", *OK], "no script .*plain.py", "paths start at"),
        (["sh", "plane.sh", *OK], "no script .*plane.sh", "plain.sh"),
    ],
)
def test_commands_that_cannot_be_run(folder, words, said, hint):
    (folder / "plain.sh").write_text("#!/bin/sh\n")
    with pytest.raises(ConfigError, match=said) as caught:
        identity(folder, words)
    assert hint in caught.value.hint


@given(st.lists(st.text(st.characters(exclude_characters="\0"))), st.text())
def test_words_arrive_as_they_were_written(words, value):
    escaped = [word.replace("{", "{{").replace("}", "}}") for word in words]
    assert recipe._filled(escaped, {}) == words
    assert recipe._filled(["<{seed}>", *escaped], {"seed": value}) == [f"<{value}>", *words]
    assert recipe._used([*escaped, "--n={seed}{out}"]) == {"seed", "out"}


def test_no_shell_reads_the_words(folder, tmp_path):
    with pytest.raises(RecipeFailed, match="left neither"):
        run(folder, ["touch", "{out}/$(touch pwned); a b*", "{train}"])
    assert [p.name for p in left(tmp_path).iterdir()] == ["$(touch pwned); a b*"]
    assert list(folder.iterdir()) == []


def test_programs(folder, monkeypatch):
    here = folder / "mine"
    here.write_text("#!/bin/sh\n")
    here.chmod(0o700)
    settings = Recipe(command=["x", *OK])

    def program(word, runtime=HERE):
        return recipe.check(settings.model_copy(update={"command": [word, *OK]}), folder, runtime)

    assert program("python") == program("python3") == Path(sys.executable)
    assert program("python", Runtime(Path("/opt/python"))) == Path("/opt/python")
    assert program("./mine") == here
    monkeypatch.setenv("PATH", str(folder))
    assert program("mine") == here
    # The interpreter's own programs are found before those on the PATH, and without it.
    assert program(Path(sys.executable).name) == Path(sys.executable)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["python", "src/train.py", "--token=s3cret", "{train}"], "python train.py"),
        (["python", "-m", "team.train", "{train}"], "python team.train"),
        (["/opt/R/bin/Rscript", "fit.R"], "Rscript fit.R"),
        (["./train", "s3cret"], "train"),
    ],
)
def test_messages_name_program_and_script_alone(words, name):
    assert recipe.named(words) == name


def test_validation_takes_seen_records(folder):
    def task(words, reference):
        return prepare(
            Recipe(command=words), folder=folder, candidate=None, description=None, features=X,
            labels=np.arange(N) % 2, class_values=CLASSES, reference=reference,
        )  # fmt: skip

    seen = np.arange(N) < 2
    with pytest.raises(ConfigError, match="seen records") as caught:
        task(["true", *OK, "{validation}"], None)
    assert "data.seen" in caught.value.hint
    assert task(["true", *OK, "{validation}"], seen).reference is seen
    assert task(["true", *OK], seen).reference is None
    with pytest.raises(ConfigError, match="validation"):
        run(folder, ["true", *OK, "{validation}"])


def test_a_defence_cannot_be_put_on_it(folder):
    with pytest.raises(UsageError, match=r"cannot be put on your command") as caught:
        identity(folder, ["true", *OK], defences={"label_smoothing": {"epsilon": 0.1}})
    assert "in_recipe: true" in caught.value.hint


# --- what shadows depend on -------------------------------------------------------------------------------------------


def test_what_changes_the_identity(folder):
    (folder / "conf").mkdir()
    (folder / "data").mkdir()
    for name, text in {
        "train.py": "import helper, json\nfrom pack import deep\n",
        "helper.py": "import numpy\n",
        "other.py": "",
        "conf/a.json": "1",
        "data/one.csv": "1",
        "pack/__init__.py": "",
        "pack/deep.py": "1",
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    words = ["python", "train.py", "--conf=conf/a.json", *OK]

    def now(words=words, **settings):
        return identity(folder, words, **{"inputs": ["data/*.csv"], **settings})

    first = now()
    assert first == now()
    assert set(first["files"]) == {"train.py", "helper.py", "conf/a.json", "pack/__init__.py", "pack/deep.py"}
    assert first["program"]["packages"] == {"numpy": np.__version__}
    (folder / "other.py").write_text("changed")
    (folder / "data" / "notes.txt").write_text("not a csv")
    assert now() == first
    seen = [first]
    for name in ("train.py", "helper.py", "conf/a.json", "data/one.csv", "pack/deep.py", "data/two.csv"):
        with (folder / name).open("a") as stream:
            stream.write("# changed")
        seen.append(now())
    seen += [now([*words, "--more"]), now(files="csv"), now(label="z"), now(person="who"), now(weight="w")]
    assert all(a != b for i, a in enumerate(seen) for b in seen[:i])


def test_a_module_that_is_run_by_name(folder):
    (folder / "team").mkdir()
    (folder / "team" / "train.py").write_text("import pandas, shared\n")
    (folder / "shared.py").write_text("")
    found = identity(folder, ["python", "-m", "team.train", *OK])
    assert set(found["files"]) == {"team/train.py", "shared.py"}
    assert found["program"]["packages"] == {"pandas": pd.__version__}
    # One that is installed is known by its version.
    assert "pytest" in identity(folder, ["python", "-m", "pytest", *OK])["program"]["packages"]


def test_notebooks_are_read_as_code(folder):
    cell = '{"cell_type": "code", "source": %s}'
    cells = [
        '["%matplotlib inline\\n", "import helper"]', '["files = !ls\\n", "from numpy import array"]',
        '["%%bash\\n", "import pandas"]',
    ]  # fmt: skip
    (folder / "train.ipynb").write_text('{"cells": [' + ", ".join(cell % text for text in cells) + "]}")
    (folder / "helper.py").write_text("")
    (folder / "run.py").write_text("")
    found = identity(folder, ["python", "run.py", "train.ipynb", *OK])
    assert set(found["files"]) == {"run.py", "train.ipynb", "helper.py"}
    assert set(found["program"]["packages"]) == {"numpy"}
    (folder / "train.ipynb").write_text('{"cells": 3}')
    with pytest.raises(ConfigError, match="not a readable notebook"):
        identity(folder, ["python", "train.ipynb", *OK])


def test_inputs_that_are_not_there(folder):
    (folder / "data" / "deep").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"inputs: no file matches 'data/\*\.csv'"):
        identity(folder, ["true", *OK], inputs=["data/*.csv"])
    with pytest.raises(ConfigError, match="no file matches 'data'"):  # a folder without a file
        identity(folder, ["true", *OK], inputs=["data"])
    (folder / "data" / "deep" / "[1].csv").write_text("1")
    for pattern in ("data", "data/**/*.csv", "data/deep/[1].csv"):
        assert set(identity(folder, ["true", *OK], inputs=[pattern])["inputs"]) == {"data/deep/[1].csv"}


def test_another_interpreter_tells_its_versions(folder):
    other = folder / "python3"
    other.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    other.chmod(0o700)
    (folder / "train.py").write_text("import numpy\n")
    found = identity(folder, ["./python3", "train.py", *OK])
    assert found["program"]["packages"] == {"numpy": np.__version__}
    assert "python3" in found["files"]
    other.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(ConfigError, match="does not tell its versions"):
        identity(folder, ["./python3", "train.py", *OK])


@pytest.mark.parametrize(
    "line",
    [
        'mlflow.set_tracking_uri("http://team:5000")',
        'mlflow.set_registry_uri(f"http://{HOST}")',
        'URI = "databricks"\nset_tracking_uri(URI)',
        'MlflowClient("sqlite:///team.db")',
    ],
)
def test_a_registry_in_the_code_is_refused(folder, line):
    (folder / "train.py").write_text("import tracking\n")
    (folder / "tracking.py").write_text(line)
    with pytest.raises(ConfigError, match=r"tracking.py:\d: .* every shadow would be logged there"):
        identity(folder, ["python", "train.py", *OK])


def test_a_registry_from_the_environment_is_not(folder):
    (folder / "train.py").write_text('import os\nset_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI", "http://x"))')
    assert identity(folder, ["python", "train.py", *OK])["files"]


# --- the environment --------------------------------------------------------------------------------------------------


def test_variables_are_named_and_their_values_kept_nowhere(folder, monkeypatch):
    monkeypatch.setenv("TEAM_TOKEN", "s3cret")
    task = prepare(
        Recipe(command=["true", *OK], env=["TEAM_TOKEN"]), folder=folder, candidate=None, description=None,
        features=X, labels=np.arange(N) % 2, class_values=CLASSES,
    )  # fmt: skip
    assert task.identity["env"] == ["TEAM_TOKEN"]
    assert "s3cret" in task.environment.values()
    assert "s3cret" not in repr(task)
    assert b"s3cret" not in pickle.dumps(task.context)
    plan = balanced(np.arange(N), np.arange(N) < 6, np.arange(N) >= 6, np.zeros(N, bool), 2, 6, 0)
    before = keys(plan, task)
    monkeypatch.setenv("TEAM_TOKEN", "another")
    again = prepare(
        Recipe(command=["true", *OK], env=["TEAM_TOKEN"]), folder=folder, candidate=None, description=None,
        features=X, labels=np.arange(N) % 2, class_values=CLASSES,
    )  # fmt: skip
    assert keys(plan, again) == before


@pytest.mark.parametrize(
    ("name", "said"),
    [("NONESUCH", "NONESUCH is not set"), ("A=s3cret", "not the name"), ("MLFLOW_TRACKING_URI", "throw-away")],
)
def test_variables_that_cannot_be_passed(folder, name, said, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://team:5000")
    with pytest.raises(ConfigError) as caught:
        identity(folder, ["true", *OK], env=[name])
    assert said in str(caught.value)
    assert "team:5000" not in str(caught.value)


def test_a_command_sees_the_listed_variables_and_a_registry_of_its_own(folder, tmp_path, monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "the team's")
    monkeypatch.setenv("PRIVACY_GATE_COMMAND_REGION", "eu")
    with pytest.raises(RecipeFailed, match="left neither"):
        run(folder, shell('env -0 > "$2/env"; pwd > "$2/pwd"; cat > "$2/stdin"; touch "$HOME/x"'), env=["REGION"])
    out = left(tmp_path)
    told = dict(line.split("=", 1) for line in (out / "env").read_text().split("\0")[:-1])
    store = f"sqlite:///{out.parent / 'mlflow.db'}"
    assert (told["MLFLOW_TRACKING_URI"], told["MLFLOW_REGISTRY_URI"]) == (store, store)
    mlflow = {"MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_DISABLE_TELEMETRY", "_MLFLOW_SERVER_ARTIFACT_ROOT"}
    assert {name for name in told if "MLFLOW" in name} == mlflow
    assert told["_MLFLOW_SERVER_ARTIFACT_ROOT"] == str(out.parent / "artifacts")
    assert told["REGION"] == "eu"
    assert not {name for name in told if "AWS" in name or "PRIVACY_GATE" in name}
    assert told["HOME"] == told["TMPDIR"] == str(out.parent / "home")
    assert told["PATH"].split(":")[0] == str(Path(sys.executable).parent)
    assert (out / "pwd").read_text().strip() == str(folder)
    assert (out / "stdin").read_text() == ""
    for private in (out, out.parent, out.parent.parent):
        assert stat.S_IMODE(private.stat().st_mode) == 0o700


# --- what a command reads ---------------------------------------------------------------------------------------------


def copied(folder, tmp_path, **more):
    """The files that a command gets."""
    words = ["cp", "{train}", "{validation}", "{records}", "{out}"]
    with pytest.raises(RecipeFailed, match="left neither"):
        run(folder, words, **more)
    return left(tmp_path)


def typed(rows):
    return pd.DataFrame(
        {
            "age": np.arange(rows),
            "rate": np.linspace(0, 1, rows) / 3,
            "town": pd.Categorical(["b"] * rows, categories=["c", "b", "a"], ordered=True),
            "since": pd.Timestamp("2020-01-02") + pd.to_timedelta(np.arange(rows), unit="D"),
            "on": [True] * rows,
            "text": ['a,"b"\n'] * rows,
        }
    )


@pytest.mark.parametrize("files", [None, "parquet"])
def test_parquet_keeps_types_levels_and_columns(folder, tmp_path, files):
    rows, people, weights = typed(N), np.arange(N) // 2, np.linspace(1, 2, N)
    out = copied(
        folder, tmp_path, files=files, features=rows, label="target", person="customer", weight="w", persons=people,
        weights=weights, reference=(typed(3), np.array(["yes"] * 3)), records=typed(20),
    )  # fmt: skip
    read = pd.read_parquet(out / "train.parquet")
    pd.testing.assert_frame_equal(read[list(rows)], rows)
    assert list(read) == [*rows, "target", "w", "customer"]
    assert read["target"].tolist() == Y.tolist()
    assert read["customer"].tolist() == people.tolist()
    assert read["w"].tolist() == weights.tolist()
    pd.testing.assert_frame_equal(pd.read_parquet(out / "validation.parquet").drop(columns="target"), typed(3))
    records = pd.read_parquet(out / "records.parquet")
    assert list(records) == list(rows)  # neither labels nor persons
    order = records["age"].to_numpy()
    pd.testing.assert_frame_equal(records.iloc[np.argsort(order)].reset_index(drop=True), typed(20))


def test_csv_reads_back_the_same_numbers(folder, tmp_path):
    out = copied(folder, tmp_path, files="csv", features=typed(N), reference=(typed(2), Y[:2]), records=typed(3))
    read = pd.read_csv(out / "train.csv")
    assert (read["rate"] == typed(N)["rate"]).all()
    assert read["text"].tolist() == typed(N)["text"].tolist()
    assert read["y"].tolist() == Y.tolist()
    as_table = copied(folder, tmp_path, files="csv", reference=(X, Y), records=X)
    assert list(pd.read_csv(as_table / "train.csv")) == ["x0", "x1", "x2", "y"]


def test_arrays_keep_their_type_and_the_order_tells_nothing(folder, tmp_path):
    images = RNG.integers(0, 255, size=(50, 2, 3, 3)).astype(np.uint8)
    given = {"features": images[:N], "reference": (images[N:20], Y[:8]), "records": images, "label": "digit"}
    with np.load(copied(folder, tmp_path, **given) / "train.npz") as train:
        assert set(train) == {"x", "digit"}
        assert train["x"].dtype == np.uint8
        assert (train["x"] == images[:N]).all()
        assert (train["digit"] == Y).all()

    def order(seed):
        with np.load(copied(folder, tmp_path, seed=seed, **given) / "records.npz") as records:
            assert set(records) == {"x"}
            rows = records["x"].reshape(50, -1)
        return [int(np.flatnonzero((images.reshape(50, -1) == row).all(1))[0]) for row in rows]

    assert order(1) == order(1) != order(2)
    assert sorted(order(1)) == list(range(50)) != order(1)


@pytest.mark.parametrize(
    ("features", "files", "said"),
    [(np.zeros((N, 2, 2)), "parquet", "no table"), (typed(N), "npz", "cannot be written as npz")],
)
def test_records_that_have_no_such_form(folder, features, files, said):
    with pytest.raises((ConfigError, DataError), match=said) as caught:
        run(folder, ["true", *OK], features=features, files=files)
    assert "2020" not in str(caught.value)


def test_records_are_gone_before_the_model_is_asked(folder, tmp_path):
    words = script(folder, "np.savez(out + '/signals.npz', probs=np.full((len(rows), 2), 0.5))")
    run(folder, words, records=X)
    assert [p.name for p in (tmp_path / "scratch").rglob("*.npz")] == ["signals.npz"]


def test_a_gate_that_cannot_write_does_not_blame_the_command(folder, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "gone"))
    with pytest.raises(StorageFailed, match="cannot write"):
        run(folder, ["true", *OK])


# --- how a command ends -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [("echo the record of Ann; exit 3", "exit code 3"), ("kill -9 $$", "SIGKILL"), ("kill -s SEGV $$", "SIGSEGV")],
)
def test_how_it_ended_and_how_often_it_was_tried(folder, text, said):
    with pytest.raises(RecipeFailed) as caught:
        run(folder, shell(f"echo x >> runs; {text}"), retries=2)
    assert caught.value.what == f"the command sh ended with {said}, in the last of 3 runs, all of which failed"
    assert (folder / "runs").read_text() == "x\n" * 3
    assert "Ann" not in str(caught.value)
    with pytest.raises(RecipeFailed, match="in its only run"):
        run(folder, shell(text))


def test_a_second_run_starts_afresh(folder):
    (folder / "trainer.py").write_text(
        "import os, sys\nif not os.path.exists('failed'):\n"
        "    open('failed', 'w'); open(sys.argv[2] + '/MLmodel', 'w'); open(os.environ['HOME'] + '/junk', 'w')\n"
        "    sys.exit(1)\n"
        "assert os.listdir(sys.argv[2]) == os.listdir(os.environ['HOME']) == []\n" + TRAINER
    )
    model = run(folder, ["python", "trainer.py", "{train}", "{out}", "{seed}"], retries=1)
    assert model.predict(X).shape == (N, 2)


def test_what_cannot_be_started_is_not_tried_again(folder):
    broken = folder / "broken"
    broken.write_bytes(b"\x7fnot a program\n")
    broken.chmod(0o700)
    with pytest.raises(RecipeFailed, match="the command broken cannot be started: Exec format error") as caught:
        run(folder, ["./broken", *OK], retries=2)
    assert "#!" in caught.value.hint


def test_a_full_disk_is_told(folder, monkeypatch):
    monkeypatch.setattr(recipe.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=0))
    with pytest.raises(StorageFailed, match="the disk is full"):
        run(folder, shell("exit 1"))


# --- what a command leaves --------------------------------------------------------------------------------------------

EMPTY = "flavors: {python_function: {loader_module: nonesuch_module}}"


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("true", RecipeFailed, "left neither an MLflow model nor signals.npz"),
        ("mkdir $2/a $2/b; echo x > $2/a/MLmodel; echo x > $2/b/MLmodel", RecipeFailed, r"left 2 models in \{out\}"),
        (
            "cd $_MLFLOW_SERVER_ARTIFACT_ROOT; mkdir -p 1/a 1/b; touch 1/a/MLmodel 1/b/MLmodel",
            RecipeFailed,
            "left 2 models in the throw-away store",
        ),
        ("touch $2/MLmodel $2/signals.npz", RecipeFailed, "left a model and signals.npz"),
        ("echo '{' > $2/MLmodel", RecipeFailed, "MLmodel file cannot be read"),
        ("echo 'a: 1' > $2/MLmodel", RecipeFailed, "MLmodel file cannot be read"),
        ("ln -s /etc/passwd $2/MLmodel", RecipeFailed, "left neither"),
        ("mkdir $2/MLmodel", RecipeFailed, "left neither"),
        ("ln -s $HOME $2/link; touch $HOME/MLmodel", RecipeFailed, "left neither"),
        (f"echo '{EMPTY}' > $2/MLmodel", ModelOutputUnusable, "nonesuch_module"),
    ],
)
def test_what_is_no_model(folder, text, error, said):
    with pytest.raises(error, match=said):
        run(folder, shell(text))


def test_a_model_inside_a_model_is_a_part_of_it(tmp_path):
    for place in ("a/b", "a/b/inner", "a/c"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "a/b/MLmodel").touch()
    (tmp_path / "a/b/inner/MLmodel").touch()
    assert recipe._models(tmp_path) == [tmp_path / "a/b"]
    (tmp_path / "MLmodel").touch()
    assert recipe._models(tmp_path) == [tmp_path]


def test_a_regressor_is_none_of_its_kind(folder, monkeypatch):
    monkeypatch.setattr(recipe.models, "load", lambda path, flavor: object())
    monkeypatch.setattr(recipe.models, "describe", lambda model, flavor: types.SimpleNamespace(kind="regressor"))
    with pytest.raises(RecipeFailed, match="left a regressor"):
        run(folder, shell("echo 'flavors: {sklearn: {}}' > $2/MLmodel"))


def test_a_model_in_the_store_counts_where_out_has_none(folder):
    (folder / "trainer.py").write_text(TRAINER)
    words = shell('mkdir $_MLFLOW_SERVER_ARTIFACT_ROOT/m; touch "$2/plot"; '
                  'python trainer.py "$1" $_MLFLOW_SERVER_ARTIFACT_ROOT/m 0')  # fmt: skip
    assert run(folder, words).predict(X).shape == (N, 2)


def test_answers_come_back_in_the_order_of_the_records(folder):
    p = "p = 1 / (1 + np.exp(-rows[:, 0]))\n"
    words = script(folder, p + "np.savez(out + '/signals.npz', probs=np.stack([1 - p, p], 1))")
    expected = 1 / (1 + np.exp(-X[:, 0]))
    found = run(folder, words, records=X)
    assert isinstance(found, Answered)
    assert (found.kind, found.classes_) == ("probabilities", None)
    assert (found.values == np.stack([1 - expected, expected], 1)).all()
    logits = script(folder, "np.savez(out + '/signals.npz', logits=rows[:, :2], classes=np.array(['yes', 'no']))")
    found = run(folder, logits, records=X)
    assert (found.kind, found.classes_.tolist()) == ("logits", ["yes", "no"])
    assert (found.values == X[:, :2]).all()


HALF = np.full((N, 2), 0.5)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"probs": np.where(np.eye(N, 2) > 0, np.nan, 0.5)}, "signals.npz: .*NaN"),
        ({"probs": HALF * 3}, "not probabilities"),
        ({"logits": np.full((N, 2), np.inf)}, "NaN or infinity"),
        ({"probs": HALF[:-1]}, r"shape \[11, 2\], expected \[12, 2\]"),
        ({"probs": np.full((N, 3), 1 / 3)}, r"shape \[12, 3\], expected \[12, 2\]"),
        ({"probs": HALF[:, 0]}, r"shape \[12\], expected"),
        ({"probs": HALF, "classes": np.array(["no"])}, r"expected \[12, 1\]"),
        ({"probs": HALF.astype(str)}, "not with numbers"),
        ({"probs": HALF.astype(complex)}, "not with numbers"),
        ({"probs": HALF, "logits": HALF}, "holds logits, probs"),
        ({"p": HALF}, "holds p"),
        ({"probs": HALF, "\x1b[31mred": HALF}, "holds red, probs"),
        ({}, "holds nothing"),
        ({"probs": HALF.astype(object)}, "cannot be read"),
        ({"probs": np.full((N, 20000), 0.5)}, "too large"),
    ],
)
def test_answers_that_are_none(folder, arrays, said):
    np.savez(folder / "given.npz", **arrays)
    with pytest.raises((ModelOutputUnusable, RecipeFailed), match=said):
        run(folder, [*shell('cp given.npz "$2/signals.npz"'), "{records}"], records=X)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mkfifo $2/signals.npz", "cannot be read"),
        ("ln -s $1 $2/signals.npz", "cannot be read"),
        ("ln -s /nonesuch $2/signals.npz", "cannot be read"),
        ("head -c 100 $1 > $2/signals.npz", "cannot be read"),
        ("echo text > $2/signals.npz", "cannot be read"),
        (": > $2/signals.npz", "cannot be read"),
    ],
)
def test_files_that_are_no_answers(folder, text, said):
    with pytest.raises(RecipeFailed, match=said):
        run(folder, [*shell(text), "{records}"], records=X)


def test_answers_without_questions(folder):
    with pytest.raises(RecipeFailed, match=r"was given no \{records\}"):
        run(folder, shell("touch $2/signals.npz"))


# --- nothing stays ----------------------------------------------------------------------------------------------------


def gone(pids):
    """Whether all of these processes end within a while; a zombie has ended."""
    for _ in range(500):
        alive = [p for p in pids if psutil.pid_exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE]
        if not alive:
            return True
        time.sleep(0.02)
    return False


LEAVE = (
    "sleep 1000 & echo $! >> pids; setsid sleep 1000 & echo $! >> pids;"
    " (setsid sh -c 'echo $$ >> pids; exec sleep 1000' &) ;"
)


@pytest.mark.parametrize("end", ["exit 0", "exit 5", "kill -9 $$"])
def test_nothing_that_it_started_is_left(folder, end):
    wait = "while [ $(wc -l < pids) -lt 3 ]; do sleep 0.01; done;"
    ended = guard.run(["sh", "-c", LEAVE + wait + end], folder=folder, environment={"PATH": os.environ["PATH"]})
    assert ended.code == {"exit 0": 0, "exit 5": 5, "kill -9 $$": -9}[end]
    pids = [int(line) for line in (folder / "pids").read_text().split()]
    assert len(pids) == 3
    assert gone(pids)


def test_a_guard_that_is_killed_takes_its_program_along(folder):
    ended = guard.run(
        ["sh", "-c", "echo $$ > pids; kill -9 $PPID; sleep 1000"],
        folder=folder,
        environment={"PATH": os.environ["PATH"]},
    )
    assert ended.code == -9
    assert gone([int((folder / "pids").read_text())])


# --- through workers --------------------------------------------------------------------------------------------------

U = 60
FEATURES, LABELS = RNG.normal(size=(U, 3)), RNG.integers(0, 2, U)
ROWS = np.arange(U)


def whole(folder, words, count=2, **more):
    plan = balanced(ROWS, ROWS < 30, ROWS >= 30, ROWS < 0, count, 30, 0)
    task = prepare(
        Recipe(command=words, **more.pop("recipe", {})), folder=folder, candidate=None, description=None,
        features=FEATURES, labels=LABELS, class_values=CLASSES, columns=Columns("y", person="who"),
        persons=ROWS // 2, **more,
    )  # fmt: skip
    return plan, task


def test_shadows_are_those_of_the_formula_and_stay_in_the_store(folder, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("REGION", "s3cret")
    words = script(
        folder,
        "import os\n"
        "print('a record of Ann')\n"
        "assert os.environ['REGION'] == 's3cret' and 'PRIVACY_GATE_COMMAND_REGION' not in os.environ\n"
        "with np.load(train) as t: x, y, who = t['x'], t['y'], t['who']\n"
        "assert len(set(who)) < len(who) and set(y) == {'no', 'yes'}\n"
        "p = 1 / (1 + np.exp(-(rows - x[y == 'no'].mean(0)).sum(1))) * 0.9 + int(seed) % 7 / 100\n"
        "np.savez(out + '/signals.npz', probs=np.stack([1 - p, p], 1))",
    )
    plan, task = whole(folder, words, recipe={"env": ["REGION"]}, probes=["noise_robustness"])
    store = Store(tmp_path / "store")
    shadows = train(plan, task, store, jobs=1)
    for s, outputs in enumerate(shadows.outputs):
        mask = plan.member[s]
        centre = FEATURES[mask][LABELS[mask] == 0].mean(0)
        p = 1 / (1 + np.exp(-(FEATURES - centre).sum(1))) * 0.9 + int(plan.seeds[s]) % 2**32 % 7 / 100
        # Sums over columns depend on the layout in their last bits.
        np.testing.assert_allclose(outputs.values[:, 1], p, rtol=1e-12)
    again = train(plan, task, store)
    assert (shadows.trained, again.trained, again.cached) == (2, 0, 2)
    assert set(shadows.absent) <= {"noise_robustness"}
    assert all("no model that could be asked" in why for why in shadows.absent.values())
    assert "Ann" not in "".join(capfd.readouterr())
    assert list((store.root / "work").iterdir()) == list((store.root / "logs").iterdir()) == []


def test_a_failure_keeps_the_log_and_quotes_nothing_of_it(folder, tmp_path):
    plan, task = whole(folder, shell("echo x >> runs; echo a record of Ann; exit 3"))
    store = Store(tmp_path / "store")
    with pytest.raises(RecipeFailed, match=r"shadow \d: the command sh ended with exit code 3.* 2 runs") as caught:
        train(plan, task, store, jobs=1, retries=1)
    (log,) = (store.root / "logs").iterdir()
    assert str(log) in caught.value.hint
    assert "Ann" not in str(caught.value)
    assert log.read_text().count("a record of Ann") == len((folder / "runs").read_text().split()) == 2
    assert "privacy-gate: the command sh, run 2 of at most 2" in log.read_text()


def test_the_time_limit_names_the_command_and_ends_all_of_it(folder, tmp_path):
    plan, task = whole(folder, shell(LEAVE + "echo $$ >> pids; sleep 1000"))
    with pytest.raises(RecipeFailed, match=r"not trained by the command sh within 1 s \(shadows.timeout\)"):
        train(plan, task, Store(tmp_path / "store"), jobs=1, timeout=1.0)
    pids = [int(line) for line in (folder / "pids").read_text().split()]
    assert len(pids) == 4
    assert gone(pids)


def test_the_recipe_sees_persons_only_where_it_uses_them(folder):
    plan, task = whole(folder, ["true", *OK])
    assert (task.persons == ROWS // 2).all()
    (folder / "recipe.py").write_text("def train(features, labels, *, seed): pass")
    other = prepare(
        Recipe(python="recipe.py:train"), folder=folder, candidate=None, description=None, features=FEATURES,
        labels=LABELS, class_values=CLASSES, persons=ROWS // 2,
    )  # fmt: skip
    assert other.persons is None
    assert keys(plan, task) != keys(plan, dataclasses.replace(task, persons=ROWS))


def test_a_zip_that_claims_more_than_it_may_is_not_unpacked(folder):
    with zipfile.ZipFile(folder / "given.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("probs.npy", b"\0" * (64 << 20))
    assert (folder / "given.npz").stat().st_size < 1 << 17
    with pytest.raises(RecipeFailed, match="too large"):
        recipe._arrays(folder / "given.npz", "it", N * 2)


def test_the_doctor_looks_at_program_script_inputs_and_variables(folder):
    from privacy_gate.cli.doctor import _command
    from privacy_gate.request import Config

    def told(**recipe):
        config = {"data": {"members": "a.csv", "nonmembers": "b.csv"}, "shadows": {"recipe": recipe}}
        return [(found.status, found.detail) for found in _command(Config.model_validate(config), folder)]

    (folder / "train.py").touch()
    words = ["python", "train.py", *OK]
    assert told(clone=True) == []
    assert told(command=words) == [("ok", "python train.py")]
    for wrong in ({"command": ["python", "trian.py", *OK]}, {"command": words, "inputs": ["*.csv"]}, {"command": OK}):
        ((status, detail),) = told(**wrong)
        assert status == "fail"
        assert detail
