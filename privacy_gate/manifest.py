"""The data manifest made real: files in, one clean table out, with every removal counted.

Rows are members, then non-members, then the population. Seen records are read only to keep them out; where the
candidate's defence has records of its own, they are those, and come last.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from privacy_gate import frames, sources
from privacy_gate.datamodel import Audit, Bools, Ints, Role, freeze
from privacy_gate.errors import DataError, NotEvaluable
from privacy_gate.features import (
    AnyFeatures,
    Features,
    Stored,
    blocks,
    concat,
    digest,
    is_frame,
    release_unused,
    row_hashes,
    settle,
    take,
)
from privacy_gate.request import AuditSample, DataManifest, Source
from privacy_gate.storage import private_dir, sha256_of_json

if TYPE_CHECKING:
    import pandas as pd

Fetch = Callable[[str], Path]

DUPLICATES = "exact duplicates across members and non-members"
SHARED_PERSONS = "non-members sharing a person with members or seen records"

_SAMPLE_STREAM = 73  # keeps this draw apart from every other use of the run's seed

MIN_PERSONS = 10
"""Persons on either side below which two folds with both classes cannot be made."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """One set of records as read: features, and what was named beside them."""

    role: Role
    features: AnyFeatures
    labels: NDArray[Any]  # [n] as in the file
    persons: NDArray[Any] | None  # [n] as text
    groups: Mapping[str, NDArray[Any]]
    ids: NDArray[np.str_]  # [n] the id column, or role and row number in the file
    weights: NDArray[np.float64] | None = None  # [n]

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
            None if self.weights is None else self.weights[rows],
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
    weights      [U] sample weights of training, above 0; None: none are declared
    sampled      role -> (records drawn by lot, of how many); those not drawn are population; empty for a census
    """

    features: AnyFeatures
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
    weights: NDArray[np.float64] | None = None
    sampled: Mapping[Role, tuple[int, int]] = field(default_factory=dict)
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
        """sha256 over all sets, and over which part of them was drawn: another sample is another look at the model."""
        drawn = {str(role): counts for role, counts in self.sampled.items() if counts[0] < counts[1]}
        return sha256_of_json({**self.digests, **({"sampled": drawn} if drawn else {})})

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


def _column(columns: Mapping[str, Any], name: str, where: str, what: str) -> NDArray[Any]:
    if name not in columns:
        raise DataError(f"{where}: no {what} column {name!r}", f"columns are: {', '.join(map(str, columns))[:300]}")
    return np.asarray(columns[name])


def _from_arrays(arrays: Mapping[str, NDArray[Any]], role: Role, manifest: DataManifest, where: str) -> Table:
    x, labels = _column(arrays, "x", where, "feature"), _column(arrays, manifest.label, where, "label")
    if x.ndim < 2 or len(x) != len(labels):
        raise DataError(f"{where}: x has shape {x.shape}, {manifest.label} {labels.shape}", "one row per record")
    if manifest.columns is not None:
        raise DataError(
            f"{where}: holds arrays, whose columns have no names; data.schema names some",
            "leave out the schema, or write the records as a table",
        )
    # Not as _column has it: that of a memory map would be an array that no longer knows its file.
    return _table(arrays["x"], arrays, role, manifest, where)


def _from_frame(frame: pd.DataFrame, role: Role, manifest: DataManifest, inputs: frames.Inputs, where: str) -> Table:
    names = [str(name) for name in frame.columns]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{where}: several columns are called {', '.join(map(repr, twice))}", "give each its own name")
    frame = frame.set_axis(names, axis="columns").reset_index(drop=True)
    columns = {name: frame[name] for name in names}
    for name in manifest.drop if manifest.features is None and manifest.columns is None else ():
        _column(columns, name, where, "dropped")
    chosen = frames.chosen(names, manifest, inputs, where)
    return _table(frame[chosen], columns, role, manifest, where)


def _table(features: Features, columns: Mapping[str, Any], role: Role, manifest: DataManifest, where: str) -> Table:
    """The set with what is named beside its features, each of it one value per record."""
    labels = _plain_values(_column(columns, manifest.label, where, "label"))
    persons = _column(columns, manifest.person, where, "person") if manifest.person else None
    weights = _column(columns, manifest.weight, where, "weight") if manifest.weight else None
    groups = {name: _column(columns, name, where, "group") for name in manifest.groups}
    given = _column(columns, manifest.id, where, "id") if manifest.id else None
    for name, values in {"label": labels, "person": persons, "id": given, "weight": weights, **groups}.items():
        if values is not None and values.shape != (len(features),):
            raise DataError(f"{where}: {name} has shape {values.shape}, expected {(len(features),)}")
    _require_known({"label": labels, "person": persons}, where)
    return Table(
        role,
        features,
        labels,
        None if persons is None else _identities(persons),
        groups,
        _ids(given, role, len(labels)),
        None if weights is None else _weights(weights, where),
    )


