"""A smooth curve for all classes, with an intercept and a slope of each class that are shrunk to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.special import expit, ndtri

from privacy_gate.datamodel import Bools, Floats, Ints
from privacy_gate.risk.curve import Option, Sample, clip, log_loss

KNOTS = np.asarray(ndtri(np.array([0.02, 0.2, 0.4, 0.6, 0.8, 0.95, 0.995])))  # on the normal scale of the scores
STRENGTHS = (60.0, 12.0, 2.5, 0.5, 0.1)  # precision of the class effects in logits; tried from stiff to loose
SMOOTH = 0.1  # precision of the bends of the common curve
WEAK = 1e-3  # precision of its intercept and slope: keeps a separable sample finite
POINTS = 257  # through which scores are brought to the normal scale
FEWEST = 40  # records below which a curve with bends is not tried
STEPS = 25
CLOSE = 1e-6  # of the decrease promised by a step, per record


@dataclass(frozen=True, slots=True, eq=False)
class NormalScale:
    """From scores to standard normal quantiles of their ranks: what only orders records needs no unit.

    Linear between POINTS scores, constant beyond the outermost: nothing is extrapolated.
    """

    scores: Floats
    quantiles: Floats

    @classmethod
    def of(cls, scores: Floats) -> NormalScale:
        """Learnt from scores [n]; a tie block gets the quantile of its middle rank."""
        ordered = np.sort(_finite(scores))
        places = np.linspace(0, len(ordered) - 1, min(POINTS, len(ordered))).round().astype(np.int64)
        points = np.unique(ordered[places])
        ranks = np.searchsorted(ordered, points, "left") + np.searchsorted(ordered, points, "right")
        return cls(points, np.asarray(ndtri(ranks / (2.0 * len(ordered)))))

    def at(self, scores: Floats) -> Floats:
        """[n] of scores [n]."""
        return np.asarray(np.interp(_finite(scores), self.scores, self.quantiles))


def _finite(scores: Floats) -> Floats:
    return np.asarray(np.clip(scores, -1e300, 1e300))  # interpolation cannot handle infinities


def basis(x: Floats) -> Floats:
    """[n, knots] natural cubic spline at x [n]: 1, x, and bends of unit size; linear beyond the outer knots."""
    cubes = np.maximum(x[:, None] - KNOTS, 0.0) ** 3
    last = KNOTS[-1]
    d = (cubes[:, :-1] - cubes[:, -1:]) / (last - KNOTS[:-1])
    return np.column_stack([np.ones_like(x), x, (d[:, :-1] - d[:, -1:]) / (last - KNOTS[0])])


@dataclass(frozen=True, slots=True, eq=False)
class Spline:
    """logit P(member) = common curve + intercept and slope of the class."""

    scale: NormalScale
    common: Floats  # [B]
    own: Floats  # [K + 1, 2]; the last row is zero, for classes never seen
    n: int

    def at(self, scores: Floats, labels: Ints) -> Floats:
        """[n] the risk at scores [n] of class labels [n]."""
        z = basis(self.scale.at(scores))
        own = self.own[np.minimum(labels, len(self.own) - 1)]
        return clip(expit(z @ self.common + (z[:, :2] * own).sum(axis=1)), self.n)


def options(sample: Sample, held_out: Sequence[Bools]) -> Iterator[Option]:
    """A curve per strength with its loss over the folds, from stiff to loose until that gets worse.

    None for few records or equal scores. The folds share the scale of the scores, which knows nothing of membership.
    """
    if len(sample.scores) < FEWEST or np.ptp(_finite(sample.scores)) == 0:
        return
    strengths = STRENGTHS if len(np.unique(sample.labels)) > 1 else (np.inf,)
    design = _Design.of(sample)
    weight, states = sample.weight, [design.start()] * len(held_out)
    before = np.inf
    for strength in strengths:
        loss = 0.0
        for i, hidden in enumerate(held_out):
            states[i] = design.solve(np.where(hidden, 0.0, 1.0), strength, states[i])
            risk = clip(expit(design.eta(states[i])[hidden]), int((~hidden).sum()))
            loss += log_loss(risk, design.member[hidden], weight[hidden])
        name = "smooth" if strength == np.inf else f"smooth, class effects {strength:g}"
        yield Option(name, partial(fit, strength=strength), loss)
        if loss > before:
            return  # looser ones would follow noise still more
        before = loss


def fit(sample: Sample, strength: float) -> Spline:
    """The likeliest curve at prior one half, class effects normal with precision `strength` (infinite: none)."""
    design = _Design.of(sample)
    common, own = design.solve(np.ones(len(sample.scores)), strength, design.start())
    wide = np.zeros((int(sample.labels.max()) + 2, 2))
    wide[design.present] = own
    return Spline(design.scale, common, wide, len(sample.scores))


_State = tuple[Floats, Floats]


@dataclass(frozen=True, slots=True, eq=False)
class _Design:
    """The sample in the order given, and all that Newton's steps need of it."""

    scale: NormalScale
    z: Floats  # [n, B]
    products: Floats  # [n, B(B+1)/2] of columns, records sorted by class
    order: Ints  # [n] records sorted by class
    starts: Ints  # [C] of the classes present
    present: Ints  # [C] their labels
    place: Ints  # [n] index of the record's class in `present`
    member: Bools

    @classmethod
    def of(cls, sample: Sample) -> _Design:
        scale = NormalScale.of(sample.scores)
        z = basis(scale.at(sample.scores))
        present, place = np.unique(sample.labels, return_inverse=True)
        order = np.argsort(place, kind="stable")
        upper = np.triu_indices(z.shape[1])
        starts = np.searchsorted(place[order], np.arange(len(present)))
        products = z[order][:, upper[0]] * z[order][:, upper[1]]
        return cls(scale, z, products, order, starts, present, place, sample.member)

    def start(self) -> _State:
        return np.zeros(self.z.shape[1]), np.zeros((len(self.present), 2))

    def eta(self, state: _State) -> Floats:
        """[n] logits."""
        common, own = state
        return np.asarray(self.z @ common + (self.z[:, :2] * own[self.place]).sum(axis=1))

    def solve(self, counted: Floats, strength: float, state: _State) -> _State:
        """The minimum of the penalised log loss over records `counted` [n] (1 or 0), from a first guess."""
        weight = counted * np.where(self.member, 0.5 / (counted @ self.member), 0.5 / (counted @ ~self.member))
        weight = weight * counted.sum()
        penalty = np.array([WEAK, WEAK, *[SMOOTH] * (self.z.shape[1] - 2)])
        ridge = strength if np.isfinite(strength) else 0.0

        def objective(at: _State, eta: Floats) -> float:
            loss = weight @ (np.logaddexp(0.0, eta) - self.member * eta)
            return float(loss + (penalty * at[0] ** 2).sum() / 2 + ridge * (at[1] ** 2).sum() / 2)

        eta = self.eta(state)
        current = objective(state, eta)
        for _ in range(STEPS):
            step, promised = self._step(state, eta, weight, penalty, strength)
            size = 1.0
            while True:
                trial = state[0] - size * step[0], state[1] - size * step[1]
                trial_eta = self.eta(trial)
                reached = objective(trial, trial_eta)
                if reached <= current or size < 1e-6:
                    break
                size /= 2
            if reached > current:
                break
            state, eta, current = trial, trial_eta, reached
            if promised < CLOSE * len(eta):
                break
        return state

    def _step(
        self, state: _State, eta: Floats, weight: Floats, penalty: Floats, strength: float
    ) -> tuple[_State, float]:
        """Newton's step by eliminating the 2 x 2 blocks of the classes; and the decrease that it promises."""
        width = self.z.shape[1]
        p = expit(eta)
        residual = weight * (p - self.member)
        slope = self.z.T @ residual + penalty * state[0]
        bends = np.add.reduceat((weight * p * (1 - p))[self.order, None] * self.products, self.starts, axis=0)
        hessian = np.empty((len(self.starts), width, width))
        upper = np.triu_indices(width)
        hessian[:, upper[0], upper[1]] = bends
        hessian[:, upper[1], upper[0]] = bends
        total = hessian.sum(axis=0) + np.diag(penalty)
        if not np.isfinite(strength):
            common = np.linalg.solve(total, slope)
            return (common, np.zeros_like(state[1])), float(slope @ common)
        by_class = strength * state[1] + np.stack(
            [np.bincount(self.place, residual * column, len(self.present)) for column in self.z[:, :2].T], axis=1
        )
        cross = hessian[:, :, :2]  # [C, B, 2]
        blocks = np.linalg.inv(hessian[:, :2, :2] + strength * np.eye(2))
        onto = cross @ blocks
        common = np.linalg.solve(
            total - np.einsum("cij,ckj->ik", onto, cross), slope - np.einsum("cij,cj->i", onto, by_class)
        )
        own = np.einsum("cij,cj->ci", blocks, by_class - np.einsum("cji,j->ci", cross, common))
        return (common, own), float(slope @ common + (by_class * own).sum())
