"""The data manifest made real: files in, one clean table out, with every removal counted.

Rows are members, then non-members, then the population. Seen records are read only to keep them out; where the
candidate's defence has records of its own, they are those, and come last.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from privacy_gate.datamodel import Audit, Bools, Ints, Role, freeze
from privacy_gate.errors import DataError, NotEvaluable
from privacy_gate.features import Features, concat, digest, read_npz, row_hashes, take
from privacy_gate.request import DataManifest, Source
from privacy_gate.storage import sha256_of_file, sha256_of_json

if TYPE_CHECKING:
    import pandas as pd

Fetch = Callable[[str], Path]

DUPLICATES = "exact duplicates across members and non-members"
SHARED_PERSONS = "non-members sharing a person with members or seen records"

MIN_PERSONS = 10
"""Persons on either side below which two folds with both classes cannot be made."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """One set of records as read: features, and what was named beside them."""

    role: Role
    features: Features
    labels: NDArray[Any]  # [n] as in the file
    persons: NDArray[Any] | None  # [n] as text
    groups: Mapping[str, NDArray[Any]]
    ids: NDArray[np.str_]  # [n] the id column, or role and row number in the file

    def __len__(self) -> int:
        return len(self.labels)

    def keep(self, rows: Bools) -> Table:
        """The table without the rows that are False."""
        return Table(
            self.role,
            take(self.features, rows),
            self.labels[rows],
            None if self.persons is None else self.persons[rows],
            {name: values[rows] for name, values in self.groups.items()},
            self.ids[rows],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """The records of one run.

    features     [U, ...] members, non-members, population, reference
    raw_labels   [U] as in the files
    ids          [R] of the audited records: their id column, or "members:17" for row 17 of the members' file
    people       [R] the person column as text; None where there is none
    persons      [U] dense index; identical records are one person, and without a person column nothing else joins them
    members, nonmembers, population, reference   record counts; U is their sum, R the sum of the first two
    reference    seen records that the defence was fitted to; 0 unless they were asked for
    train_size   records the target was trained on
    removed      why -> records left out
    """

    features: Features
    raw_labels: NDArray[Any]
    persons: Ints
    has_persons: bool
    groups: Mapping[str, NDArray[np.str_]]
    members: int
    nonmembers: int
    population: int
    seen: int
    train_size: int
    candidates: int  # member and non-member records before duplicates were dropped
    digests: Mapping[str, str]
    ids: NDArray[np.str_]
    people: NDArray[np.str_] | None = None
    removed: Mapping[str, int] = field(default_factory=dict)
    weights: NDArray[np.float64] | None = None  # [U] sample weights of training; None: none are declared
    twins: int = 0  # records with an identical twin on their side; twins count as one person
    reference: int = 0

    def __post_init__(self) -> None:
        freeze(self.persons)

    @property
    def audited(self) -> int:
        """R."""
        return self.members + self.nonmembers

    @property
    def digest(self) -> str:
        """sha256 over all sets."""
        return sha256_of_json(dict(self.digests))

    def role_mask(self, role: Role) -> Bools:
        """[U] rows of one role."""
        counts = {
            Role.MEMBERS: self.members,
            Role.NONMEMBERS: self.nonmembers,
            Role.POPULATION: self.population,
            Role.SEEN: self.reference,
        }
        start = sum(list(counts.values())[: list(counts).index(role)])
        mask = np.zeros(len(self.raw_labels), dtype=np.bool_)
        mask[start : start + counts[role]] = True
        return mask


# --- reading --------------------------------------------------------------------------------------------------------


def _locate(source: Source, base: Path, fetch: Fetch) -> Path:
    path = fetch(source.shown) if source.shown.startswith("runs:/") else base / Path(source.shown).expanduser()
    if not path.is_file():
        raise DataError(f"{source.shown}: no such file (looked at {path})", "paths are relative to the config file")
    if source.sha256 is not None:
        found = sha256_of_file(path)
        if found != source.sha256:
            raise DataError(
                f"{source.shown}: sha256 is {found}, the manifest says {source.sha256}",
                "the file is not the one that was agreed on; restore it or update the manifest on purpose",
            )
    return path


def _read_frame(path: Path, person: str | None) -> pd.DataFrame:
    import pandas as pd

    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        # "?" and the like stay what they are: the model's own pipeline knows what they mean.
        return pd.read_csv(path, dtype=None if person is None else {person: str})
    except (ValueError, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})", "expected a table with a header line") from error


def _column(columns: Mapping[str, NDArray[Any]], name: str, path: Path, what: str) -> NDArray[Any]:
    if name not in columns:
        raise DataError(f"{path}: no {what} column {name!r}", f"columns are: {', '.join(map(str, columns))[:300]}")
    return columns[name]


def _from_npz(path: Path, role: Role, manifest: DataManifest) -> Table:
    arrays = read_npz(path)
    x = _column(arrays, "x", path, "feature")
    labels = _column(arrays, manifest.label, path, "label")
    if x.ndim < 2 or len(x) != len(labels):
        raise DataError(f"{path}: x has shape {x.shape}, {manifest.label} {labels.shape}", "one row per record")
    persons = _column(arrays, manifest.person, path, "person") if manifest.person else None
    groups = {name: _column(arrays, name, path, "group") for name in manifest.groups}
    given = _column(arrays, manifest.id, path, "id") if manifest.id else None
    for name, values in {"person": persons, "id": given, **groups}.items():
        if values is not None and values.shape != labels.shape:
            raise DataError(f"{path}: {name} has shape {values.shape}, expected {labels.shape}")
    return Table(role, x, labels, persons, groups, _ids(given, role, len(labels)))


def _from_frame(path: Path, role: Role, manifest: DataManifest) -> Table:
    # A person column as text keeps "007"; unless it is a feature as well, which must stay what the model knows.
    frame = _read_frame(path, None if manifest.person in (manifest.features or ()) else manifest.person)
    columns: Mapping[str, Any] = {str(name): frame[name].to_numpy() for name in frame.columns}
    labels = _column(columns, manifest.label, path, "label")
    persons = _column(columns, manifest.person, path, "person") if manifest.person else None
    groups = {name: _column(columns, name, path, "group") for name in manifest.groups}
    given = _column(columns, manifest.id, path, "id") if manifest.id else None
    named = {manifest.label, manifest.person, manifest.id, *manifest.drop}
    if manifest.features is not None:
        for name in manifest.features:
            _column(columns, name, path, "feature")
        chosen = manifest.features
    else:
        for name in manifest.drop:
            _column(columns, name, path, "dropped")
        chosen = [str(name) for name in frame.columns if name not in named]
    if not chosen:
        raise DataError(f"{path}: no feature column is left", "check data.features and data.drop")
    return Table(role, frame[chosen], labels, persons, groups, _ids(given, role, len(labels)))


def _ids(given: NDArray[Any] | None, role: Role, count: int) -> NDArray[np.str_]:
    """[n] what names a record within its set."""
    if given is None:
        return np.array([f"{role}:{row}" for row in range(count)], dtype=np.str_)
    return np.array([str(value).strip() for value in given.tolist()], dtype=np.str_)


def _read(source: Source, role: Role, manifest: DataManifest, base: Path, fetch: Fetch) -> Table:
    path = _locate(source, base, fetch)
    readers = {".npz": _from_npz, ".csv": _from_frame, ".parquet": _from_frame}
    if path.suffix not in readers:
        raise DataError(f"{path}: unknown kind of file {path.suffix!r}", "use .npz, .csv or .parquet")
    table = readers[path.suffix](path, role, manifest)
    _check_values(table, path, manifest)
    return table if table.persons is None else replace(table, persons=_identities(table.persons))


_WHOLE = re.compile(r"([+-]?\d{1,4000})(?:\.0*)?")


def _identities(persons: NDArray[Any]) -> NDArray[np.str_]:
    """[n] as text: 7, 7.0, "007" and "7" are one person, whatever wrote and read the columns of two files."""
    texts = [str(person).strip() for person in persons.tolist()]
    return np.array([str(int(whole[1])) if (whole := _WHOLE.fullmatch(t)) else t for t in texts], dtype=np.str_)


def _check_values(table: Table, path: Path, manifest: DataManifest) -> None:
    import pandas as pd

    if pd.isna(table.labels).any():
        raise DataError(
            f"{path}: {int(pd.isna(table.labels).sum())} labels are missing", "every record needs its label"
        )
    if table.persons is not None and pd.isna(table.persons).any():
        raise DataError(f"{path}: {int(pd.isna(table.persons).sum())} person values are missing", "fill them in")
    for name, values in _numeric_columns(table.features):
        infinite = int(np.isinf(values).sum())
        if infinite:
            raise DataError(f"{path}: feature {name} has {infinite} infinite values", "clean the data as in training")
    if manifest.missing == "refuse":
        for name, missing in _missing_counts(table.features):
            if missing:
                raise DataError(
                    f"{path}: feature {name} has {missing} missing values (NaN)",
                    "impute as in training, or say `missing: allow` under data: if the model handles them itself",
                )


def _numeric_columns(features: Features) -> list[tuple[str, NDArray[Any]]]:
    if isinstance(features, np.ndarray):
        return [("array x", features)] if features.dtype.kind == "f" else []
    return [(repr(name), c.to_numpy()) for name, c in features.items() if c.dtype.kind == "f"]


def _missing_counts(features: Features) -> list[tuple[str, int]]:
    if isinstance(features, np.ndarray):
        return [("array x", int(np.isnan(features).sum()))] if features.dtype.kind == "f" else []
    return [(repr(name), int(count)) for name, count in features.isna().sum().items()]


# --- cleaning -------------------------------------------------------------------------------------------------------


def _same_columns(tables: Sequence[Table]) -> None:
    first = tables[0]
    for table in tables[1:]:
        if isinstance(first.features, np.ndarray) != isinstance(table.features, np.ndarray):
            raise DataError(
                f"{first.role} and {table.role} are different kinds of table", "use one kind of file for all"
            )
        if isinstance(first.features, np.ndarray) and isinstance(table.features, np.ndarray):
            if first.features.shape[1:] != table.features.shape[1:]:
                raise DataError(
                    f"{first.role} have shape {first.features.shape[1:]} per record, "
                    f"{table.role} {table.features.shape[1:]}"
                )
        elif list(first.features.columns) != list(table.features.columns):  # type: ignore[union-attr]
            odd = set(first.features.columns) ^ set(table.features.columns)  # type: ignore[union-attr]
            raise DataError(
                f"{first.role} and {table.role} differ in their feature columns: {', '.join(sorted(map(str, odd)))}"
                if odd
                else f"{first.role} and {table.role} have the same columns in different order",
                "write both sets with the same columns",
            )


def _hashes(tables: Mapping[Role, Table]) -> dict[Role, NDArray[np.uint64]]:
    """Content hashes of the rows; of one common table, since 5 in one file is 5.0 in a file with a fraction."""
    names = [label for table in tables.values() for label in table.labels.tolist()]
    codes = {label: code for code, label in enumerate(sorted(set(names), key=repr))}
    labels = np.array([codes[label] for label in names], dtype=np.int64)
    hashes = row_hashes(concat([table.features for table in tables.values()]), labels)
    return dict(zip(tables, np.split(hashes, np.cumsum([len(table) for table in tables.values()])[:-1]), strict=True))


def _clean(tables: dict[Role, Table]) -> tuple[dict[Role, Table], dict[str, int], int]:
    """Tables that share neither persons nor records across roles, what was removed, and the audited count before."""
    removed: dict[str, int] = {}

    def drop(role: Role, rows: NDArray[Any], why: str) -> None:
        if role in tables:
            count = int(rows.sum())
            removed[why] = removed.get(why, 0) + count
            if count:
                tables[role] = tables[role].keep(~rows)

    members = tables[Role.MEMBERS]
    if members.persons is not None:
        taken: dict[Role, NDArray[Any]] = {r: np.unique(cast("Any", t.persons)) for r, t in tables.items()}
        nobody = members.persons[:0]
        protected = np.concatenate([taken[Role.MEMBERS], taken.get(Role.SEEN, nobody)])
        nonmembers = tables[Role.NONMEMBERS]
        drop(
            Role.NONMEMBERS,
            np.isin(cast("Any", nonmembers.persons), protected),
            SHARED_PERSONS,
        )
        if Role.POPULATION in tables:
            audited = np.concatenate([protected, taken[Role.NONMEMBERS]])
            drop(
                Role.POPULATION,
                np.isin(cast("Any", tables[Role.POPULATION].persons), audited),
                "population records sharing a person with audited or seen records",
            )
    hashes = _hashes(tables)
    candidates = len(tables[Role.MEMBERS]) + len(tables[Role.NONMEMBERS])
    if Role.SEEN in tables:
        seen = np.isin(hashes[Role.NONMEMBERS], hashes[Role.SEEN])
        drop(Role.NONMEMBERS, seen, "non-members identical to seen records")
        hashes[Role.NONMEMBERS] = hashes[Role.NONMEMBERS][~seen]
    shared = np.intersect1d(hashes[Role.MEMBERS], hashes[Role.NONMEMBERS])
    for role in (Role.MEMBERS, Role.NONMEMBERS):
        drop(role, np.isin(hashes[role], shared), DUPLICATES)
    if Role.POPULATION in tables:
        # Shadows are trained on the population: not on what the defence was fitted to as if nobody knew it.
        others = np.concatenate([of_role for role, of_role in hashes.items() if role is not Role.POPULATION])
        drop(
            Role.POPULATION,
            np.isin(hashes[Role.POPULATION], others),
            "population records identical to audited or seen records",
        )
    return tables, removed, candidates


def load(manifest: DataManifest, base: Path, fetch: Fetch, *, reference: bool = False) -> Dataset:
    """Read, check and clean the sets a manifest names; `reference` keeps the seen records, as the defence's own.

    Errors: DataError (exit 2) for files, columns and values; NotEvaluable (exit 4) when a side is left empty.
    """
    sources = {
        Role.MEMBERS: manifest.members,
        Role.NONMEMBERS: manifest.nonmembers,
        Role.POPULATION: manifest.population,
        Role.SEEN: manifest.seen,
    }
    tables = {role: _read(s, role, manifest, base, fetch) for role, s in sources.items() if s is not None}
    _same_columns(list(tables.values()))
    train_size = manifest.train_size or len(tables[Role.MEMBERS])
    for role in (Role.MEMBERS, Role.NONMEMBERS):
        if not len(tables[role]):
            raise NotEvaluable(
                f"there are no {role}", f"data.{role} must hold records; without them nothing is measured"
            )
    seen = len(tables.get(Role.SEEN, ()))
    digests = {str(role): _table_digest(table) for role, table in tables.items()}
    tables, removed, candidates = _clean(tables)
    for role in (Role.MEMBERS, Role.NONMEMBERS):
        if not len(tables[role]):
            raise NotEvaluable(
                f"no {role} are left after removing {', '.join(f'{n} {why}' for why, n in removed.items() if n)}",
                "the two sets must be different records of different persons",
            )
    roles = [Role.MEMBERS, Role.NONMEMBERS, Role.POPULATION, *([Role.SEEN] if reference else [])]
    kept = [tables[role] for role in roles if role in tables]
    count = {role: len(tables[role]) if role in tables and role in roles else 0 for role in Role}
    features = concat([table.features for table in kept])
    raw_labels = np.concatenate([table.labels for table in kept])
    given = None
    if manifest.person is not None:
        given = np.concatenate([cast("NDArray[Any]", table.persons) for table in kept])
    persons, twins = _people(row_hashes(features, _codes(raw_labels)), given)
    audited = len(kept[0]) + len(kept[1])
    return Dataset(
        features=features,
        raw_labels=raw_labels,
        persons=persons,
        has_persons=manifest.person is not None,
        groups={
            name: np.concatenate([table.groups[name] for table in kept]).astype(str)[:audited]
            for name in manifest.groups
        },
        members=len(kept[0]),
        nonmembers=len(kept[1]),
        population=count[Role.POPULATION],
        seen=seen,
        train_size=train_size,
        candidates=candidates,
        digests=digests,
        ids=np.concatenate([table.ids for table in kept])[:audited],
        people=None if given is None else given[:audited].astype(np.str_),
        removed={why: count for why, count in removed.items() if count},
        twins=twins,
        reference=count[Role.SEEN],
    )


def _people(hashes: NDArray[np.uint64], given: NDArray[Any] | None) -> tuple[Ints, int]:
    """[U] dense person index, and how many records have an identical twin.

    Identical records stand for one person, whatever the person column says: a copy on the other side of a split would
    tell the answer there, and ten copies are no ten witnesses.
    """
    rows, counts = np.unique(hashes, return_inverse=True, return_counts=True)[1:]
    twins = int((counts[rows] > 1).sum())
    if given is None:
        return rows.astype(np.int64), twins
    people = np.unique(given, return_inverse=True)[1]
    size = len(counts) + int(people.max()) + 1
    links = coo_array((np.ones(len(rows)), (rows, len(counts) + people)), shape=(size, size))
    component = connected_components(links, directed=False)[1][rows]
    return np.unique(component, return_inverse=True)[1].astype(np.int64), twins


def _codes(labels: NDArray[Any]) -> Ints:
    """[n] some integer per label, equal for equal labels."""
    codes = {label: code for code, label in enumerate(dict.fromkeys(labels.tolist()))}
    return np.array([codes[label] for label in labels.tolist()], dtype=np.int64)


def _table_digest(table: Table) -> str:
    persons = [] if table.persons is None else [str(p) for p in table.persons.tolist()]
    return sha256_of_json([digest(table.features), [str(label) for label in table.labels.tolist()], persons])


# --- labels ---------------------------------------------------------------------------------------------------------


def class_order(of_model: tuple[Any, ...] | None, of_config: Sequence[Any] | None, columns: int) -> tuple[Any, ...]:
    """The class values in the order of the model's columns: the model's own, else the config's, else 0..K-1."""
    order = of_model if of_model is not None else tuple(of_config) if of_config else tuple(range(columns))
    if len(order) != columns:
        raise DataError(
            f"{len(order)} classes are declared, the model answers with {columns} columns",
            "data.classes lists one value per output column, in the model's order",
        )
    return order