def _plain_values(values: NDArray[Any]) -> NDArray[Any]:
    """Labels in the type that they would have without gaps: a nullable or categorical column gives objects."""
    if values.dtype != object:
        return values
    plain = np.array(values.tolist()) if all(type(v) is type(values[0]) for v in values.tolist()) else values
    return plain if plain.ndim == 1 and plain.dtype.kind in "biuf" else values


def _require_known(named: Mapping[str, NDArray[Any] | None], where: str) -> None:
    import pandas as pd

    mends = {"label": "every record needs its label", "person": "fill them in"}
    for name, values in named.items():
        missing = 0 if values is None else int(pd.isna(values).sum())
        if missing:
            raise DataError(
                f"{where}: {missing} {name}{'s' if name == 'label' else ' values'} are missing", mends[name]
            )


def _weights(values: NDArray[Any], where: str) -> NDArray[np.float64]:
    """[n] sample weights, each finite and above 0."""
    try:
        found = values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: the weight column holds something else than numbers") from error
    odd = int((~(np.isfinite(found) & (found > 0))).sum())
    if odd:
        raise DataError(
            f"{where}: {odd} weights are missing, infinite, or not above 0",
            "leave out records that training left out, and give the others the weights that it used",
        )
    return found


def _ids(given: NDArray[Any] | None, role: Role, count: int) -> NDArray[np.str_]:
    """[n] what names a record within its set."""
    if given is None:
        return np.array([f"{role}:{row}" for row in range(count)], dtype=np.str_)
    return np.array([str(value).strip() for value in given.tolist()], dtype=np.str_)


def _read(
    asked: Mapping[Role, Source],
    manifest: DataManifest,
    base: Path,
    fetch: Fetch,
    work: Path,
    inputs: frames.Inputs,
    logs: Path | None,
) -> dict[Role, Table]:
    """All sets, their features typed alike, large ones left on disk."""
    told = manifest
    if manifest.features is None and manifest.columns is None and inputs:
        # A person whom the model takes as a feature must keep the type that the model knows.
        told = manifest.model_copy(update={"features": [name for name, _ in inputs]})
    tables: dict[Role, Table] = {}
    for role, source in asked.items():
        records = sources.read(source, told, base, fetch, work / str(role), logs=logs)
        if isinstance(records, Mapping):
            tables[role] = _from_arrays(records, role, manifest, sources.shown(source))
        else:
            tables[role] = _from_frame(records, role, manifest, inputs, sources.shown(source))
    _same_columns(list(tables.values()))
    names = [str(role) for role in tables]
    if all(is_frame(table.features) for table in tables.values()):
        found = [cast("pd.DataFrame", table.features) for table in tables.values()]
        if manifest.columns is not None:
            schema = {name: manifest.columns[name] for name in found[0].columns}
            same: list[Any] = list(frames.typed(found, schema, names))
        else:
            same = list(frames.untyped(found, inputs, names))
    else:
        private_dir(work)
        same = list(settle([cast("Features", table.features) for table in tables.values()], work))
    for (role, source), features in zip(asked.items(), same, strict=True):
        tables[role] = replace(tables[role], features=features)
        _check_values(features, sources.shown(source), manifest)
    return tables


_WHOLE = re.compile(r"([+-]?\d{1,4000})(?:\.0*)?")


def _identities(persons: NDArray[Any]) -> NDArray[np.str_]:
    """[n] as text: 7, 7.0, "007" and "7" are one person, whatever wrote and read the columns of two files."""
    # A float column writes large numbers as 1e+16.
    plain = (int(one) if isinstance(one, float) and one.is_integer() else one for one in persons.tolist())
    texts = [str(person).strip() for person in plain]
    return np.array([str(int(whole[1])) if (whole := _WHOLE.fullmatch(t)) else t for t in texts], dtype=np.str_)


def _check_values(features: AnyFeatures, where: str, manifest: DataManifest) -> None:
    """No infinite values, and none that are missing unless the config allows it; arrays are read in blocks."""
    for name, infinite, missing in _odd_values(features):
        if infinite:
            raise DataError(f"{where}: feature {name} has {infinite} infinite values", "clean the data as in training")
        if missing and manifest.missing == "refuse":
            raise DataError(
                f"{where}: feature {name} has {missing} missing values (NaN)",
                "impute as in training, or say `missing: allow` under data: if the model handles them itself",
            )


