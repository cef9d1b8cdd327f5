"""Functions that make records: what they may return, and how little their process can do to the gate."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from privacy_gate import sources
from privacy_gate.errors import ConfigError, DataError, StorageFailed, WorkerDied
from privacy_gate.request import DataManifest, Source
from privacy_gate.sources import child, functions

HEADER = "import os, sys, time\nimport numpy as np\n\n"


def manifest(**settings: Any) -> DataManifest:
    return DataManifest.model_validate({"members": "m", "nonmembers": "n", **settings})


def call(tmp_path: Path, body: str, name: str = "make", **settings: Any) -> Any:
    """Run `body` as a function in a real process."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    (tmp_path / "data.py").write_text(f"{HEADER}def make():\n{lines}")
    keywords = {key: settings.pop(key) for key in ("logs", "timeout") if key in settings}
    source = Source(dataset=f"data.py:{name}")
    return sources.read(source, manifest(**settings), tmp_path, Path, tmp_path / "work", **keywords)


def made(tmp_path: Path, value: Any, **settings: Any) -> Any:
    """What the gate reads of what the child writes of a value; both in this process."""
    out = tmp_path / "out"
    out.mkdir()
    meta = json.loads(json.dumps(child.write(value, "y", out)))
    return functions._records(meta, out, manifest(**settings), "data.py:make")


# --- what may be returned -------------------------------------------------------------------------------------------

X, Y = np.arange(12, dtype=np.float32).reshape(6, 2), np.array([0, 1, 0, 1, 0, 1])


def batches(*sizes: int) -> Iterator[tuple[Any, Any]]:
    start = 0
    for size in sizes:
        yield X[start : start + size], Y[start : start + size]
        start += size


@pytest.mark.parametrize(
    "value",
    [
        lambda: {"x": X, "y": Y},
        lambda: (X, Y),
        lambda: (X.tolist(), Y.tolist()),
        lambda: batches(2, 3, 1),
        lambda: [(X[:5], Y[:5]), (X[5:], Y[5:])],
        lambda: ([x, y] for x, y in batches(3, 3)),
        lambda: iter([{"x": X[:1], "y": Y[:1]}, {"y": Y[1:], "x": X[1:]}]),
        lambda: ({"x": np.asfortranarray(X[i : i + 2]), "y": Y[i : i + 2]} for i in (0, 2, 4)),
    ],
)
def test_arrays(tmp_path: Path, value: Any) -> None:
    found = made(tmp_path, value())
    assert set(found) == {"x", "y"}
    np.testing.assert_array_equal(np.asarray(found["x"], np.float32), X)
    np.testing.assert_array_equal(found["y"], Y)
    assert isinstance(found["x"], np.memmap)
    assert not found["x"].flags.writeable


def test_a_torch_loader_is_an_iterator_of_batches(tmp_path: Path) -> None:
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    loader = DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), batch_size=4)
    found = made(tmp_path, loader)
    np.testing.assert_array_equal(found["x"], X)
    np.testing.assert_array_equal(found["y"], Y)


def test_what_is_large_is_copied_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_BLOCK", 20)  # two rows of x, and a bit
    np.testing.assert_array_equal(made(tmp_path, {"x": X, "y": Y})["x"], X)


def test_texts_of_any_length(tmp_path: Path) -> None:
    names = [["a", "bb"], np.array(["cccc", "d"]), pd.Series(["é", "f"])]
    value = ({"x": X[2 * i : 2 * i + 2], "y": Y[2 * i : 2 * i + 2], "who": names[i]} for i in range(3))
    assert made(tmp_path, value)["who"].tolist() == ["a", "bb", "cccc", "d", "é", "f"]


FRAME = pd.DataFrame(
    {
        "age": [1.5, 2.5, 3.5],
        "level": pd.Categorical(["b", "a", "b"], categories=["c", "b", "a"]),
        "seen": pd.to_datetime(["2020-01-01", None, "2021-01-01"]),
        "who": ["007", "7", "é"],
        "y": [0, 1, 0],
    },
    index=[5, 6, 7],
)


