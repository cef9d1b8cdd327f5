"""Correctness, confidence, entropy, modified entropy: the published attacks, against their definitions."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from privacy_gate.attacks import CATALOG
from privacy_gate.datamodel import Outputs
from tests.worlds import auc, gaussian_models, gaussian_world, location30, observations_of, observe


def test_correctness_accuracy_is_the_generalisation_gap():
    """I-5: 1/2 (1 + accuracy on members - accuracy on non-members), exactly."""
    seen, audit = gaussian_world(300, 200, classes=4, leak=1.0, shadows=0, seed=1)
    decided = CATALOG["correctness"].score(seen) > 0
    correct = seen.target["correctness"] == 1
    gap = correct[audit.member].mean() - correct[~audit.member].mean()
    accuracy = (decided[audit.member].mean() + 1 - decided[~audit.member].mean()) / 2
    assert accuracy == pytest.approx((1 + gap) / 2, abs=1e-15)
    assert not CATALOG["correctness"].thresholded


def test_confidence_attack_orders_records_as_confidence_and_loss_do():
    """I-4: identical ROC of p_y, -loss and log odds, as long as none of them saturates."""
    seen, audit = gaussian_world(200, 200, classes=6, leak=2.0, shadows=0, seed=2)
    score = CATALOG["confidence"].score(seen)
    order = np.argsort(score)
    for other in (seen.target["confidence"], -seen.target["loss"]):
        assert (np.diff(other[order]) >= 0).all()
        assert auc(other, audit.member) == auc(score, audit.member)


def test_entropy_attack_is_minus_entropy():
    seen, _ = gaussian_world(50, 50, classes=3, leak=1.0, shadows=0, seed=3)
    np.testing.assert_array_equal(CATALOG["entropy"].score(seen), -seen.target["entropy"])


def test_modified_entropy_attack_orders_records_as_modified_entropy_does():
    seen, _ = gaussian_world(200, 200, classes=6, leak=2.0, shadows=0, seed=4)
    order = np.argsort(CATALOG["modified_entropy"].score(seen))
    assert (np.diff(seen.target["modified_entropy"][order]) <= 0).all()


def test_two_classes_make_all_metric_attacks_that_know_the_label_one():
    """I-4: for K = 2 modified entropy is 2 (1 - p_y)(-log p_y), monotone in p_y: the same ROC, an exact oracle."""
    seen, audit = gaussian_world(150, 150, classes=2, leak=1.5, shadows=0, seed=5)
    confidence, mentr = (CATALOG[name].score(seen) for name in ("confidence", "modified_entropy"))
    np.testing.assert_array_equal(np.argsort(confidence), np.argsort(mentr))
    assert auc(confidence, audit.member) == auc(mentr, audit.member)
    p = seen.target["confidence"]
    np.testing.assert_allclose(seen.target["modified_entropy"], -2 * (1 - p) * np.log(p), rtol=1e-9)


@given(st.lists(st.floats(0, 800), min_size=2, max_size=20, unique=True), st.integers(2, 6))
def test_very_confident_records_do_not_tie(margins, classes):
    """Modified entropy underflows at a margin of 354 nats; its attack keeps the order up to the largest logits."""
    margins = np.sort(np.round(margins, 3))
    margins = margins[np.append(True, np.diff(margins) > 0)]
    z = np.zeros((len(margins), classes))
    z[:, 0] = margins
    score = CATALOG["modified_entropy"].score(observations_of(Outputs(z, "logits"), np.zeros(len(z), dtype=np.int64)))
    assert (np.diff(score) > 0).all()


@given(
    arrays(np.float64, (8, 4), elements=st.floats(-30, 30, allow_subnormal=False)),
    st.floats(0.05, 20),
)
def test_temperature_leaves_correctness_alone(z, temperature):
    """I-5: a transform that keeps the top class keeps the correctness attack."""
    labels = np.arange(8) % 4
    hot = observations_of(Outputs(z * 1.0, "logits"), labels)
    cold = observations_of(Outputs(z * 2.0 ** round(np.log2(temperature)), "logits"), labels)
    score = CATALOG["correctness"].score
    np.testing.assert_array_equal(score(hot), score(cold))


def test_relabelling_classes_changes_no_score():
    """I-3: permuting columns and labels together."""
    models = gaussian_models(60, 60, classes=5, leak=2.0, shadows=4, seed=6)
    old = np.random.default_rng(7).permutation(5)
    renamed = replace(
        models,
        target=models.target[:, old],
        shadows=models.shadows[:, :, old],
        labels=np.argsort(old)[models.labels],
    )
    first, second = observe(models)[0], observe(renamed)[0]
    for name in ("correctness", "confidence", "entropy", "modified_entropy", "lira"):
        score = CATALOG[name].score
        np.testing.assert_allclose(score(first), score(second), rtol=1e-9, atol=1e-9, err_msg=name)


PUBLISHED_AUC = {
    "undefended": {"confidence": 0.8698, "entropy": 0.8444, "modified_entropy": 0.8711},
    "memguard": {"confidence": 0.6900, "entropy": 0.6012, "modified_entropy": 0.6037},
}


@pytest.mark.reference
@pytest.mark.parametrize("model", PUBLISHED_AUC)
def test_areas_on_the_published_predictions(reference_data, model):
    """Scores in logit space order the authors' own predictions as theirs do, to the printed digits."""
    seen, _, audit = location30(reference_data, model)
    found = {name: auc(CATALOG[name].score(seen), audit.member) for name in PUBLISHED_AUC[model]}
    assert found == pytest.approx(PUBLISHED_AUC[model], abs=6e-5)
    decided = CATALOG["correctness"].score(seen)
    assert (decided[audit.member].mean() + 1 - decided[~audit.member].mean()) / 2 == pytest.approx(0.687, abs=1e-12)