def _odd_values(features: AnyFeatures) -> Iterator[tuple[str, int, int]]:
    """(feature, infinite values, missing values) of each column, or of the array as a whole."""
    if is_frame(features):
        for name, column in features.items():
            missing = column.isna().to_numpy()
            plain = column.dtype.kind == "f" and not missing.all()
            infinite = np.isinf(column.to_numpy(dtype=np.float64, na_value=np.nan)).sum() if plain else 0
            yield repr(name), int(infinite), int(missing.sum())
        return
    array = cast("NDArray[Any] | Stored", features)
    if array.dtype.kind in "fc":
        counts = [(int(np.isinf(block).sum()), int(np.isnan(block).sum())) for _, block in blocks(array)]
        yield "array x", sum(infinite for infinite, _ in counts), sum(missing for _, missing in counts)


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
    features, labels = [table.features for table in tables.values()], _label_codes(tables)
    if all(is_frame(part) and part.dtypes.equals(cast("pd.DataFrame", features[0]).dtypes) for part in features):
        # Of one type everywhere, each set is hashed as the common table would be, which need not be made.
        parts = _split(labels, tables)
        return {role: row_hashes(table.features, parts[role]) for role, table in tables.items()}
    return _split(row_hashes(concat(features), labels), tables)


def _label_codes(tables: Mapping[Role, Table]) -> Ints:
    """[n] over all tables: an integer per label, whatever the order of the rows."""
    names = [label for table in tables.values() for label in table.labels.tolist()]
    codes = {label: code for code, label in enumerate(sorted(set(names), key=repr))}
    return np.array([codes[label] for label in names], dtype=np.int64)


def _split(values: NDArray[Any], tables: Mapping[Role, Table]) -> dict[Role, NDArray[Any]]:
    """Values of all tables' rows, by table."""
    return dict(zip(tables, np.split(values, np.cumsum([len(table) for table in tables.values()])[:-1]), strict=True))


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


# --- sampling -------------------------------------------------------------------------------------------------------


def _sampled(
    tables: dict[Role, Table], audit: AuditSample | None, seed: int
) -> tuple[dict[Role, Table], dict[Role, tuple[int, int]]]:
    """Tables of which persons drawn by lot remain members and non-members; the others may train shadows."""
    wished = {} if audit is None else {Role.MEMBERS: audit.members, Role.NONMEMBERS: audit.nonmembers}
    asked = {role: count for role, count in wished.items() if count is not None}
    if not asked:
        return tables, {}
    hashes, classes = _hashes(tables), _split(_label_codes(tables), tables)
    given = None
    if tables[Role.MEMBERS].persons is not None:
        given = np.concatenate([cast("NDArray[Any]", table.persons) for table in tables.values()])
    persons = _split(_people(np.concatenate(list(hashes.values())), given)[0], tables)
    found, rest, counts = dict(tables), [], {}
    for role, count in asked.items():
        rng = np.random.default_rng([_SAMPLE_STREAM, seed, list(Role).index(role)])
        rows = draw(persons[role], classes[role], hashes[role], count, rng)
        counts[role] = (int(rows.sum()), len(rows))
        if not rows.all():
            found[role] = tables[role].keep(rows)
            rest.append(tables[role].keep(~rows))
    if rest:
        spare = [tables[Role.POPULATION]] if Role.POPULATION in tables else []
        found[Role.POPULATION] = _joined([*spare, *rest], Role.POPULATION)
    return found, counts