@pytest.mark.parametrize(
    "value",
    [
        lambda: FRAME,
        lambda: (FRAME.drop(columns="y"), FRAME["y"].to_numpy()),
        lambda: (FRAME.iloc[i : i + 1] for i in range(3)),
        lambda: iter([(FRAME[["age", "level", "seen", "who"]], [0, 1, 0])]),
        lambda: pa.Table.from_pandas(FRAME, preserve_index=False),
    ],
)
def test_frames_keep_types_and_levels(tmp_path: Path, value: Any) -> None:
    pd.testing.assert_frame_equal(made(tmp_path, value()), FRAME.reset_index(drop=True))


def test_batches_may_have_levels_of_their_own(tmp_path: Path) -> None:
    parts = (pd.DataFrame({"level": pd.Categorical(list(values))}) for values in ("ab", "c", "ad"))
    found = made(tmp_path, parts)["level"]
    assert found.tolist() == ["a", "b", "c", "a", "d"]
    assert found.dtype == pd.CategoricalDtype(["a", "b", "c", "d"])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda: None, "it returned NoneType"),
        (lambda: 7, "it returned int"),
        (lambda: "text", "it returned str"),
        (lambda: X, "it returned ndarray"),
        (lambda: [X, Y], "it returned ndarray"),
        (lambda: iter(()), "it returned no batch of records"),
        (lambda: {"features": X}, "its mapping has no 'x'"),
        (lambda: (X, Y[:3]), r"x has shape \(6, 2\), y \(3,\)"),
        (lambda: (X[:, 0], Y), r"x has shape \(6,\)"),
        (lambda: {"x": X, "y": 7}, r"x has shape \(6, 2\), y \(\)"),
        (lambda: iter([(X, Y), FRAME]), "some of its batches are frames, others arrays"),
        (lambda: iter([FRAME, FRAME.drop(columns="age")]), "its batches differ in their columns: age"),
        (lambda: iter([FRAME, FRAME.assign(age=[1, 2, 3])]), "the column 'age' is double in one batch and int64"),
        (lambda: iter([{"x": X, "y": Y}, {"x": X}]), "its batches differ in their arrays: y"),
        (lambda: iter([(X, Y), (X.astype(np.float64), Y)]), "x is .* in one batch and .* in another"),
        (lambda: iter([(X, Y), (X[:, :1], Y)]), "x is .* in one batch and .* in another"),
        (lambda: (np.array([[object()]]), [0]), "x holds values of type object, not numbers"),
        (lambda: {"x": X, "y": ["a", None, "b", "c", "d", 2.5]}, "y holds values of several types: NoneType, float"),
        (lambda: (FRAME, FRAME["y"]), "its features have a column 'y'"),
        (lambda: FRAME.assign(odd=[1, "a", object()]), "its column 'odd' cannot be stored"),
        (lambda: pd.concat([FRAME, FRAME], axis=1), "several of its columns have one name"),
    ],
)
def test_what_is_no_set_of_records(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        made(tmp_path, value())
    assert caught.value.hint


# --- what a child may leave -----------------------------------------------------------------------------------------


def left(tmp_path: Path, change: Any) -> Any:
    """What the gate says of an honest result that was changed afterwards."""
    out = tmp_path / "out"
    out.mkdir()
    meta = child.write({"x": X, "y": Y}, "y", out)
    changed = change(out, meta)
    return functions._records(meta if changed is None else changed, out, manifest(), "data.py:make")


def linked(out: Path, meta: Any) -> None:
    np.save(out.parent / "secret.npy", Y)
    (out / "array_1.npy").unlink()
    (out / "array_1.npy").symlink_to(out.parent / "secret.npy")


def piped(out: Path, meta: Any) -> None:
    (out / "array_1.npy").unlink()
    os.mkfifo(out / "array_1.npy")


@pytest.mark.parametrize(
    "change",
    [
        linked,
        piped,
        lambda out, meta: (out / "array_0.npy").unlink(),
        lambda out, meta: (out / "array_0.npy").write_bytes((out / "array_0.npy").read_bytes()[:-4]),
        lambda out, meta: np.save(out / "array_1.npy", np.array([{}] * 6, dtype=object), allow_pickle=True),
        lambda out, meta: np.save(out / "array_1.npy", Y[:5]),
        lambda out, meta: {"kind": "arrays", "names": ["y"]},
        lambda out, meta: {"kind": "arrays", "names": ["x", "x"]},
        lambda out, meta: {"kind": "arrays", "names": "x"},
        lambda out, meta: {"kind": "table"},
        lambda out, meta: {},
    ],
)
def test_results_that_were_tampered_with(tmp_path: Path, change: Any) -> None:
    with pytest.raises(DataError, match=r"data\.py:make|not a readable"):
        left(tmp_path, lambda out, meta: found if isinstance(found := change(out, meta), dict) else None)


@pytest.mark.parametrize("content", [b"", b"ARROW1 and noise", os.urandom(0) + bytes(range(256)) * 8])
def test_tables_that_are_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / functions.TABLE).write_bytes(content)
    with pytest.raises(DataError):
        functions._records({"kind": "table"}, tmp_path, manifest(), "data.py:make")


