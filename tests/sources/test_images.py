"""Image folders: real files, the declared transform against a slow twin, and what is refused."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from privacy_gate import sources
from privacy_gate.errors import DataError
from privacy_gate.request import DataManifest, ImageTransform, Source
from privacy_gate.sources import images as reading

NOISE = np.random.default_rng(7).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)


def folder(tmp_path: Path, ending: str = "png") -> Path:
    """Four images of two classes, made in another order than that of their names."""
    for name, pixels in zip(("dogs/b", "cats/10", "dogs/a", "cats/9"), NOISE, strict=True):
        path = tmp_path / "shots" / f"{name}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return tmp_path / "shots"


def read(tmp_path: Path, images: Any = None, **settings: Any) -> Any:
    given = {"members": "shots", "nonmembers": "n", "images": {} if images is None else images, **settings}
    manifest = DataManifest.model_validate(given)
    return sources.read(Source(path="shots"), manifest, tmp_path, Path, tmp_path / "work")


def test_a_folder_per_class(tmp_path: Path) -> None:
    (folder(tmp_path) / ".DS_Store").touch()
    found = read(tmp_path, id="file")
    assert found["file"].tolist() == ["cats/10.png", "cats/9.png", "dogs/a.png", "dogs/b.png"]
    assert found["y"].tolist() == ["cats", "cats", "dogs", "dogs"]
    assert (found["x"].shape, found["x"].dtype) == ((4, 3, 5, 6), np.float32)
    expected = NOISE[[1, 3, 2, 0]].transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(found["x"], expected)
    assert isinstance(found["x"], np.memmap)
    assert "file" not in read(tmp_path)


@pytest.mark.parametrize("layout", ["CHW", "HWC"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_transform_is_what_it_says(tmp_path: Path, layout: Any, mode: Any) -> None:
    folder(tmp_path)
    mean, std = ([0.4, 0.5, 0.6], [0.2, 0.3, 0.25]) if mode == "RGB" else ([0.4], [0.3])
    found = read(tmp_path, {"layout": layout, "mode": mode, "scale": 128, "mean": mean, "std": std})["x"]
    pixels = NOISE[1].astype(np.int64)
    for row in range(5):
        for column in range(6):
            red, green, blue = (int(value) for value in pixels[row, column])
            # ITU-R 601 luma in the 16-bit fixed point that Pillow uses.
            grey = (red * 19595 + green * 38470 + blue * 7471 + (1 << 15)) >> 16
            for channel, value in enumerate([red, green, blue] if mode == "RGB" else [grey]):
                shown = found[0, channel, row, column] if layout == "CHW" else found[0, row, column, channel]
                twin = (value / 128 - mean[channel]) / std[channel]
                # three float32 operations on values below 10: each rounds by at most 2^-24 of about 10
                assert shown == pytest.approx(twin, abs=3e-6)


def test_sizes_are_height_and_width(tmp_path: Path) -> None:
    folder(tmp_path)
    Image.new("RGB", (9, 3)).save(tmp_path / "shots" / "cats" / "wide.png")
    with pytest.raises(DataError, match=r"wide\.png has shape \(3, 3, 9\), cats/10\.png has \(3, 5, 6\)") as caught:
        read(tmp_path)
    assert "data.images.size" in caught.value.hint
    assert read(tmp_path, {"size": [7, 4]})["x"].shape == (5, 3, 7, 4)


def test_a_flat_image_stays_flat_when_resized(tmp_path: Path) -> None:
    folder(tmp_path)
    Image.new("RGB", (40, 30), (10, 20, 30)).save(tmp_path / "shots" / "cats" / "flat.png")
    found = read(tmp_path, {"size": [8, 8], "scale": 1}, id="file")
    flat = found["x"][found["file"].tolist().index("cats/flat.png")]
    np.testing.assert_array_equal(flat, np.broadcast_to(np.float32([10, 20, 30])[:, None, None], (3, 8, 8)))


@pytest.mark.parametrize("ending", ["bmp", "tiff", "webp", "jpg", "gif"])
def test_other_kinds_of_image(tmp_path: Path, ending: str) -> None:
    folder(tmp_path, ending)
    found = read(tmp_path, {"scale": 1})["x"]
    assert found.shape == (4, 3, 5, 6)
    if ending in ("bmp", "tiff"):  # the others lose something
        np.testing.assert_array_equal(found[0], NOISE[1].transpose(2, 0, 1))


def test_metadata_adds_persons_groups_and_labels(tmp_path: Path) -> None:
    shots = folder(tmp_path)
    rows = ["file_name,who,site", "dogs/a.png,007,n", "dogs/b.png,7,n", "cats/9.png,x,s", "cats/10.png,007,s"]
    (shots / "metadata.csv").write_text("\n".join(rows))
    found = read(tmp_path, person="who", groups=["site"])
    assert found["who"].tolist() == ["007", "x", "007", "7"]
    assert found["site"].tolist() == ["s", "s", "n", "n"]
    assert found["y"].tolist() == ["cats", "cats", "dogs", "dogs"]
    assert found["x"].shape[0] == 4
    for name in ("dogs/a.png", "dogs/b.png", "cats/9.png", "cats/10.png"):
        (shots / name).rename(shots / name.replace("/", "-"))
    (shots / "metadata.csv").write_text("file_name,y\ndogs-a.png,3\ndogs-b.png,4\ncats-9.png,5\ncats-10.png,6")
    found = read(tmp_path, id="file")  # no class folders: the label is in the table
    assert found["y"].tolist() == [6, 5, 3, 4]
    assert found["file"].tolist()[0] == "cats-10.png"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("name,who\ndogs/a.png,1", "no column 'file_name'"),
        ("file_name,who\ndogs/a.png,1", "3 images or rows are without the other, the first is cats/10.png"),
        ("file_name,x\ndogs/a.png,1", "has a column 'x'"),
        ("file_name,who\ndogs/a.png,1\ndogs/a.png,2", "1 rows name a file that another names"),
        (
            "file_name,who\ndogs/a.png,1\ndogs/b.png,1\ncats/9.png,1\ncats/10.png,1\n../../etc/passwd,1",
            "1 images or rows are without the other, the first is ../../etc/passwd",
        ),
    ],
)
def test_metadata_that_does_not_fit(tmp_path: Path, table: str, message: str) -> None:
    (folder(tmp_path) / "metadata.csv").write_text(table)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def bomb() -> bytes:
    """A PNG of a few bytes that claims 60 000 by 60 000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def encoded(image: Image.Image, kind: str = "PNG", **settings: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()


WHOLE = encoded(Image.fromarray(NOISE[0]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no image that can be read"),
        (b"not an image, secret", "is no image that can be read"),
        (WHOLE[: len(WHOLE) // 2], "is no image that can be read"),
        (WHOLE[:40] + b"\xff" * 20 + WHOLE[60:], "is no image that can be read"),
        (bomb(), "more than 67,108,864 pixels"),
        (encoded(Image.new("I;16", (6, 5))), "pixels of more than 8 bits"),
        (
            encoded(Image.new("L", (6, 5)), "GIF", save_all=True, append_images=[Image.new("L", (6, 5), 9)]),
            "several frames",
        ),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 5\n%%EOF\n", "is no image that can be read"),
    ],
)
def test_files_that_are_no_images(tmp_path: Path, content: bytes, message: str) -> None:
    (folder(tmp_path) / "dogs" / "odd.png").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path)
    assert "dogs/odd.png" in caught.value.what
    assert "secret" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "birds").mkdir(), "the class folder birds is empty"),
        (lambda f: (f / "dogs" / "notes.txt").touch(), r"dogs/notes\.txt is no image \(1 such files\)"),
        (lambda f: Image.new("RGB", (6, 5)).save(f / "loose.png"), r"loose\.png is in no class folder"),
        (lambda f: (f / "others").symlink_to(f / "dogs"), "others is neither a file nor a folder"),
    ],
)
def test_folders_that_are_not_what_they_should_be(tmp_path: Path, change: Any, message: str) -> None:
    change(folder(tmp_path))
    with pytest.raises(DataError, match=message):
        read(tmp_path)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        ({"mean": [0.5]}, "data.images.mean has 1 values, mode RGB has 3 channels"),
        ({"std": [1, 1, 0]}, "data.images.std must be positive"),
        ({"std": [1, 1, float("nan")]}, "data.images.std must be positive"),
        ({"mean": [0, 0, float("inf")]}, "data.images.mean must be finite"),
        ({"size": [0, 5]}, r"data.images.size is \[0, 5\]"),
        ({"size": [1 << 20, 1 << 20]}, "data.images.size is"),
    ],
)
def test_transforms_that_cannot_be(tmp_path: Path, transform: Any, message: str) -> None:
    folder(tmp_path)
    with pytest.raises(DataError, match=message):
        read(tmp_path, transform)


def test_the_transform_has_to_be_declared(tmp_path: Path) -> None:
    folder(tmp_path)
    manifest = DataManifest.model_validate({"members": "shots", "nonmembers": "n"})
    with pytest.raises(DataError, match=r"data\.images does not say how"):
        sources.read(Source(path="shots"), manifest, tmp_path, Path, tmp_path / "work")


def test_exif_turns_images_only_where_it_is_asked_for() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    content = encoded(Image.fromarray(NOISE[0]), exif=exif)
    shapes = [
        reading.pixels(lambda: io.BytesIO(content), "shot", ImageTransform(), upright=upright).shape
        for upright in (False, True)
    ]
    assert shapes == [(3, 5, 6), (3, 6, 5)]
