"""The early-stopping benchmark on models whose leak and accuracy are planted."""

from dataclasses import replace

import numpy as np
import pytest

from privacy_gate.datamodel import Audit, Outputs
from privacy_gate.errors import NotEvaluable
from privacy_gate.frontier import Stage, frontier
from privacy_gate.observe import Answers, observe

N, CLASSES = 800, 5
RNG = np.random.default_rng(0)
LABELS = RNG.integers(CLASSES, size=2 * N)
MEMBER = np.arange(2 * N) < N
AUDIT = Audit(MEMBER, LABELS, np.arange(2 * N), tuple("abcde"))
RECORD = RNG.normal(size=(2 * N, CLASSES))
NAMES = ["confidence", "modified_entropy", "correctness"]


def answers(skill: float, leak: float, seed: int = 1) -> Outputs:
    """Logits of a model that knows its classes by `skill`, and its members by `leak` more."""
    true = np.arange(CLASSES) == LABELS[:, None]
    noise = np.random.default_rng(seed).normal(0, 0.3, size=RECORD.shape)
    return Outputs(RECORD + noise + true * (skill + leak * MEMBER[:, None]), "logits")


def seen(outputs: Outputs):
    return observe(Answers(outputs), AUDIT, NAMES).views[0].seen


STAGES = [
    Stage("epoch 1", answers(0.3, 0.0)),
    Stage("epoch 4", answers(1.5, 0.2)),
    Stage("epoch 16", answers(1.5, 2.5)),
]


def test_the_matched_stop_is_the_one_with_the_candidates_test_accuracy():
    found = frontier(seen(answers(1.5, 2.5, seed=2)), STAGES, AUDIT, 0, "retraining")
    distances = [abs(stop.test_accuracy - found.candidate.test_accuracy) for stop in found.stops]
    assert found.matched == distances.index(min(distances))
    assert found.stops[found.matched].name in ("epoch 4", "epoch 16")
    assert [stop.name for stop in found.stops] == ["epoch 1", "epoch 4", "epoch 16"]


def test_a_difference_is_that_of_the_two_accuracies_and_tighter_than_unpaired():
    found = frontier(seen(answers(1.5, 2.5, seed=2)), STAGES, AUDIT, 0, "retraining")
    matched = found.stops[found.matched]
    for id, difference in found.differences.items():
        own, other = found.candidate.attacks[id], matched.attacks[id]
        assert difference.value == pytest.approx(own.value - other.value, abs=1e-12)
        unpaired = np.hypot(own.value - own.lower(0.05), other.upper(0.05) - other.value)
        if id != "correctness":
            assert difference.value - difference.lower(0.05) < 1.1 * unpaired


def test_a_candidate_that_leaks_more_at_no_gain_is_dominated():
    leaky = frontier(seen(answers(1.5, 2.5, seed=3)), STAGES[:2], AUDIT, 0, "retraining")
    assert leaky.stops[1].test_accuracy >= leaky.candidate.test_accuracy - 0.02
    better = [replace(STAGES[1], outputs=answers(1.6, 0.2))]
    assert frontier(seen(answers(1.5, 2.5, seed=3)), better, AUDIT, 0, "staged").dominated_by == (0,)


def test_a_candidate_that_leaks_as_little_is_not():
    twin = frontier(seen(answers(1.5, 0.2, seed=5)), [Stage("epoch 4", answers(1.55, 0.2))], AUDIT, 0, "retraining")
    assert twin.dominated_by == ()
    # Less accurate stops dominate nothing, however private they are.
    weak = frontier(seen(answers(1.5, 2.5)), [Stage("epoch 1", answers(0.3, 0.0))], AUDIT, 0, "retraining")
    assert weak.dominated_by == ()


def test_the_proof_allows_for_the_choice_of_the_attack():
    """It is the one that does best on the candidate; what is significant for an attack named beforehand is not here."""
    stage = [Stage("epoch 4", answers(1.6, 0.3))]
    proven = []
    for leak in (0.38, 0.4):
        found = frontier(seen(answers(1.5, leak, seed=7)), stage, AUDIT, 0, "retraining")
        assert found.stops[0].test_accuracy >= found.candidate.test_accuracy
        own = found.candidate.attacks
        worst = found.differences[max(own, key=lambda name: own[name].value)]
        alone, among = worst.lower(0.05) > 0, worst.lower(0.05 / len(own)) > 0
        assert (found.dominated_by == (0,)) == (among and found.stops[0].worst < found.candidate.worst)
        proven.append((alone, among))
    assert proven == [(True, False), (True, True)]


def test_correctness_is_blind_to_a_leak_that_changes_no_answer():
    sure, unsure = answers(6.0, 4.0), answers(6.0, 0.0)
    found = frontier(seen(sure), [Stage("epoch 8", unsure)], AUDIT, 0, "checkpoints")
    assert abs(found.differences["correctness"].value) < 0.01
    assert found.differences["confidence"].lower(0.01) > 0.2


def test_a_stage_without_answers_is_left_out_and_noted():
    blank = Stage("epoch 0", Outputs(np.zeros((2 * N, CLASSES)), "logits"))
    found = frontier(seen(answers(1.5, 0.0)), [blank, *STAGES], AUDIT, 0, "retraining")
    assert len(found.stops) == 3
    assert "epoch 0" in found.notes[0]
    with pytest.raises(NotEvaluable, match="no stage"):
        frontier(seen(answers(1.5, 0.0)), [blank], AUDIT, 0, "retraining")
