"""A folder of image files, one folder per class, made arrays by the declared transform (`data.images`)."""

from __future__ import annotations

import csv as table
import struct
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from privacy_gate.errors import DataError, StorageFailed
from privacy_gate.request import DataManifest, ImageTransform
from privacy_gate.sources import Records, reader
from privacy_gate.sources.numpy_arrays import FEATURES, mapped
from privacy_gate.sources.places import files_below, fresh, is_hidden

if TYPE_CHECKING:
    from PIL.Image import Image

METADATA = "metadata.csv"
FILE_NAME = "file_name"
MOST_PIXELS = 1 << 26
"""Pixels of one image; a small file can claim to be far larger than any memory."""

_LOOKED_AT = 100  # images that a draft is made from
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # what Pillow may try; it knows many more
_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, TypeError, IndexError, KeyError, OverflowError, struct.error)


def _is_image(path: Path) -> bool:
    return path.name.lower().endswith(_ENDINGS) and not is_hidden(path.name)


def _accepts(path: Path) -> bool:
    return path.is_dir() and any(_is_image(file) for file in files_below(path))


@reader(id="images", accepts=_accepts)
def images(path: Path, manifest: DataManifest, work: Path) -> Records:
    """`x` [n, C, H, W] or [n, H, W, C] float32, in the order of the relative paths, and one array per thing known.

    The label is the name of the folder below `path` that the image is in, as text; `data.id`, if it is set, the
    relative path. A table `metadata.csv` in `path` with the column `file_name` adds its other columns, persons and
    groups among them; a label or an id there is believed instead. It has one row for every image.
    """
    transform = declared(manifest, path)
    files = _files(path)
    names = [file.relative_to(path).as_posix() for file in files]
    beside = _metadata(path, names, manifest, work)
    if manifest.label not in beside:
        beside[manifest.label] = _folders(path, files)
    if manifest.id is not None and manifest.id not in beside:
        beside[manifest.id] = np.array(names, dtype=np.str_)
    shots = ((name, lambda file=file: file.open("rb")) for name, file in zip(names, files, strict=True))
    return {FEATURES: stacked(shots, len(files), transform, path, work, upright=False), **beside}


def declared(manifest: DataManifest, path: Path) -> ImageTransform:
    """The transform; DataError if there is none, or if it does not fit its own channels."""
    transform = manifest.images
    if transform is None:
        raise DataError(
            f"{path}: holds images, and data.images does not say how they become arrays",
            "declare the transform that training used: images: {size: [224, 224], mean: [...], std: [...]}",
        )
    channels = len(transform.mode)
    for name, values in (("mean", transform.mean), ("std", transform.std)):
        if values is not None and len(values) != channels:
            raise DataError(
                f"data.images.{name} has {len(values)} values, mode {transform.mode} has {channels} channels",
                "one value per channel",
            )
    if transform.std is not None and not all(np.isfinite(value) and value > 0 for value in transform.std):
        raise DataError("data.images.std must be positive", "one value above 0 per channel")
    if transform.mean is not None and not all(np.isfinite(value) for value in transform.mean):
        raise DataError("data.images.mean must be finite", "one number per channel")
    if transform.size is not None and (min(transform.size) < 1 or transform.size[0] * transform.size[1] > MOST_PIXELS):
        raise DataError(f"data.images.size is {list(transform.size)}", "height and width, in pixels")
    return transform


def stacked(
    shots: Iterable[tuple[str, Callable[[], IO[bytes]]]],
    count: int,
    transform: ImageTransform,
    path: Path,
    work: Path,
    *,
    upright: bool,
) -> NDArray[np.float32]:
    """The images under each other, one in memory at a time, memory-mapped from a file below `work`.

    shots    name and what opens it, `count` of them
    upright  turn images as their EXIF data says, as `datasets` does and torchvision's folders do not
    Errors: DataError naming the image that is none, or is of another size; StorageFailed.
    """
    place = fresh(work) / f"{FEATURES}.npy"
    out: NDArray[np.float32] | None = None
    try:
        for row, (name, opened) in enumerate(shots):
            image = pixels(opened, f"{path}: {name}", transform, upright=upright)
            if out is None:
                out = np.lib.format.open_memmap(place, "w+", np.float32, (count, *image.shape))
                first = name
            if image.shape != out.shape[1:]:
                raise DataError(
                    f"{path}: {name} has shape {image.shape}, {first} has {out.shape[1:]}",
                    "images differ in size: say data.images.size: [height, width], as training resized them",
                )
            out[row] = image
        if out is None:
            raise DataError(f"{path}: there is no image in it", "one folder of images per class")
        out.flush()  # type: ignore[attr-defined]
    except OSError as error:
        raise StorageFailed(f"{work}: {error.strerror or type(error).__name__}", "free some space") from error
    return mapped(place)


