from dataclasses import replace

import numpy as np

from privacy_gate.causes.influence import influence, influences, of_two_classes
from tests.causes.worlds import looked_at, with_risk


def test_against_a_twin():
    seen = looked_at(n=20).view.seen
    expected = []
    for r in range(seen.n):
        inside, outside = [], []
        for s in range(seen.shadows):
            value = np.log(seen.references["modified_entropy"][s, r])
            (inside if seen.reference_member[s, r] else outside).append(value)
        expected.append(np.mean(outside) - np.mean(inside))
    np.testing.assert_allclose(influences(seen), expected)


def test_a_record_in_every_shadow_has_none():
    seen = looked_at(n=20).view.seen
    member = seen.reference_member.copy()
    member[:, 3] = True
    found = influences(replace(seen, reference_member=member))
    assert np.isnan(found[3])
    assert np.isfinite(np.delete(found, 3)).all()


def test_memorised_records_are_named_as_the_risky_ones():
    """The leak differs by record: what moves the shadows moves the target, and so the risk."""
    leak = np.linspace(0, 4, 600)
    given = looked_at(n=300, leak=leak)
    found = influence(with_risk(given, 0.2 + 0.6 * leak / 4))
    assert found.value > 0.5
    assert found.p_value < 0.01
    assert "more influence are at higher risk" in found.reason
    chance = influence(with_risk(given, np.random.default_rng(1).random(600)))
    assert abs(chance.value) < 4 / np.sqrt(300)


def test_from_confidence_alone():
    """Of two classes the logit confidence tells the modified entropy exactly."""
    seen = looked_at(n=200, classes=2, leak=4.0).view.seen
    only = replace(seen, references={"logit_confidence": seen.references["logit_confidence"]})
    np.testing.assert_allclose(influences(only), influences(seen), rtol=1e-9)
    assert np.isfinite(of_two_classes(np.array([-1e4, 0.0, 1e4]))).all()
