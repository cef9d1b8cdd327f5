"""LiRA against slow twins, its invariances, and a defect that was copied for years."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from privacy_gate.attacks import CATALOG
from privacy_gate.attacks.lira import offline, online
from privacy_gate.datamodel import ThreatModel
from privacy_gate.errors import NotEvaluable
from tests.worlds import auc, gaussian_world, reordered


def references(shadows=8, records=40, seed=0, ragged=True):
    """Target and reference confidences with members above, and a membership mask with at least two on each side."""
    rng = np.random.default_rng(seed)
    member = rng.random((shadows, records)) < 0.5
    member[:2], member[2:4] = True, False
    if not ragged:
        member = np.arange(shadows)[:, None] % 2 == np.arange(records)[None, :] % 2
    level = rng.normal(0, 3, size=records)
    phi = level + rng.normal(size=(shadows, records)) * np.where(member, 0.5, 1.5) + 2.0 * member
    target = level + rng.normal(size=records)
    return target, phi, member


def naive_sides(phi, member, record):
    """The confidences of one record in and out."""
    inside = [phi[s, record] for s in range(len(phi)) if member[s, record]]
    outside = [phi[s, record] for s in range(len(phi)) if not member[s, record]]
    return inside, outside


def naive_pooled(phi, member, side):
    """Residual variance of one side, record by record."""
    squares, freedom = 0.0, 0
    for record in range(phi.shape[1]):
        values = naive_sides(phi, member, record)[side]
        mean = sum(values) / len(values)
        squares += sum((v - mean) ** 2 for v in values)
        freedom += len(values) - 1
    return squares / freedom


@pytest.mark.parametrize("seed", range(3))
def test_online_fixed_against_twin(seed):
    target, phi, member = references(seed=seed)
    expected = []
    sigmas = [math.sqrt(naive_pooled(phi, member, side)) for side in (0, 1)]
    for record in range(len(target)):
        inside, outside = naive_sides(phi, member, record)
        expected.append(
            stats.norm.logpdf(target[record], np.mean(inside), sigmas[0])
            - stats.norm.logpdf(target[record], np.mean(outside), sigmas[1])
        )
    np.testing.assert_allclose(online(target, phi, member, variance="fixed"), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_online_per_record_against_twin(seed):
    target, phi, member = references(seed=seed)
    expected = []
    for record in range(len(target)):
        inside, outside = naive_sides(phi, member, record)
        expected.append(
            stats.norm.logpdf(target[record], np.mean(inside), np.std(inside, ddof=1))
            - stats.norm.logpdf(target[record], np.mean(outside), np.std(outside, ddof=1))
        )
    np.testing.assert_allclose(online(target, phi, member, variance="per-record"), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_online_nig_against_twin(seed):
    """The Student t predictive of a normal-inverse-gamma prior, written out record by record."""
    target, phi, member = references(seed=seed)
    records = range(len(target))

    def log_density(side, record):
        values = naive_sides(phi, member, record)[side]
        means = [float(np.mean(naive_sides(phi, member, r)[side])) for r in records]
        counts = [len(naive_sides(phi, member, r)[side]) for r in records]
        within = naive_pooled(phi, member, side)
        between = float(np.var(means, ddof=1)) - within * float(np.mean([1 / n for n in counts]))
        kappa0, nu0, mu0, n = within / between, 8.0, float(np.mean(means)), len(values)
        kappa, nu = kappa0 + n, nu0 + n
        mu = (kappa0 * mu0 + sum(values)) / kappa
        mean = sum(values) / n
        beta2 = nu0 * within + sum((v - mean) ** 2 for v in values) + kappa0 * n / kappa * (mean - mu0) ** 2
        scale = math.sqrt(beta2 / nu * (1 + 1 / kappa))
        return stats.t.logpdf(target[record], nu, mu, scale)

    expected = [log_density(0, r) - log_density(1, r) for r in records]
    np.testing.assert_allclose(online(target, phi, member, variance="nig"), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("variance", ["fixed", "per-record"])
@pytest.mark.parametrize("tail", ["cdf", "pdf"])
def test_offline_against_twin(variance, tail):
    target, phi, member = references(seed=5)
    pooled = naive_pooled(phi, member, 1)
    expected = []
    for record in range(len(target)):
        _, outside = naive_sides(phi, member, record)
        sigma = math.sqrt(pooled) if variance == "fixed" else np.std(outside, ddof=1)
        if tail == "pdf":
            expected.append(-stats.norm.logpdf(target[record], np.mean(outside), sigma))
        else:
            expected.append(stats.norm.cdf(target[record], np.mean(outside), sigma))
    score = offline(target, phi, member, variance=variance, tail=tail)
    np.testing.assert_allclose(stats.norm.cdf(score) if tail == "cdf" else score, expected, rtol=1e-9)


def test_each_side_has_its_own_variance():
    """Google's 2021 code, and forks of it to this day, fit the spread of the OUT side on the IN references."""
    target, phi, member = references(shadows=40, seed=6)
    own = online(target, phi, member, variance="fixed")
    sigma_in, sigma_out = (math.sqrt(naive_pooled(phi, member, side)) for side in (0, 1))
    assert sigma_out > 2 * sigma_in  # the world has it so: 1.5 against 0.5
    means = [np.array([np.mean(naive_sides(phi, member, r)[side]) for r in range(len(target))]) for side in (0, 1)]
    copied = stats.norm.logpdf(target, means[0], sigma_in) - stats.norm.logpdf(target, means[1], sigma_in)
    right = stats.norm.logpdf(target, means[0], sigma_in) - stats.norm.logpdf(target, means[1], sigma_out)
    np.testing.assert_allclose(own, right, rtol=1e-9, atol=1e-9)
    assert np.abs(own - copied).max() > 1


