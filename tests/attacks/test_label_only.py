"""Attackers who see only classes: what they catch that no other family sees, and what they read."""

import numpy as np
import pytest

from privacy_gate.attacks import CATALOG
from privacy_gate.datamodel import AttackResult, Scope, ThreatModel
from privacy_gate.measure import measure
from privacy_gate.observe import observe
from privacy_gate.signals import PROBES
from tests.label_only_world import label_only_world
from tests.worlds import auc

LABEL_ONLY = {
    "noise_robustness": "noise_robustness",
    "augmentation": "augmentation_robustness",
    "boundary_distance": "boundary_distance",
}
BLIND = ("correctness", "confidence", "entropy", "modified_entropy", "lira")


@pytest.fixture(scope="module")
def disguised():
    answers, audit = label_only_world()
    names = ("noise_robustness", "boundary_distance", *BLIND)
    observed = observe(answers, audit, names)
    found = {name: measure(CATALOG[name], observed.views[0], audit, 0) for name in names}
    return answers, audit, found


@pytest.mark.parametrize("id", LABEL_ONLY)
def test_the_score_is_the_probe(id):
    attack = CATALOG[id]
    assert attack.family == "label-only"
    assert attack.requires == {LABEL_ONLY[id]}
    assert PROBES[LABEL_ONLY[id]].needs == "labels"
    assert attack.thresholded
    assert not attack.reads_known


def test_an_attack_on_shadows_has_shadows_that_are_probed():
    """What costs hundreds of answers per record is asked of the target alone, and decided there."""
    for id, name in LABEL_ONLY.items():
        assert PROBES[name].shadows == (ThreatModel.SHADOW in CATALOG[id].threat_models)
        assert ThreatModel.KNOWN_SUBSET in CATALOG[id].threat_models


def test_costs_are_those_of_the_probes():
    for id, name in LABEL_ONLY.items():
        number = next(word for word in PROBES[name].queries.split() if word.isdigit())
        assert number in CATALOG[id].cost.split()


def test_the_disguise_hides_from_confidences_and_mistakes(disguised):
    """One-hot and always right: scores are constant, thresholds per class know the sizes of classes only."""
    answers, audit, found = disguised
    assert (answers.target.values.argmax(axis=1) == audit.labels).all()
    for name in BLIND:
        assert found[name]
        for outcome in found[name]:
            assert isinstance(outcome, AttackResult), outcome
            assert outcome.auc is None or outcome.auc.value == 0.5
            if outcome.threshold in (None, Scope.GLOBAL):
                assert outcome.accuracy.value == pytest.approx(0.5, abs=1e-12)
            # One standard deviation of a guess at 150 and 150 records is 0.029; the attacks below exceed 0.75.
            assert outcome.accuracy.value < 0.5 + 3 * 0.029


@pytest.mark.parametrize("threat_model", [ThreatModel.SHADOW, ThreatModel.KNOWN_SUBSET])
def test_noise_robustness_sees_through_the_disguise(disguised, threat_model):
    found = [o for o in disguised[2]["noise_robustness"] if o.threat_model is threat_model]
    assert len(found) == 3  # scopes
    for outcome in found:
        assert isinstance(outcome, AttackResult), outcome
        assert outcome.accuracy.lower(0.001) > 0.75


def test_boundary_distance_sees_through_the_disguise(disguised):
    found = disguised[2]["boundary_distance"]
    assert {o.threat_model for o in found} == {ThreatModel.KNOWN_SUBSET}
    for outcome in found:
        assert isinstance(outcome, AttackResult), outcome
        assert outcome.accuracy.lower(0.001) > 0.75


def test_without_members_inside_there_is_nothing_to_see():
    """The same kind of model, trained on neither side: members of nothing are no steadier than others."""
    answers, audit = label_only_world(100, 100, shadows=2, seed=3, probes=("noise_robustness",))
    assert answers.shadow_probes is not None
    inside = answers.reference_member
    assert inside is not None
    steadiness = answers.shadow_probes[0]["noise_robustness"]
    assert auc(steadiness, inside[0]) > 0.9  # what the shadow was trained on shows
    # 4 standard deviations of an AUC without signal; ties only lower them.
    assert abs(auc(steadiness, audit.member) - 0.5) < 4 * np.sqrt(201 / (12 * 100 * 100))
