"""The relative attack: is the record's likelihood ratio higher than that of other non-members?"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

from privacy_gate.attacks import attack
from privacy_gate.datamodel import NONMEMBER, Bools, Floats, Observations, ThreatModel
from privacy_gate.errors import NotEvaluable

OFFLINE_A = 0.3  # how much less confident models without the record are, on the whole
GAMMA = 1.0


@attack(
    id="rmia",
    family="reference",
    paper="Zarifzadeh et al., ICML 2024 (RMIA)",
    requires={"logit_confidence"},
    threat_models=(ThreatModel.REFERENCE,),
    cost="training the reference models",
    min_out=1,
    reads_known=True,
)
def score(seen: Observations) -> Floats:
    """Share of revealed non-members whose likelihood ratio the record's own exceeds."""
    member = seen.reference_member
    if member is None or "logit_confidence" not in seen.references:
        raise NotEvaluable("rmia: no reference models", "train shadow models, or give reference_signals")
    if member.all(axis=0).any():
        raise NotEvaluable("rmia: some records are in every reference model", "each needs one without it")
    others = seen.known == NONMEMBER
    if not others.any():
        raise NotEvaluable("rmia: no revealed non-member to compare with", "reveal a part of the non-members")
    ratios = log_ratios(seen.target["logit_confidence"], seen.references["logit_confidence"], member)
    return share_exceeded(ratios, ratios[others])


def log_ratios(phi_target: Floats, phi: Floats, member: Bools, offline_a: float = OFFLINE_A) -> Floats:
    """[R] log p_target(x) - log p(x) from logit confidences phi_target [R], phi [S, R] and member [S, R].

    p(x) is the mean of the mean over models with and the mean over models without the record (online); where some
    record is in no model, ((1 + a) mean_out + 1 - a) / 2 for all (offline). Any number of models on either side.
    """
    log_p, log_q = _log_sigmoid(phi), _log_sigmoid(-phi)
    # One formula for all: mixing the two would rank records by how they were planned.
    online = bool(member.any(axis=0).all())
    # p(x) near 1 is told by 1 - p(x), and near 0 by itself: each mean is taken of the small one, so nothing saturates.
    marginal_q = _marginal(log_q, member)
    marginal_p = _marginal(log_p, member)
    q = np.exp(np.minimum(marginal_q, 0.0))
    log_marginal = np.where(q < 0.5, np.log1p(-np.minimum(q, 0.5)), marginal_p)
    offline = np.log1p(-(1 + offline_a) / 2 * np.exp(np.minimum(_log_mean(log_q, ~member), 0.0)))
    return np.asarray(_log_sigmoid(phi_target) - (log_marginal if online else offline))


def share_exceeded(ratios: Floats, others: Floats, gamma: float = GAMMA) -> Floats:
    """[R] share of `others` ([Z], log ratios) that each of `ratios` ([R]) exceeds by more than log gamma."""
    return np.asarray(np.searchsorted(np.sort(others), ratios - np.log(gamma), side="left") / len(others))


def _log_sigmoid(t: Floats) -> Floats:
    return np.asarray(np.minimum(t, 0.0) - np.log1p(np.exp(-np.abs(t))))


def _log_mean(log_values: Floats, mask: Bools) -> Floats:
    total = logsumexp(np.where(mask, log_values, -np.inf), axis=0)
    return np.asarray(total - np.log(np.maximum(mask.sum(axis=0), 1)))


def _marginal(log_values: Floats, member: Bools) -> Floats:
    both = np.stack([_log_mean(log_values, member), _log_mean(log_values, ~member)])
    return np.asarray(logsumexp(both, axis=0) - np.log(2))