def encode(raw: NDArray[Any], classes: Sequence[Any]) -> Ints:
    """[n] class indices; a label that is no class is a DataError naming some."""
    index = {_plain(value): position for position, value in enumerate(classes)}
    codes = np.array([index.get(_plain(label), -1) for label in raw.tolist()], dtype=np.int64)
    if (codes < 0).any():
        odd = sorted({str(label) for label in raw[codes < 0].tolist()})[:5]
        raise DataError(
            f"{int((codes < 0).sum())} labels are out of range: {', '.join(odd)} not among the classes "
            f"{', '.join(map(str, list(classes)[:10]))}",
            "set data.classes to the label values in the order of the model's columns",
        )
    return codes


def _plain(value: Any) -> Any:
    """1, 1.0, True and numpy's 1 are one label; text stays text."""
    if hasattr(value, "item"):
        value = value.item()
    return float(value) if isinstance(value, (bool, int, float)) else str(value)


def audit(dataset: Dataset, labels: Ints, classes: Sequence[Any]) -> Audit:
    """The answer key over the R audited records; errors as in `require_evaluable`."""
    key = Audit(
        member=dataset.role_mask(Role.MEMBERS)[: dataset.audited],
        labels=labels[: dataset.audited],
        persons=dataset.persons[: dataset.audited],
        classes=tuple(str(c) for c in classes),
        groups=dataset.groups,
        has_persons=dataset.has_persons,
    )
    require_evaluable(key)
    return key


def require_evaluable(audit: Audit) -> None:
    """Errors: NotEvaluable when a class is missing from members or non-members, or a side has too few persons."""
    for side, name in ((audit.member, "members"), (~audit.member, "non-members")):
        absent = [c for k, c in enumerate(audit.classes) if not (audit.labels[side] == k).any()]
        if absent:
            raise NotEvaluable(
                f"class {', '.join(absent[:5])} has no {name}",
                "every class needs members and non-members; provide records or a model without the class",
            )
        persons = len(np.unique(audit.persons[side]))
        if persons < MIN_PERSONS:
            raise NotEvaluable(
                f"{persons} {'persons among the ' if audit.has_persons else ''}{name} are too few; "
                f"at least {MIN_PERSONS} are needed to measure anything",
                "provide more records; `privacy-gate plan` says how many decide each rule",
            )
