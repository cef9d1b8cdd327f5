"""How often an image is still classified rightly when it is turned or moved a little: label-only, for images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_gate.datamodel import Bools, Floats, Ints
from privacy_gate.errors import NotEvaluable
from privacy_gate.features import Features
from privacy_gate.signals import Access, probe

ANGLES = (1, 2, 3, 5, 7, 9, 12, 15)  # degrees, either way
REACH = 2  # pixels by which an image is moved, down plus across
SMALLEST = 8  # pixels; in a smaller image every move is a large one
ROWS = 8_192  # asked at once, as far as whole copies of all images allow
CELLS = 16_777_216  # the same for large images

Change = tuple[float, int, int]  # degrees, pixels down, pixels to the right


def _changes() -> tuple[Change, ...]:
    turned: list[Change] = [(float(sign * angle), 0, 0) for angle in ANGLES for sign in (1, -1)]
    steps = range(-REACH, REACH + 1)
    moved: list[Change] = [(0.0, i, j) for i in steps for j in steps if 0 < abs(i) + abs(j) <= REACH]
    return (*turned, *moved)


CHANGES = _changes()


@probe(
    name="augmentation_robustness",
    unit="0 to 1",
    paper="Choquette-Choo et al., ICML 2021 (data augmentation: rotations and translations)",
    needs="labels",
    fits="images",
    queries=f"{len(CHANGES) + 1} answers per record",
)
def augmentation_robustness(access: Access, features: Features, labels: Ints, seed: int) -> Floats:
    """[n] whether the top class is the label, and of how many turned or moved copies; 0 to 1, above 1/2 where it is.

    Images [n, C, H, W], [n, H, W, C] or [n, H, W]; nothing is drawn at random. Raises NotEvaluable for tables and for
    images of fewer than 8 pixels across.
    """
    images = _images(features)
    size = max(1, min(ROWS, CELLS // max(1, int(np.prod(images.shape[1:])))) // max(len(images), 1))
    right: list[Bools] = []
    changes: list[Change] = [(0.0, 0, 0), *CHANGES]
    for start in range(0, len(changes), size):
        copies = [changed(images, change) for change in changes[start : start + size]]
        top = access.answers(np.concatenate(copies)).values.argmax(axis=1)
        right += list(top.reshape(len(copies), len(images)) == labels)
    # The image's own answer counts more than all copies together: no threshold does worse than the gap attack.
    own, copied = right[0], np.sum(right[1:], axis=0)
    return np.asarray(((len(CHANGES) + 1) * own + copied) / (2 * len(CHANGES) + 1), dtype=np.float64)


def _images(features: Features) -> NDArray[Any]:
    if not isinstance(features, np.ndarray) or features.ndim not in (3, 4) or features.dtype.kind not in "biuf":
        what = f"{features.ndim}-axis array of {features.dtype}" if isinstance(features, np.ndarray) else "table"
        raise NotEvaluable(
            f"augmentation_robustness turns images; this is a {what}", "noise_robustness does the same for tables"
        )
    down, across = plane_of(features.shape)
    height, width = features.shape[down], features.shape[across]
    if min(height, width) < SMALLEST:
        raise NotEvaluable(
            f"augmentation_robustness: images of {height} by {width} are too small to be turned",
            f"it takes at least {SMALLEST} pixels either way",
        )
    return features


def plane_of(shape: tuple[int, ...]) -> tuple[int, int]:
    """The axes of height and width of [n, H, W], [n, C, H, W] or [n, H, W, C]: channels are 1, 3 or 4, or unlike."""
    if len(shape) == 3:
        return 1, 2
    first, last = shape[1] in (1, 3, 4), shape[3] in (1, 3, 4)
    if not first and not last:
        first, last = shape[2] == shape[3], shape[1] == shape[2]
        if not first and not last:
            raise NotEvaluable(
                f"augmentation_robustness: no channels found in records of shape {shape[1:]}",
                "store images as [n, C, H, W] or [n, H, W, C]",
            )
    return (2, 3) if first else (1, 2)


def changed(images: NDArray[Any], change: Change) -> NDArray[Any]:
    """The images turned about their centre, then moved; what comes in from outside repeats the edge. Same type."""
    degrees, down, right = change
    axes = plane_of(images.shape)
    height, width = (images.shape[axis] for axis in axes)
    y, x = np.meshgrid(np.arange(height) - down, np.arange(width) - right, indexing="ij")
    if not degrees:
        return _gathered(images, axes, y, x)
    # Where each pixel comes from: the turn, backwards.
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    from_top, from_left = y - (height - 1) / 2, x - (width - 1) / 2
    y_old = np.clip(cos * from_top + sin * from_left + (height - 1) / 2, 0, height - 1)
    x_old = np.clip(-sin * from_top + cos * from_left + (width - 1) / 2, 0, width - 1)
    return _interpolated(images, axes, y_old, x_old)


def _interpolated(images: NDArray[Any], axes: tuple[int, int], y: Floats, x: Floats) -> NDArray[Any]:
    """Bilinear, from places inside the image."""
    top, left = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    lower, further = y - top, x - left
    broad = (..., None) if axes[1] == images.ndim - 2 else (...,)
    total: Any = 0.0
    for down, by_height in ((0, 1 - lower), (1, lower)):
        for right, by_width in ((0, 1 - further), (1, further)):
            total = total + _gathered(images, axes, top + down, left + right) * (by_height * by_width)[broad]
    if images.dtype.kind == "f":
        return np.asarray(total, dtype=images.dtype)
    return np.asarray(np.rint(total)).astype(images.dtype)


def _gathered(images: NDArray[Any], axes: tuple[int, int], y: Ints, x: Ints) -> NDArray[Any]:
    """Each pixel from (y, x); beyond the edge, the edge."""
    y, x = (np.clip(at, 0, images.shape[axis] - 1) for at, axis in zip((y, x), axes, strict=True))
    return np.asarray(images[(slice(None),) * axes[0] + (y, x)])
