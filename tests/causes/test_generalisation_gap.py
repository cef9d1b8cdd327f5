import numpy as np

from privacy_gate.causes.generalisation_gap import generalisation_gap
from tests.causes.worlds import looked_at, with_risk


def test_gap_and_mean_risk_per_class_and_their_connection():
    """Twelve classes; the model errs on non-members more and more often, and the risk follows."""
    given = looked_at(n=1200, classes=12, shadows=0)
    audit, rng = given.audit, np.random.default_rng(1)
    correct = audit.member | (rng.random(2400) < 1 - audit.labels / 14)
    object.__setattr__(given, "target_correct", correct)
    found = generalisation_gap(with_risk(given, 0.5 + audit.labels / 30 + 0.01 * rng.random(2400)))
    assert found.p_value < 0.01
    assert found.value > 0.9
    assert "larger gap have members at higher risk" in found.reason
    assert [row.name for row in found.rows] == list(audit.classes)
    for label, row in enumerate(found.rows):
        outside = ~audit.member & (audit.labels == label)
        assert row.numbers["gap"] == 1 - correct[outside].mean()
        assert row.members == (audit.member & (audit.labels == label)).sum()


def test_no_connection_is_not_made_up():
    given = looked_at(n=600, classes=12, shadows=0)
    found = generalisation_gap(with_risk(given, np.random.default_rng(2).random(1200)))
    assert "no connection" in found.reason


def test_small_classes_are_left_out():
    given = looked_at(n=30, classes=12, shadows=0)
    found = generalisation_gap(given)
    assert found is None or all(row.members >= 10 for row in found.rows)
