"""`environment: model`: built once from the model's own requirements, by the real venv and pip, from real wheels."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

from privacy_gate.errors import (
    EvaluationFailed,
    ModelOutputUnusable,
    ModuleMissing,
    StorageFailed,
    UsageError,
    WorkerDied,
)
from privacy_gate.sandbox import choice, virtual
from privacy_gate.sandbox.choice import choose
from privacy_gate.sandbox.runtime import HERE, Runtime
from tests.sandbox import elsewhere

HERE_IS = sys.version_info[:2]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """A folder of wheels: one that brings the gate's own packages along, and one that says when it is run."""
    folder = tmp_path_factory.mktemp("wheels")
    elsewhere.wheel(folder, "gatelibs", "1.0", {"gatelibs.pth": f"{elsewhere.PACKAGES}\n"})
    elsewhere.wheel(folder, "cloudpickle", elsewhere.OTHER, {"only_there.py": "VALUE = 1\n"})
    (folder / "fromsource-1.0.tar.gz").write_bytes(b"")
    return folder


@pytest.fixture
def pip(monkeypatch, index):
    """What the caller's pip is configured for: that folder, and no network."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PIP_TARGET", "/nowhere")  # one that would put packages elsewhere
    return monkeypatch


def test_an_environment_is_built_once(pip, tmp_path):
    candidate = elsewhere.candidate(tmp_path / "model", requirements="gatelibs==1.0\ncloudpickle>=3.99\n")
    store, said = tmp_path / "store", []
    runtime = choose("model", "cpu", candidate, folder=tmp_path, store=store, stage=said.append)
    assert said == [
        f"building the environment of the model: 2 requirements, Python {'.'.join(map(str, sys.version_info[:3]))}"
    ]
    assert runtime.python.is_relative_to(store / "environments")
    assert runtime.versions["cloudpickle"] == elsewhere.OTHER
    assert runtime.differs == ()
    assert not list((store / "logs").iterdir())  # nothing went wrong
    assert (store / "environments").stat().st_mode & 0o077 == 0

    # Again: found in the store, without pip and without an index.
    pip.setenv("PIP_FIND_LINKS", "/nowhere")
    assert choose("model", "cpu", candidate, folder=tmp_path, store=store, stage=said.append) == runtime
    assert len(said) == 1


@pytest.fixture
def quick(monkeypatch):
    """Environments with the gate's own pip instead of a copy of it, which takes seconds; `quick(False)`: with none."""
    real = virtual._run
    packages = []

    def run(command, log, limit, failed):
        if "venv" in command:
            real([*command[:-1], "--without-pip", command[-1]], log, limit, failed)
            for folder in Path(command[-1]).glob("lib/python3*/site-packages"):
                (folder / "gate.pth").write_text("".join(packages))
        else:
            real(command, log, limit, failed)

    monkeypatch.setattr(virtual, "_run", run)
    return lambda pip: packages.extend([f"{elsewhere.PACKAGES}\n"] if pip else [])


def test_a_package_without_a_wheel_is_told_and_nothing_half_built_stays(quick, pip, tmp_path):
    quick(True)
    store = tmp_path / "store"
    half = next(iter(built(store, ["fromsource==1.0"])))
    (half / "bin").mkdir(parents=True)
    (half / "bin" / "python").write_text("left by a gate that was killed")
    with pytest.raises(UsageError, match=r"no wheel that fits for fromsource==1\.0") as caught:
        virtual.environment(["fromsource==1.0"], None, store)
    [log] = (store / "logs").iterdir()
    assert f"logs/{log.name} in the store" in caught.value.hint
    assert log.stat().st_mode & 0o077 == 0
    assert not half.exists()


def built(store, requirements):
    """Where the environment of these requirements will be."""
    with pytest.MonkeyPatch.context() as patch:
        found = []
        patch.setattr(virtual, "_build", lambda folder, *rest: found.append(folder))
        virtual.environment(requirements, None, store)
    return found


def test_a_pip_that_breaks_is_told_apart_from_a_missing_wheel(quick, tmp_path):
    quick(False)
    with pytest.raises(EvaluationFailed, match=r"requirements could not be installed \(exit code 1\)"):
        virtual.environment(["numpy"], None, tmp_path / "store")  # there is no pip
    assert not list((tmp_path / "store" / "environments").glob("*/"))


def test_what_takes_too_long_is_ended(quick, tmp_path):
    quick(True)
    with pytest.raises(EvaluationFailed, match="within 0 s"):
        virtual.environment(["numpy"], None, tmp_path / "store", limit=0)


