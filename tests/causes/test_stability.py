import numpy as np

from privacy_gate.attacks import CATALOG as ATTACKS
from privacy_gate.causes.association import generator
from privacy_gate.causes.stability import from_some_references, jaccard, stability, top
from tests.causes.worlds import looked_at, with_risk


def flagged(given, share=0.2):
    """The members with the highest scores are at high risk."""
    scores = given.view.seen.target["logit_confidence"]
    return with_risk(given, np.where(scores >= np.quantile(scores, 1 - share), 0.9, 0.3))


def test_more_references_agree_more():
    few, many = (stability(flagged(looked_at(shadows=s, leak=2.0))) for s in (8, 48))
    assert 0 < few.value < many.value <= 1
    assert few.p_value is None
    assert "24" not in few.reason
    assert "halves of 48 references" in many.reason


def test_too_few_references_say_nothing():
    assert stability(flagged(looked_at(shadows=4))) is None
    assert stability(flagged(looked_at(shadows=0))) is None


def test_nobody_flagged():
    given = looked_at()
    found = stability(with_risk(given, np.full(600, 0.3)))
    assert found.value is None
    assert "no lists are compared" in found.reason


def test_all_references_are_the_attack_itself():
    seen = looked_at().view.seen
    rescore = from_some_references("lira", seen)
    np.testing.assert_array_equal(rescore(np.ones(seen.shadows, dtype=bool)), ATTACKS["lira"].score(seen))


def test_lists_and_their_overlap():
    assert top(np.array([1.0, 5.0, 3.0]), 2, generator(0, 1)).tolist() == [False, True, True]
    tied = [top(np.zeros(40), 20, generator(seed, 1)) for seed in range(2)]
    assert jaccard(*tied) < 0.8  # equal scores agree by chance only
    assert jaccard(np.array([True, True, False]), np.array([False, True, True])) == 1 / 3
    assert jaccard(np.zeros(3, dtype=bool), np.zeros(3, dtype=bool)) == 1.0
