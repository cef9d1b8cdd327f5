"""MemGuard: noise on the answers, made to mislead a membership classifier that the defender trains itself.

The label stays, so the correctness attack does; and whoever knows of the noise sets thresholds behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.special import expit, softmax

from privacy_gate.datamodel import Bools, Floats, Outputs
from privacy_gate.defences import Protect, defence
from privacy_gate.defences.row_randomness import uniforms
from privacy_gate.errors import NotEvaluable
from privacy_gate.request import Settings

_Array = NDArray[np.float32]
_Rows = NDArray[np.intp]

STEP = 0.1  # length of a step in logits
UNDECIDED = 1e-5  # |I - 1/2| at which there is nothing to mislead
MARGIN = np.float32(1e-6)  # of the label over the next class, in logits: what no rounding takes away
ZERO = 1e-6  # at most this stands for a probability of exactly zero, which has no logit
BLOCK = 64  # rows of one matrix product: always as many, so that a row's last bit does not depend on the others
RATE, FIRST, SECOND = np.float32(1e-3), np.float32(0.9), np.float32(0.999)  # of Adam
BATCH = 64
CHUNK = 1024  # rows that are worked on together: what fits into a core's cache


@defence(id="memguard", paper="Jia et al., CCS 2019, phases I and II", on="any model", reference=True)
class MemGuard(Settings):
    """Noise that makes a membership classifier undecided: the label stays, the expected distortion has a budget.

    A defender's network learns members from the defence's own reference records (`data.seen`). Noise is sought that
    brings its answer to the other side of 1/2; a row is answered with the noise with a probability that keeps the
    expected distortion within the budget. Answers are probabilities.
    """

    budget: Annotated[float, Field(ge=0, le=2)] = Field(
        1.0, description="expected L1 distortion of one answer, at most"
    )
    hidden: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(
        (64, 32), min_length=1, description="hidden layers of the defender's network"
    )
    epochs: int = Field(8, ge=1, description="of the defender's network; few, so that what misleads it misleads others")
    iterations: int = Field(300, ge=1, description="steps of the search for noise, per weight of the distortion")
    c2: float = Field(10.0, gt=0, allow_inf_nan=False, description="weight of the label's survival in the search")
    c3: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = Field(
        (0.1, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5),
        min_length=1,
        description="weights of the distortion, tried in this order for as long as the search succeeds",
    )
    one_time: bool = Field(True, description="whoever asks again gets the same answer; false: drawn anew, and averaged")
    in_model: bool = Field(False, description="the registered model answers through MemGuard already")

    def fitted(self, known: Outputs, member: Bools, seed: int) -> Protect:
        """MemGuard around the model that gave `known` [n, K]; `member` [n] False: the defence's reference records.

        Raises NotEvaluable where one of the two sides is empty.
        """
        if not member.any() or member.all():
            raise NotEvaluable(
                "MemGuard's defender has nothing to tell members from",
                "name reference records that nobody was trained on under data.seen",
            )
        network = _trained(_sorted(_logits(known))[0], member, self, seed)

        def protect(outputs: Outputs) -> Outputs:
            return _answered(outputs, network, self, seed)

        return protect


# --- the defender's network -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """What the network saw in m answers: log odds of membership [m], the hidden layers' values, the answers [m, K]."""

    logit: _Array
    layers: tuple[_Array, ...]
    p: _Array

    def take(self, rows: _Rows) -> _Seen:
        return _Seen(self.logit[rows], tuple(layer[rows] for layer in self.layers), self.p[rows])


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """Sorted probabilities -> log odds of membership, over hidden layers with ReLU."""

    weights: tuple[_Array, ...]
    biases: tuple[_Array, ...]

    def see(self, z: _Array) -> _Seen:
        """[m, K] sorted logits, m a multiple of BLOCK."""
        p = _softmax(z)
        values, layers = p, []
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            values = np.maximum(_product(values, weight) + bias, np.float32(0))
            layers.append(values)
        return _Seen((_product(values, self.weights[-1]) + self.biases[-1])[:, 0], tuple(layers), p)

    def gradient(self, seen: _Seen) -> _Array:
        """[m, K] derivative of the log odds of membership by the logits."""
        rows = len(seen.logit)
        back = np.broadcast_to(self.weights[-1][:, 0], (rows, len(self.weights[-1])))
        for values, weight in zip(reversed(seen.layers), reversed(self.weights[:-1]), strict=True):
            back = _product(np.where(values > 0, back, np.float32(0)), weight.T)
        return np.asarray(seen.p * (back - (seen.p * back).sum(axis=1, keepdims=True)))

    def membership(self, z: _Array) -> Floats:
        """[n] probability that the network gives a row of sorted logits of being a member's."""
        if not len(z):
            return np.zeros(0)
        rows = _in_blocks(np.arange(len(z)))
        return np.asarray(expit(self.see(z[rows]).logit[: len(z)].astype(np.float64)))


