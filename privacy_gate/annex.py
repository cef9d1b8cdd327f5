"""The restricted annex: who is at risk, record by record, under pseudonyms. Written on request only.

It says who was a member, which is personal data: mode 0600, and ids that only the holder of the key can make. The key
is never stored, so that a data owner can find a person again and nobody else can try row numbers.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from privacy_gate.datamodel import Audit, Bools, Floats, RiskScores
from privacy_gate.errors import UsageError
from privacy_gate.storage import atomic_write, private_dir

FILE = "records.parquet"
KEY_VARIABLE = "PRIVACY_GATE_PSEUDONYM_KEY"
SHORTEST_KEY = 16  # bytes
DIGITS = 24  # hex digits of a pseudonym: 96 bits, so that a billion records do not collide
SCHEMA_VERSION = "1"
# The same value as a record id and as a person id must give two pseudonyms: a record's would give away a person's.
_DOMAINS = {"record": b"privacy-gate/record/1\0", "person": b"privacy-gate/person/1\0"}


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What the annex says of R records.

    ids         [R] the data owner's record ids, in any type with an unambiguous text; never written
    person_ids  [R] the same for persons; None: every record is a person of its own
    audit       the answer key
    risk        the judged estimator's scores and, where there are any, intervals
    score       risk score from which a record counts as at high risk
    attacks     attack id -> [R] scores, higher = more likely a member
    influence   [R] nan where unknown; None where it was not measured
    suspects    kind -> [R] suspicion, such as label_noise and outlier
    """

    ids: Sequence[object]
    person_ids: Sequence[object] | None
    audit: Audit
    risk: RiskScores
    score: float
    attacks: Mapping[str, Floats] = field(default_factory=dict)
    influence: Floats | None = None
    suspects: Mapping[str, Bools] = field(default_factory=dict)


def key_from_environment(environment: Mapping[str, str] = os.environ) -> bytes:
    """The key of the pseudonyms, from PRIVACY_GATE_PSEUDONYM_KEY. UsageError where it is missing or short."""
    return _checked(environment.get(KEY_VARIABLE, "").encode(errors="surrogateescape"))


def _checked(key: bytes) -> bytes:
    if not key:
        raise UsageError(
            f"the annex needs a key for its pseudonyms: {KEY_VARIABLE} is not set",
            f"export {KEY_VARIABLE} with at least {SHORTEST_KEY} random bytes from the data owner's vault",
        )
    if len(key) < SHORTEST_KEY:
        raise UsageError(
            f"the key in {KEY_VARIABLE} has {len(key)} bytes: too short to keep pseudonyms apart from guesses",
            f"use at least {SHORTEST_KEY} random bytes, such as those of `openssl rand -hex 32`",
        )
    return key


def pseudonym(key: bytes, kind: str, value: object) -> str:
    """First 24 hex digits of HMAC-SHA256 over the value, `kind` being record or person; other kinds, other values."""
    text = value.hex() if isinstance(value, bytes) else str(value)
    return hmac.new(key, _DOMAINS[kind] + text.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()[:DIGITS]


def write(folder: Path, rows: Rows, key: bytes) -> Path:
    """Write `records.parquet` (mode 0600, whole or not at all) into `folder` and return its path.

    Raises UsageError for a missing or short key, ValueError for columns of unequal length, StorageFailed.
    """
    _checked(key)
    columns = _columns(rows, key)
    from pyarrow import BufferOutputStream, Table, parquet

    table = Table.from_pydict(columns).replace_schema_metadata({"privacy_gate_annex": SCHEMA_VERSION})
    # Into memory first: an error of the writer must not be taken for one of the disk, nor leave a part of a file.
    # No page index and no statistics: they would add nothing, and repeat values in clear beside the columns.
    sink = BufferOutputStream()
    parquet.write_table(table, sink, compression="zstd", write_statistics=False)
    path = private_dir(folder) / FILE
    with atomic_write(path, 0o600) as stream:
        stream.write(sink.getvalue())
    return path


def _columns(rows: Rows, key: bytes) -> dict[str, Any]:
    audit, risk, n = rows.audit, rows.risk, len(rows.audit.member)
    people = rows.ids if rows.person_ids is None else rows.person_ids
    low, high = risk.interval if risk.interval is not None else (None, None)
    ids = np.array([pseudonym(key, "record", value) for value in rows.ids])
    columns: dict[str, Any] = {
        "id": ids,
        "person": np.array([pseudonym(key, "person", value) for value in people]),
        "set": np.where(audit.member, "member", "non-member"),
        "class": np.array(audit.classes)[audit.labels],
        "risk": risk.scores,
        "low": low,
        "high": high,
        "high_risk": risk.scores >= rows.score,
        **{f"attack_{name}": scores for name, scores in sorted(rows.attacks.items())},
        "influence": rows.influence,
        **{f"suspect_{kind}": suspect for kind, suspect in sorted(rows.suspects.items())},
    }
    present = {name: np.asarray(values) for name, values in columns.items() if values is not None}
    wrong = [name for name, values in present.items() if values.shape != (n,)]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: one value for each of the {n} records is needed")
    # By pseudonym, then by what is said: the order of the data set would give the row numbers away.
    order = np.lexsort((risk.scores, audit.member, ids))
    return {name: values[order] for name, values in present.items()}
