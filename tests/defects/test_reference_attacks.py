"""Reference attacks: a density in place of the distribution function, and models taken to be half and half."""

import numpy as np
import pytest

from privacy_gate.attacks import lira, rmia
from tests.defects import recreated
from tests.worlds import auc


def test_offline_lira_is_one_sided_unless_asked_otherwise():
    """A record far below the models without it is no member; minus its log density says that it is the surest one."""
    rng = np.random.default_rng(7)
    references = rng.normal(size=(16, 4))
    member = np.zeros((16, 4), dtype=bool)
    phi = np.array([-6.0, 0.0, 3.0, 4.0])
    assert recreated.offline_lira_pdf(phi, references).argmax() == 0
    assert lira.offline(phi, references, member).argmax() == 3
    assert lira.offline(phi, references, member).argmin() == 0
    assert lira.offline(phi, references, member, tail="pdf").argmax() == 0  # offered, by its name


def test_offline_lira_by_distribution_ranks_better():
    n = 2000
    rng = np.random.default_rng(8)
    inside = np.arange(2 * n) < n
    centre = rng.normal(0, 2, 2 * n)
    references = centre + rng.normal(size=(8, 2 * n))
    phi = centre + rng.normal(size=2 * n) + 1.5 * inside
    member = np.zeros_like(references, dtype=bool)
    one_sided, two_sided = lira.offline(phi, references, member), recreated.offline_lira_pdf(phi, references)
    # Phi(1.5 / sqrt(2 (1 + 1/8))) = 0.84 is the AUC of phi minus the mean of 8 references.
    assert auc(one_sided, inside) == pytest.approx(0.84, abs=0.03)
    assert auc(one_sided, inside) > auc(two_sided, inside) + 0.05


def test_rmia_bears_references_that_are_not_half_and_half():
    """Record 0 was in one of six models, record 1 in five: half of the models are not the models without it."""
    member = np.zeros((6, 2), dtype=bool)
    member[0, 0] = member[:5, 1] = True
    p_in, p_out = 0.9, 0.5
    references = np.where(member, p_in, p_out)
    target = np.array([0.6, 0.6])
    theirs = recreated.rmia_of_sorted_halves(target, references, member)
    assert theirs[0] == pytest.approx(0.6 / p_out)
    assert theirs[1] != pytest.approx(0.6 / p_out)  # two models that were trained on it are among "those without"
    ours = np.exp(rmia.log_ratios(np.log(target / (1 - target)), np.log(references / (1 - references)), member))
    assert ours == pytest.approx([0.6 / ((p_in + p_out) / 2)] * 2)