def _softmax(z: _Array) -> _Array:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def _product(values: _Array, weight: _Array) -> _Array:
    """[m, a] times [a, b] in blocks of rows."""
    blocks = np.ascontiguousarray(values).reshape(-1, BLOCK, values.shape[1])
    return np.asarray(np.matmul(blocks, weight).reshape(len(values), -1))


def _in_blocks(rows: _Rows) -> _Rows:
    """The rows ([n], n > 0), the first repeated until they fill their last block."""
    return np.concatenate([rows, np.full(-len(rows) % BLOCK, rows[0])])


def _trained(z: _Array, member: Bools, settings: MemGuard, seed: int) -> Network:
    """Adam on the cross entropy, either side counting one half; z [n, K] sorted logits."""
    rng = np.random.default_rng(seed)
    x = _softmax(z)
    mean, spread = x.mean(axis=0), np.maximum(x.std(axis=0), np.float32(1e-3))
    x = (x - mean) / spread
    y = member.astype(np.float32)
    share = np.where(member, 0.5 / member.mean(), 0.5 / (1 - member.mean())).astype(np.float32)
    widths = [z.shape[1], *settings.hidden, 1]
    parameters: list[_Array] = []
    for a, b in pairwise(widths):
        parameters += [(rng.standard_normal((a, b)) * np.sqrt(2 / a)).astype(np.float32), np.zeros(b, dtype=np.float32)]
    _adam(parameters, x, y, share, settings.epochs, rng)
    weights, biases = parameters[::2], parameters[1::2]
    # Standardising is linear: it goes into the first layer, and the search need not know of it.
    first = weights[0] / spread[:, None]
    return Network((first, *weights[1:]), (biases[0] - mean @ first, *biases[1:]))


def _adam(
    parameters: Sequence[_Array], x: _Array, y: _Array, share: _Array, epochs: int, rng: np.random.Generator
) -> None:
    """Train weights and biases, in turn, in place (Kingma & Ba, ICLR 2015, algorithm 1)."""
    mean = [np.zeros_like(part) for part in parameters]
    square = [np.zeros_like(part) for part in parameters]
    steps = 0
    for _ in range(epochs):
        order = rng.permutation(len(x))
        for start in range(0, len(x), BATCH):
            batch = order[start : start + BATCH]
            steps += 1
            rate = RATE * np.sqrt(1 - SECOND**steps) / (1 - FIRST**steps)
            for part, slope, m, v in zip(
                parameters, _slopes(parameters, x[batch], y[batch], share[batch]), mean, square, strict=True
            ):
                m += (1 - FIRST) * (slope - m)
                v += (1 - SECOND) * (slope * slope - v)
                part -= rate * m / (np.sqrt(v) + np.float32(1e-8))


def _slopes(parameters: Sequence[_Array], x: _Array, y: _Array, share: _Array) -> list[_Array]:
    """Gradient of the weighted cross entropy by each of the parameters."""
    weights, biases = parameters[::2], parameters[1::2]
    layers = [x]
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        layers.append(np.maximum(layers[-1] @ weight + bias, np.float32(0)))
    logit = (layers[-1] @ weights[-1] + biases[-1])[:, 0]
    back: _Array = (share * (np.asarray(expit(logit)) - y) / np.float32(len(y)))[:, None].astype(np.float32)
    slopes: list[_Array] = []
    for values, weight in zip(reversed(layers), reversed(weights), strict=True):
        slopes += [back.sum(axis=0), values.T @ back]
        back = (back @ weight.T) * (values > 0)
    return slopes[::-1]


# --- phase I: noise that misleads the network -------------------------------------------------------------------------


def _noisy(z: _Array, network: Network, settings: MemGuard) -> _Array:
    """[n, K] sorted logits on the other side of the network's decision, as near as the search found; else as given."""
    found = [_searched(z[start : start + CHUNK], network, settings) for start in range(0, len(z), CHUNK)]
    return np.concatenate([z[:0], *found])


def _searched(z: _Array, network: Network, settings: MemGuard) -> _Array:
    best = z.copy()
    rows = np.flatnonzero(np.abs(network.membership(z) - 0.5) > UNDECIDED)
    for c3 in settings.c3:
        if len(rows):
            moved, there = _descended(z[rows], network, np.float32(settings.c2), np.float32(c3), settings.iterations)
            rows = rows[there]
            best[rows] = moved[there]
    return best