# --- a process of its own -------------------------------------------------------------------------------------------

ENVIRONMENT = """
import pandas as pd
names = sorted(os.environ)
print("printed, a secret")
return pd.DataFrame({"name": names, "value": [os.environ[n] for n in names], "pid": os.getpid(), "at": os.getcwd()})
"""


def test_a_frame_from_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE", "of patients")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    found = call(tmp_path, ENVIRONMENT, env=["DATABASE"])
    seen = dict(zip(found["name"], found["value"], strict=True))
    assert seen["DATABASE"] == "of patients"
    assert "AWS_SECRET_ACCESS_KEY" not in seen
    assert Path(seen["HOME"]).is_relative_to(tmp_path / "work")
    assert found["pid"][0] != os.getpid()
    assert found["at"][0] == str(tmp_path)
    assert list((tmp_path / "work").glob("*.log")) == []  # only of what fails
    for path in (tmp_path / "work").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_what_a_function_raises_stays_in_the_log(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.py:make raised ValueError in make \(data\.py:6\)") as caught:
        call(tmp_path, "print('a record')\nint('secret')", logs=tmp_path / "logs")
    assert "secret" not in str(caught.value)
    (log,) = (tmp_path / "logs").iterdir()
    assert log.name in caught.value.hint
    assert log.stat().st_mode & 0o077 == 0
    assert "secret" in log.read_text()
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("os.kill(os.getpid(), 9)", r"ended without records \(killed by SIGKILL\)"),
    ],
)
def test_a_function_that_dies(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(WorkerDied, match=message):
        call(tmp_path, body)


def test_a_full_disk_is_no_mistake_of_the_function(tmp_path: Path) -> None:
    body = "import errno\nraise OSError(errno.ENOSPC, 'full', 'SECRET')"
    with pytest.raises(StorageFailed, match="there is no space left for its records") as caught:
        call(tmp_path, body)
    assert "SECRET" not in str(caught.value)


def test_half_an_answer_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        path.write_bytes(text[:5].encode())
        raise OSError(errno.ENOSPC, "full")

    (tmp_path / "make.py").write_text("def make(): return {'x': [[1.0]], 'y': [0]}\n")
    job = {"file": str(tmp_path / "make.py"), "function": "make", "label": "y", "out": str(tmp_path)}
    (tmp_path / "job.json").write_text(json.dumps(job))
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="full"):
        child.main(str(tmp_path / "job.json"))
    assert not (tmp_path / functions.META).exists()  # WorkerDied, not DataError


