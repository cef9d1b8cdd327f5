"""What every attack owes, whoever wrote it. A new attack is tested by being in the folder."""

import inspect
from dataclasses import replace

import numpy as np
import pytest

from privacy_gate.attacks import CATALOG, Attack
from privacy_gate.datamodel import Observations, ThreatModel
from privacy_gate.observe import GIVEN
from privacy_gate.signals import CATALOG as SIGNALS
from privacy_gate.signals import PROBES
from tests.worlds import auc, auc_noise, gaussian_world, half_of_the_persons, reordered

every_attack = pytest.mark.parametrize("attack", list(CATALOG), ids=CATALOG.names())


@pytest.fixture(scope="module")
def leaky():
    return gaussian_world(400, 300, classes=5, leak=3.0, shadows=12, seed=1)


@pytest.fixture(scope="module")
def private():
    return gaussian_world(600, 600, classes=5, leak=0.0, shadows=12, seed=2)


def half_known(world, seed=3):
    """The observations with half of the persons revealed, and the mask of the withheld records."""
    seen, audit = world
    revealed = half_of_the_persons(audit, seed)
    return seen.reveal(audit.member, revealed), ~revealed


def fresh(scores):
    """Scores as an array of their own: comparisons must not alias the observations."""
    return np.array(scores, copy=True)


def test_the_catalog_is_found():
    assert {"correctness", "confidence", "entropy", "modified_entropy", "lira", "rmia"} <= set(CATALOG.names())


@every_attack
def test_members_score_higher_where_the_model_leaks(attack: Attack, leaky):
    seen, withheld = half_known(leaky)
    member = leaky[1].member
    # The weakest (correctness) reaches about 0.7 here; chance is 0.5 with a standard deviation of 0.03.
    assert auc(attack.score(seen)[withheld], member[withheld]) > 0.6


@every_attack
def test_chance_where_it_does_not(attack: Attack, private):
    seen, withheld = half_known(private)
    member = private[1].member
    found = auc(attack.score(seen)[withheld], member[withheld])
    # 4.5 standard deviations: over 6 to 60 attacks a false alarm in fewer than 1 of 2000 seeds.
    assert abs(found - 0.5) < 4.5 * auc_noise(300, 300)


@every_attack
def test_one_finite_score_per_record(attack: Attack, leaky):
    seen, _ = half_known(leaky)
    scores = attack.score(seen)
    assert scores.shape == (seen.n,)
    assert scores.dtype == np.float64
    assert np.isfinite(scores).all()


@every_attack
@pytest.mark.parametrize("extreme", [0.0, 800.0, -800.0])
def test_finite_where_outputs_saturate(attack: Attack, leaky, extreme):
    seen, _ = half_known(leaky)
    some = np.arange(seen.n) % 7 == 0
    value = {"confidence": float(extreme > 0), "correctness": float(extreme > 0), "entropy": 0.0}
    value["modified_entropy"] = 0.0 if extreme > 0 else 2 * abs(extreme)

    def saturated(signals, row):
        """The same signals with the extreme value in some of the rows; a row is that axis of an array."""
        rows = {name: some.reshape([-1 if axis == row else 1 for axis in range(kept.ndim)]) for name, kept in signals}
        return {name: np.where(rows[name], value.get(name, extreme), kept) for name, kept in signals}

    target, references = saturated(seen.target.items(), 0), saturated(seen.references.items(), 1)
    assert np.isfinite(attack.score(replace(seen, target=target, references=references))).all()


@every_attack
def test_the_order_of_records_does_not_matter(attack: Attack, leaky):
    seen, _ = half_known(leaky)
    order = np.random.default_rng(4).permutation(seen.n)
    # Sums over records are taken in another order: equal to rounding, not to the bit.
    np.testing.assert_allclose(attack.score(reordered(seen, order)), attack.score(seen)[order], rtol=1e-9, atol=1e-9)


@every_attack
def test_the_names_of_classes_and_persons_do_not_matter(attack: Attack, leaky):
    seen, _ = half_known(leaky)
    rng = np.random.default_rng(5)
    renamed = replace(seen, labels=rng.permutation(seen.classes)[seen.labels], persons=rng.permutation(seen.n))
    np.testing.assert_array_equal(attack.score(renamed), attack.score(seen))


@every_attack
def test_withheld_membership_is_not_read(attack: Attack, leaky):
    seen, audit = leaky
    revealed = half_of_the_persons(audit, 6)
    flipped = np.where(revealed, audit.member, ~audit.member)
    np.testing.assert_array_equal(
        attack.score(seen.reveal(audit.member, revealed)), attack.score(seen.reveal(flipped, revealed))
    )


@every_attack
def test_revealed_membership_is_read_only_where_declared(attack: Attack, leaky):
    seen, audit = leaky
    revealed = half_of_the_persons(audit, 6)
    truth = fresh(attack.score(seen.reveal(audit.member, revealed)))
    lie = fresh(attack.score(seen.reveal(~audit.member, revealed)))
    assert np.array_equal(truth, lie) != attack.reads_known


@every_attack
def test_nothing_but_the_declared_is_read(attack: Attack, leaky):
    seen, _ = half_known(leaky)
    bare = replace(
        seen,
        target={name: seen.target[name] for name in attack.requires},
        references={name: seen.references[name] for name in attack.requires if name in seen.references},
    )
    if not (attack.min_in or attack.min_out):
        bare = replace(bare, references={}, reference_member=None)
    np.testing.assert_array_equal(attack.score(bare), attack.score(seen))


@every_attack
def test_pure(attack: Attack, leaky):
    seen, _ = half_known(leaky)
    before = {name: values.copy() for name, values in seen.target.items()}
    first = attack.score(seen)
    np.testing.assert_array_equal(first, attack.score(seen))
    assert all(np.array_equal(before[name], seen.target[name]) for name in before)
    assert not any(first is values for values in seen.target.values())
    assert first.flags.writeable, "a score is the attack's own array, not a view of the observations"


@every_attack
def test_says_what_it_is(attack: Attack):
    assert attack.summary
    assert any(char.isdigit() for char in attack.paper), "a paper has a year"
    assert attack.threat_models
    assert set(attack.threat_models) <= set(ThreatModel)
    assert attack.requires
    assert all(name in SIGNALS or name in PROBES or name in GIVEN for name in attack.requires)
    assert len(inspect.signature(attack.score).parameters) == 1


@every_attack
def test_reference_attacks_declare_their_references(attack: Attack):
    needs_references = attack.min_in > 0 or attack.min_out > 0
    assert needs_references == (ThreatModel.REFERENCE in attack.threat_models)


def test_the_world_can_fail_the_contract(leaky):
    """An attack that read the withheld truth would show in the tests above, and score perfectly."""
    seen, audit = leaky
    everything = np.ones(seen.n, dtype=np.bool_)

    def peeking(observations: Observations):
        return observations.known.astype(np.float64)

    assert not np.array_equal(
        peeking(seen.reveal(audit.member, everything)), peeking(seen.reveal(~audit.member, everything))
    )
    assert auc(peeking(seen.reveal(audit.member, everything)), audit.member) == 1.0