def pixels(
    opened: Callable[[], IO[bytes]], shown: str, transform: ImageTransform, *, upright: bool
) -> NDArray[np.float32]:
    """[C, H, W] or [H, W, C] of one image file: mode, size, scale, mean, std, in this order, in float32.

    Resized with Pillow's bilinear filter, which widens when it shrinks, as torchvision does it. Raises DataError.
    """
    from PIL import Image, ImageOps

    try:
        with opened() as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # an error below
            with Image.open(stream, formats=_FORMATS) as image:
                _require_plain(image, shown)
                turned = ImageOps.exif_transpose(image) if upright else image
                turned = turned.convert(transform.mode)
                if transform.size is not None:
                    turned = turned.resize(transform.size[::-1], Image.Resampling.BILINEAR)
                values = np.asarray(turned, dtype=np.float32)
    except Image.DecompressionBombError as error:
        raise DataError(f"{shown} has more than {MOST_PIXELS:,} pixels", "shrink it, as for training") from error
    except _BROKEN as error:
        raise DataError(
            f"{shown} is no image that can be read ({type(error).__name__})", "repair or remove it"
        ) from error
    values = values.reshape(*values.shape[:2], len(transform.mode)) / np.float32(transform.scale)
    if transform.mean is not None:
        values -= np.array(transform.mean, dtype=np.float32)
    if transform.std is not None:
        values /= np.array(transform.std, dtype=np.float32)
    return values if transform.layout == "HWC" else np.ascontiguousarray(values.transpose(2, 0, 1))


def _require_plain(image: Image, shown: str) -> None:
    if image.width * image.height > MOST_PIXELS:
        raise DataError(f"{shown} has more than {MOST_PIXELS:,} pixels", "shrink it, as for training")
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # photographs with a preview
        raise DataError(f"{shown} has several frames", "store each frame as a file, or data as .npy")
    if image.mode.startswith(("I", "F")):
        raise DataError(
            f"{shown} has pixels of more than 8 bits (mode {image.mode})", "store such data as .npy, or write 8 bits"
        )


def looked(path: Path) -> tuple[ImageTransform, tuple[str, ...], tuple[str, ...]]:
    """(transform that the first images ask for, class folders sorted, other columns of the table): for a draft.

    Mode L where all are gray; a size where all have the same. Only headers of images are read. Raises DataError.
    """
    from PIL import Image

    files = _files(path)
    modes, sizes = set[str](), set[tuple[int, int]]()
    for file in files[:_LOOKED_AT]:
        try:
            with Image.open(file, formats=_FORMATS) as image:
                modes.add(image.mode)
                sizes.add((image.height, image.width))
        except (*_BROKEN, Image.DecompressionBombError) as error:
            shown = file.relative_to(path).as_posix()
            raise DataError(f"{path}: {shown} is no image that can be read", "repair or remove it") from error
    columns: list[str] = []
    if (path / METADATA).is_file():
        with (path / METADATA).open(encoding="utf-8-sig", newline="") as stream:
            columns = next(table.reader(stream), [])
    transform = ImageTransform(
        mode="L" if modes <= {"1", "L", "LA"} else "RGB", size=sizes.pop() if len(sizes) == 1 else None
    )
    folders = sorted({file.relative_to(path).parts[0] for file in files if file.parent != path})
    return transform, tuple(folders), tuple(name for name in columns if name != FILE_NAME)


# --- what is known of each image ------------------------------------------------------------------------------------


def _files(path: Path) -> list[Path]:
    """The images in order; DataError for any other file that is not hidden."""
    files = [f for f in files_below(path) if not any(is_hidden(part) for part in f.relative_to(path).parts)]
    files = [file for file in files if file != path / METADATA]
    if odd := [file.relative_to(path).as_posix() for file in files if not _is_image(file)]:
        raise DataError(
            f"{path}: {odd[0]} is no image ({len(odd)} such files)", f"keep images and {METADATA} alone in the folder"
        )
    if not files:
        raise DataError(f"{path}: there is no image in it", "one folder of images per class")
    return files


def _folders(path: Path, files: list[Path]) -> NDArray[np.str_]:
    """[n] the class folder of each image."""
    classes = [file.relative_to(path).parts[0] for file in files]
    if loose := [file.name for file in files if file.parent == path]:
        raise DataError(
            f"{path}: {loose[0]} is in no class folder ({len(loose)} such images)",
            f"one folder per class, or a {METADATA} with {FILE_NAME} and the label",
        )
    there = {entry.name for entry in path.iterdir() if entry.is_dir() and not is_hidden(entry.name)}
    if empty := sorted(there - set(classes)):
        raise DataError(f"{path}: the class folder {empty[0]} is empty", "fill or remove it")
    return np.array(classes, dtype=np.str_)


def _metadata(path: Path, names: list[str], manifest: DataManifest, work: Path) -> dict[str, NDArray[Any]]:
    """Column -> [n] in the order of the images."""
    from privacy_gate.sources.csv import csv

    file = path / METADATA
    if not file.is_file():
        return {}
    table: Any = csv(file, manifest, work)
    if FILE_NAME not in table.columns:
        raise DataError(f"{file}: no column {FILE_NAME!r}", "it holds each image's path, relative to the folder")
    if FEATURES in table.columns:
        raise DataError(f"{file}: has a column {FEATURES!r}, the name of the images", "rename it")
    rows: Mapping[str, int] = {str(name): row for row, name in enumerate(table[FILE_NAME])}
    if len(rows) != len(table):
        raise DataError(f"{file}: {len(table) - len(rows)} rows name a file that another names", "one row per image")
    if odd := sorted(set(rows) ^ set(names)):
        raise DataError(
            f"{file}: {len(odd)} images or rows are without the other, the first is {odd[0]}", "one row for each image"
        )
    table = table.iloc[[rows[name] for name in names]]
    return {str(name): table[name].to_numpy() for name in table.columns if name != FILE_NAME}
