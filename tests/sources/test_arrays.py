"""Arrays: an .npz, and folders of .npy files that may be larger than any memory."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privacy_gate import sources
from privacy_gate.errors import DataError
from privacy_gate.request import DataManifest, Source


def read(folder: Path, path: str) -> Any:
    manifest = DataManifest.model_validate({"members": path, "nonmembers": path})
    return sources.read(Source(path=path), manifest, folder, lambda uri: Path(uri), folder / "work")


def stored(folder: Path, **arrays: Any) -> Path:
    folder.mkdir()
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    return folder


def test_an_npz_and_a_folder_agree(tmp_path: Path) -> None:
    x, y, who = np.arange(24.0).reshape(4, 2, 3), np.array([0, 1, 0, 1]), np.array(["a", "b", "b", "c"])
    np.savez(tmp_path / "t.npz", x=x, y=y, who=who)
    stored(tmp_path / "t", x=x, y=y, who=who)
    of_file, of_folder = read(tmp_path, "t.npz"), read(tmp_path, "t")
    assert set(of_file) == set(of_folder) == {"x", "y", "who"}
    for name, values in of_file.items():
        np.testing.assert_array_equal(values, of_folder[name])


def test_a_capital_x_holds_the_features_where_there_is_no_small_one(tmp_path: Path) -> None:
    x, y = np.arange(6.0).reshape(3, 2), np.array([0, 1, 0])
    np.savez(tmp_path / "t.npz", X=x, y=y)
    np.savez(tmp_path / "both.npz", X=x + 1, x=x, y=y)
    stored(tmp_path / "t", X=x, y=y)
    for name, rest in (("t.npz", {"y"}), ("t", {"y"}), ("both.npz", {"X", "y"})):
        arrays = read(tmp_path, name)
        assert set(arrays) == {"x", *rest}
        np.testing.assert_array_equal(arrays["x"], x)
    np.savez(tmp_path / "odd.npz", features=x, y=y)
    with pytest.raises(DataError, match="holds no array 'x', the features; its arrays are features, y") as error:
        read(tmp_path, "odd.npz")
    assert "{dataset: records.py:members}" in error.value.hint


def test_a_folder_is_mapped_and_read_only(tmp_path: Path) -> None:
    folder = stored(tmp_path / "t", x=np.zeros((3, 2), np.float32), y=np.zeros(3))
    x = read(tmp_path, "t")["x"]
    assert isinstance(x, np.memmap)
    assert Path(x.filename) == folder / "x.npy"
    with pytest.raises(ValueError, match="read-only"):
        x[0] = 1


def test_columns_first_and_nothing_at_all(tmp_path: Path) -> None:
    x = np.asfortranarray(np.arange(6.0).reshape(3, 2))
    stored(tmp_path / "f", x=x)
    np.testing.assert_array_equal(read(tmp_path, "f")["x"], x)
    stored(tmp_path / "empty", x=np.empty((0, 5)), y=np.empty(0))
    assert read(tmp_path, "empty")["x"].shape == (0, 5)


def test_what_a_folder_of_arrays_may_not_hold(tmp_path: Path) -> None:
    stored(tmp_path / "short", x=np.zeros((3, 2)), y=np.zeros(2))
    with pytest.raises(DataError, match=r"y\.npy has 2 records, x\.npy 3"):
        read(tmp_path, "short")
    (stored(tmp_path / "notes", x=np.zeros((3, 2))) / "notes.txt").touch()
    with pytest.raises(DataError, match=r"holds notes\.txt, which is no \.npy"):
        read(tmp_path, "notes")
    stored(tmp_path / "single", x=np.zeros((3, 2)), y=np.array(7))
    with pytest.raises(DataError, match=r"y\.npy: not a readable \.npy \(a single value\)"):
        read(tmp_path, "single")


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda raw: raw[:-1], "header and size disagree"),
        (lambda raw: raw + b"\0", "header and size disagree"),
        (lambda raw: raw[:20], ""),
        (lambda raw: b"", ""),
        (lambda raw: b"\x93NUMPY\x01\x00", ""),
        (lambda raw: raw.replace(b"(3, 2)", b"(9, 2)"), "header and size disagree"),
        (lambda raw: raw.replace(b"(3, 2), }", b"(3, 2,   "), ""),
        (lambda raw: raw.replace(b"'<f8'", b"'|O8'"), "values of type object"),
        (lambda raw: raw.replace(b"'<f8'", b"'<c8'"), "values of type complex64"),
    ],
)
def test_an_npy_that_is_none(tmp_path: Path, damage: Any, why: str) -> None:
    folder = stored(tmp_path / "t", x=np.zeros((3, 2)))
    raw = (folder / "x.npy").read_bytes()
    damaged = damage(raw)
    assert damaged != raw
    (folder / "x.npy").write_bytes(damaged)
    with pytest.raises(DataError, match=r"x\.npy: not a readable \.npy") as caught:
        read(tmp_path, "t")
    assert why in caught.value.what


def test_no_pickle_is_ever_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "opened",))

    folder = stored(tmp_path / "t", x=np.zeros((1, 2)))
    np.save(folder / "y.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"y\.npy: not a readable \.npy"):
        read(tmp_path, "t")
    np.savez(tmp_path / "t.npz", x=np.array([[Trap()]], dtype=object))
    with pytest.raises(DataError, match=r"t\.npz: not a readable \.npz"):
        read(tmp_path, "t.npz")
    assert not (tmp_path / "opened").exists()


READ = """
import json, resource, sys
from pathlib import Path
import numpy as np
from privacy_gate import sources
from privacy_gate.request import DataManifest, Source
folder = Path(sys.argv[1])
manifest = DataManifest.model_validate({"members": "t", "nonmembers": "t"})
list(sources.CATALOG)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
arrays = sources.read(Source(path="t"), manifest, folder, Path, folder / "work")
last = float(arrays["x"][-1, -1])
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"shape": arrays["x"].shape, "last": last, "grown": after - before}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux alone")
def test_twenty_gibibytes_are_opened_and_not_read(tmp_path: Path) -> None:
    """A sparse file: it claims its length, and takes no disk."""
    width = 1 << 20
    rows = (20 << 30) // (4 * width)
    (tmp_path / "t").mkdir()
    with (tmp_path / "t" / "x.npy").open("wb") as stream:
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
        np.lib.format.write_array_header_1_0(stream, header)
        start = stream.tell()
        stream.seek(start + (20 << 30) - 4)
        stream.write(np.float32(7).tobytes())
    np.save(tmp_path / "t" / "y.npy", np.zeros(rows, np.int64))
    done = subprocess.run([sys.executable, "-c", READ, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["shape"], told["last"]) == ([rows, width], 7.0)
    assert told["grown"] < 64 << 10  # KiB: a few pages of the file, and what numpy imports
