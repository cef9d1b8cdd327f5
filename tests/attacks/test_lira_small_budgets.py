"""LiRA with eight references: what shrinking each record's spread to the population's is worth on real records."""

import numpy as np
import pytest

from privacy_gate.attacks import CATALOG
from privacy_gate.attacks.lira import online
from privacy_gate.datamodel import WITHHELD, Observations, Outputs
from privacy_gate.request import TorchTraining
from privacy_gate.signals import collect

pytestmark = [pytest.mark.reference, pytest.mark.slow]

PAIRS = 9  # of models on complementary halves: in any four pairs, each record is in four models and out of four
FPR = 0.001


@pytest.fixture(scope="module")
def models(reference_data):
    """Logit confidences [S, R] of models trained on random halves of 2000 Location30 records, and the halves [S, R]."""
    import torch
    from torch import nn

    from privacy_gate.shadows.recipes.torch_module import fit

    arrays = np.load(reference_data / "location30" / "records.npz")
    rows = np.concatenate([arrays["order"][:1000], arrays["order"][2000:3000]])
    labels = arrays["y"][rows].astype(np.int64)
    x, y = torch.as_tensor(arrays["x"][rows].astype(np.float32)), torch.as_tensor(labels)
    training = TorchTraining(epochs=50, batch_size=100, learning_rate=1e-3)
    rng = np.random.default_rng(0)
    phi, member = [], []
    for _ in range(PAIRS):
        half = np.zeros(len(rows), dtype=np.bool_)
        half[rng.permutation(len(rows))[: len(rows) // 2]] = True
        for inside in (half, ~half):
            torch.manual_seed(len(member))
            module = nn.Sequential(nn.Linear(446, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 30))
            chosen = torch.as_tensor(np.flatnonzero(inside))
            fit(module, x[chosen], y[chosen], training, torch.Generator().manual_seed(len(member)))
            with torch.inference_mode():
                logits = module(x).double().numpy()
            phi.append(collect(Outputs(logits, "logits"), labels, ["logit_confidence"])["logit_confidence"])
            member.append(inside)
    return np.stack(phi), np.stack(member), labels


def tpr(scores, member):
    """Share of members above all but the allowed number of non-members: 1 of 1000."""
    others = np.sort(scores[~member])
    return float((scores[member] > others[-1 - int(FPR * len(others))]).mean())


def references_of(target):
    """Four of the other eight pairs; the two models of a pair, each other's twin, get one half of them each."""
    pair, side = divmod(target, 2)
    return np.array([2 * ((pair + 1 + 4 * side + j) % PAIRS) + twin for j in range(4) for twin in (0, 1)])


def test_shrunken_spreads_beat_own_spreads(models):
    phi, member, labels = models
    found = {"nig": [], "per-record": [], "fixed": []}
    for target in range(len(phi)):
        chosen = references_of(target)
        assert target // 2 not in chosen // 2
        assert (member[chosen].sum(axis=0) == 4).all()
        seen = Observations(
            target={"logit_confidence": phi[target]},
            labels=labels,
            known=np.full(len(labels), WITHHELD, dtype=np.int8),
            persons=np.arange(len(labels)),
            classes=30,
            references={"logit_confidence": phi[chosen]},
            reference_member=member[chosen],
        )
        scores = CATALOG["lira"].score(seen)  # with eight references it shrinks by itself
        np.testing.assert_array_equal(scores, online(phi[target], phi[chosen], member[chosen], "nig"))
        found["nig"].append(tpr(scores, member[target]))
        for variance in ("per-record", "fixed"):
            found[variance].append(tpr(online(phi[target], phi[chosen], member[chosen], variance), member[target]))
    rates = {variance: np.array(values) for variance, values in found.items()}
    for variance, values in rates.items():
        print(
            f"LiRA, 8 references, {variance}: TPR at 0.1 % FPR {values.mean():.3f}, sd over targets {values.std():.3f}"
        )
    gain = rates["nig"] - rates["per-record"]
    error = gain.std(ddof=1) / np.sqrt(len(gain))
    print(f"shrunken minus own spread over {len(gain)} targets: {gain.mean():.3f} +- {error:.3f}")
    assert len(gain) >= 8
    assert gain.mean() > 3 * error
