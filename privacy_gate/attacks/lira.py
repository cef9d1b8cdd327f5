"""The likelihood-ratio attack: how the target's confidence compares with that of models with and without the record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import gammaln

from privacy_gate.attacks import attack
from privacy_gate.datamodel import Bools, Floats, Observations, ThreatModel
from privacy_gate.errors import NotEvaluable

PRIOR_DOF = 8.0  # weight of the pooled variance in a record's own, in references
PER_RECORD_FROM = 24  # references on the smaller side from which a record's own variance serves best: about 64 in all
OFFLINE_PER_RECORD_FROM = 32  # OUT references
FEWEST_IN = 2  # references that saw a record, below which it borrows from the population
MOST_BORROWING = 0.05  # share of such records above which the attack is one-sided for all
RELATIVE_FLOOR = 1e-6  # of sigma, in units of the spread of all reference confidences

Variance = Literal["fixed", "per-record", "nig"]


@attack(
    id="lira",
    family="reference",
    paper="Carlini et al., S&P 2022, algorithm 1; small budgets: normal-inverse-gamma shrinkage as in BaVarIA, 2026",
    requires={"logit_confidence"},
    threat_models=(ThreatModel.REFERENCE,),
    cost="training the reference models",
    min_out=2,
)
def score(seen: Observations) -> Floats:
    """Log-likelihood ratio of in against out; one-sided against out where too many records are in next to no reference.

    Records in fewer than 2 references take the population's prior for what they lack, up to 5 % of them: a record's
    score then depends a little on the plan of the references, which reference_membership looks at.
    """
    member = seen.reference_member
    if member is None or "logit_confidence" not in seen.references:
        raise NotEvaluable("lira: no reference models", "train shadow models, or give reference_signals")
    phi, references = seen.target["logit_confidence"], seen.references["logit_confidence"]
    times_in, times_out = member.sum(axis=0), (~member).sum(axis=0)
    fewest_out = int(times_out.min())
    if fewest_out < 2:
        raise NotEvaluable(
            f"lira: some records are out of only {fewest_out} reference models", "each needs 2 without it, better 8"
        )
    if one_sided(member):
        return offline(
            phi, references, member, variance="fixed" if fewest_out < OFFLINE_PER_RECORD_FROM else "per-record"
        )
    borrows = times_in < FEWEST_IN
    fewest = min(int(times_in[~borrows].min()), fewest_out)
    if fewest < PER_RECORD_FROM:
        return online(phi, references, member, variance="nig")
    scores = online(phi, references, member, variance="per-record")
    if borrows.any():  # one value has no variance of its own
        scores[borrows] = online(phi, references, member, variance="nig")[borrows]
    return scores


def one_sided(member: Bools) -> bool:
    """Whether too many records are in fewer than 2 of the references [S, R] to compare in with out."""
    return bool(np.mean(member.sum(axis=0) < FEWEST_IN) > MOST_BORROWING)


def online(phi_target: Floats, phi: Floats, member: Bools, variance: Variance = "nig") -> Floats:
    """[R] log p(phi | in) - log p(phi | out) from phi_target [R], phi [S, R], member [S, R].

    fixed       Gaussian, one variance per side, pooled over records
    per-record  Gaussian, the record's own variance per side
    nig         Student t: both mean and variance shrunk to the side's population; fixed where that has no spread
    A record without references on a side has the population's mean there. Raises NotEvaluable where none has any.
    """
    floor = _floor(phi)
    sides = _side(phi, member, "in"), _side(phi, ~member, "out")
    log_in, log_out = (_log_density(phi_target, side, variance, floor) for side in sides)
    return np.asarray(log_in - log_out)


def offline(
    phi_target: Floats,
    phi: Floats,
    member: Bools,
    variance: Literal["fixed", "per-record"] = "fixed",
    tail: Literal["cdf", "pdf"] = "cdf",
) -> Floats:
    """[R] how far phi_target stands above the models without the record, from OUT references alone.

    cdf  the paper's one-sided P(Z <= phi), given as its argument in standard deviations, which does not saturate at 1
    pdf  -log density, as some released code has it: two-sided, kept for comparison
    """
    side = _side(phi, ~member, "out")
    if not side.seen.all():
        raise NotEvaluable("lira: some records have no out reference", "stratify the shadow plan")
    sigma2 = _variance(side, variance, _floor(phi))
    if tail == "pdf":
        return np.asarray(-_log_normal(phi_target, side.mean, sigma2))
    return np.asarray((phi_target - side.mean) / np.sqrt(sigma2))


@dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """Moments of each record's references on one side; all [R]."""

    n: Floats
    mean: Floats  # the population's where n is 0
    squares: Floats  # sum of squared deviations from `mean`

    @property
    def seen(self) -> Bools:
        """[R] records with references on this side."""
        return self.n > 0

    @property
    def pooled(self) -> float:
        """Variance within records, one for all: the side's own, never the other side's."""
        return float(self.squares.sum() / max(np.maximum(self.n - 1, 0.0).sum(), 1.0))


