"""The process that a dataset function runs in: `python -I -m privacy_gate.sources.child JOB.json`.

What the function returns is written down batch by batch: an .npy per array, or one Arrow stream. stdout and stderr are
the log. A watcher ends all that the function started when it, or the gate, ends.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from privacy_gate.errors import DataError, GateError
from privacy_gate.sandbox.child import leave, watch
from privacy_gate.sandbox.untrusted import where
from privacy_gate.sources.functions import META, TABLE, array_file

_BLOCK = 64 << 20  # bytes that are copied at once
_LABELLED = 2  # features and labels


# --- the worker -----------------------------------------------------------------------------------------------------


def main(path: str) -> int:
    """Run one job; 0 if meta.json tells of records, 1 if it tells of an error."""
    job = json.loads(Path(path).read_text())
    file, out = Path(job["file"]), Path(job["out"])
    try:
        meta = write(_load(file, job["function"])(), job["label"], out)
        code = 0
    except GateError as error:
        traceback.print_exc()
        meta, code = {"error": {"gate": True, "what": error.what, "hint": error.hint}}, 1
    except (Exception, SystemExit) as error:
        traceback.print_exc()  # the only place for its words, which may quote a record
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        told = {"gate": False, "class": type(error).__qualname__, "where": _own(error, file), "full": full}
        meta, code = {"error": told}, 1
    half = out / f"{META}.half"  # on a full disk there is no answer, not a part of one
    half.write_text(json.dumps(meta))
    half.replace(out / META)
    return code


def _load(file: Path, function: str) -> Any:
    sys.path.insert(0, str(file.parent))
    name = f"privacy_gate_dataset_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise DataError(f"{file.name} cannot be imported", "name a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles inside the file look themselves up here
    spec.loader.exec_module(module)
    found = getattr(module, function, None)
    if not callable(found):
        raise DataError(f"{file.name} defines no function {function!r}", "name a function of the file")
    return found


def _own(error: BaseException, file: Path) -> str:
    """The innermost place in the file's own folder; else, where it was raised."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).is_relative_to(file.parent):
            return f"{frame.name} ({Path(frame.filename).name}:{frame.lineno})"
    return where(error)


def write(made: Any, label: str, out: Path) -> dict[str, Any]:
    """Leave all batches in `out`; what meta.json says of them. Raises DataError for what is no batch of records.

    made   a frame, a mapping of arrays with `x`, (features, labels), or an iterable of such batches
    label  what the labels of a pair are called
    """
    sink: _Table | _Arrays | None = None
    try:
        for batch in _batches(made):
            whole = _named(batch, label)
            if sink is None:
                sink = _Arrays(out) if isinstance(whole, dict) else _Table(out)
            if isinstance(sink, _Arrays) != isinstance(whole, dict):
                raise DataError("some of its batches are frames, others arrays", "return one kind")
            sink.add(whole)
        if sink is None:
            raise DataError("it returned no batch of records", "yield at least one")
        return sink.done()
    finally:
        if sink is not None:
            sink.close()


def _is_frame(value: Any) -> bool:
    return hasattr(value, "columns") and hasattr(value, "iloc")


def _batches(made: Any) -> Iterator[Any]:
    pair = isinstance(made, tuple) and len(made) == _LABELLED
    if pair or isinstance(made, Mapping) or _is_frame(made) or hasattr(made, "to_pandas"):
        yield made
    elif isinstance(made, Iterable) and not isinstance(made, str | bytes) and not hasattr(made, "dtype"):
        for batch in made:
            # Loaders yield lists of two.
            yield tuple(batch) if isinstance(batch, list) and len(batch) == _LABELLED else batch
    else:
        raise _strange(made)


def _strange(made: Any) -> DataError:
    return DataError(
        f"it returned {type(made).__name__}",
        "return a DataFrame, a mapping of arrays with 'x', (features, labels), or an iterator of such batches",
    )


def _named(batch: Any, label: str) -> Any:
    """A frame, or arrays by name."""
    if isinstance(batch, tuple) and len(batch) == _LABELLED:
        features, labels = batch
        if not _is_frame(features):
            return {"x": features, label: labels}
        if label in features.columns:
            raise DataError(f"its features have a column {label!r}, the name of the labels", "return one of them")
        return features.assign(**{label: _array(labels)})
    if isinstance(batch, Mapping):
        if "x" not in batch:
            raise DataError("its mapping has no 'x'", "'x' is the array of features")
        return {str(name): values for name, values in batch.items()}
    if _is_frame(batch):
        return batch
    if hasattr(batch, "to_pandas"):
        return batch.to_pandas()
    raise _strange(batch)


def _array(values: Any) -> Any:
    import numpy as np

    return np.asarray(values)


# --- tables ---------------------------------------------------------------------------------------------------------


