"""Models that exist already as shadows: fold models and earlier versions with their member lists.

Nobody drew by lot who trained them: a fold model never saw a non-member, an earlier version rarely saw a new record.
How often a record was in them then tells whose member it is, and so:

* their answers are no references for single records, unless every record is in and out of several of them and that
  says nothing of the candidate's own members;
* they set thresholds, from the records of one side of the answer key alone (the candidate's members: in = trained on,
  out = held out). Such a threshold knows nothing of the other side, so on a model that leaks nothing it is as often
  too high as too low. With both sides in the pool, in and out would be members and non-members under another name.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_gate import features as tables
from privacy_gate import sources
from privacy_gate.datamodel import Audit, Bools, Candidate, Description, Ints, Outputs, Role, ShadowPlan
from privacy_gate.errors import ConfigError, DataError, GateError
from privacy_gate.features import take
from privacy_gate.manifest import Dataset, _identities
from privacy_gate.registry import Registry
from privacy_gate.request import DataManifest, LoadedModel, Source
from privacy_gate.sandbox import examine
from privacy_gate.sandbox.outputs import Form
from privacy_gate.sandbox.runtime import HERE, Runtime
from privacy_gate.shadows.store import FORMAT, Extra, Store, Trained
from privacy_gate.shadows.train import _versions
from privacy_gate.shadows.worker import align
from privacy_gate.storage import sha256_of_json
from privacy_gate.validity.reference_membership import LIMIT, effects

TIMES = 2  # models that a record must be in, and out of, before their answers are references
FEWEST = 10  # persons in, and out, below which no threshold is fitted
_ALPHA = 0.05
_LIBRARIES = ("mlflow", "lightgbm", "xgboost", "xgboost-cpu")  # beside those that all shadows are named by
_ORDER_STREAM = 6  # keeps this draw apart from every other use of the run's seed


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """The candidate and its records: what the models are asked about, and compared with.

    classes  class values in the order of the candidate's columns
    form     how its answers are read: the models' are read the same way
    """

    candidate: Candidate
    description: Description
    dataset: Dataset
    audit: Audit
    classes: tuple[Any, ...]
    form: Form
    runtime: Runtime = HERE


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where things are, and where they go.

    folder  relative paths start here
    work    private; holds copies of the models and, for a while, of the records
    logs    of models that fail
    tell    a step begins
    """

    registry: Registry
    store: Store
    folder: Path
    work: Path
    logs: Path | None = None
    timeout: float = 600.0
    seed: int = 0
    tell: Callable[[str], None] = lambda text: None


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What existing models give.

    plan     of kind `loaded`
    outputs  S times [U, K]
    models   digest of each
    asked    models that were asked now; the answers of the others were in the store
    """

    plan: ShadowPlan
    outputs: tuple[Outputs, ...]
    models: tuple[str, ...]
    asked: int


def existing(models: Sequence[LoadedModel], manifest: DataManifest, subject: Subject, place: Place) -> Found:
    """Resolve, check, ask and arrange the models of `shadows.recipe.load`.

    Raises ConfigError (data.id is missing or does not tell records apart, a model is named twice or is the candidate),
    DataError (a list that cannot be read or names no audited record; models that hold nothing to compare), and what the
    registry and the sandbox raise, with the number of the model.
    """
    ids = _ids(manifest, subject)
    held: list[_Held] = []
    for number, named in enumerate(models):
        with _naming(number):
            held.append(_held(number, named, ids, manifest, subject, place, held))
    arranged = arrange(np.stack([one.inside for one in held]), subject.audit, [one.name for one in held])
    kept = [held[s] for s in arranged.kept]
    answers: list[Outputs] = []
    proxies: list[str] = []
    asked = 0
    for one in kept:
        with _naming(one.number):
            outputs, difference, new = _answers(one, subject, place)
        answers.append(outputs)
        asked += new
        if difference:
            proxies.append(f"{one.name}: {difference}")
    rows = len(subject.dataset.raw_labels)
    member = np.zeros((len(kept), rows), dtype=np.bool_)
    member[:, : len(ids)] = [one.inside for one in kept]
    pool = np.zeros(rows, dtype=np.bool_)
    pool[: len(ids)] = arranged.pool
    plan = ShadowPlan(
        kind="loaded",
        member=member,
        pool=pool,
        seeds=np.zeros(len(kept), dtype=np.int64),
        train_size=subject.dataset.train_size,
        notes=(*(one.said for one in held), *arranged.notes),
        proxy="; ".join(proxies),
        by_lot=arranged.by_lot,
        sizes=tuple(one.listed for one in kept),
    )
    return Found(plan, tuple(answers), tuple(one.candidate.digest for one in kept), asked)


@contextlib.contextmanager
def _naming(number: int) -> Iterator[None]:
    """Errors say which entry of `shadows.recipe.load` they are about."""
    try:
        yield
    except GateError as error:
        raise type(error)(f"shadows.recipe.load.{number}: {error.what}", error.hint) from error


# --- who trained them -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """One model and who trained it.

    inside  [R] records that it was trained on
    listed  records in its list, audited or not
    """

    number: int
    name: str
    candidate: Candidate
    inside: Bools
    listed: int

    @property
    def said(self) -> str:
        known = int(self.inside.sum())
        beyond = f", the others are unknown here ({self.listed - known:,})" if known < self.listed else ""
        return f"{self.name} was trained on {self.listed:,} records: {known:,} are audited{beyond}"


def _ids(manifest: DataManifest, subject: Subject) -> NDArray[np.str_]:
    """[R] the id of each audited record, in the spelling that lists are compared in."""
    if manifest.id is None:
        raise ConfigError(
            "shadows.recipe.load names models and their members, but data.id is not set",
            "name the column that tells records apart; the lists name records by it",
        )
    ids = _identities(subject.dataset.ids)
    shared = np.intersect1d(ids[subject.audit.member], ids[~subject.audit.member])
    if len(shared):
        raise ConfigError(
            f"data.id: {len(shared):,} ids of {manifest.id!r} name both a member and a non-member",
            "a member list cannot tell them apart: give each record of both sets an id of its own",
        )
    return ids


def _held(
    number: int,
    named: LoadedModel,
    ids: NDArray[np.str_],
    manifest: DataManifest,
    subject: Subject,
    place: Place,
    others: Sequence[_Held],
) -> _Held:
    listed = _listed(named.members, manifest, place)
    inside = np.isin(ids, listed)
    if not inside.any():
        raise DataError(
            f"{sources.shown(named.members)}: none of its {len(listed):,} records is audited",
            f"the column {manifest.id!r} of the list and of the records must hold the same ids",
        )
    place.tell(f"resolving {named.model}")
    found = place.registry.resolve(_address(named.model, place.folder), place.work / f"existing-{number}")
    if found.digest == subject.candidate.digest:
        raise ConfigError(
            f"{named.model} is the candidate itself", "name models that were trained on other records, one per fold"
        )
    if twin := next((one for one in others if one.candidate.digest == found.digest), None):
        raise ConfigError(f"{named.model} is the same model as {twin.name}", "name each model once")
    return _Held(number, found.resolved_uri if found.name else named.model, found, inside, len(listed))


def _address(uri: str, folder: Path) -> str:
    """A model folder is found relative to the config."""
    return uri if ":" in uri else str(folder / Path(uri).expanduser())


def _listed(source: Source, manifest: DataManifest, place: Place) -> NDArray[np.str_]:
    """[n] the ids in a member list, each once."""
    column = manifest.id
    assert column is not None
    # Only what reads the id matters here: a list has none of the columns that the records have.
    plain = DataManifest(
        members=source, nonmembers=source, id=column, label=column, env=manifest.env, missing="allow", features=None
    )

    def fetch(uri: str) -> Path:
        return place.registry.fetch(uri, place.work / "fetched")

    records = sources.read(source, plain, place.folder, fetch, place.work / "lists")
    columns: dict[str, Any] = {str(name): records[name] for name in records}  # type: ignore[index]
    if column not in columns:
        raise DataError(
            f"{sources.shown(source)}: no column {column!r} (data.id)",
            f"columns are: {', '.join(columns)[:300] or 'none'}",
        )
    values = np.asarray(columns[column])
    if values.ndim != 1 or not len(values):
        raise DataError(f"{sources.shown(source)}: {column} has shape {list(values.shape)}", "list one id per record")
    import pandas as pd

    missing = int(pd.isna(values).sum())
    if missing:
        raise DataError(f"{sources.shown(source)}: {missing} ids are missing", "list one id per record")
    return np.unique(_identities(values))


# --- what they can be used for --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Arranged:
    """Which models are used, and how.

    kept    their numbers
    pool    [R] records whose in/out answers set thresholds
    by_lot  whether their answers may be references
    """

    kept: tuple[int, ...]
    pool: Bools
    by_lot: bool
    notes: tuple[str, ...]


def arrange(inside: Bools, audit: Audit, names: Sequence[str]) -> Arranged:
    """What models that were trained on `inside` [S, R] can be used for. DataError where that is nothing."""
    if _by_lot(inside, audit):
        return Arranged(tuple(range(len(inside))), np.ones(len(audit.member), dtype=np.bool_), True, ())
    sides = [_one_side(inside, side, audit.persons) for side in (audit.member, ~audit.member)]
    # Of equals the first: what the candidate was trained on is what fold models were trained on.
    kept, pool, split, _ = max(sides, key=lambda one: one[3])
    least = _least(inside[kept], pool, audit.persons)
    if least < FEWEST:
        raise DataError(
            f"shadows.recipe.load: among the candidate's own members {least} persons were in (or out of) the models "
            f"given; {FEWEST} of either kind are needed to set a threshold",
            "give fold models, or earlier versions that were trained on a part of the candidate's members",
        )
    side = "members" if bool(audit.member[pool].all()) else "non-members"
    said = "who trained these models was not drawn by lot: no reference attack uses them, "
    notes = [f"{said}and their thresholds come from the candidate's {side} alone"]
    if lost := [names[s] for s in range(len(inside)) if s not in kept]:
        notes.append(f"not used, since they hold all of the {side} or none: {', '.join(lost)}")
    if split:
        notes.append(
            f"{split:,} persons with records both in and out of one model set no threshold; make folds by person"
        )
    return Arranged(tuple(kept), pool, False, tuple(notes))


def _by_lot(inside: Bools, audit: Audit) -> bool:
    """Whether every record is in and out of several models, and that tells nothing of who is a member."""
    times = inside.sum(axis=0)
    if times.min() < TIMES or (len(inside) - times).min() < TIMES:
        return False
    found = effects(inside, audit.member, audit.persons, corrected=_ALPHA, plain=_ALPHA)
    # What cannot be told is taken for dependence: then the models set thresholds still.
    return found[0].value <= LIMIT and all(effect.low <= LIMIT for effect in found)


def _one_side(inside: Bools, side: Bools, persons: Ints) -> tuple[list[int], Bools, int, int]:
    """(models that hold some of this side and not all, rows of whole persons, persons left out, how much they tell)."""
    kept = [s for s, row in enumerate(inside) if row[side].any() and not row[side].all()]
    straddling = _straddling(inside[kept], side, persons)
    rows = side & ~np.isin(persons, straddling)
    kept = [s for s in kept if inside[s, rows].any() and not inside[s, rows].all()]
    told = sum(min(_count(persons, rows & inside[s]), _count(persons, rows & ~inside[s])) for s in kept)
    return kept, rows, len(straddling), told


def _straddling(inside: Bools, side: Bools, persons: Ints) -> Ints:
    """Persons of a side with records both in and out of one of the models."""
    found = [np.intersect1d(persons[side & row], persons[side & ~row]) for row in inside]
    return np.unique(np.concatenate(found)) if found else persons[:0]


def _least(inside: Bools, pool: Bools, persons: Ints) -> int:
    """The fewer of the persons who are in some model, and out of some."""
    if not len(inside):
        return 0
    return min(_count(persons, pool & inside.any(axis=0)), _count(persons, pool & ~inside.all(axis=0)))


def _count(persons: Ints, rows: Bools) -> int:
    return len(np.unique(persons[rows]))


# --- what they say --------------------------------------------------------------------------------------------------


def _answers(one: _Held, subject: Subject, place: Place) -> tuple[Outputs, str, bool]:
    """([U, K] in the candidate's class order, why it is of another kind than the candidate, whether it was asked)."""
    key = _key(one.candidate, subject)
    kept, beside = place.store.get(key), place.store.beside(_beside(key))
    if kept is not None and beside is not None:
        recipe = json.loads(beside.reason)
        return _everywhere(kept.outputs, subject), _difference(one.candidate, recipe, subject), False
    asked = _asked(subject)
    place.tell(f"scoring {len(asked):,} records with {one.name} in a process of its own")
    # In an order that tells nothing, as the candidate was asked.
    order = np.random.default_rng([_ORDER_STREAM, place.seed]).permutation(len(asked))
    description, scored = examine(
        one.candidate,
        take(subject.dataset.features, asked[order]),
        place.work,
        form=subject.form,
        timeout=place.timeout,
        logs=place.logs,
        runtime=subject.runtime,
    )
    answered = replace(scored.outputs, values=scored.outputs.values[np.argsort(order)])
    outputs = align(answered, description.classes, subject.classes)
    place.store.put(key, Trained(outputs, None, None))
    place.store.put(_beside(key), Extra(key, None, reason=json.dumps(description.recipe, sort_keys=True)))
    return _everywhere(outputs, subject), _difference(one.candidate, description.recipe, subject), True


def _asked(subject: Subject) -> Ints:
    """[n] the rows that models are asked about: the audited records, and those of the candidate's defence."""
    rows = np.flatnonzero(subject.dataset.role_mask(Role.SEEN))
    return np.concatenate([np.arange(subject.dataset.audited), rows]).astype(np.int64)


def _everywhere(outputs: Outputs, subject: Subject) -> Outputs:
    """[U, K] the answers where there are some; elsewhere, in the population, which nobody looks at, no opinion."""
    columns = outputs.values.shape[1]
    nothing = 0.0 if outputs.kind == "logits" else 1.0 / columns
    values = np.full((len(subject.dataset.raw_labels), columns), nothing, dtype=outputs.values.dtype)
    values[_asked(subject)] = outputs.values
    return replace(outputs, values=values)


def _key(candidate: Candidate, subject: Subject) -> str:
    return sha256_of_json(
        {
            "format": FORMAT,
            "model": candidate.digest,
            "data": tables.digest(take(subject.dataset.features, _asked(subject))),
            "form": subject.form.as_json(),
            "classes": [[type(value).__name__, str(value)] for value in subject.classes],
            # The same file answers otherwise when other libraries load it.
            "versions": _versions(_LIBRARIES, subject.runtime),
            **subject.runtime.identity,
        }
    )


def _beside(key: str) -> str:
    return f"{key}.recipe"


def _difference(candidate: Candidate, recipe: Any, subject: Subject) -> str:
    """Why the model is no shadow of the candidate's own kind; "" if nothing is known against it."""
    if candidate.flavor != subject.candidate.flavor:
        return f"it is a {candidate.flavor} model, the candidate a {subject.candidate.flavor} model"
    ours = _plain(subject.description.recipe)
    theirs = _plain(recipe)
    if ours == theirs:
        return ""
    if not (isinstance(ours, dict) and isinstance(theirs, dict)):
        return "only one of the two tells how it was trained"
    if ours.get("class") != theirs.get("class"):
        return f"it is a {_short(theirs)}, the candidate a {_short(ours)}"
    mine, other = ours.get("params") or {}, theirs.get("params") or {}
    names = sorted(name for name in {*mine, *other} if mine.get(name) != other.get(name))
    return f"it was trained with other settings ({', '.join(names[:5])}{', …' if len(names) > 5 else ''})"


def _plain(recipe: Any) -> Any:
    """As JSON has it, settings alone: what training found (rounds after early stopping) differs from fold to fold."""
    if not isinstance(recipe, dict):
        return None if recipe is None else json.loads(json.dumps(recipe))
    return json.loads(json.dumps({key: recipe[key] for key in ("class", "params") if key in recipe}))


def _short(recipe: dict[str, Any]) -> str:
    return str(recipe.get("class")).rpartition(".")[2]