def _side(phi: Floats, mask: Bools, name: str) -> _Side:
    n = mask.sum(axis=0).astype(np.float64)
    if n.max() < 1:
        raise NotEvaluable(f"lira: the records have no {name} reference", "stratify the shadow plan")
    # Two passes over the shadows, one row at a time: memory O(R), and no cancellation.
    total = np.zeros(phi.shape[1])
    for row, inside in zip(phi, mask, strict=True):
        total += np.where(inside, row, 0.0)
    mean = total / np.maximum(n, 1.0)
    mean[n == 0] = mean[n > 0].mean()
    squares = np.zeros(phi.shape[1])
    for row, inside in zip(phi, mask, strict=True):
        squares += np.where(inside, row - mean, 0.0) ** 2
    return _Side(n, mean, squares)


def _floor(phi: Floats) -> float:
    # Relative to the data, so that the attack does not depend on the unit of phi; an absolute 1e-30 would let a record
    # whose references agree by chance outrank all others.
    spread = float(phi.std())
    return float((RELATIVE_FLOOR * (spread if spread > 0 else 1.0)) ** 2)


def _variance(side: _Side, variance: Literal["fixed", "per-record"], floor: float) -> Floats:
    own = side.squares / np.maximum(side.n - 1, 1.0) if variance == "per-record" else side.pooled
    return np.asarray(np.broadcast_to(np.maximum(own, floor), side.n.shape))


def _log_density(x: Floats, side: _Side, variance: Variance, floor: float) -> Floats:
    if variance == "nig":
        within = side.pooled
        means, counts = side.mean[side.seen], side.n[side.seen]
        between = float(means.var(ddof=1) - within * np.mean(1 / counts)) if len(counts) > 1 else 0.0
        if within > floor and between > floor:
            return _log_shrunk(x, side, within, between, floor)
        variance = "fixed"
    return _log_normal(x, side.mean, _variance(side, variance, floor))


def _log_shrunk(x: Floats, side: _Side, within: float, between: float, floor: float) -> Floats:
    weight = within / between  # of the population mean, in references
    kappa, dof = weight + side.n, PRIOR_DOF + side.n
    population = side.mean[side.seen].mean()
    mean = (weight * population + side.n * side.mean) / kappa
    squares = PRIOR_DOF * within + side.squares + weight * side.n / kappa * (side.mean - population) ** 2
    scale2 = np.maximum(squares / dof * (1 + 1 / kappa), floor)
    z2 = (x - mean) ** 2 / scale2
    return np.asarray(
        gammaln((dof + 1) / 2)
        - gammaln(dof / 2)
        - 0.5 * np.log(np.pi * dof * scale2)
        - (dof + 1) / 2 * np.log1p(z2 / dof)
    )


def _log_normal(x: Floats, mean: Floats, sigma2: Floats) -> Floats:
    return np.asarray(-0.5 * (np.log(2 * np.pi * sigma2) + (x - mean) ** 2 / sigma2))
