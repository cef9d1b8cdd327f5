"""Folders written by the datasets package itself."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from privacy_gate import sources
from privacy_gate.errors import DataError
from privacy_gate.request import DataManifest, Source

datasets = pytest.importorskip("datasets")
datasets.disable_progress_bars()

NOISE = np.random.default_rng(3).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
KINDS = {
    "age": datasets.Value("float64"),
    "town": datasets.Value("string"),
    "y": datasets.ClassLabel(names=["no", "yes"]),
}
ROWS = {"age": [1.0, 2.5, 3.0, 4.0, 5.0, 6.0], "town": list("abcabc"), "y": [0, 1, 0, 1, 0, 1]}


def read(folder: Path, path: str = "t", **settings: Any) -> Any:
    manifest = DataManifest.model_validate({"members": path, "nonmembers": path, **settings})
    return sources.read(Source(path=path), manifest, folder, Path, folder / "work")


def kept(folder: Path, rows: dict[str, Any], kinds: dict[str, Any], **settings: Any) -> Any:
    data = datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))
    data.save_to_disk(str(folder), **settings)
    return data


def test_a_table_with_class_labels_as_the_numbers_models_know(tmp_path: Path) -> None:
    kept(tmp_path / "t", ROWS, KINDS, num_shards=2)
    found = read(tmp_path)
    assert {name: found[name].tolist() for name in found} == ROWS
    assert found["y"].dtype == np.int64


def test_what_was_shuffled_is_read_as_it_was_saved(tmp_path: Path) -> None:
    data = datasets.Dataset.from_dict(ROWS, features=datasets.Features(KINDS)).shuffle(seed=1)
    data.save_to_disk(str(tmp_path / "t"))
    assert read(tmp_path)["age"].tolist() == data["age"][:]
    assert data["age"][:] != ROWS["age"]


def test_images_become_an_array(tmp_path: Path) -> None:
    shots = [Image.fromarray(pixels) for pixels in NOISE]
    kept(tmp_path / "t", ROWS | {"shot": shots}, KINDS | {"shot": datasets.Image()}, num_shards=2)
    found = read(tmp_path, images={"layout": "HWC", "scale": 1}, groups=["town"])
    np.testing.assert_array_equal(found["x"], NOISE.astype(np.float32))
    assert found["y"].tolist() == ROWS["y"]
    assert found["town"].tolist() == ROWS["town"]
    with pytest.raises(DataError, match=r"data\.images does not say how"):
        read(tmp_path)


def test_images_behind_paths_are_not_followed(tmp_path: Path) -> None:
    Image.fromarray(NOISE[0]).save(tmp_path / "elsewhere.png")
    kept(tmp_path / "t", ROWS | {"shot": [Image.fromarray(p) for p in NOISE]}, KINDS | {"shot": datasets.Image()})
    (file,) = (tmp_path / "t").glob("*.arrow")
    with pa.memory_map(str(file)) as source:
        table = pa.ipc.open_stream(source).read_all()
    for path in (str(tmp_path / "elsewhere.png"), "http://127.0.0.1:9/x.png"):
        linked = pa.array([{"bytes": None, "path": path}] * 6, table.schema.field("shot").type)
        changed = table.set_column(table.schema.get_field_index("shot"), "shot", linked).combine_chunks()
        copy = tmp_path / "copy.arrow"
        with pa.OSFile(str(copy), "wb") as sink, pa.ipc.new_stream(sink, changed.schema) as writer:
            writer.write_table(changed)
        shutil.copy(copy, file)
        with pytest.raises(DataError, match="shot of record 0 is not in the file"):
            read(tmp_path, images={})


@pytest.mark.parametrize(
    "kind",
    [
        datasets.Array2D((4, 5), "float32"),
        datasets.List(datasets.List(datasets.Value("float32"), length=5), length=4),
    ],
)
def test_arrays_of_one_shape_become_an_array(tmp_path: Path, kind: Any) -> None:
    values = NOISE[..., 0].astype(np.float32)
    kept(tmp_path / "t", ROWS | {"signal": values.tolist()}, KINDS | {"signal": kind}, num_shards=3)
    found = read(tmp_path)
    np.testing.assert_array_equal(found["x"], values)
    assert found["x"].dtype == np.float32
    assert found["y"].tolist() == ROWS["y"]
    table = read(tmp_path, drop=["signal"])  # of the other columns, a frame
    assert table["age"].tolist() == ROWS["age"]


def test_several_arrays_need_a_name(tmp_path: Path) -> None:
    kind = datasets.List(datasets.Value("float32"), length=2)
    ones, twos = [[1.0, 1.0]] * 6, [[2.0, 2.0]] * 6
    kept(tmp_path / "t", ROWS | {"a": ones, "b": twos}, KINDS | {"a": kind, "b": kind})
    with pytest.raises(DataError, match="the columns a, b all hold images or arrays"):
        read(tmp_path)
    assert read(tmp_path, features=["b"])["x"].tolist() == twos
    assert read(tmp_path, drop=["b"])["x"].tolist() == ones


def test_arrays_with_gaps_and_lists_of_any_length(tmp_path: Path) -> None:
    kind = datasets.List(datasets.Value("float32"), length=2)
    kept(tmp_path / "gap", ROWS | {"a": [[1.0, None]] * 6}, KINDS | {"a": kind})
    with pytest.raises(DataError, match="a has missing values"):
        read(tmp_path, "gap")
    kept(tmp_path / "words", ROWS | {"a": [["x"] * n for n in range(6)]}, KINDS | {"a": datasets.List(KINDS["town"])})
    with pytest.raises(DataError, match="column 'a' holds list"):
        read(tmp_path, "words")


def test_splits_have_to_be_named(tmp_path: Path) -> None:
    data = datasets.Dataset.from_dict(ROWS, features=datasets.Features(KINDS))
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(str(tmp_path / "t"))
    with pytest.raises(DataError, match="holds several splits: train, test") as caught:
        read(tmp_path)
    assert "t/train" in caught.value.hint
    assert len(read(tmp_path, "t/train")) == 6


@pytest.mark.parametrize("name", ["../other.arrow", "/etc/passwd", "missing.arrow", None, 7])
def test_files_outside_of_the_folder_are_not_opened(tmp_path: Path, name: Any) -> None:
    kept(tmp_path / "t", ROWS, KINDS)
    (tmp_path / "other.arrow").write_bytes(next((tmp_path / "t").glob("*.arrow")).read_bytes())
    state = json.loads((tmp_path / "t" / "state.json").read_text())
    state["_data_files"] = [{"filename": name}]
    (tmp_path / "t" / "state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match="names a file that is not in the folder"):
        read(tmp_path)


def test_a_damaged_folder(tmp_path: Path) -> None:
    kept(tmp_path / "t", ROWS, KINDS)
    (file,) = (tmp_path / "t").glob("*.arrow")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match="datasets cannot read it"):
        read(tmp_path)
    (tmp_path / "t" / "state.json").write_text("{")
    with pytest.raises(DataError, match=r"state\.json: cannot be read"):
        read(tmp_path)


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept(tmp_path / "t", ROWS, KINDS)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="needs the package datasets") as caught:
        read(tmp_path)
    assert "privacy-gate[huggingface]" in caught.value.hint
