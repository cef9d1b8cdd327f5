"""Per-record gradients in the form in which they come cheapest, and the numbers that attacks want of them.

b records, P parameters. A gradient of P numbers per record is written out only where no closed form serves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

LARGEST = 2**22
"""Numbers that are written out at once: 32 MB in float64."""


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Power sums of the elements of b gradients, each divided by its largest magnitude so that nothing underflows.

    count   P
    scale   [b] max |g|
    powers  [4, b] sums of (g / scale)^k for k = 1 to 4
    total   [b] sum of |g / scale|
    least   [b] min |g|
    """

    count: int
    scale: Tensor
    powers: Tensor
    total: Tensor
    least: Tensor


class Gradient(Protocol):
    """The gradients of b records with respect to one tensor, in float64."""

    def squares(self) -> Tensor:
        """[b] squared L2 norms."""

    def moments(self) -> Moments:
        """Power sums of the elements."""

    def take(self, rows: Tensor) -> Gradient:
        """The gradients of the given records."""


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """Gradients that are written out: values [b, P]."""

    values: Tensor

    def squares(self) -> Tensor:
        """[b] squared L2 norms."""
        return self.values.square().sum(1)

    def moments(self) -> Moments:
        """Power sums of the elements."""
        return _moments_of(self.values)

    def take(self, rows: Tensor) -> Dense:
        """The gradients of the given records."""
        return Dense(self.values[rows])


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """Sums over t of outer products: delta [b, G, T, o], active [b, G, T, i]; P = G o i.

    A linear layer has G = T = 1, or one t for each place of a sequence; a convolution has one t for each place of the
    image, and its groups.
    """

    delta: Tensor
    active: Tensor

    def squares(self) -> Tensor:
        """[b] squared L2 norms: |delta|^2 |a|^2 of one place, else the Gram form or the sum, whichever is smaller.

        |sum_t delta_t a_t^T|^2 = sum_{t, u} (delta_t . delta_u)(a_t . a_u).
        """
        places, out, into = self.delta.shape[2], self.delta.shape[3], self.active.shape[3]
        if places == 1:
            return (self.delta.square().sum((2, 3)) * self.active.square().sum((2, 3))).sum(1)
        if places * places <= out * into:
            each = self.delta.shape[1] * places * places
            return torch.cat([_gram(part.delta, part.active) for part in self._parts(each)]).clamp_min(0.0)
        return torch.cat([part._written().square().sum(1) for part in self._parts(self._numbers)])

    def moments(self) -> Moments:
        """Power sums of the elements; those of one outer product are products of its factors' sums."""
        if self.delta.shape[1:3] == (1, 1):
            return _outer(_moments_of(self.delta[:, 0, 0]), _moments_of(self.active[:, 0, 0]))
        return _stacked([_moments_of(part._written()) for part in self._parts(self._numbers)])

    def take(self, rows: Tensor) -> Product:
        """The gradients of the given records."""
        return Product(self.delta[rows], self.active[rows])

    @property
    def _numbers(self) -> int:
        return self.delta.shape[1] * self.delta.shape[3] * self.active.shape[3]

    def _written(self) -> Tensor:
        return torch.einsum("bgto,bgti->bgoi", self.delta, self.active).flatten(1)

    def _parts(self, each: int) -> Iterator[Product]:
        for rows in _chunks(len(self.delta), each):
            yield Product(self.delta[rows], self.active[rows])


