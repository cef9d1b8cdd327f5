"""Small neural networks, many at once: one per fold, seed and, if asked, class; ReLU, cross-entropy, Adam."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from privacy_gate.datamodel import Bools, Floats, Ints
from privacy_gate.errors import NotEvaluable
from privacy_gate.learners import Material, standardised
from privacy_gate.learners.tables import class_odds
from privacy_gate.thresholds import person_folds

Singles = NDArray[np.float32]

SEEDS = 3
HIDDEN = (32, 16)
RATE = 5e-3
DECAY = 1.0
STEPS = 300
EVERY = 10  # steps between two looks at the rows that are held back
PATIENCE = 4  # looks without a better loss, then training ends
CHECKED = 1024  # most rows that a network is stopped at
FEWEST_OF_CLASS = 10
MOST_CLASSES = 100
_FARTHEST = 10.0  # standard deviations; farther out than anything learned from, a line has no meaning
_INIT_STREAM, _BATCH_STREAM = 22, 23
_CHUNK = 512


@dataclass(frozen=True, slots=True, eq=False)
class Networks:
    """G networks of one shape; `flat` [G, P] holds all their numbers, so that Adam is a few operations on one array."""

    flat: Singles
    sizes: tuple[int, ...]  # d, the hidden widths, 1

    def layers(self) -> list[tuple[Singles, Singles]]:
        """Per layer weights [G, in, out] and biases [G, 1, out]: views of `flat`."""
        found, place, count = [], 0, len(self.flat)
        for inner, outer in pairwise(self.sizes):
            weights = self.flat[:, place : place + inner * outer].reshape(count, inner, outer)
            place += inner * outer
            found.append((weights, self.flat[:, place : place + outer].reshape(count, 1, outer)))
            place += outer
        return found


def width(sizes: Sequence[int]) -> int:
    """P, the numbers of one network."""
    return sum(inner * outer + outer for inner, outer in pairwise(sizes))


def logits(networks: Networks, x: Singles) -> Singles:
    """[G, n] log odds of membership for the inputs [G, n, d]."""
    return _forward(networks, x)[-1][..., 0]


def _forward(networks: Networks, x: Singles) -> list[Singles]:
    """Activations of every layer, the inputs first, the log odds [G, n, 1] last."""
    layers = networks.layers()
    found = [x]
    for place, (weights, biases) in enumerate(layers):
        z = np.matmul(found[-1], weights)
        z += biases
        found.append(np.maximum(z, 0, out=z) if place < len(layers) - 1 else z)
    return found


def loss(z: Singles, y: Bools, weights: Singles) -> Floats:
    """[G] weighted cross-entropy of the log odds [G, n] for the memberships [G, n]; weights [G, n]."""
    wrong = np.where(y, -z, z)
    softplus = np.maximum(wrong, 0) + np.log1p(np.exp(-np.abs(wrong)))
    return np.asarray((weights * softplus).sum(axis=1), dtype=np.float64)


def gradient(networks: Networks, x: Singles, y: Bools, out: Networks, offset: Singles | None = None) -> None:
    """Into `out`, the gradient of the mean cross-entropy over the inputs [G, n, d] of memberships y [n] or [G, n].

    offset  [G, n] of the log odds, known beforehand
    """
    activations = _forward(networks, x)
    z = activations[-1] if offset is None else activations[-1] + offset[..., None]
    # 1 / (1 + e^-z) by tanh, which neither overflows nor cancels.
    back = (0.5 * (1 + np.tanh(0.5 * z)) - np.broadcast_to(y[..., None], z.shape)) / np.float32(x.shape[1])
    back = back.astype(z.dtype, copy=False)
    layers, into = networks.layers(), out.layers()
    for place in range(len(layers) - 1, -1, -1):
        below = activations[place]
        np.matmul(below.transpose(0, 2, 1), back, out=into[place][0])
        np.sum(back, axis=1, keepdims=True, out=into[place][1])
        if place:
            back = np.matmul(back, layers[place][0].transpose(0, 2, 1))
            back *= below > 0


@dataclass(slots=True, eq=False)
class Adam:
    """Kingma & Ba, ICLR 2015, algorithm 1, with the weight decay of Loshchilov & Hutter, ICLR 2019, algorithm 2."""

    rate: float
    decay: float
    mean: Singles
    square: Singles
    steps: int = 0

    def step(self, flat: Singles, grad: Singles) -> None:
        """Move the parameters in place; `grad` is used up."""
        self.steps += 1
        first, second = 1 - 0.9**self.steps, 1 - 0.999**self.steps
        self.mean *= np.float32(0.9)
        self.mean += np.float32(0.1) * grad
        np.square(grad, out=grad)
        grad *= np.float32(0.001)
        self.square *= np.float32(0.999)
        self.square += grad
        np.divide(self.square, np.float32(second), out=grad)
        np.sqrt(grad, out=grad)
        grad += np.float32(1e-8)
        np.divide(self.mean, grad, out=grad)
        grad *= np.float32(self.rate / first)
        flat *= np.float32(1 - self.rate * self.decay)
        flat -= grad


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """What one network learns from, and on what it is stopped: rows of records, by side."""

    inside: Ints
    outside: Ints
    check_inside: Ints
    check_outside: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """Networks with the scale of the inputs that each of them learned from."""

    networks: Networks
    centre: Singles  # [G, 1, d]
    scale: Singles  # [G, 1, d] 1 / standard deviation

    def scores(self, which: Ints, x: Floats) -> Floats:
        """[len(which), n] log odds that the chosen networks give the inputs [n, d]."""
        chosen = Networks(self.networks.flat[which], self.networks.sizes)
        parts = [
            logits(chosen, _scaled(x[at : at + _CHUNK][None], self.centre[which], self.scale[which]))
            for at in range(0, len(x), _CHUNK)
        ]
        return np.concatenate(parts, axis=1).astype(np.float64) if parts else np.empty((len(which), 0))


def _scaled(x: NDArray[np.floating], centre: Singles, scale: Singles) -> Singles:
    moved = (x - centre) * scale
    return np.clip(moved, -_FARTHEST, _FARTHEST, out=moved).astype(np.float32, copy=False)


def train(
    x: Floats,
    lessons: Sequence[Lesson],
    start: Ints,
    stop: Ints,
    hidden: tuple[int, ...] = HIDDEN,
    offset: Floats | None = None,
) -> Trained:
    """One network per lesson on the inputs [n, d], each stopped where the networks of its group do best together.

    start   [G] number of the starting weights: equal numbers start equal
    stop    [G] number of the group; its mean loss on the rows that are held back decides when its networks were best
    offset  [n] what is known of the log odds beforehand: the networks learn the rest, and score by it alone

    Batches hold as many members as non-members, so that log odds are at prior one half.
    """
    sizes = (x.shape[1], *hidden, 1)
    centre, scale = _scale(x, lessons)
    networks = Networks(_started(sizes, start), sizes)
    best, found = networks.flat.copy(), np.full(int(stop.max()) + 1, np.inf)
    since = 0
    adam = Adam(RATE, DECAY, np.zeros_like(networks.flat), np.zeros_like(networks.flat))
    grad = Networks(np.empty_like(networks.flat), sizes)
    half = _half_batch(lessons)
    truth = np.arange(2 * half) < half
    table, truth_held, weights_held = _held_back(lessons)
    held = _scaled(x[table].astype(np.float32), centre, scale)
    known = None if offset is None else offset.astype(np.float32)
    of_group = np.bincount(stop)
    single = x.astype(np.float32)
    rng = np.random.default_rng(_BATCH_STREAM)
    sides = [e.inside for e in lessons], [e.outside for e in lessons]
    rows, counts = [_padded(side) for side in sides], [np.array([len(e) for e in side]) for side in sides]
    for step in range(1, STEPS + 1):
        draws = rng.random((2, half))
        picked = [
            np.take_along_axis(table, (draw * count[:, None]).astype(np.int64), 1)
            for table, draw, count in zip(rows, draws, counts, strict=True)
        ]
        drawn = np.concatenate(picked, axis=1)
        gradient(networks, _scaled(single[drawn], centre, scale), truth, grad, None if known is None else known[drawn])
        adam.step(networks.flat, grad.flat)
        if step % EVERY == 0:
            z = logits(networks, held) + (0 if known is None else known[table])
            now = np.bincount(stop, loss(z, truth_held, weights_held)) / of_group
            better = now < found
            found[better] = now[better]
            best[better[stop]] = networks.flat[better[stop]]
            since = 0 if better.any() else since + 1
            if since >= PATIENCE:
                break
    return Trained(Networks(best, sizes), centre, scale)


def _half_batch(lessons: Sequence[Lesson]) -> int:
    """Half a batch: an eighth of what the largest lesson has, within bounds."""
    return int(np.clip(max(len(e.inside) + len(e.outside) for e in lessons) // 16, 16, 128))


def _started(sizes: Sequence[int], start: Ints) -> Singles:
    """[G, P] starting weights: He et al., ICCV 2015, equation 10; biases zero."""
    found = []
    for number in range(int(start.max()) + 1):
        rng = np.random.default_rng([_INIT_STREAM, number])
        parts = [
            np.concatenate([rng.normal(0, np.sqrt(2 / inner), inner * outer), np.zeros(outer)])
            for inner, outer in pairwise(sizes)
        ]
        found.append(np.concatenate(parts))
    return np.stack(found).astype(np.float32)[start]


def _scale(x: Floats, lessons: Sequence[Lesson]) -> tuple[Singles, Singles]:
    centres, scales = [], []
    for e in lessons:
        part = x[np.concatenate([e.inside, e.outside])]
        centre, spread = part.mean(axis=0), part.std(axis=0)
        constant = spread <= 1e-6 * (1 + np.abs(centre))
        centres.append(centre)
        scales.append(np.where(constant, 0.0, 1 / np.where(constant, 1.0, spread)))
    return np.stack(centres)[:, None].astype(np.float32), np.stack(scales)[:, None].astype(np.float32)


def _padded(rows: Sequence[Ints]) -> Ints:
    found = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    for into, some in zip(found, rows, strict=True):
        into[: len(some)] = some
    return found


def _held_back(lessons: Sequence[Lesson]) -> tuple[Ints, Bools, Singles]:
    """Rows [G, v], memberships [G, v] and weights [G, v] on which networks are stopped; a weight of 0 pads."""
    sides = [[_spread(side, CHECKED // 2) for side in (e.check_inside, e.check_outside)] for e in lessons]
    table = _padded([np.concatenate(pair) for pair in sides])
    truth, weights = np.zeros(table.shape, dtype=np.bool_), np.zeros(table.shape, dtype=np.float32)
    for g, (inside, outside) in enumerate(sides):
        truth[g, : len(inside)] = True
        weights[g, : len(inside)] = 0.5 / len(inside)
        weights[g, len(inside) : len(inside) + len(outside)] = 0.5 / len(outside)
    return table, truth, weights


def _spread(rows: Ints, most: int) -> Ints:
    """At most so many of the rows, evenly spaced: they are in an order of their content, and the first ones alike."""
    if len(rows) <= most:
        return rows
    return np.asarray(rows[np.arange(most) * len(rows) // most])


# --- lessons from folds ---------------------------------------------------------------------------------------------


def lessons_of(material: Material, rows: Ints) -> list[Lesson]:
    """One lesson per seed: each time other persons are held back for stopping, a fifth of them.

    Raises NotEvaluable where no fifth has members and non-members.
    """
    member = material.member[rows]
    persons = np.unique(material.persons[rows], return_inverse=True)[1]
    ((*fifths,),) = person_folds(member, persons, 0, repeats=1, folds=5)
    usable = [held for held in fifths if (held & member).any() and (held & ~member).any()]
    if not usable:
        raise NotEvaluable(
            f"{persons.max() + 1} persons are too few to learn from and to stop at", "give records of more persons"
        )
    chosen = (usable[seed % len(usable)] for seed in range(SEEDS))
    return [
        Lesson(rows[~held & member], rows[~held & ~member], rows[held & member], rows[held & ~member])
        for held in chosen
    ]


def one_network(
    material: Material, x: Floats, learn: Sequence[Ints], ask: Sequence[Ints], *, labelled: bool = False
) -> list[Floats]:
    """Per fold, the scores of the rows to ask: log odds of one network on the inputs [R, d], median of three seeds.

    `labelled`: the inputs tell the class, whose mix is then left out of the scores: see `class_odds`.
    """
    lessons = [_moved(e, fold * len(x)) for fold, rows in enumerate(learn) for e in lessons_of(material, rows)]
    inputs = _squashed(x, learn)
    number = np.arange(len(lessons))
    odds = np.concatenate([class_odds(material, rows)[material.group] for rows in learn]) if labelled else None
    trained = train(inputs, lessons, number % SEEDS, number, offset=odds)
    return [
        np.median(trained.scores(np.arange(fold * SEEDS, (fold + 1) * SEEDS), inputs[fold * len(x) + rows]), axis=0)
        for fold, rows in enumerate(ask)
    ]


def network_per_class(material: Material, x: Floats, learn: Sequence[Ints], ask: Sequence[Ints]) -> list[Floats]:
    """As `one_network`, with a network of its own for each class that has enough known records of both kinds.

    Enough: ten of either side in every lesson and two to stop at; of the hundred largest such classes at most. The
    other classes are scored by one network for all.
    """
    found = one_network(material, x, learn, ask)
    whole = [lessons_of(material, rows) for rows in learn]
    own = _own_classes(material, [lesson for each in whole for lesson in each])
    if not len(own):
        return found
    lessons = [
        _moved(_of_class(material, lesson, c), fold * len(x))
        for fold, each in enumerate(whole)
        for lesson in each
        for c in own
    ]
    inputs = _squashed(x, learn)
    number = np.arange(len(lessons))
    trained = train(inputs, lessons, number // len(own) % SEEDS, number // len(own))
    for fold, rows in enumerate(ask):
        for place, c in enumerate(own):
            mine = np.flatnonzero(material.group[rows] == c)
            which = (fold * SEEDS + np.arange(SEEDS)) * len(own) + place
            found[fold][mine] = np.median(trained.scores(which, inputs[fold * len(x) + rows[mine]]), axis=0)
    return found


def _squashed(x: Floats, learn: Sequence[Ints]) -> Floats:
    """[folds * R, d] the inputs of every fold: standardised over what it learns from, and bent.

    Logarithms of probabilities have long tails; without the bend a few records far out would set the scale for all.
    """
    return np.concatenate([np.arcsinh(standardised(x, rows)) for rows in learn])


def _moved(lesson: Lesson, by: int) -> Lesson:
    return Lesson(lesson.inside + by, lesson.outside + by, lesson.check_inside + by, lesson.check_outside + by)


def _own_classes(material: Material, lessons: Sequence[Lesson]) -> Ints:
    def least(sides: Sequence[Ints]) -> Ints:
        counts = [np.bincount(material.group[rows], minlength=material.groups) for rows in sides]
        return np.asarray(np.min(counts, axis=0))

    known = least([side for e in lessons for side in (e.inside, e.outside)])
    held = least([side for e in lessons for side in (e.check_inside, e.check_outside)])
    enough = np.flatnonzero((known >= FEWEST_OF_CLASS) & (held >= 2))
    return np.sort(enough[np.argsort(-known[enough], kind="stable")[:MOST_CLASSES]])


def _of_class(material: Material, lesson: Lesson, c: int) -> Lesson:
    inside, outside, check_inside, check_outside = (
        rows[material.group[rows] == c]
        for rows in (lesson.inside, lesson.outside, lesson.check_inside, lesson.check_outside)
    )
    return Lesson(inside, outside, check_inside, check_outside)