@pytest.mark.parametrize(
    ("words", "package"),
    [
        ("ERROR: No matching distribution found for fromsource==1.0\n", "fromsource==1.0"),
        ("ERROR: No matching distribution found for a\x1b[2Jb\n", "ab"),
        ("ERROR: something else\n", None),
        ("", None),
    ],
)
def test_the_package_without_a_wheel_is_named(tmp_path, words, package):
    (tmp_path / "log").write_text(words)
    assert virtual._without_wheel(tmp_path / "log") == package


def test_pip_gets_its_own_settings_and_no_secrets():
    own = {
        "PATH": "/bin",
        "HOME": "/home/me",
        "PIP_INDEX_URL": "https://index.example.org",
        "PIP_TARGET": "/x",
        "HTTPS_PROXY": "http://proxy",
        "MLFLOW_TRACKING_TOKEN": "SECRET",
        "AWS_SECRET_ACCESS_KEY": "SECRET",
        "PYTHONPATH": "/y",
    }
    assert virtual._callers(own) == {
        "PATH": "/bin",
        "HOME": "/home/me",
        "PIP_INDEX_URL": "https://index.example.org",
        "HTTPS_PROXY": "http://proxy",
        "PIP_USER": "0",
    }


def test_another_python_is_looked_for_on_the_path(tmp_path, monkeypatch):
    assert virtual.interpreter(None)[0] == virtual.interpreter(HERE_IS)[0] == Path(sys.executable)
    launcher, real = tmp_path / "launcher", tmp_path / "real"
    for folder, body in ((launcher, "exit 127"), (real, 'echo \'{"v": "3.99.1"}\'')):
        folder.mkdir()
        (folder / "python3.99").write_text(f"#!/bin/sh\n{body}\n")
        (folder / "python3.99").chmod(0o700)
    monkeypatch.setenv("PATH", f"{launcher}{os.pathsep}{real}")
    assert virtual.interpreter((3, 99)) == (real / "python3.99", "3.99.1")
    monkeypatch.setenv("PATH", str(launcher))
    with pytest.raises(UsageError, match=r"no python3.99 on the PATH") as caught:
        virtual.interpreter((3, 99))
    assert "install Python 3.99" in caught.value.hint
    with pytest.raises(UsageError, match=r"Python 3\.9; the gate's own part needs 3\.11"):
        virtual.interpreter((3, 9))


def environment(store, name, used, sealed=True):
    folder = store / "environments" / name
    (folder / "bin").mkdir(parents=True)
    if sealed:
        (folder / "complete.json").write_text("{}")
        os.utime(folder / "complete.json", (used, used))
    os.utime(folder, (used, used))
    return folder


def test_unused_environments_are_pruned_and_fresh_ones_never(tmp_path):
    now, day = time.time(), 86400.0
    old, half = environment(tmp_path, "old", now - 9 * day), environment(tmp_path, "half", now - 9 * day, sealed=False)
    fresh, building = environment(tmp_path, "fresh", now), environment(tmp_path, "building", now, sealed=False)
    assert virtual.prune(tmp_path, older_than=8 * day, dry_run=True) == ["half", "old"]
    assert old.exists()
    assert virtual.prune(tmp_path, older_than=10 * day) == []
    assert virtual.prune(tmp_path, older_than=0) == ["half", "old"]  # a run of today may be using the others
    assert not old.exists()
    assert not half.exists()
    assert fresh.exists()
    assert building.exists()
    assert virtual.prune(tmp_path / "nothing", older_than=0) == []


def test_two_gates_build_one_environment(tmp_path):
    """The second waits for the first, and finds the seal."""
    import threading

    folder = tmp_path / "key"
    order = []
    with virtual._locked(folder):

        def second():
            with virtual._locked(folder):
                order.append("second")

        other = threading.Thread(target=second)
        other.start()
        order.append("first")
    other.join(30)
    assert order == ["first", "second"]


def poison(code):
    """What a model does that waits for the next one: other code, as long as before and with its time."""
    status = code.stat()
    code.write_text("VALUE = 2\n")
    os.utime(code, ns=(status.st_atime_ns, status.st_mtime_ns))


def in_another_place(code):
    """The same by another file in its place."""
    poison(code)
    other = code.with_name("other")
    code.rename(other)
    other.rename(code)


