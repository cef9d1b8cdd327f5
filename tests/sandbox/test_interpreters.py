"""Interpreters that a config names: found, asked, and not believed."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from privacy_gate.errors import UsageError
from privacy_gate.sandbox import interpreters
from privacy_gate.sandbox.runtime import Runtime
from tests.sandbox import elsewhere

GOOD = {"python": "3.12.1", "missing": [], "versions": {"scikit_learn": "1.5.2", "torch": "2.6.0+cpu"}}


def program(folder, text, mode=0o700):
    path = folder / "python"
    path.write_text(text)
    path.chmod(mode)
    return path


# --- the path -------------------------------------------------------------------------------------------------------


def test_a_path_starts_at_the_config_and_is_not_resolved(tmp_path):
    python = elsewhere.make(tmp_path / "env")
    assert interpreters.located("env/bin/python", tmp_path) == python
    assert python.is_symlink()  # resolved, it would be another environment
    assert interpreters.located(str(python), Path("/")) == python


@pytest.mark.parametrize(
    ("name", "said"),
    [("nothing", "No such file"), ("folder", "is a folder"), ("text", "cannot be run"), ("pipe", "cannot be run")],
)
def test_what_is_no_interpreter_is_refused(tmp_path, name, said):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match=said) as caught:
        interpreters.located(name, tmp_path)
    assert caught.value.hint


def test_what_others_may_write_to_is_refused(tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    path = program(folder, "#!/bin/sh\n", 0o757)
    with pytest.raises(UsageError, match="others may write") as caught:
        interpreters.located("bin/python", tmp_path)
    assert caught.value.hint == f"chmod o-w {path}"
    path.chmod(0o755)
    folder.chmod(0o777)
    with pytest.raises(UsageError, match="others may write"):
        interpreters.located("bin/python", tmp_path)
    folder.chmod(0o755)
    assert interpreters.located("bin/python", tmp_path) == path
    # The link may lie in a safe place, and what it points at not.
    (tmp_path / "link").symlink_to(path)
    folder.chmod(0o777)
    with pytest.raises(UsageError, match="others may write"):
        interpreters.located("link", tmp_path)


# --- the answer -----------------------------------------------------------------------------------------------------


def test_an_interpreter_tells_what_it_has():
    found = interpreters.versions(Path(sys.executable), "sklearn")
    assert found["python"] == "{}.{}.{}".format(*sys.version_info[:3])
    import sklearn

    assert found["scikit-learn"] == sklearn.__version__


def test_missing_packages_are_told_by_the_names_that_pip_knows(tmp_path):
    subprocess.run([sys.executable, "-I", "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    python = tmp_path / "bare" / "bin" / "python"
    with pytest.raises(
        UsageError, match="lacks mlflow, numpy, pandas, pyarrow, pydantic, scikit-learn, scipy\n"
    ) as caught:
        interpreters.versions(python, "sklearn")
    assert f"{python} -m pip install mlflow numpy" in caught.value.hint


def test_names_are_compared_as_package_indexes_do():
    found = interpreters.read(GOOD, Path("p"))
    assert found.versions == {"python": "3.12.1", "scikit-learn": "1.5.2", "torch": "2.6.0+cpu"}


@pytest.mark.parametrize("version", ["3.10.9", "3.6.15", "2.7.18"])
def test_an_old_python_is_told_with_the_mend(version):
    with pytest.raises(UsageError, match=f"is Python {version}; the gate's own part needs 3.11") as caught:
        interpreters.read({"python": version}, Path("p"))
    assert "environment: current" in caught.value.hint


@pytest.mark.parametrize(
    "told",
    [
        {},
        {**GOOD, "python": 3.12},
        {**GOOD, "python": "3.12"},
        {**GOOD, "python": "3.12.1\x1b[2J"},
        {**GOOD, "versions": ["numpy"]},
        {**GOOD, "missing": "numpy"},
        {"python": "3.12.1"},
        {**GOOD, "versions": {f"p{i}": "1" for i in range(5001)}},
    ],
)
def test_an_answer_of_another_form_is_refused(told):
    with pytest.raises(UsageError, match="does not answer as a Python 3 does"):
        interpreters.read(told, Path("p"))


def test_hostile_names_and_versions_are_dropped():
    hostile = {"a\x1b[2Jb": "1.0", "numpy": "1.0\nrecords", "torch": 2, "x" * 101: "1", "scipy": "1" * 61, "ok": "1.0"}
    found = interpreters.read({**GOOD, "versions": hostile, "missing": ["numpy", 3, None]}, Path("p"))
    assert found.versions == {"ok": "1.0", "python": "3.12.1"}
    assert found.missing == {"numpy"}


@pytest.mark.parametrize(
    "body",
    [
        "exit 1",
        "echo no json",
        "echo '[1, 2]'",
        "head -c 100000 /dev/zero | tr '\\0' '['",
        "yes",  # without end
        "kill -9 $$",
    ],
)
def test_a_program_that_is_no_python_is_refused(tmp_path, body):
    path = program(tmp_path, f"#!/bin/sh\n{body}\n")
    with pytest.raises(UsageError, match="does not answer as a Python 3 does"):
        interpreters.versions(path)


def test_a_file_that_is_no_program_is_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot be run"):
        interpreters.versions(program(tmp_path, "\x00\x01"))


def test_one_that_hangs_is_ended_with_all_that_it_started(tmp_path):
    path = program(tmp_path, f"#!/bin/sh\nsleep 300 &\necho $! > {tmp_path}/pid\nsleep 300\n")
    with pytest.raises(UsageError, match=r"did not answer within 0\.5 s"):
        interpreters.ask(path, "", (), 0.5)
    stat = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/stat")
    with contextlib.suppress(FileNotFoundError):  # buried
        while stat.read_text().rpartition(")")[2].split()[0] != "Z":  # killed, and not yet gone: else this has no end
            time.sleep(0.01)


def test_what_a_package_starts_does_not_outlive_the_question(tmp_path):
    path = program(tmp_path, f"#!/bin/sh\nsetsid sleep 300 >/dev/null &\necho $! > {tmp_path}/pid\necho '{{}}'\n")
    assert interpreters.ask(path, "", (), 30.0) == {}
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_the_question_is_asked_in_a_clean_environment(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "SECRET")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    script = "import json, os, sys; print(json.dumps({'env': dict(os.environ), 'path': sys.path}))"
    told = interpreters.ask(Path(sys.executable), script, (), 30.0)
    assert "SECRET" not in json.dumps(told)
    assert "/somewhere" not in told["path"]


# --- the device -----------------------------------------------------------------------------------------------------


def test_cuda_without_a_device_is_refused_before_anything_is_trained():
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(UsageError, match="finds no CUDA device here") as caught:
        interpreters.gpu(Runtime(device="cuda"))
    assert "--device" in caught.value.hint


def test_a_device_is_named_with_what_drives_it():
    told = {"torch": "2.6.0", "devices": 2, "name": "NVIDIA A100", "capability": "8.0", "cuda": "12.4", "cudnn": "9"}
    assert interpreters.read_gpu(told, Path("p")) == "NVIDIA A100 (capability 8.0, CUDA 12.4, cuDNN 9)"
    assert "\x1b" not in interpreters.read_gpu({**told, "name": "\x1b[2Jx"}, Path("p"))


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"torch": None, "devices": 0}, "has no torch"),
        ({"torch": "2.6.0", "devices": 0}, "no CUDA device"),
        ({"torch": "2.6.0", "devices": "many"}, "no CUDA device"),
        ({"torch": "2.6.0", "devices": True}, "no CUDA device"),
        ({}, "has no torch"),
    ],
)
def test_an_answer_without_a_device_is_a_refusal(told, said):
    with pytest.raises(UsageError, match=said):
        interpreters.read_gpu(told, Path("p"))