@dataclass(frozen=True, slots=True, eq=False)
class Convolution:
    """Gradients of a convolution's weight: delta [b, out, h, w] and inputs [b, in, H, W], as products over places.

    window  torch's kernel_size, stride, padding and dilation, two numbers each
    """

    delta: Tensor
    inputs: Tensor
    window: Mapping[str, tuple[int, ...]]
    groups: int

    def squares(self) -> Tensor:
        """[b] squared L2 norms."""
        return torch.cat([product.squares() for product in self._products()])

    def moments(self) -> Moments:
        """Power sums of the elements."""
        return _stacked([product.moments() for product in self._products()])

    def take(self, rows: Tensor) -> Convolution:
        """The gradients of the given records."""
        return Convolution(self.delta[rows], self.inputs[rows], self.window, self.groups)

    def _products(self) -> Iterator[Product]:
        kernel = self.window["kernel_size"][0] * self.window["kernel_size"][1]
        places = self.delta.shape[2] * self.delta.shape[3]
        for rows in _chunks(len(self.delta), kernel * self.inputs.shape[1] * places):
            delta, inputs = self.delta[rows].double(), self.inputs[rows].double()
            delta = delta.reshape(len(delta), self.groups, -1, places)
            patches = functional.unfold(inputs, **self.window).reshape(len(delta), self.groups, -1, places)
            yield Product(delta.mT, patches.mT)


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Gradients of a table whose rows were looked up: delta [b, T, D] at the rows index [b, T] of `height`."""

    delta: Tensor
    index: Tensor
    height: int

    def squares(self) -> Tensor:
        """[b] squared L2 norms: the Gram form, in which different rows of the table are orthogonal."""
        found = []
        for rows in _chunks(len(self.delta), self.delta.shape[1] ** 2):
            delta, index = self.delta[rows], self.index[rows]
            same = index[:, :, None] == index[:, None, :]
            found.append(((delta @ delta.mT) * same).sum((1, 2)))
        return torch.cat(found).clamp_min(0.0)

    def moments(self) -> Moments:
        """Power sums of the elements, most of which are zero."""
        width = self.delta.shape[2]
        found = []
        for rows in _chunks(len(self.delta), self.height * width):
            table = self.delta.new_zeros(len(self.delta[rows]), self.height, width)
            table.scatter_add_(1, self.index[rows][:, :, None].expand(-1, -1, width), self.delta[rows])
            found.append(_moments_of(table.flatten(1)))
        return _stacked(found)

    def take(self, rows: Tensor) -> Rows:
        """The gradients of the given records."""
        return Rows(self.delta[rows], self.index[rows], self.height)


def _gram(delta: Tensor, active: Tensor) -> Tensor:
    return ((delta @ delta.mT) * (active @ active.mT)).sum((1, 2, 3))


def _chunks(count: int, each: int) -> Iterator[slice]:
    step = max(1, LARGEST // max(each, 1))
    for start in range(0, count, step):
        yield slice(start, start + step)


# --- moments --------------------------------------------------------------------------------------------------------


def _moments_of(values: Tensor) -> Moments:
    size = values.abs()
    scale = size.amax(1)
    unit = values / _divisor(scale)[:, None]
    powers = torch.stack([unit.pow(k).sum(1) for k in (1, 2, 3, 4)])
    return Moments(values.shape[1], scale, powers, unit.abs().sum(1), size.amin(1))


def _divisor(scale: Tensor) -> Tensor:
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def _outer(left: Moments, right: Moments) -> Moments:
    return Moments(
        left.count * right.count,
        left.scale * right.scale,
        left.powers * right.powers,
        left.total * right.total,
        left.least * right.least,
    )


def _stacked(parts: Sequence[Moments]) -> Moments:
    """The same of more records."""
    return Moments(
        parts[0].count,
        torch.cat([part.scale for part in parts]),
        torch.cat([part.powers for part in parts], dim=1),
        torch.cat([part.total for part in parts]),
        torch.cat([part.least for part in parts]),
    )


def joined(parts: Sequence[Moments]) -> Moments:
    """The moments of all elements of several gradients of the same records."""
    scale = torch.stack([part.scale for part in parts]).amax(0)
    shares = [part.scale / _divisor(scale) for part in parts]
    exponents = torch.arange(1, 5, dtype=scale.dtype)[:, None]
    return Moments(
        sum(part.count for part in parts),
        scale,
        torch.stack([part.powers * share**exponents for part, share in zip(parts, shares, strict=True)]).sum(0),
        torch.stack([part.total * share for part, share in zip(parts, shares, strict=True)]).sum(0),
        torch.stack([part.least for part in parts]).amin(0),
    )


FLOOR = 1e-12
"""Added before logarithms: gradients of saturated answers vanish."""

FEATURES = ("log L1", "log L2", "log min", "log max", "mean", "skewness", "kurtosis")

_FLAT = 1e-12  # a variance this small beside the mean square is rounding


def described(moments: Moments) -> Tensor:
    """[b, 7] FEATURES: the four norms as log(norm + FLOOR); the mean and the skewness as signed logarithms,
    sign(m) log(1 + |m| / unit) in units of FLOOR and 1; log(1 + kurtosis). All equal: skewness and kurtosis 0.
    """
    scale, count = moments.scale, moments.count
    first, second, third, fourth = moments.powers / count
    variance = second - first**2
    spread = variance > _FLAT * second
    width = torch.where(spread, variance, torch.ones_like(variance))
    zero = torch.zeros_like(width)
    skewness = torch.where(spread, (third - 3 * first * second + 2 * first**3) / width**1.5, zero)
    kurtosis = torch.where(spread, (fourth - 4 * first * third + 6 * first**2 * second - 3 * first**4) / width**2, zero)
    norms = (moments.total * scale, moments.powers[1].sqrt() * scale, moments.least, scale)
    return torch.stack(
        [
            *(torch.log(norm + FLOOR) for norm in norms),
            _signed_log(first * scale / FLOOR),
            _signed_log(skewness),
            torch.log1p(kurtosis.clamp_min(0.0)),
        ],
        dim=1,
    )


def _signed_log(values: Tensor) -> Tensor:
    return values.sign() * torch.log1p(values.abs())