@pytest.mark.parametrize(
    "change",
    [
        poison,
        in_another_place,
        lambda code: code.unlink(),
        lambda code: code.with_name("sitecustomize.py").write_text("raise SystemExit"),
        lambda code: code.chmod(0o777),
        lambda code: (code.parents[2] / "complete.json").write_text("{}"),
        lambda code: (code.parents[2] / "complete.json").write_text("]"),
    ],
)
def test_what_one_model_changed_does_not_reach_the_next(monkeypatch, tmp_path, change):
    builds, said = [], []

    def build(folder, *rest):
        builds.append(folder)
        packages = folder / "lib" / "packages"
        packages.mkdir(parents=True, exist_ok=True)
        (packages / "code.py").write_text("VALUE = 1\n")
        sealed = {"content": virtual.content(folder / "bin" / "python")}
        virtual.write_text(folder / "complete.json", json.dumps(sealed))

    monkeypatch.setattr(virtual, "_build", build)
    python = virtual.environment(["numpy"], None, tmp_path)
    for _ in range(2):  # pruning looks at its last use
        assert virtual.environment(["numpy"], None, tmp_path, stage=said.append) == python
    assert (len(builds), said) == (1, [])

    runtime = Runtime(python, content=virtual.content(python))
    choice.require_unchanged(runtime)
    change(python.parents[1] / "lib" / "packages" / "code.py")
    if virtual.content(python) != runtime.content:  # else it is the seal that was broken
        with pytest.raises(EvaluationFailed, match="was changed while the model was loaded"):
            choice.require_unchanged(runtime)
    assert virtual.environment(["numpy"], None, tmp_path, stage=said.append) == python
    assert (len(builds), len(said)) == (2, 1)


def test_nothing_that_a_tool_starts_is_left(tmp_path):
    log = tmp_path / "log"
    log.touch()
    virtual._run(["sh", "-c", f"setsid sleep 300 & echo $! > {tmp_path}/pid"], log, 30.0, "")
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_a_store_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "store").write_text("")
    with pytest.raises(StorageFailed):
        virtual.environment(["numpy"], None, tmp_path / "store")


# --- the choice -----------------------------------------------------------------------------------------------------


def test_the_gates_own_interpreter_is_not_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(choice.interpreters, "ask", None)  # would raise
    candidate = elsewhere.candidate(tmp_path / "model", python="3.99.1")
    runtime = choose("current", "cpu", candidate, folder=tmp_path, store=tmp_path / "store")
    assert (runtime.python, runtime.versions) == (None, {})
    assert runtime.differs == (f"Python 3.99.1, here {'.'.join(map(str, sys.version_info[:3]))}",)
    assert not (tmp_path / "store").exists()
    assert choice.warning(runtime).startswith("the model was logged with other versions than it is loaded with: Python")


@pytest.mark.parametrize("kind", [ModelOutputUnusable, WorkerDied])
def test_a_model_that_does_not_load_is_explained_by_other_versions(kind):
    differs = ("scikit-learn 1.5.2, here 1.9.1",)
    with pytest.raises(kind, match="it broke") as caught, choice.explained(Runtime(differs=differs)):
        raise kind("it broke", "its words are in a log")
    assert "scikit-learn 1.5.2, here 1.9.1: environment: model loads it with its own versions" in caught.value.hint
    assert caught.value.hint.endswith("; its words are in a log")
    with pytest.raises(kind) as caught, choice.explained(Runtime(Path("/p"), differs=differs)):
        raise kind("it broke")
    assert "environment: model" not in caught.value.hint
    with pytest.raises(kind) as caught, choice.explained(HERE):
        raise kind("it broke", "its words")
    assert caught.value.hint == "its words"


def test_a_missing_module_always_leads_to_the_models_own_environment():
    with pytest.raises(ModuleMissing) as caught, choice.explained(HERE):
        raise ModuleMissing("it needs the module 'catboost'", "install it")
    assert caught.value.hint == (
        "environment: model loads it with its own versions, environment: /path/to/python names another interpreter; "
        "install it"
    )
    with pytest.raises(ModuleMissing) as caught, choice.explained(Runtime(Path("/p"))):
        raise ModuleMissing("it needs the module 'catboost'", "install it")
    assert caught.value.hint == "install it"  # that is where it was loaded


def test_a_handful_of_differences_is_told_and_the_rest_counted(tmp_path):
    lines = [f"nowhere-{i:03}==1.0.0" for i in range(40)]
    candidate = elsewhere.candidate(tmp_path / "model", requirements="\n".join(["pandas==1.5.3", *lines]))
    runtime = choose("current", "cpu", candidate, folder=tmp_path, store=tmp_path / "store")
    assert len(runtime.differs) == 41
    told = choice.warning(runtime)
    assert told.count("here none") == 5
    assert told.endswith("; and 36 more")
    with pytest.raises(WorkerDied) as caught, choice.explained(runtime):
        raise WorkerDied("it broke")
    assert "and 36 more: environment: model loads it" in caught.value.hint