def _descended(z: _Array, network: Network, c2: np.float32, c3: np.float32, steps: int) -> tuple[_Array, Bools]:
    """[n, K] the first point on each row's way that misleads and keeps the label; [n] whether there is one."""
    found, there = z.copy(), np.zeros(len(z), dtype=np.bool_)
    rows = _in_blocks(np.arange(len(z)))
    way = _Way(z[rows], _softmax(z)[rows], np.tile(np.arange(z.shape[1]), (len(rows), 1)))
    seen = network.see(way.at)
    side = np.sign(seen.logit)
    for _ in range(steps):
        way = way.on(np.float32(-STEP) * _direction(way, seen, network, c2, c3))
        seen = network.see(way.at)
        arrived = (seen.logit * side <= 0) & (way.at[:, 0] > way.at[:, 1] + MARGIN) & ~there[rows]
        if not arrived.any():
            continue
        found[rows[arrived, None], way.order[arrived]] = way.at[arrived]
        there[rows[arrived]] = True
        # Each row that is still on its way once: what only fills a block is left behind.
        alive, left = np.unique(rows, return_index=True)
        left = left[~there[alive]]
        if not len(left):
            break
        left = _in_blocks(left)
        if len(left) < len(rows):
            rows, side, way, seen = rows[left], side[left], way.take(left), seen.take(left)
    return found, there


@dataclass(frozen=True, slots=True, eq=False)
class _Way:
    """Where the search is, [m, K] each: logits, the probabilities it set out from, the columns they had in the input.

    The label stays in front. The others are sorted anew after each step, as the network will see them.
    """

    at: _Array
    goal: _Array
    order: _Rows

    def on(self, step: _Array) -> _Way:
        at = self.at + step
        falling = np.zeros(at.shape, dtype=np.intp)
        falling[:, 1:] = np.argsort(-at[:, 1:], axis=1) + 1
        return _Way(
            np.take_along_axis(at, falling, axis=1),
            np.take_along_axis(self.goal, falling, axis=1),
            np.take_along_axis(self.order, falling, axis=1),
        )

    def take(self, rows: _Rows) -> _Way:
        return _Way(self.at[rows], self.goal[rows], self.order[rows])


def _direction(way: _Way, seen: _Seen, network: Network, c2: np.float32, c3: np.float32) -> _Array:
    """[m, K] uphill, length 1: of |log odds|, of c2 times the label's deficit, of c3 times the distortion (L1)."""
    uphill = network.gradient(seen) * np.sign(seen.logit)[:, None]
    sign = np.sign(seen.p - way.goal)
    uphill += c3 * seen.p * (sign - (seen.p * sign).sum(axis=1, keepdims=True))
    losing = way.at[:, 1] > way.at[:, 0]
    uphill[losing, 1] += c2
    uphill[losing, 0] -= c2
    length = np.sqrt((uphill * uphill).sum(axis=1, keepdims=True))
    return np.asarray(uphill / np.maximum(length, np.float32(1e-30)))


# --- phase II: which of the two answers -------------------------------------------------------------------------------


def _answered(outputs: Outputs, network: Network, settings: MemGuard, seed: int) -> Outputs:
    """What a caller sees: by row the model's answer or the noisy one; the mean of all where each is drawn anew."""
    p = _probabilities(outputs)
    z, order = _sorted(_logits(outputs))
    there = _noisy(z, network, settings)
    noisy = np.empty_like(p)
    np.put_along_axis(noisy, order, np.asarray(softmax(there.astype(np.float64), axis=1)), axis=1)
    nearer = np.abs(network.membership(z) - 0.5) > np.abs(network.membership(-np.sort(-there, axis=1)) - 0.5)
    distance = np.abs(noisy - p).sum(axis=1)
    share = np.where(nearer, _within(settings.budget, distance), 0.0)
    # Who asks again and again averages fresh draws: what is left is how often the noise is there.
    weight = (uniforms(outputs, seed, 1) < share[:, None]).astype(np.float64) if settings.one_time else share[:, None]
    # The steps that the answers had are gone; 0 leaves them to be measured on what comes out.
    return Outputs(np.asarray(np.where(weight > 0, (1 - weight) * p + weight * noisy, p)), "probabilities")


def _within(budget: float, distance: Floats) -> Floats:
    """[n] how often the noise may be there: min(budget / distance, 1)."""
    return np.where(distance > budget, budget / np.maximum(distance, np.finfo(np.float64).tiny), 1.0)


def _probabilities(outputs: Outputs) -> Floats:
    values = outputs.values.astype(np.float64)
    if outputs.kind == "probabilities":
        return values
    p = np.asarray(softmax(values, axis=1))
    # Logits that differ in the last bit only can become equal probabilities; the label must survive that.
    moved, top = p.argmax(axis=1) != values.argmax(axis=1), values.argmax(axis=1)
    p[moved, top[moved]] = np.nextafter(p[moved].max(axis=1), np.inf)
    return p


def _logits(outputs: Outputs) -> Floats:
    """[n, K] up to a constant per row."""
    values = outputs.values.astype(np.float64)
    if outputs.kind == "logits":
        return np.asarray(values - values.max(axis=1, keepdims=True))
    least = np.where(values > 0, values, ZERO).min(axis=1, keepdims=True)
    return np.asarray(np.log(np.where(values > 0, values, np.minimum(least, ZERO))))


def _sorted(z: Floats) -> tuple[_Array, _Rows]:
    """[n, K] each row from its highest to its lowest, and the classes in that order."""
    order = np.argsort(-z, axis=1, kind="stable")
    return np.take_along_axis(z, order, axis=1).astype(np.float32), order
