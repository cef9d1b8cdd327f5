import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from privacy_gate.datamodel import Outputs
from privacy_gate.errors import StorageFailed
from privacy_gate.shadows.store import Store, Trained

KEY, OTHER = "a" * 64, "b" * 64


def shadow(seed=0, rows=40, dtype=np.float32):
    values = np.random.default_rng(seed).normal(size=(rows, 3)).astype(dtype)
    return Trained(Outputs(values, "logits", 0.25), 0.75, None)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_was_put_comes_back(store, dtype):
    kept = shadow(dtype=dtype)
    store.put(KEY, kept)
    found = store.get(KEY)
    assert found.outputs.values.dtype == dtype
    assert (found.outputs.values == kept.outputs.values).all()
    assert (found.outputs.kind, found.outputs.resolution) == ("logits", 0.25)
    assert (found.accuracy_in, found.accuracy_out) == (0.75, None)
    assert KEY in store
    assert OTHER not in store
    assert store.get(OTHER) is None
    assert store.corrupt == 0


def test_equal_shadows_are_equal_bytes(tmp_path):
    files = []
    for name in ("one", "two"):
        store = Store(tmp_path / name)
        store.put(KEY, shadow())
        files.append(store.path(KEY).read_bytes())
    assert files[0] == files[1]


def test_numpy_alone_can_read_an_entry(store):
    store.put(KEY, shadow())
    with np.load(store.path(KEY), allow_pickle=False) as archive:
        assert (archive["outputs"] == shadow().outputs.values).all()


def test_nobody_else_can_read(store):
    before = os.umask(0o000)
    try:
        store.put(KEY, shadow())
    finally:
        os.umask(before)
    with store.workdir() as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(store.path(KEY).stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path(KEY).parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(store.log().stat().st_mode) == 0o600


def test_a_loosened_folder_is_tightened_again(store):
    folder = store.path(KEY).parent
    folder.chmod(0o755)
    Store(store.root)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_every_flipped_bit_is_noticed(store):
    store.put(KEY, shadow(rows=4))
    path = store.path(KEY)
    whole = path.read_bytes()
    for position in range(len(whole)):
        broken = bytearray(whole)
        broken[position] ^= 1 << (position % 8)
        path.write_bytes(broken)
        assert store.get(KEY) is None
        assert not path.exists()
    assert store.corrupt == len(whole)


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 200, -1])
def test_a_truncated_entry_is_never_trusted(store, length):
    store.put(KEY, shadow())
    path = store.path(KEY)
    path.write_bytes(path.read_bytes()[:length])
    assert store.verify() == [KEY]
    assert path.exists()  # verify only tells
    assert store.get(KEY) is None
    assert store.corrupt == 1


def test_an_entry_under_the_wrong_name_is_corrupt(store):
    store.put(KEY, shadow())
    os.rename(store.path(KEY), store.path(OTHER))
    assert store.verify() == [OTHER]
    assert store.get(OTHER) is None


def test_list_and_prune(store):
    for age, key in ((300, KEY), (100, OTHER)):
        store.put(key, shadow())
        then = store.path(key).stat().st_mtime - age
        os.utime(store.path(key), (then, then))
    assert [entry.key for entry in store.list()] == [OTHER, KEY]
    size = store.list()[0].size
    assert store.prune() == []
    assert store.prune(older_than=200) == [KEY]
    store.put(KEY, shadow())
    assert store.prune(max_bytes=size) == [OTHER]  # the least recently used goes
    assert [entry.key for entry in store.list()] == [KEY]
    assert store.prune(max_bytes=0) == [KEY]


def test_reading_counts_as_use(store):
    store.put(KEY, shadow())
    os.utime(store.path(KEY), (0, 0))
    store.get(KEY)
    assert store.prune(older_than=3600) == []


def test_work_folders_of_killed_gates_are_swept_and_live_ones_are_not(store, tmp_path):
    script = f"""
        import os, signal
        from pathlib import Path
        from privacy_gate.shadows.store import Store
        with Store(Path({str(store.root)!r})).workdir() as folder:
            (folder / "records.npy").write_text("private")
            print(folder, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = run(script)
    left = Path(done.stdout.strip())
    assert left.is_dir()
    with store.workdir() as mine:
        assert not left.exists()
        with Store(store.root).workdir() as other:
            assert mine.is_dir()
            assert other.is_dir()
    assert list((store.root / "work").iterdir()) == []


def test_a_full_disk_is_said_and_leaves_nothing_behind(store):
    # A limit on file sizes breaks the write in the middle, as a full disk does; needs no root.
    script = f"""
        import resource
        from pathlib import Path
        import numpy as np
        from privacy_gate.datamodel import Outputs
        from privacy_gate.errors import StorageFailed
        from privacy_gate.shadows.store import Store, Trained
        store = Store(Path({str(store.root)!r}))
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            store.put("{KEY}", Trained(Outputs(np.zeros((5000, 3)), "logits"), 1.0, 1.0))
        except StorageFailed as error:
            print(int(error.exit_code), error.what)
    """
    done = run(script)
    assert done.stdout.startswith("3 ")
    assert "File too large" in done.stdout
    assert list(store.path(KEY).parent.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_really_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("this root may not mount")
    try:
        store = Store(disk / "store")
        store.put(KEY, shadow())
        with pytest.raises(StorageFailed, match="No space left"):
            store.put(OTHER, shadow(rows=20_000))
        assert store.get(KEY) is not None
        assert OTHER not in store
        assert [p.name for p in store.path(KEY).parent.iterdir()] == [f"{KEY}.npz"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed):
        Store(tmp_path / "file" / "store")


def run(script):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False, timeout=60
    )
