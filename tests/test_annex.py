"""The restricted annex: pseudonyms that join under one key, nothing raw, whole or absent, for the owner alone."""

import errno
import hashlib
import hmac
import os
import stat
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from privacy_gate import annex
from privacy_gate.annex import Rows, key_from_environment, pseudonym, write
from privacy_gate.datamodel import Audit, RiskScores
from privacy_gate.errors import StorageFailed, UsageError

KEY, OTHER = b"0123456789abcdef", b"fedcba9876543210"


def rows_of(n=40, interval=True):
    rng = np.random.default_rng(1)
    scores = rng.random(n)
    ends = (scores / 2, (1 + scores) / 2) if interval else None
    member = np.arange(n) < n // 2
    audit = Audit(member, np.arange(n) % 2, np.arange(n) // 2, ("no", "yes"), has_persons=True)
    return Rows(
        ids=[f"customer-row-{i:05d}" for i in range(n)],
        person_ids=[f"customer-name-{i // 2:05d}" for i in range(n)],
        audit=audit,
        risk=RiskScores("calibrated", scores, (), {}, interval=ends),
        score=0.8,
        attacks={"lira": rng.normal(size=n), "modified_entropy": rng.normal(size=n)},
        influence=rng.normal(size=n),
        suspects={"label_noise": rng.random(n) < 0.5, "outlier": rng.random(n) < 0.5},
    )


def test_columns_and_values(tmp_path):
    rows = rows_of()
    table = pq.read_table(write(tmp_path, rows, KEY)).to_pydict()
    assert list(table) == [
        *("id", "person", "set", "class", "risk", "low", "high", "high_risk"),
        *("attack_lira", "attack_modified_entropy", "influence", "suspect_label_noise", "suspect_outlier"),
    ]
    places = {pseudonym(KEY, "record", value): i for i, value in enumerate(rows.ids)}
    assert len(places) == 40
    for line, name in enumerate(table["id"]):
        i = places[name]
        assert table["person"][line] == pseudonym(KEY, "person", rows.person_ids[i])
        assert table["set"][line] == ("member" if i < 20 else "non-member")
        assert table["class"][line] == ("no", "yes")[i % 2]
        assert table["risk"][line] == rows.risk.scores[i]
        assert (table["low"][line], table["high"][line]) == tuple(end[i] for end in rows.risk.interval)
        assert table["high_risk"][line] == (rows.risk.scores[i] >= 0.8)
        assert table["attack_lira"][line] == rows.attacks["lira"][i]
        assert table["influence"][line] == rows.influence[i]
        assert table["suspect_outlier"][line] == rows.suspects["outlier"][i]


def test_what_is_not_known_is_not_there(tmp_path):
    bare = replace(rows_of(interval=False), attacks={}, influence=None, suspects={}, person_ids=None)
    table = pq.read_table(write(tmp_path, bare, KEY))
    assert table.column_names == ["id", "person", "set", "class", "risk", "high_risk"]
    assert len(set(table["person"].to_pylist())) == 40


def test_for_the_owner_alone(tmp_path):
    folder = tmp_path / "new"
    before = os.umask(0)
    try:
        path = write(folder, rows_of(), KEY)
    finally:
        os.umask(before)
    assert path == folder / "records.parquet"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_nothing_raw_anywhere(tmp_path):
    """Not in the file, nor in its metadata: ids, persons, the key, the order of the data."""
    rows = rows_of()
    path = write(tmp_path, rows, KEY)
    content = path.read_bytes()
    for word in (b"customer", b"00007", KEY, KEY.hex().encode()):
        assert word not in content
    # Compression could hide a word: nor in any value or the metadata.
    assert "customer" not in repr(pq.read_table(path).to_pydict()) + repr(pq.read_metadata(path).metadata)
    names = pq.read_table(path)["id"].to_pylist()
    assert names == sorted(names)
    assert names != [pseudonym(KEY, "record", value) for value in rows.ids]


def test_the_same_key_joins_and_another_does_not(tmp_path):
    first, second, other = (
        pq.read_table(write(tmp_path / name, rows_of(), key)).to_pydict()
        for name, key in (("a", KEY), ("b", KEY), ("c", OTHER))
    )
    assert first == second
    assert not set(first["id"]) & set(other["id"])
    assert not set(first["person"]) & set(other["person"])


def test_the_file_does_not_depend_on_the_order_of_the_records(tmp_path):
    rows = rows_of()
    order = np.random.default_rng(2).permutation(40)
    audit = rows.audit
    shuffled = replace(
        rows,
        ids=[rows.ids[i] for i in order],
        person_ids=[rows.person_ids[i] for i in order],
        audit=Audit(audit.member[order], audit.labels[order], audit.persons[order], audit.classes),
        risk=replace(rows.risk, scores=rows.risk.scores[order], interval=tuple(e[order] for e in rows.risk.interval)),
        attacks={name: values[order] for name, values in rows.attacks.items()},
        influence=rows.influence[order],
        suspects={name: values[order] for name, values in rows.suspects.items()},
    )
    written = write(tmp_path / "a", rows, KEY).read_bytes()
    assert written == write(tmp_path / "b", shuffled, KEY).read_bytes()


def test_a_pseudonym_is_an_hmac_with_a_domain():
    expected = hmac.new(KEY, b"privacy-gate/record/1\0" + b"42", hashlib.sha256).hexdigest()[:24]
    assert pseudonym(KEY, "record", "42") == pseudonym(KEY, "record", 42) == pseudonym(KEY, "record", np.int64(42))
    assert pseudonym(KEY, "record", 42) == expected
    assert pseudonym(KEY, "person", "42") != expected


@pytest.mark.parametrize("given", [{}, {annex.KEY_VARIABLE: ""}, {annex.KEY_VARIABLE: "fifteen-bytes-!"}])
def test_refuses_without_a_good_key(given, tmp_path):
    with pytest.raises(UsageError) as error:
        key_from_environment(given)
    assert annex.KEY_VARIABLE in error.value.what
    assert "16" in error.value.hint
    assert "fifteen" not in str(error.value)
    with pytest.raises(UsageError):
        write(tmp_path / "never", rows_of(), given.get(annex.KEY_VARIABLE, "").encode())
    assert not (tmp_path / "never").exists()


def test_reads_the_key_from_the_environment(monkeypatch):
    monkeypatch.setenv(annex.KEY_VARIABLE, "x" * 16)
    assert key_from_environment() == b"x" * 16


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageFailed, match="No space left"):
        write(tmp_path, rows_of(), KEY)
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_nothing_half_written(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("broken")

    monkeypatch.setattr(pq, "write_table", broken)
    with pytest.raises(RuntimeError):
        write(tmp_path, rows_of(), KEY)
    assert list(tmp_path.iterdir()) == []


def test_columns_of_unequal_length_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"attack_lira.*40"):
        write(tmp_path, replace(rows_of(), attacks={"lira": np.zeros(39)}), KEY)
    assert list(tmp_path.iterdir()) == []
