"""Features on disk reach a model without saying where they lie, which would tell who is a member."""

import json
import os
import socket

import numpy as np
import pytest

from privacy_gate import features as tables
from privacy_gate.errors import StorageFailed
from privacy_gate.sandbox import examine, feeding
from tests.sandbox import elsewhere

MEMBERS, OTHERS = (np.random.default_rng(seed).normal(size=(40, 5)) for seed in (1, 2))
ORDER = np.random.default_rng(3).permutation(80)


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """Both sets on disk, their rows mixed."""
    monkeypatch.setattr(tables, "LARGE", 100)
    parts = []
    for name, rows in (("members", MEMBERS), ("nonmembers", OTHERS)):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "x.npy", rows)
        parts.append(np.load(tmp_path / name / "x.npy", mmap_mode="r"))
    found = tables.take(tables.concat(tables.settle(parts, tmp_path)), ORDER)
    assert isinstance(found, tables.Stored)
    return found


def fed(offer):
    """What the child has; the handle itself is the gate's to close."""
    return feeding.load(json.loads(json.dumps({**offer.told, "handle": os.dup(offer.handle)})))


def test_what_is_fed_is_what_is_stored(stored, monkeypatch):
    monkeypatch.setattr(tables, "BLOCK", 7 * 5 * 8)  # several questions
    whole = np.concatenate([MEMBERS, OTHERS])[ORDER]
    with feeding.offered(stored) as offer:
        found = fed(offer)
        with found.stream:
            for _ in range(2):  # a model may be asked again
                np.testing.assert_array_equal(tables.in_memory(found), whole)
                blocks = [block for _, block in tables.blocks(found)]
                assert {len(block) for block in blocks} == {7, 3}
                np.testing.assert_array_equal(np.concatenate(blocks), whole)
            np.testing.assert_array_equal(tables.take(found, np.array([3, 1, 2, 3])), whole[[3, 1, 2, 3]])
            assert len(found[5:5]) == 0
        offer.check()
    with feeding.offered(MEMBERS) as nothing:
        assert nothing is None


@pytest.mark.parametrize("asked", [(-1, 3), (0, 0), (5, 4), (79, 81), (0, 2**62), (0, 80)])
def test_a_child_that_asks_for_what_there_is_not_gets_nothing(stored, monkeypatch, asked):
    monkeypatch.setattr(tables, "BLOCK", 7 * 5 * 8)
    with feeding.offered(stored) as offer, socket.socket(fileno=os.dup(offer.handle)) as stream:
        stream.sendall(feeding._ASKED.pack(*asked))
        assert stream.recv(1) == b""


def test_a_child_that_goes_away_in_the_middle_holds_nobody_up(stored):
    with feeding.offered(stored) as offer, socket.socket(fileno=os.dup(offer.handle)) as stream:
        stream.sendall(feeding._ASKED.pack(0, 80) + b"half a qu")
        assert stream.recv(8) == np.concatenate([MEMBERS, OTHERS])[ORDER].tobytes()[:8]


class Spy:
    """A model that looks for what would tell it who is a member."""

    classes_ = np.array([0, 1])

    def predict_proba(self, features):
        import gc
        import pathlib

        told = [one.files for one in gc.get_objects() if type(one).__mro__[-2].__name__ == "Stored" and one.files]
        beside = [path.name for path in pathlib.Path("..").rglob("*") if "features" in path.name]
        lines = [path for path in pathlib.Path("..").rglob("*.json") if "members" in path.read_text()]
        found = [*told, *beside, *lines]
        assert not found
        p = 1 / (1 + np.exp(-features[:, 0]))
        return np.stack([1 - p, p], axis=1)


@pytest.fixture
def spy(tmp_path):
    import sys

    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield elsewhere.candidate(tmp_path / "model", Spy())
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_a_model_finds_no_file_and_no_name_that_tells_who_is_a_member(stored, spy, tmp_path):
    _, scored = examine(spy, stored, tmp_path / "work")
    expected = 1 / (1 + np.exp(-np.concatenate([MEMBERS, OTHERS])[ORDER, 0]))
    np.testing.assert_array_equal(scored.outputs.values[:, 1], expected)


def test_a_file_that_changed_is_told_by_the_gate_itself(stored, spy, tmp_path):
    os.truncate(tmp_path / "members" / "x.npy", 1000)
    with pytest.raises(StorageFailed, match=r"^members/x\.npy was changed while it was in use"):
        examine(spy, stored, tmp_path / "work")