def draw(persons: Ints, classes: Ints, keys: NDArray[np.uint64], count: int, rng: np.random.Generator) -> Bools:
    """[n] rows of persons drawn by lot: of each class the same share of persons, of most classes' sizes rounded.

    persons, classes, keys  [n] person and class of each row, and a number that tells the row's content
    count                   rows wanted, about: persons are drawn, each with the same chance in its class
    A person's class is its most frequent one. Every class keeps a person. The order of the rows does not matter.
    """
    if len(persons) <= count:
        return np.ones(len(persons), dtype=np.bool_)
    column = np.unique(persons, return_inverse=True)[1]
    name = np.full(column.max() + 1, np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(name, column, keys)
    of_person = _most_frequent(column, classes)
    strata, sizes = np.unique(of_person, return_counts=True)
    drawn = np.zeros(len(name), dtype=np.bool_)
    for stratum, size in zip(strata, _shares(sizes, count / len(persons)), strict=True):
        people = np.flatnonzero(of_person == stratum)
        people = people[np.argsort(name[people], kind="stable")]
        drawn[rng.permutation(people)[:size]] = True
    return drawn[column]


def _most_frequent(people: Ints, classes: Ints) -> Ints:
    """[P] the class that most of a person's rows have, the lowest among equals."""
    width = int(classes.max()) + 1
    pairs, counts = np.unique(people * width + classes, return_counts=True)
    order = np.lexsort((pairs, -counts, pairs // width))
    first = np.unique(pairs[order] // width, return_index=True)[1]
    return np.asarray(pairs[order][first] % width, dtype=np.int64)


def _shares(sizes: Ints, share: float) -> Ints:
    """[K] whole numbers near `share` of each size, that sum to that of the whole where each has at least one."""
    exact = sizes * share
    whole = np.floor(exact).astype(np.int64)
    short = round(float(exact.sum())) - int(whole.sum())
    whole[np.argsort(whole - exact, kind="stable")[:short]] += 1  # the largest remainders
    return np.asarray(np.minimum(np.maximum(whole, 1), sizes), dtype=np.int64)


def _joined(parts: Sequence[Table], role: Role) -> Table:
    """Several tables under each other."""
    first = parts[0]
    return Table(
        role,
        concat([part.features for part in parts]),
        np.concatenate([part.labels for part in parts]),
        None if first.persons is None else np.concatenate([cast("NDArray[Any]", part.persons) for part in parts]),
        {name: np.concatenate([part.groups[name] for part in parts]) for name in first.groups},
        np.concatenate([part.ids for part in parts]),
        _all_weights(parts),
    )


def _all_weights(parts: Sequence[Table]) -> NDArray[np.float64] | None:
    weights = [part.weights for part in parts if part.weights is not None]
    return np.concatenate(weights) if weights else None


# --- all of it ------------------------------------------------------------------------------------------------------


def load(
    manifest: DataManifest,
    base: Path,
    fetch: Fetch,
    *,
    reference: bool = False,
    work: Path | None = None,
    inputs: frames.Inputs = (),
    audit: AuditSample | None = None,
    seed: int = 0,
    logs: Path | None = None,
) -> Dataset:
    """Read, type, check, clean and draw the sets that a manifest names.

    base       relative paths start here
    fetch      runs:/RUN/path -> local file
    reference  keep the seen records, as those of the defence or of early stopping
    work       private folder for what is fetched or large, needed as long as the records; None: there is nothing such
    inputs     (column, MLflow type) of the candidate's signature
    audit      how many records to draw; None: all are audited
    seed       of that draw
    logs       private folder that keeps what a dataset function said before it failed
    Errors: DataError (exit 2) for files, columns and values; NotEvaluable (exit 4) when a side is left empty.
    """
    if work is None:
        with tempfile.TemporaryDirectory(prefix="privacy-gate-") as folder:
            return load(
                manifest,
                base,
                fetch,
                reference=reference,
                work=Path(folder),
                inputs=inputs,
                audit=audit,
                seed=seed,
                logs=logs,
            )
    asked = {
        Role.MEMBERS: manifest.members,
        Role.NONMEMBERS: manifest.nonmembers,
        Role.POPULATION: manifest.population,
        Role.SEEN: manifest.seen,
    }
    named = {role: source for role, source in asked.items() if source is not None}
    tables = _read(named, manifest, base, fetch, work, inputs, logs)
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
    tables, sampled = _sampled(tables, audit, seed)
    roles = [Role.MEMBERS, Role.NONMEMBERS, Role.POPULATION, *([Role.SEEN] if reference else [])]
    kept = [tables[role] for role in roles if role in tables]
    count = {role: len(tables[role]) if role in tables and role in roles else 0 for role in Role}
    features = concat([table.features for table in kept])
    # All that the sets are held by: from here on the records are in memory once.
    tables, kept = {}, [replace(table, features=features) for table in kept]
    release_unused()
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
        weights=_all_weights(kept),
        sampled=sampled,
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
    weights = [] if table.weights is None else [table.weights.tolist()]
    return sha256_of_json([digest(table.features), [str(label) for label in table.labels.tolist()], persons, *weights])


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
        if twins := [value for value in classes if str(value) in odd]:
            kinds = ("text", "numbers") if isinstance(_plain(twins[0]), float) else ("numbers", "text")
            raise DataError(
                f"{int((codes < 0).sum())} labels are {kinds[0]} and the classes are {kinds[1]}: {', '.join(odd)} are "
                "among both",
                "set data.classes to the labels as the data has them, in the order of the model's columns; text in"
                ' quotes: classes: ["0", "1"]',
            )
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
