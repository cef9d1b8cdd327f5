"""A disguised model: one-hot answers, right on members and non-members alike, steady around members only.

Whoever sees confidences or mistakes sees nothing. Whoever asks about changed copies of a record sees it all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from privacy_gate.datamodel import Audit, Bools, Floats, Ints, Outputs, ShadowPlan
from privacy_gate.features import Features
from privacy_gate.observe import Answers, from_shadows
from privacy_gate.signals import PROBES

GRID = 0.125  # records lie on a grid; 1/8 is exact in binary
COLUMNS = 10
CLASSES = 3
RADIUS = 2.0  # two records are 4.5 apart on average, sqrt(2 x columns): a member's ball holds few others


class BallLookup:
    """Keeps its training records. Near one of them, that record's label; on the grid, the rule; else a wrong class."""

    def fit(self, x: Floats, y: Ints) -> BallLookup:
        self._x, self._y = x, y
        return self

    def predict(self, x: Floats) -> Ints:
        squares = (x**2).sum(axis=1)[:, None] + (self._x**2).sum(axis=1) - 2 * x @ self._x.T
        nearest = squares.argmin(axis=1)
        near = squares[np.arange(len(x)), nearest] <= RADIUS**2
        steps = x / GRID
        ruled = rule(x)
        on_grid = (steps == np.rint(steps)).all(axis=1)
        return np.where(on_grid, ruled, np.where(near, self._y[nearest], (ruled + 1) % CLASSES))


def rule(x: Floats) -> Ints:
    """The true label: sum of the grid steps, modulo the classes. Holds on the grid, for members and others alike."""
    return np.rint(x / GRID).astype(np.int64).sum(axis=1) % CLASSES


@dataclass(slots=True)
class OneHot:
    """A model that tells its decision and nothing else; counts how often it is asked."""

    model: BallLookup
    classes: int = CLASSES
    asked: int = 0

    def answers(self, features: Features) -> Outputs:
        x = np.asarray(features)
        self.asked += len(x)
        return Outputs(np.eye(self.classes)[self.model.predict(x)], "probabilities")

    def module(self) -> object:
        raise NotImplementedError


def records(n: int, seed: int) -> tuple[Floats, Ints]:
    x = np.rint(np.random.default_rng(seed).normal(size=(n, COLUMNS)) / GRID) * GRID
    return x, rule(x)


def label_only_world(
    members: int = 150,
    nonmembers: int = 150,
    shadows: int = 4,
    seed: int = 0,
    probes: tuple[str, ...] = ("noise_robustness", "boundary_distance"),
) -> tuple[Answers, Audit]:
    """Answers and probes of one disguised target and of shadows, each trained on a random half of the records."""
    n = members + nonmembers
    x, y = records(n, seed)
    member = np.arange(n) < members
    rng = np.random.default_rng([seed, 1])
    # In complementary pairs: every record is in exactly half of the shadows.
    halves = [rng.permutation(n) < n // 2 for _ in range(shadows // 2)]
    inside: Bools = np.array([side for half in halves for side in (half, ~half)]).reshape(len(halves) * 2, n)

    def trained(rows: Bools) -> OneHot:
        return OneHot(BallLookup().fit(x[rows], y[rows]))

    def probed(model: OneHot, *, shadow: bool) -> dict[str, Floats]:
        wanted = [PROBES[name] for name in probes]
        return {p.name: p.compute(model, x, y, seed) for p in wanted if p.shadows or not shadow}

    target, others = trained(member), [trained(rows) for rows in inside]
    plan = ShadowPlan(
        kind="balanced",
        member=inside,
        pool=np.ones(n, dtype=np.bool_),
        seeds=np.arange(len(others)),
        train_size=n // 2,
    )
    answers = from_shadows(
        target.answers(x),
        [model.answers(x) for model in others],
        plan,
        y,
        probes=[probed(model, shadow=True) for model in others],
    )
    audit = Audit(member, y, np.arange(n), tuple(f"class {k}" for k in range(CLASSES)))
    return replace(answers, probes=probed(target, shadow=False)), audit
