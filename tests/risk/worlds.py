"""Worlds for risk estimators whose posterior is known."""

import numpy as np
from scipy.stats import norm

from privacy_gate.datamodel import Audit, Observations
from privacy_gate.risk import RiskInput


def of_log_entropies(u, member, labels, classes, known):
    """A model's modified entropies exp(u), membership known or withheld."""
    value = np.exp(u)
    seen = np.where(known, member, -1).astype(np.int8)
    signals = {"modified_entropy": value, "modified_entropy_1e30": value}
    return Observations(signals, labels, seen, np.arange(len(u)), classes)


def heterogeneous(seed, classes=30, each=33):
    """K-6: u | in, c ~ N(mu_c, (2 s_c)^2), u | out, c ~ N(nu_c, (2.5 s_c)^2). A case, its truth."""
    rng = np.random.default_rng(seed)
    mu, nu = rng.normal(-6, 1.5, classes), rng.normal(-1.5, 1.2, classes)
    s = np.exp(rng.normal(0, 0.3, classes))
    labels = np.tile(np.repeat(np.arange(classes), each), 2)
    member = np.arange(2 * classes * each) < classes * each

    def draw():
        noise = rng.normal(size=len(labels))
        return np.where(member, mu[labels] + 2 * s[labels] * noise, nu[labels] + 2.5 * s[labels] * noise)

    shadow, u = draw(), draw()
    inside, outside = norm.logpdf(u, mu[labels], 2 * s[labels]), norm.logpdf(u, nu[labels], 2.5 * s[labels])
    return case(shadow, u, member, labels, classes, seed), 1 / (1 + np.exp(outside - inside))


def null(seed, classes=100, each=10):
    """Nothing leaks: 10 + 10 shadow records per class, and as many of the target."""
    rng = np.random.default_rng(seed)
    labels = np.tile(np.repeat(np.arange(classes), each), 2)
    member = np.arange(2 * classes * each) < classes * each
    return case(*rng.normal(-3, 2, size=(2, len(labels))), member, labels, classes, seed)


def case(shadow, u, member, labels, classes, seed):
    """One shadow and one target on records of the same kinds."""
    return RiskInput(
        of_log_entropies(u, member, labels, classes, known=False),
        of_log_entropies(shadow, member, labels, classes, known=True),
        {"modified_entropy": -u},
        Audit(member, labels, np.arange(len(u)), tuple(str(k) for k in range(classes))),
        seed,
    )
