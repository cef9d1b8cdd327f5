"""Attacks on the weights: what they read, what they learn, and what was found on Location30."""

import numpy as np
import pytest
import torch
from torch import nn

from privacy_gate.attacks import CATALOG
from privacy_gate.datamodel import WITHHELD, Audit, Observations, Outputs, Scope
from privacy_gate.measure import View, measure
from privacy_gate.signals import PROBES, collect
from tests.worlds import auc, auc_noise, half_of_the_persons

WHITE_BOX = ("gradient_norm", "nasr_whitebox", "rezaei_liu")


def world(target, member, labels=None):
    """Observations of one model with the given signals, half of the records revealed; and who is withheld."""
    n = len(member)
    labels = np.zeros(n, dtype=np.int64) if labels is None else labels
    audit = Audit(member, labels, np.arange(n), ("a", "b"))
    revealed = half_of_the_persons(audit, 3)
    seen = Observations(
        target={name: np.array(values, dtype=np.float64) for name, values in target.items()},
        labels=labels.copy(),
        known=np.full(n, WITHHELD, dtype=np.int8),
        persons=np.arange(n),
        classes=2,
    )
    return seen.reveal(member, revealed), ~revealed, audit


@pytest.mark.parametrize("id", WHITE_BOX)
def test_they_need_the_weights_and_no_shadow(id):
    attack = CATALOG[id]
    assert attack.family == "white-box"
    assert any(PROBES[name].needs == "weights" for name in attack.requires if name in PROBES)
    assert not attack.min_in
    assert not attack.min_out


# --- gradient_norm ----------------------------------------------------------------------------------------------------


def test_the_score_is_minus_the_log_norm_of_all_layers_together():
    gradients = [
        [np.array([3.0]), np.array([0.3, 0.4]), np.array([1.2])],
        [np.array([1e9]), np.zeros(2), np.array([5])],
    ]
    logs = np.array([[np.log(np.linalg.norm(part) + 1e-12) for part in record] for record in gradients])
    seen, _, _ = world({"gradient_norms": logs}, np.array([True, False]))
    # The input's norm, in the first column, is left out.
    np.testing.assert_allclose(CATALOG["gradient_norm"].score(seen), [-np.log(1.3), -np.log(5)], rtol=1e-9)


# --- nasr_whitebox ----------------------------------------------------------------------------------------------------


def flat_answers(n, rng):
    """Answers that tell nothing of membership."""
    phi = rng.normal(2, 1.5, n)
    return {"loss": np.logaddexp(0, -phi), "logit_confidence": phi, "modified_entropy": np.exp(-phi)}


def test_one_layer_is_enough():
    rng, n = np.random.default_rng(0), 800
    member = np.arange(n) < n // 2
    norms = rng.normal(size=(n, 4))
    norms[:, 2] += 1.0 * member
    seen, withheld, _ = world({"gradient_norms": norms, **flat_answers(n, rng)}, member)
    found = auc(CATALOG["nasr_whitebox"].score(seen)[withheld], member[withheld])
    best = 0.760  # Phi(1 / sqrt 2), the best that any attack can reach
    assert abs(found - best) < 4 * auc_noise(200, 200)
    assert found > 0.5 + 4 * auc_noise(200, 200)


# --- rezaei_liu -------------------------------------------------------------------------------------------------------


def right_and_wrong(n, rng, *, members_right, others_right):
    member = np.arange(n) < n // 2
    right = rng.random(n) < np.where(member, members_right, others_right)
    return member, right, rng.normal(size=(n, 3))


def test_right_and_wrong_answers_are_learned_apart():
    rng = np.random.default_rng(1)
    member, right, features = right_and_wrong(2000, rng, members_right=0.6, others_right=0.6)
    # Members have more of it among right answers and less of it among wrong ones: one line would see nothing.
    features[:, 1] += np.where(right, 1.5, -1.5) * np.where(member, 0.5, -0.5)
    seen, withheld, _ = world({"gradient_features": features, "correctness": right}, member)
    scores = CATALOG["rezaei_liu"].score(seen)
    for kind in (right, ~right):
        here = withheld & kind
        assert auc(scores[here], member[here]) > 0.8  # 0.856 = Phi(1.5 / sqrt 2) can be reached
    assert auc(features[withheld, 1], member[withheld]) < 0.65


