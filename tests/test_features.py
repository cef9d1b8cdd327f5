"""Features on disk: what is read in blocks is what is in memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy_gate import features as tables
from privacy_gate.errors import DataError, StorageFailed
from privacy_gate.features import Stored, batch_rows, blocks, concat, digest, in_memory, row_hashes, settle, take

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(40, 3, 5)).astype(np.float32), RNG.normal(size=(25, 3, 5)).astype(np.float32)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large is what is more than a few rows."""
    monkeypatch.setattr(tables, "LARGE", 600)
    monkeypatch.setattr(tables, "BLOCK", 7 * 3 * 5 * 4)


def mapped(array: np.ndarray, path: Path) -> np.ndarray:
    np.save(path, array)
    return np.load(path, mmap_mode="r")


@pytest.fixture
def both(small: None, tmp_path: Path) -> Stored:
    """The rows of A, a memory map, and of B, an array, on disk."""
    parts = settle([mapped(A, tmp_path / "a.npy"), B], tmp_path)
    assert all(isinstance(part, Stored) for part in parts)
    joined = concat(parts)
    assert isinstance(joined, Stored)
    return joined


def test_rows_on_disk_are_the_rows(both: Stored) -> None:
    whole = np.concatenate([A, B])
    assert (both.shape, both.ndim, both.dtype, both.nbytes) == (whole.shape, 3, whole.dtype, whole.nbytes)
    np.testing.assert_array_equal(in_memory(both), whole)
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks(both)]), whole)
    assert all(len(block) <= 7 for _, block in blocks(both))


@given(rows=st.lists(st.integers(0, 64), max_size=30))
def test_any_rows_in_any_order(rows: list[int]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        stored = [tables._stored(mapped(part, Path(folder, f"{i}.npy")), Path()) for i, part in enumerate((A, B))]
        joined = tables._joined(stored)
        wanted = np.array(rows, dtype=np.int64)
        whole = np.concatenate([A, B])
        np.testing.assert_array_equal(joined[wanted], whole[wanted])
        np.testing.assert_array_equal(joined.take(wanted)[:], whole[wanted])
        mask = np.isin(np.arange(65), wanted)
        np.testing.assert_array_equal(joined[mask], whole[mask])
        # Taken rows of taken rows.
        np.testing.assert_array_equal(joined.take(wanted).take(wanted < 30)[:], whole[wanted[wanted < 30]])


def test_they_stay_on_disk_only_while_they_are_many(both: Stored) -> None:
    assert isinstance(take(both, np.arange(30)), Stored)
    few = take(both, np.arange(5))
    assert isinstance(few, np.ndarray)
    np.testing.assert_array_equal(few, A[:5])


def test_another_process_gets_names_and_reads_the_same(both: Stored, tmp_path: Path) -> None:
    path = tables.save(take(both, np.arange(64, -1, -1)), tmp_path / "order")
    back = tables.load(path)
    assert isinstance(back, Stored)
    np.testing.assert_array_equal(back[:], np.concatenate([A, B])[::-1])
    assert sum(f.stat().st_size for f in (path, path.with_suffix(".files"))) < A.nbytes


def test_digests_say_nothing_of_where_features_are(both: Stored) -> None:
    whole = np.concatenate([A, B])
    plain = hashlib.sha256(f"{whole.dtype.str}{whole.shape}".encode() + whole.tobytes()).hexdigest()
    assert digest(both) == digest(whole) == plain
    changed = whole.copy()
    changed[60, 2, 4] += 1
    assert digest(changed) != plain


def test_equal_rows_and_no_others_have_equal_hashes(small: None, tmp_path: Path) -> None:
    rows = np.concatenate([A, A[:3], A[:2] + 0])
    rows[43, 0, 0], rows[44, 0, 0] = 0.0, np.nan
    rows = np.concatenate([rows, rows[43:45]])
    rows[45, 0, 0] = -0.0
    labels = np.zeros(len(rows), dtype=np.int64)
    (on_disk,) = settle([rows], tmp_path)
    found, slow = row_hashes(on_disk, labels), row_hashes(rows, labels)
    # The hashes are others than in memory; what is equal to what is the same.
    same = [np.unique(each, return_inverse=True)[1] for each in (found, slow)]
    np.testing.assert_array_equal(same[0][:, None] == same[0], same[1][:, None] == same[1])
    assert len(np.unique(found)) == 42
    assert row_hashes(on_disk, labels + np.arange(len(rows)) % 2)[0] != row_hashes(on_disk, labels + 1)[0]


def test_small_arrays_come_into_memory_and_frames_stay_what_they_are(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1, 2]})
    kept = settle([mapped(A, tmp_path / "a.npy"), B], tmp_path)
    assert [type(part) for part in kept] == [np.ndarray, np.ndarray]
    assert settle([frame, frame], tmp_path)[0] is frame


def test_large_arrays_of_two_types_are_refused(small: None, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="float32, float64"):
        settle([A, B.astype(np.float64)], tmp_path)


def test_a_part_of_a_file_is_not_taken_for_the_whole(small: None, tmp_path: Path) -> None:
    part = mapped(A, tmp_path / "a.npy")[10:]
    (stored,) = settle([part], tmp_path)
    np.testing.assert_array_equal(stored[:], A[10:])


def overwrite(path: Path) -> None:
    """Other numbers in the same file, of the same time."""
    before = path.stat()
    np.lib.format.open_memmap(path, mode="r+")[...] += 1
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        overwrite,
        lambda path: os.truncate(path, path.stat().st_size - 100),
        lambda path: (path.rename(path.with_name("old")), np.save(path, A)),
        Path.unlink,
    ],
)
def test_a_file_that_changes_under_the_gate_is_an_error_in_every_process(
    both: Stored, tmp_path: Path, change: Callable[[Path], object]
) -> None:
    handed_over = tables.load(tables.save(both, tmp_path / "features"))
    change(tmp_path / "a.npy")
    with pytest.raises(StorageFailed, match=r"a\.npy"):
        tables.load(tmp_path / "features.rows")
    for features in (both, both.take(np.arange(50)), concat([both, both]), handed_over):
        with pytest.raises(StorageFailed, match=r"a\.npy"):
            in_memory(features)
    with pytest.raises(StorageFailed):
        digest(both)
    np.testing.assert_array_equal(both[len(A) :], B)  # the other file is what it was


def test_some_on_disk_and_some_not_do_not_mix(both: Stored) -> None:
    with pytest.raises(TypeError):
        concat([both, A])


@pytest.mark.parametrize(("width", "rows"), [(4, 1024), (1 << 16, 1024), (1 << 20, 64), (1 << 28, 1)])
def test_wide_rows_go_together_in_fewer(width: int, rows: int) -> None:
    wide = np.broadcast_to(np.zeros(1, np.uint8), (2000, width))
    assert batch_rows(wide, 1024) == rows
    assert batch_rows(pd.DataFrame({"a": [1]}), 1024) == 1024