def gone(pid: int) -> bool:
    """Whether a process is no more, or waits to be buried."""
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are found on Linux alone")
def test_a_function_that_hangs_ends_with_all_that_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    body = f"""
import subprocess
other = subprocess.Popen(["sleep", "600"], start_new_session=True)
open({str(pids)!r}, "w").write(f"{{os.getpid()}} {{other.pid}}")
time.sleep(600)
"""
    with pytest.raises(WorkerDied, match="did not end within 2 s"):
        call(tmp_path, body, timeout=2)
    assert all(gone(int(pid)) for pid in pids.read_text().split())


GATE = """
import sys
from pathlib import Path
from privacy_gate import sources
from privacy_gate.request import DataManifest, Source
folder = Path(sys.argv[1])
manifest = DataManifest.model_validate({"members": "m", "nonmembers": "n"})
sources.read(Source(dataset="data.py:make"), manifest, folder, Path, folder / "work")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a child learns of its parent's end on Linux alone")
def test_a_function_ends_with_the_gate(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    lines = f"def make():\n    open({str(pids)!r} + '0', 'w').write(str(os.getpid()))\n"
    lines += f"    os.rename({str(pids)!r} + '0', {str(pids)!r})\n    time.sleep(600)\n"
    (tmp_path / "data.py").write_text(HEADER + lines)
    gate = subprocess.Popen([sys.executable, "-c", GATE, str(tmp_path)])
    deadline = time.monotonic() + 60
    while not pids.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    gate.send_signal(signal.SIGKILL)
    gate.wait()
    while not gone(int(pids.read_text())) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert gone(int(pids.read_text()))


def test_batches_are_never_all_in_memory(tmp_path: Path) -> None:
    """A function that may have 128 MiB of address space more than it starts with makes 192 MiB of features."""
    body = """
import resource
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 27), used + (1 << 27)))
def parts():
    for i in range(24):
        yield {"x": np.full((16, 1 << 17), i, np.float32), "y": np.full(16, i)}
return parts()
"""
    if sys.platform != "linux":
        pytest.skip("/proc is Linux's")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = call(tmp_path, body)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # before a page of it is looked at
    assert found["x"].nbytes == 192 << 20
    assert found["x"][:, -1].tolist() == found["y"].tolist() == np.repeat(np.arange(24), 16).tolist()


# --- found without running ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("data.py", r"is not path\.py:function"),
        (":make", r"is not path\.py:function"),
        ("data.py:", r"is not path\.py:function"),
        ("data.py:make()", r"is not path\.py:function"),
        ("dat.py:make", "there is no file"),
        ("data.py:mak", r"data\.py defines no 'mak'"),
        ("broken.py:make", r"broken\.py:1: not valid Python"),
    ],
)
def test_functions_that_are_not_there(tmp_path: Path, reference: str, message: str) -> None:
    (tmp_path / "data.py").write_text("open('ran', 'w')\ndef make():\n    pass\n")
    (tmp_path / "broken.py").write_text("def make(:\n")
    with pytest.raises(ConfigError, match=message) as caught:
        functions.locate(reference, tmp_path)
    assert caught.value.hint
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "text",
    [
        "def make(): pass",
        "make = print",
        "make: object = print",
        "from os import getcwd as make",
        "class make: pass",
        "from os import *",
        "if True:\n    make = print",
        "(make, other) = 1, 2",
        "with open('x') as make: pass",
    ],
)
def test_functions_that_may_be_there(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.py").write_text(text)
    assert functions.locate("data.py:make", tmp_path).name == "make"


def test_variables_that_are_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE", raising=False)
    with pytest.raises(DataError, match=r"data\.env: DATABASE is not set"):
        call(tmp_path, "return 1", env=["DATABASE"])