@given(
    st.integers(0, 10_000),
    st.floats(0.01, 100),
    st.floats(-100, 100),
    st.sampled_from(["fixed", "per-record", "nig"]),
)
@settings(max_examples=40, deadline=None)
def test_affine_equivariance(seed, scale, shift, variance):
    """I-15: the unit and the origin of phi change no rank. Log ratios are equal, not only their order."""
    target, phi, member = references(records=15, seed=seed)
    moved = online(scale * target + shift, scale * phi + shift, member, variance=variance)
    # |shift| / scale may be 1e4 times the spread of phi: 12 of 16 digits are left in each deviation.
    np.testing.assert_allclose(moved, online(target, phi, member, variance=variance), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(
        offline(scale * target + shift, scale * phi + shift, member), offline(target, phi, member), rtol=1e-6, atol=1e-6
    )


def test_no_difference_no_evidence():
    """I-15: where IN and OUT references answer the same, the ratio is 0 with any shared variance."""
    rng = np.random.default_rng(7)
    half = rng.normal(size=(4, 30))
    phi = np.concatenate([half, half])
    member = np.repeat([True, False], 4)[:, None] & np.ones((1, 30), dtype=bool)
    for variance in ("fixed", "per-record", "nig"):
        np.testing.assert_allclose(online(rng.normal(size=30), phi, member, variance=variance), 0.0, atol=1e-12)


@pytest.mark.parametrize("variance", ["fixed", "per-record", "nig"])
def test_references_that_all_agree_are_no_infinite_evidence(variance):
    _, phi, member = references(records=20, seed=8)
    assert np.isfinite(online(np.zeros(20), np.zeros_like(phi), member, variance=variance)).all()


def test_the_floor_of_sigma_is_relative_to_the_spread():
    """References of one record agree exactly; the target misses them by a rounding error. That is no evidence at all.

    With an absolute floor of 1e-30 it would be 10^30 sigma of it, and in another unit another figure.
    """
    target, phi, member = references(records=20, seed=8)
    phi[:, 0] = np.where(member[:, 0], 1.0, 1.0 + 1e-12)
    target[0] = 1.0 + 1e-9
    scores = online(target, phi, member, variance="per-record")
    assert abs(scores[0]) < 1e-3
    other_unit = online(100 * target, 100 * phi, member, variance="per-record")
    np.testing.assert_allclose(other_unit, scores, rtol=1e-6, atol=1e-9)


def test_nig_falls_back_to_fixed_where_the_prior_is_degenerate():
    """All records have the same mean on either side: nothing to shrink towards."""
    target = references(records=20, seed=9)[0]
    member = np.tile([[True], [True], [False], [False]], (2, 20))
    phi = np.where(member, 1.0, -1.0) + np.tile([0.1, -0.1], 4)[:, None]
    np.testing.assert_array_equal(
        online(target, phi, member, variance="nig"), online(target, phi, member, variance="fixed")
    )


def test_offline_does_not_saturate():
    """The CDF is 1 from 8 standard deviations on; its argument keeps the order."""
    _, phi, member = references(records=20, seed=10)
    target = phi.max() + np.arange(20) * 100.0
    phi[:] = phi[:, :1]
    member[:] = member[:, :1]
    assert (np.diff(offline(target, phi, member)) > 0).all()


def with_references(seen, count, member=None):
    """The first `count` shadows only."""
    return replace(
        seen,
        references={name: values[:count] for name, values in seen.references.items()},
        reference_member=seen.reference_member[:count] if member is None else member[:count],
    )


def test_chooses_by_the_number_of_references():
    seen, _ = gaussian_world(60, 60, classes=4, leak=2.0, shadows=80, seed=11)
    phi, refs, member = seen.target["logit_confidence"], seen.references["logit_confidence"], seen.reference_member
    score = CATALOG["lira"].score
    np.testing.assert_array_equal(score(seen), online(phi, refs, member, variance="per-record"))
    few = with_references(seen, 16)
    assert few.reference_member.sum(axis=0).min() >= 2
    np.testing.assert_array_equal(score(few), online(phi, refs[:16], member[:16], variance="nig"))
    never_in = np.zeros_like(member)
    np.testing.assert_array_equal(
        score(with_references(seen, 16, never_in)), offline(phi, refs[:16], never_in[:16], variance="fixed")
    )
    np.testing.assert_array_equal(
        score(with_references(seen, 80, never_in)), offline(phi, refs, never_in, variance="per-record")
    )


def thinned(seen, times):
    """The same, with record i in only times[i] references."""
    member = seen.reference_member.copy()
    for record, most in enumerate(times):
        member[np.flatnonzero(member[:, record])[most:], record] = False
    return replace(seen, reference_member=member)


@pytest.mark.parametrize("shadows", [16, 80])
def test_one_thin_record_leaves_the_attack_on_the_others_as_it_was(shadows):
    """It once made the attack one-sided on all records."""
    seen, _ = gaussian_world(150, 150, classes=4, leak=2.0, shadows=shadows, seed=14)
    whole, thin = (CATALOG["lira"].score(s) for s in (seen, thinned(seen, [1, 0])))
    assert np.isfinite(thin).all()
    if shadows == 80:  # each record has its own variance
        np.testing.assert_array_equal(thin[2:], whole[2:])
    else:  # the population that all are shrunk to has two records less
        np.testing.assert_allclose(thin[2:], whole[2:], rtol=0.05, atol=0.05)


def test_a_thin_record_has_the_prior_for_what_it_lacks():
    """One or no reference that saw it: the Student t of the prior, written out."""
    seen, _ = gaussian_world(60, 60, classes=4, leak=2.0, shadows=16, seed=15)
    seen = thinned(seen, [1, 0])
    target, phi = seen.target["logit_confidence"], seen.references["logit_confidence"]
    member = seen.reference_member
    inside = [naive_sides(phi, member, r)[0] for r in range(seen.n)]
    known = [values for values in inside if values]
    within = sum(np.var(v) * len(v) for v in known) / sum(len(v) - 1 for v in known)
    means = [float(np.mean(v)) for v in known]
    between = np.var(means, ddof=1) - within * np.mean([1 / len(v) for v in known])
    mu0, kappa0, nu0 = np.mean(means), within / between, 8.0
    x = inside[0][0]
    kappa, nu = kappa0 + 1, nu0 + 1
    scale = math.sqrt((nu0 * within + kappa0 / kappa * (x - mu0) ** 2) / nu * (1 + 1 / kappa))
    expected = [
        stats.t.logpdf(target[0], nu, (kappa0 * mu0 + x) / kappa, scale),
        stats.t.logpdf(target[1], nu0, mu0, math.sqrt(within + between)),
    ]
    # What the out side says of them is the same with the in side taken away: both are in the same mirrored world.
    mirrored = online(target, phi, ~member, variance="nig")
    found = CATALOG["lira"].score(seen)
    np.testing.assert_allclose(found, -mirrored, rtol=1e-9, atol=1e-9)
    out = [naive_sides(phi, member, r)[1] for r in range(seen.n)]
    pooled = sum(np.var(v) * len(v) for v in out) / sum(len(v) - 1 for v in out)
    means = [float(np.mean(v)) for v in out]
    spread = np.var(means, ddof=1) - pooled * np.mean([1 / len(v) for v in out])
    for record in (0, 1):
        values, weight = out[record], pooled / spread
        n, mean = len(values), float(np.mean(values))
        squares = 8 * pooled + np.var(values) * n + weight * n / (weight + n) * (mean - np.mean(means)) ** 2
        scale = math.sqrt(squares / (8 + n) * (1 + 1 / (weight + n)))
        centre = (weight * np.mean(means) + n * mean) / (weight + n)
        expected[record] -= stats.t.logpdf(target[record], 8 + n, centre, scale)
    np.testing.assert_allclose(found[:2], expected, rtol=1e-9)


@pytest.mark.parametrize("seed", range(2))
def test_with_one_spread_for_all_a_record_in_no_reference_has_the_mean_of_the_others(seed):
    target, phi, member = references(seed=seed)
    member[:, 0] = False
    mean_in = np.mean([np.mean(naive_sides(phi, member, r)[0]) for r in range(1, len(target))])
    sigmas = math.sqrt(naive_pooled(phi[:, 1:], member[:, 1:], 0)), math.sqrt(naive_pooled(phi, member, 1))
    expected = stats.norm.logpdf(target[0], mean_in, sigmas[0]) - stats.norm.logpdf(
        target[0], phi[:, 0].mean(), sigmas[1]
    )
    assert online(target, phi, member, variance="fixed")[0] == pytest.approx(expected)


@pytest.mark.parametrize("shadows", [12, 80])
@pytest.mark.parametrize("records", [6, 7])
def test_the_share_from_which_it_is_one_sided(shadows, records):
    """5 % of 120 records are 6."""
    seen, _ = gaussian_world(60, 60, classes=4, leak=2.0, shadows=shadows, seed=16)
    seen = thinned(seen, [i % 2 for i in range(records)])
    one = offline(
        seen.target["logit_confidence"],
        seen.references["logit_confidence"],
        seen.reference_member,
        variance="per-record" if shadows == 80 else "fixed",
    )
    assert np.array_equal(CATALOG["lira"].score(seen), one) == (records == 7)


@pytest.mark.parametrize("shadows", [12, 80])
def test_thin_records_change_nothing_of_what_is_owed(shadows):
    """Order, unit and origin change no score; ties stay ties; what is withheld is not read."""
    seen, audit = gaussian_world(60, 60, classes=4, leak=2.0, shadows=shadows, seed=17)
    seen = thinned(seen, [1, 0, 1])
    scores = np.array(CATALOG["lira"].score(seen))
    order = np.random.default_rng(0).permutation(seen.n)
    turned = reordered(seen, order)
    np.testing.assert_allclose(CATALOG["lira"].score(turned), scores[order], rtol=1e-9, atol=1e-9)
    moved = replace(
        seen,
        target={name: 3 * values - 5 for name, values in seen.target.items()},
        references={name: 3 * values - 5 for name, values in seen.references.items()},
    )
    np.testing.assert_allclose(CATALOG["lira"].score(moved), scores, rtol=1e-6, atol=1e-6)
    nobody = np.zeros(seen.n, dtype=np.bool_)
    withheld = [CATALOG["lira"].score(seen.reveal(m, nobody)) for m in (audit.member, ~audit.member)]
    np.testing.assert_array_equal(*withheld)


def test_refuses_what_it_cannot_judge():
    seen, _ = gaussian_world(30, 30, classes=3, leak=2.0, shadows=6, seed=12)
    attack = CATALOG["lira"]
    assert (attack.min_in, attack.min_out) == (0, 2)
    assert attack.threat_models == (ThreatModel.REFERENCE,)
    always_in = np.ones_like(seen.reference_member)
    with pytest.raises(NotEvaluable, match="out of only 0"):
        attack.score(with_references(seen, 6, always_in))
    with pytest.raises(NotEvaluable, match="no reference models"):
        attack.score(replace(seen, references={}, reference_member=None))
    with pytest.raises(NotEvaluable, match="some records have no out"):
        offline(np.zeros(3), np.zeros((2, 3)), np.array([[True, False, False]] * 2))
    with pytest.raises(NotEvaluable, match="no in reference"):
        online(
            seen.target["logit_confidence"],
            seen.references["logit_confidence"],
            np.zeros_like(seen.reference_member),
        )


def test_beats_one_threshold_for_all_where_records_differ_in_difficulty():
    """Why the attack exists: the difficulty of records hides a leak from thresholds common to all."""
    seen, audit = gaussian_world(500, 500, classes=5, leak=2.0, shadows=16, seed=13)
    by_record = auc(CATALOG["lira"].score(seen), audit.member)
    for_all = auc(CATALOG["confidence"].score(seen), audit.member)
    assert by_record > for_all + 0.1
