"""Features on disk, for a process that must not learn where they lie: which file a row is in tells who is a member.

The gate reads the rows, in the order that it asks about them, and sends them block by block as they are asked for.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_gate import features as tables
from privacy_gate.errors import StorageFailed
from privacy_gate.features import AnyFeatures, Stored, batch_rows

_ASKED = struct.Struct("<qq")  # the first row that is asked for, and the one after the last
_ROWS = 1 << 16  # at once, at most


@dataclass(frozen=True, slots=True, eq=False)
class Fed(Stored):
    """Rows that the gate sends when they are asked for."""

    stream: socket.socket

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """The rows of a slice without steps, in memory. Raises StorageFailed where the gate cannot read them."""
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise IndexError("rows come one after the other")
        found = np.empty((max(stop - start, 0), *self.shape[1:]), dtype=self.dtype)
        most = batch_rows(self, _ROWS)
        for at in range(start, stop, most):
            end = min(at + most, stop)
            try:
                self.stream.sendall(_ASKED.pack(at, end))
                left = found[at - start : end - start].reshape(-1).view(np.uint8).data
                while left:
                    left = left[_some(self.stream.recv_into(left)) :]
            except OSError as error:
                raise StorageFailed("the gate does not send the features", "run again") from error
        return found

    def take(self, rows: NDArray[Any]) -> Any:
        """The rows of an index, in memory: those of a batch."""
        first = int(rows.min())
        return self[first : int(rows.max()) + 1][rows - first]


def _some(count: int) -> int:
    if not count:
        raise ConnectionError("the other side is gone")
    return count


@dataclass(slots=True, eq=False)
class Offer:
    """What a child is told of features that stay where they are.

    told    how the child gets at them
    handle  that the child must inherit
    failed  why the gate could not read them
    """

    told: Mapping[str, Any]
    handle: int
    failed: list[StorageFailed] = field(default_factory=list)

    def check(self) -> None:
        """Raises StorageFailed where the gate could not read them: then the child's own words say less."""
        if self.failed:
            raise self.failed[0]


@contextlib.contextmanager
def offered(features: AnyFeatures | None) -> Iterator[Offer | None]:
    """Send features on disk to whoever asks, until the end of the block; None for others, which are handed over."""
    if not isinstance(features, Stored):
        yield None
        return
    here, there = socket.socketpair()
    told = {"handle": there.fileno(), "dtype": features.dtype.str, "shape": list(features.shape)}
    offer = Offer(told, there.fileno())
    sender = threading.Thread(target=_send, args=(features, here, offer.failed), daemon=True)
    with here, there:
        sender.start()
        try:
            yield offer
        finally:
            with contextlib.suppress(OSError):  # nobody is there any more
                here.shutdown(socket.SHUT_RDWR)
            sender.join()


def _send(features: Stored, stream: socket.socket, failed: list[StorageFailed]) -> None:
    """Answer until the other side is gone, or asks for what there is not."""
    most = batch_rows(features, _ROWS)
    with contextlib.suppress(OSError):
        while len(asked := stream.recv(_ASKED.size, socket.MSG_WAITALL)) == _ASKED.size:
            start, stop = _ASKED.unpack(asked)
            if not 0 <= start < stop <= len(features) or stop - start > most:
                break
            try:
                rows = features[start:stop]
            except StorageFailed as error:
                failed.append(error)
                break
            except (OSError, ValueError) as error:  # a file that is cut short at this very moment
                failed.append(StorageFailed(f"the features cannot be read ({type(error).__name__})", "run again"))
                break
            stream.sendall(np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data)
        stream.shutdown(socket.SHUT_RDWR)


def load(told: Any) -> AnyFeatures:
    """In the child: the features of a job, from a file, or as the gate sends them."""
    if isinstance(told, str):
        return tables.load(Path(told))
    shape, nowhere = tuple(told["shape"]), np.zeros(0, dtype=np.uint8)
    rows = np.arange(shape[0], dtype=np.int64)
    return Fed((), (), nowhere, rows, np.dtype(told["dtype"]), shape, socket.socket(fileno=told["handle"]))
