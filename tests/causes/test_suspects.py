"""Label noise and outliers: planted, found, and told without small cells."""

from dataclasses import replace

import numpy as np
import pytest

from privacy_gate.causes.label_noise import label_noise
from privacy_gate.causes.outliers import outliers
from privacy_gate.causes.suspects import label_noise_suspects, outlier_suspects
from privacy_gate.datamodel import Outputs
from privacy_gate.measure import View
from privacy_gate.signals import CATALOG as SIGNALS
from privacy_gate.signals import collect
from tests.causes.worlds import looked_at, with_risk
from tests.worlds import gaussian_models, observe

PLANTED = np.isin(np.arange(600), np.arange(0, 300, 5))  # every fifth member


def world(shift):
    """Sharp models that are right; of every fifth member the answers of all models are shifted."""
    models = gaussian_models(300, 300, 4, 0.5, 12, seed=1, difficulty=0.1)
    true = np.arange(4) == models.labels[:, None]
    logits = models.shadows * 0.3 + 5.0 * true + PLANTED[:, None] * shift(models.labels, true)
    names = SIGNALS.names()
    each = [collect(Outputs(z, "logits"), models.labels, names) for z in logits]
    seen, _ = observe(models)
    given = looked_at(n=300, seed=1, shadows=12)
    sharp = replace(seen, references={name: np.stack([one[name] for one in each]) for name in names})
    return replace(given, view=View(sharp, None))


def wrong_label(labels, true):
    other = np.arange(4) == (labels[:, None] + 1) % 4
    return 7.0 * other - 7.0 * true


def undecided(labels, true):
    return -5.0 * true


def test_wrong_labels_are_suspected_and_undecided_ones_are_not():
    found = label_noise_suspects(world(wrong_label).view.seen)
    assert found[PLANTED].mean() > 0.95
    assert found[~PLANTED].mean() < 0.02
    assert label_noise_suspects(world(undecided).view.seen)[PLANTED].mean() < 0.1


def test_unusual_records_are_suspected():
    given = world(undecided)
    found = outlier_suspects(given.view.seen, ~given.audit.member)
    assert found[PLANTED].mean() > 0.95
    # 5 % of the non-members by confidence, 5 % by entropy.
    assert 0.04 < found[~given.audit.member].mean() <= 0.11


@pytest.mark.parametrize(("finder", "shift"), [(label_noise, wrong_label), (outliers, undecided)])
def test_high_risk_members_that_are_suspect(finder, shift):
    given = world(shift)
    found = finder(with_risk(given, np.where(PLANTED | (np.arange(600) % 7 == 0), 0.9, 0.3)))
    high, everyone = found.rows
    assert (high.name, everyone.name) == ("high-risk members", "all members")
    assert everyone.members == 300
    assert found.p_value < 1e-6
    assert found.value == pytest.approx(high.numbers["share"] / everyone.numbers["share"])
    assert high.numbers["low"] < high.numbers["share"] < high.numbers["high"]
    assert "more often at high risk than others" in found.reason


def test_nothing_is_told_of_fewer_than_ten():
    given = world(wrong_label)
    few = np.isin(np.arange(600), [0, 5, 10, 1, 2])
    found = label_noise(with_risk(given, np.where(few, 0.9, 0.3)))
    assert found.value is None
    assert np.isnan(found.rows[0].numbers["share"])
    assert "fewer than 10" in found.reason
    assert "60.0 %" not in found.reason