def test_the_gap_between_training_and_test_accuracy_is_set_aside():
    rng = np.random.default_rng(2)
    member, right, features = right_and_wrong(2000, rng, members_right=0.95, others_right=0.55)
    seen, withheld, audit = world({"gradient_features": features, "correctness": right}, member)
    scores = CATALOG["rezaei_liu"].score(seen)
    for kind in (right, ~right):
        here = withheld & kind
        sides = int((member & here).sum()), int((~member & here).sum())
        assert abs(auc(scores[here], member[here]) - 0.5) < 4 * auc_noise(*sides)
    assert auc(right[withheld].astype(float), member[withheld]) > 0.65
    blind = seen.reveal(member, np.zeros(len(member), dtype=np.bool_))
    outcomes = measure(CATALOG["rezaei_liu"], View(blind, None), audit, 0)
    answered = {part.value: part.accuracy.value for part in outcomes[0].answered}
    assert answered.keys() == {"correct", "incorrect"}
    assert abs(answered["correct"] - 0.5) < 0.05  # 4 standard deviations of 550 non-members


@pytest.mark.parametrize(("members_right", "others_right"), [(1.0, 0.6), (1.0, 1.0), (0.0, 0.0), (1.0, 0.999)])
def test_kinds_with_too_few_known_records_share_one_line(members_right, others_right):
    rng = np.random.default_rng(3)
    member, right, features = right_and_wrong(600, rng, members_right=members_right, others_right=others_right)
    features[:, 0] += 2.0 * member
    seen, withheld, _ = world({"gradient_features": features, "correctness": right}, member)
    scores = CATALOG["rezaei_liu"].score(seen)
    assert np.isfinite(scores).all()
    # 0.921 = Phi(2 / sqrt 2) can be reached; 5 standard deviations less.
    assert auc(scores[withheld], member[withheld]) > 0.921 - 5 * auc_noise(150, 150)


# --- Location30 -------------------------------------------------------------------------------------------------------


class Loaded:
    def __init__(self, model):
        self.model, self.classes = model, 30

    def answers(self, features):
        with torch.no_grad():
            return Outputs(self.model(torch.as_tensor(features)).numpy(), "logits")

    def module(self):
        return self.model


@pytest.mark.reference
def test_gradient_norms_add_little_to_the_confidence_on_location30(reference_data):
    """The known result on this data: an AUC of .897 for the last layer alone, .894 for the log odds."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with np.load(reference_data / "location30" / "records.npz") as data:
        rows = np.concatenate([data["order"][:1000], data["order"][2000:3000]])
        x, y = data["x"].astype(np.float32)[rows], data["y"].astype(np.int64)[rows]
    model = nn.Sequential(nn.Linear(446, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 30))
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(30):
        for batch in torch.randperm(1000).split(100):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(torch.from_numpy(x[batch])), torch.from_numpy(y[batch])).backward()
            optimiser.step()
    loaded, member = Loaded(model.eval()), np.arange(2000) < 1000
    answers = ["logit_confidence", "loss", "modified_entropy", "correctness"]
    signals = collect(loaded.answers(x), y, answers)
    signals |= {name: PROBES[name].compute(loaded, x, y, 0) for name in ("gradient_norms", "gradient_features")}
    audit = Audit(member, y, np.arange(2000), tuple(map(str, range(30))))
    seen = Observations(signals, y.copy(), np.full(2000, WITHHELD, dtype=np.int8), np.arange(2000), 30)
    phi = auc(signals["logit_confidence"], member)
    assert phi > 0.8
    assert abs(auc(-signals["gradient_norms"][:, -1], member) - phi) < 0.03
    assert abs(auc(CATALOG["gradient_norm"].score(seen), member) - phi) < 0.03
    for id in ("nasr_whitebox", "rezaei_liu"):
        found = {one.threshold: one for one in measure(CATALOG[id], View(seen, None), audit, 0)}
        assert abs(found[Scope.GLOBAL].auc.value - phi) < 0.03 + auc_noise(1000, 1000)
        assert found[Scope.GLOBAL].accuracy.lower(0.05) > 0.7
