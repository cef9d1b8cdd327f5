import numpy as np
import pytest

from privacy_gate.errors import DataError
from privacy_gate.shadows.recipes.load import finished

S, U, K = 3, 10, 2
POOL = np.arange(U) < 8


def arrays(**changes):
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(K), (S, U)).astype(np.float32)
    member = np.stack([np.roll(np.arange(U) % 2 == 0, s) for s in range(S)])
    return {name: value for name, value in {"probs": probs, "member": member, **changes}.items() if value is not None}


def load(tmp_path, **changes):
    np.savez(tmp_path / "shadows.npz", **arrays(**changes))
    return finished(tmp_path / "shadows.npz", U, K, POOL, 5)


def test_finished_shadows(tmp_path):
    plan, outputs = load(tmp_path)
    given = arrays()
    assert plan.kind == "loaded"
    assert (plan.member == given["member"]).all()
    assert (plan.pool == POOL).all()
    assert plan.train_size == 5
    assert [o.kind for o in outputs] == ["probabilities"] * S
    assert (np.stack([o.values for o in outputs]) == given["probs"]).all()


def test_logits_and_masks_of_zeros_and_ones(tmp_path):
    plan, outputs = load(tmp_path, probs=None, logits=np.zeros((S, U, K)), member=arrays()["member"].astype(int))
    assert plan.member.dtype == bool
    assert outputs[0].kind == "logits"


def test_records_without_two_in_and_two_out_are_noted(tmp_path):
    plan, _ = load(tmp_path)
    assert plan.notes == ("8 of 8 records are in, or out of, fewer than 2 loaded shadows",)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"probs": None}, "holds member"),
        ({"member": None}, "holds probs"),
        ({"logits": np.zeros((S, U, K))}, "holds logits, member, probs"),
        ({"probs": np.full((S, U + 1, K), 0.5)}, r"expected \[S, 10, 2\]"),
        ({"probs": np.full((S, U, K + 1), 0.5)}, r"expected \[S, 10, 2\]"),
        ({"probs": np.zeros((0, U, K)), "member": np.zeros((0, U), bool)}, r"expected \[S, 10, 2\]"),
        ({"member": np.zeros((S, U + 1), bool)}, "member has shape"),
        ({"member": np.full((S, U), 0.5)}, "of type float64"),
        ({"member": np.full((S, U), 2)}, "of type int64"),
        ({"member": np.ones((S, U), bool)}, "shadow 0 trained on all"),
        ({"member": np.zeros((S, U), bool)}, "shadow 0 trained on none"),
        ({"probs": np.ones((S, U, K))}, "add up to one"),
        ({"probs": np.tile([1.5, -0.5], (S, U, 1))}, "add up to one"),
        ({"probs": np.full((S, U, K), np.nan)}, "not finite"),
        ({"probs": np.ones((S, U, K), int)}, "of type int64"),
        ({"probs": np.full((S, U, K), None)}, "not a readable"),  # objects are pickles, and pickles are programs
    ],
)
def test_what_is_refused(tmp_path, changes, said):
    with pytest.raises(DataError, match=said):
        load(tmp_path, **changes)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not really", b"text"])
def test_files_that_are_no_archive(tmp_path, content):
    (tmp_path / "shadows.npz").write_bytes(content)
    with pytest.raises(DataError, match="not a readable"):
        finished(tmp_path / "shadows.npz", U, K, POOL, 5)


def test_a_lone_array_is_no_archive(tmp_path):
    np.save(tmp_path / "shadows.npy", np.zeros(3))
    with pytest.raises(DataError, match="not a readable"):
        finished(tmp_path / "shadows.npy", U, K, POOL, 5)


def test_no_file(tmp_path):
    with pytest.raises(DataError, match="there is no file"):
        finished(tmp_path / "none.npz", U, K, POOL, 5)