class _Table:
    """An Arrow stream: it keeps the levels of categories, and takes batches with levels of their own."""

    def __init__(self, out: Path) -> None:
        self._path = out / TABLE
        self._writer: Any = None
        self._schema: Any = None

    def add(self, frame: Any) -> None:
        """Append one frame. Raises DataError where it cannot be stored beside the others."""
        import pyarrow as pa

        frame = frame.rename(columns=str)
        table = _arrow(frame)
        if self._schema is None:
            self._schema = table.schema
            self._writer = pa.ipc.new_stream(str(self._path), table.schema)
        if sorted(table.column_names) != sorted(self._schema.names):
            odd = sorted(set(table.column_names) ^ set(self._schema.names))
            raise DataError(f"its batches differ in their columns: {', '.join(odd)}", "yield the same columns")
        table = table.select(self._schema.names)
        for column in self._schema:
            kind = table.schema.field(column.name).type
            both = pa.types.is_dictionary(kind) and pa.types.is_dictionary(column.type)
            if kind != column.type and not (both and kind.value_type == column.type.value_type):
                raise DataError(
                    f"the column {column.name!r} is {column.type} in one batch and {kind} in another",
                    "give it one dtype in all batches",
                )
        self._writer.write_table(table.cast(self._schema))

    def done(self) -> dict[str, Any]:
        """What meta.json says."""
        return {"kind": "table"}

    def close(self) -> None:
        """End the stream."""
        if self._writer is not None:
            self._writer.close()


def _arrow(frame: Any) -> Any:
    import pyarrow as pa

    if not frame.columns.is_unique:
        raise DataError("several of its columns have one name", "give each its own")
    columns, fields = [], []
    for name in frame.columns:
        try:
            array = pa.Array.from_pandas(frame[name])
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise DataError(
                f"its column {name!r} cannot be stored ({type(error).__name__})", "give every column values of one type"
            ) from error
        columns.append(array)
        fields.append(pa.field(name, array.type))
    return pa.table(columns, schema=pa.schema(fields))


# --- arrays ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Stream:
    """An .npy that grows: its header leaves room for the number of rows."""

    file: IO[bytes]
    dtype: Any
    shape: tuple[int, ...]  # of one record
    rows: int = 0
    texts: list[str] = field(default_factory=list)

    def header(self, rows: int) -> None:
        """Say how many rows there are."""
        import numpy as np

        self.file.seek(0)
        descr = np.lib.format.dtype_to_descr(self.dtype)
        told = {"descr": descr, "fortran_order": False, "shape": (rows, *self.shape)}
        np.lib.format.write_array_header_2_0(self.file, told)


class _Arrays:
    """One .npy per array."""

    def __init__(self, out: Path) -> None:
        self._out, self._streams = out, dict[str, _Stream]()

    def add(self, arrays: dict[str, Any]) -> None:
        """Append one batch. Raises DataError where lengths, shapes or types do not fit."""
        arrays = {name: values if hasattr(values, "shape") else _array(values) for name, values in arrays.items()}
        if self._streams and set(arrays) != set(self._streams):
            odd = sorted(set(arrays) ^ set(self._streams))
            raise DataError(f"its batches differ in their arrays: {', '.join(odd)}", "yield the same names")
        for name, values in arrays.items():
            if not values.shape or len(values) != len(arrays["x"]):
                raise DataError(
                    f"x has shape {tuple(arrays['x'].shape)}, {name} {tuple(values.shape)}", "one row per record"
                )
        if len(arrays["x"].shape) < _LABELLED:
            raise DataError(f"x has shape {tuple(arrays['x'].shape)}", "one row of features per record")
        for name, values in arrays.items():
            self._append(name, values)

    def _append(self, name: str, values: Any) -> None:
        import numpy as np

        width = max(1, int(np.prod(values.shape[1:])) * int(getattr(values.dtype, "itemsize", 8)))
        step = max(1, _BLOCK // width)
        for start in range(0, max(len(values), 1), step):  # what is read from disk need not fit into memory
            block = np.asarray(values[start : start + step])
            if block.dtype.kind in "biufM":
                self._numbers(name, block)
            else:
                self._texts(name, block)

    def _stream(self, name: str, dtype: Any, shape: tuple[int, ...]) -> _Stream:
        if name not in self._streams:
            file = (self._out / array_file(len(self._streams))).open("xb+")
            self._streams[name] = _Stream(file, dtype, shape)
            if dtype is not None:
                self._streams[name].header(0)
        stream = self._streams[name]
        if (stream.dtype, stream.shape) != (dtype, shape):
            of = [str(d or "text") + str(list(s)) for d, s in ((stream.dtype, stream.shape), (dtype, shape))]
            raise DataError(f"{name} is {of[0]} per record in one batch and {of[1]} in another", "yield one type")
        return stream

    def _numbers(self, name: str, block: Any) -> None:
        import numpy as np

        stream = self._stream(name, block.dtype, block.shape[1:])
        stream.file.write(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
        stream.rows += len(block)

    def _texts(self, name: str, block: Any) -> None:
        if block.ndim != 1 or name == "x":
            raise DataError(
                f"{name} holds values of type {block.dtype}, not numbers", "features are numbers; else return a frame"
            )
        texts = [text.decode() if isinstance(text, bytes) else text for text in block.tolist()]
        if odd := sorted({type(text).__name__ for text in texts if not isinstance(text, str)}):
            raise DataError(f"{name} holds values of several types: {', '.join(odd)}", "numbers or text, none missing")
        self._stream(name, None, ()).texts.extend(texts)

    def done(self) -> dict[str, Any]:
        """Complete the files; what meta.json says."""
        import numpy as np

        for stream in self._streams.values():
            if stream.dtype is None:
                np.save(stream.file, np.array(stream.texts, dtype=np.str_), allow_pickle=False)
            else:
                stream.header(stream.rows)
        return {"kind": "arrays", "names": list(self._streams)}

    def close(self) -> None:
        """Close the files."""
        for stream in self._streams.values():
            stream.file.close()


if __name__ == "__main__":
    leave(watch(sys.argv[1], main))
