"""`privacy-gate init`: the first draft of a configuration, a policy and a CI recipe."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from privacy_gate.cli import app

if TYPE_CHECKING:
    from privacy_gate.datamodel import Candidate, DatasetHint
    from privacy_gate.request import ImageTransform
    from privacy_gate.sandbox.traces import Columns, Logged

CONFIG_FILE = "privacy-gate.yaml"
POLICY_FILE = "privacy-policy.yaml"
RECIPE_FILE = "shadow_recipe.py"
CI_FILES = {
    "github": Path(".github", "workflows", "privacy-gate.yml"),
    "gitlab": Path(".gitlab-ci.privacy-gate.yml"),
    "jenkins": Path("Jenkinsfile.privacy-gate"),
}
_CI_TEMPLATES = {"github": "github.yml.jinja", "gitlab": "gitlab.yml.jinja", "jenkins": "Jenkinsfile.jinja"}
_CI_SIGNS = {"github": ".github", "gitlab": ".gitlab-ci.yml", "jenkins": "Jenkinsfile"}

_LABEL_NAMES = frozenset({"y", "label", "labels", "target", "class", "outcome"})
_PERSON_NAME = re.compile(
    r"(?i)(^|_)(person|customer|patient|client|user|subject|household|individual)(_?(id|no|nr))?$"
)
_FLAVOR_REASONS = {
    "pytorch": "A PyTorch model does not say how it was trained: give its architecture and the training settings.",
    "pyfunc": "A pyfunc model does not say how it was trained: give the training function.",
}
_CLONED = frozenset({"sklearn", "lightgbm", "xgboost"})
_BOOSTED = frozenset({"lightgbm", "xgboost"})  # of which text must be a category

FOLDER_LABEL = "y"  # what the class folder of an image is called
MOST_READ = 1 << 29  # bytes of records that are read for the sake of a draft
MOST_LEVELS = 50
MOST_CLASSES = 20
_PERSONAL = re.compile(r"@|\d{5}|.{41}", re.DOTALL)  # addresses, numbers, sentences
_SECRETS = re.compile(r"(?i)sig|token|secret|password|credential|key")
_FUNCTION = re.compile(r"(.+\.py):([A-Za-z_]\w*)")
_WORDS = {"int64": "integer", "float64": "float", "bool": "boolean", "datetime64[us]": "datetime"}
_SIGNED = {  # MLflow's types of columns -> ours
    "long": "integer",
    "integer": "integer",
    "double": "float",
    "float": "float32",
    "boolean": "boolean",
    "string": "string",
    "datetime": "datetime",
}
_TORCH_PARAMS = {  # our name -> names under which training scripts log it
    "epochs": ("epochs", "num_epochs", "n_epochs", "max_epochs"),
    "optimizer": ("optimizer", "optimizer_name", "optim"),
    "learning_rate": ("learning_rate", "lr"),
    "batch_size": ("batch_size",),
    "weight_decay": ("weight_decay",),
}
_TORCH_DRAFT: Mapping[str, Any] = {"epochs": 10, "optimizer": "adam", "learning_rate": 1e-3, "batch_size": 64}


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the caller asked for; paths are relative to the current folder."""

    model: str | None
    profile: str
    members: str | None
    nonmembers: str | None
    label: str | None
    person: str | None
    tracking_uri: str | None
    ci: str | None
    folder: Path


@dataclass(frozen=True, slots=True)
class Seen:
    """One column of the member file.

    type     a word of `schema:`; None: no model is given such values
    gaps     whether values are missing
    whole    whether all of its numbers are whole
    levels   of a category or of text, if they may be written to a file; None: there are none, or `why` they may not
    """

    type: str | None
    gaps: bool = False
    whole: bool = False
    levels: tuple[Any, ...] | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """What was found out by looking: at the model in the registry, and at the file of members.

    columns  of the member file; () if it cannot be read yet
    types    column -> what it holds; empty of arrays, and where the records were not read
    classes  label values, sorted; () if they are not known, or too many for classes
    booster  whether the model is a raw Booster, which names no classes
    named    columns that the model was trained with, by its own file; () if that does not say
    images   how the image files of a folder look; None: the members are no image files
    """

    candidate: Candidate | None = None
    columns: tuple[str, ...] = ()
    types: Mapping[str, Seen] = field(default_factory=dict)
    classes: tuple[Any, ...] = ()
    booster: bool = False
    named: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())
    images: ImageTransform | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the model's inputs, by its signature, or by its own file; () if neither tells."""
        return (tuple(name for name, _ in self.candidate.inputs) if self.candidate else ()) or self.named


@app.command()
def init(
    model: Annotated[
        str | None, typer.Option(help="models:/NAME@ALIAS: looked up, so that the draft fits it.", show_default=False)
    ] = None,
    profile: Annotated[str, typer.Option(help="strict, standard or internal.")] = "standard",
    members: Annotated[
        str | None,
        typer.Option(
            help="Training records: file, folder, URL, runs:/RUN/path or code.py:function.", show_default=False
        ),
    ] = None,
    nonmembers: Annotated[str | None, typer.Option(help="Like records that were not used.", show_default=False)] = None,
    label: Annotated[str | None, typer.Option(help="Column of the class label.", show_default=False)] = None,
    person: Annotated[str | None, typer.Option(help="Column of the data subject.", show_default=False)] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow. Default: MLFLOW_TRACKING_URI.", show_default=False)
    ] = None,
    ci: Annotated[
        str | None,
        typer.Option(
            help="github, gitlab, jenkins or none. Default: the one this repository uses.", show_default=False
        ),
    ] = None,
    folder: Annotated[Path, typer.Option("--dir", help="Where the files go.")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")] = False,
) -> None:
    """Draft privacy-gate.yaml, privacy-policy.yaml and a CI recipe."""
    from privacy_gate.cli.console import clean, console

    wishes = Wishes(model, profile, members, nonmembers, label, person, tracking_uri, ci, folder)
    _refuse_nonsense(wishes)
    if _interactive():
        wishes = _ask(wishes)
    wishes = replace(wishes, ci=wishes.ci or _detected_ci(repository(folder)))
    known = look(wishes)
    files = draft(wishes, known)
    _write(files, force)
    out = console()
    for note in known.notes:
        out.print(f"note: {clean(note)}", markup=False, soft_wrap=True)
    for path in files:
        out.print(f"wrote {clean(path)}", markup=False, soft_wrap=True)
    config = os.path.relpath(folder / CONFIG_FILE)
    given = "" if config == CONFIG_FILE else f" --config {shlex.quote(config)}"
    out.print("Look for TODO in the drafts, then:", markup=False)
    out.print(f"  privacy-gate doctor{given}", markup=False, soft_wrap=True)
    uri = "" if wishes.model else " models:/NAME@ALIAS"
    out.print(f"  privacy-gate plan{uri}{given}", markup=False, soft_wrap=True)


# --- what is wanted -------------------------------------------------------------------------------------------------


def _refuse_nonsense(wishes: Wishes) -> None:
    from urllib.parse import urlsplit

    from privacy_gate.catalog import did_you_mean
    from privacy_gate.errors import UsageError
    from privacy_gate.policy import PROFILES

    if wishes.profile not in PROFILES:
        raise UsageError(f"no profile is called {wishes.profile!r}", did_you_mean(wishes.profile, list(PROFILES)))
    if wishes.ci is not None and wishes.ci not in {*CI_FILES, "none"}:
        raise UsageError(f"no CI recipe is called {wishes.ci!r}", did_you_mean(wishes.ci, [*CI_FILES, "none"]))
    if wishes.tracking_uri is not None and "@" in urlsplit(wishes.tracking_uri).netloc:
        raise UsageError(
            "--tracking-uri carries a user name or password, which would be written to a file",
            "put them into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
        )
    for name, given in (("members", wishes.members), ("nonmembers", wishes.nonmembers)):
        where = urlsplit(given or "")
        if where.scheme and ("@" in where.netloc or _SECRETS.search(where.query)):
            raise UsageError(
                f"--{name} carries a password or a key, which would be written to a file",
                "name the place without it; the gate finds credentials where the program of that storage does",
            )
    if not wishes.folder.is_dir():
        raise UsageError(f"{wishes.folder}: there is no such folder", "create it, or choose another --dir")


def _interactive() -> bool:
    """Whether there is a person to ask."""
    return sys.stdin.isatty() and sys.stderr.isatty() and not os.environ.get("CI")


def _ask(wishes: Wishes) -> Wishes:
    """Ask for what was not given; an empty answer leaves a TODO in the draft."""

    def ask(question: str) -> str | None:
        return str(typer.prompt(question, default="", show_default=False, err=True)).strip() or None

    return replace(
        wishes,
        model=wishes.model or ask("Model in the registry (models:/NAME@ALIAS)"),
        members=wishes.members or ask("File of the records it was trained on"),
        nonmembers=wishes.nonmembers or ask("File of like records that it was not trained on"),
    )


def repository(folder: Path) -> Path:
    """The root of the repository that holds `folder`; `folder` itself outside one."""
    here = folder.resolve()
    return next((place for place in (here, *here.parents) if (place / ".git").exists()), here)


def _detected_ci(root: Path) -> str:
    return next((name for name, sign in _CI_SIGNS.items() if (root / sign).exists()), "none")


# --- what can be found out ------------------------------------------------------------------------------------------


def look(wishes: Wishes) -> Known:
    """Look at the model and at the member file. Errors: those of the registry (exit 2 or 3)."""
    candidate, booster, trained = _candidate(wishes)
    images, folders, columns = _images(wishes.members)
    frame: Any = None
    notes: tuple[str, ...] = ()
    if images is None:
        columns, frame, notes = _records(wishes.members)
    for name, path in (("members", wishes.members), ("nonmembers", wishes.nonmembers)):
        if path and not _remote(path) and not Path(_FUNCTION.sub(r"\1", path)).exists():
            notes += (f"{name}: {path} is not there yet",)
    types = {} if frame is None else {name: _seen(frame[name]) for name in columns}
    # LightGBM writes spaces as underscores.
    own = {name.replace(" ", "_"): name for name in columns} | {name: name for name in columns}
    named = tuple(own[name] for name in trained.names) if set(trained.names) <= own.keys() else ()
    for name in named if frame is not None else ():
        if (levels := trained.levels.get(name.replace(" ", "_"))) is not None:
            listed, why = _listed(frame[name], levels)
            types[name] = Seen("category", types[name].gaps, levels=listed, why=why)
    known = Known(candidate, columns, types, folders, booster, named, notes, images)
    label = _meaning(wishes, known)["label"]
    return known if frame is None or label not in columns else replace(known, classes=_classes(frame[label]))


def _candidate(wishes: Wishes) -> tuple[Candidate | None, bool, Columns]:
    """The model, whether it is a raw Booster, and the columns in its own file."""
    from privacy_gate.sandbox.traces import Columns, lightgbm_columns, xgboost_columns

    if wishes.model is None:
        return None, False, Columns()
    import tempfile

    from privacy_gate.registry import open_registry
    from privacy_gate.sandbox.mlmodel import flavors, read_mlmodel

    with tempfile.TemporaryDirectory(prefix="privacy-gate-") as work:
        candidate = open_registry(wishes.tracking_uri, None, wishes.model).resolve(wishes.model, Path(work))
        settings = flavors(read_mlmodel(candidate.snapshot)).get(candidate.flavor, {})
        booster = str(settings.get("model_class", "")).endswith(".Booster")
        file = candidate.snapshot / Path(str(settings.get("data", ""))).name
        columns = Columns()
        if booster and candidate.flavor == "lightgbm":
            columns = lightgbm_columns(file)
        elif candidate.flavor == "xgboost":
            columns = xgboost_columns(file)
        return candidate, booster, columns


def _remote(path: str) -> bool:
    return path.startswith("runs:/") or "://" in path


def _records(members: str | None) -> tuple[tuple[str, ...], Any, tuple[str, ...]]:
    """Columns (or arrays) of the member file, its frame, and what to tell if it is not read. No URL, no function is."""
    if members is None or _remote(members) or not Path(members).exists():
        return (), None, ()
    import tempfile
    import zipfile

    from privacy_gate.errors import GateError
    from privacy_gate.request import DataManifest, Source

    path = Path(members)
    try:
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files)
        if size > MOST_READ:
            columns = _header(path) if path.is_file() else ()
            return columns, None, (f"members: {members} is large and was not read; types are the signature's",)
        from privacy_gate import sources

        with tempfile.TemporaryDirectory(prefix="privacy-gate-") as work:
            source = Source(path=os.path.abspath(path))
            manifest = DataManifest(members=source, nonmembers=source)
            records = sources.read(source, manifest, Path(), lambda uri: Path(uri), Path(work) / "records")
            if isinstance(records, Mapping):
                return tuple(map(str, records)), None, ()
        records.columns = [str(name) for name in records.columns]
        return tuple(records.columns), records, ()
    except (GateError, OSError, ValueError, StopIteration, zipfile.BadZipFile) as error:
        said = error.what if isinstance(error, GateError) else str(error)
        return (), None, (f"members: the columns of {members} could not be read: {said}",)


def _images(members: str | None) -> tuple[ImageTransform | None, tuple[str, ...], tuple[str, ...]]:
    """How the image files of a folder look, its class folders, the columns beside them; None: it is no such folder."""
    from privacy_gate.errors import GateError
    from privacy_gate.sources import CATALOG
    from privacy_gate.sources.images import looked

    if members is None or _remote(members) or not Path(members).is_dir():
        return None, (), ()
    if [reader.id for reader in CATALOG if reader.accepts(Path(members))] != ["images"]:
        return None, (), ()
    try:
        transform, folders, columns = looked(Path(members))
    except (GateError, OSError, ValueError):
        return None, (), ()  # whoever reads the records will say why
    return transform, folders if len(folders) <= MOST_CLASSES else (), columns


def _header(path: Path) -> tuple[str, ...]:
    """Columns of a table that is not read; () where its kind does not name them at its beginning or end."""
    if path.suffix == ".csv":
        import csv

        with path.open(encoding="utf-8-sig", newline="") as stream:
            return tuple(next(csv.reader(stream)))
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return tuple(pyarrow.parquet.read_schema(path).names)
    return ()


def _seen(column: Any) -> Seen:
    """What a column of the member file holds."""
    import pandas as pd

    from privacy_gate.frames import mistake
    from privacy_gate.request import Column

    types = pd.api.types
    gaps = bool(column.isna().any())
    if isinstance(column.dtype, pd.CategoricalDtype):
        levels, why = _listed(column, column.cat.categories.tolist())
        return Seen("category", gaps, levels=levels, why=why)
    if types.is_string_dtype(column.dropna()) and len(column.dropna()):
        levels, why = _listed(column, sorted(column.dropna().unique().tolist()))
        return Seen("string", gaps, levels=levels, why=why)
    word = _WORDS.get(str(column.dtype), str(column.dtype))
    if types.is_bool_dtype(column.dtype) and gaps:
        word = "object"  # boolean has no gaps
    numbers = types.is_numeric_dtype(column.dtype) and not types.is_complex_dtype(column.dtype)
    whole = bool(numbers and (column.dropna().astype("float64") % 1 == 0).all())
    return Seen(None if mistake(Column(dtype=word)) else word, gaps, whole)


def _listed(column: Any, levels: Sequence[Any]) -> tuple[tuple[Any, ...] | None, str]:
    """Levels that may be written to a file for all to read, or why not: values of few records tell of people."""
    if len(levels) > MOST_LEVELS:
        return None, f"levels are not listed: {len(levels)} are too many"
    if len(levels) >= int(column.notna().sum()):
        return None, "levels are not listed: each record has a value of its own"
    if any(isinstance(level, str) and _PERSONAL.search(level) for level in levels):
        return None, "levels are not listed: some look like addresses or numbers of people"
    if not all(isinstance(level, str | int | float | bool) for level in levels):
        return None, "levels are not listed: they are neither text nor numbers"
    return tuple(levels), ""


def _classes(labels: Any) -> tuple[Any, ...]:
    values = labels.dropna().unique().tolist()
    plain = all(isinstance(value, str | int | float | bool) for value in values)
    alike = len({type(value) for value in values}) == 1
    return tuple(sorted(values)) if plain and alike and 2 <= len(values) <= MOST_CLASSES else ()


# --- the draft ------------------------------------------------------------------------------------------------------


def draft(wishes: Wishes, known: Known) -> dict[Path, str]:
    """The files and their texts; nothing is written."""
    from privacy_gate import __version__

    render = _renderer()
    folder = wishes.folder
    recipe, about_recipe = _recipe(known.candidate)
    meaning = _meaning(wishes, known)
    config = render(
        "privacy-gate.yaml.jinja",
        version=__version__,
        model=wishes.model,
        tracking_uri=wishes.tracking_uri,
        datasets=_hints(known.candidate),
        members=_source(wishes.members, folder),
        nonmembers=_source(wishes.nonmembers, folder),
        columns=known.columns,
        schema=(schema := _schema(known, meaning)),
        gaps=_gaps(known, meaning, [name for name, _, _ in schema]),
        signed=bool(known.inputs),
        xgboost=known.candidate is not None and known.candidate.flavor == "xgboost",
        boosted=known.candidate is not None and known.candidate.flavor in _BOOSTED,
        unnamed=known.booster or (known.candidate is not None and known.candidate.flavor == "pyfunc"),
        classes=list(known.classes or (0, 1)),
        images=known.images,
        class_folders=list(known.classes) if known.images and meaning["label"] == FOLDER_LABEL else [],
        recipe=recipe,
        recipe_file=RECIPE_FILE,
        **about_recipe,
        **meaning,
    )
    files = {folder / CONFIG_FILE: config, folder / POLICY_FILE: _policy(wishes, render)}
    if recipe != "clone":
        files[folder / RECIPE_FILE] = render("shadow_recipe.py.jinja", recipe=recipe)
    if wishes.ci in CI_FILES:
        root = repository(folder)
        place = CI_FILES[wishes.ci]
        quoted = shlex.quote(os.path.relpath(folder.resolve() / CONFIG_FILE, root))
        files[root / place if root != folder.resolve() else folder / place] = render(
            _CI_TEMPLATES[wishes.ci],
            version=__version__,
            model=wishes.model,
            ci_path=place.as_posix(),
            doctor=f"privacy-gate doctor --config {quoted}",
            # After -- nothing is an option: a model that is called --exit-zero is no model.
            check=f"privacy-gate check --config {quoted} "
            '--out privacy-gate-report --format html --format markdown -- "$MODEL"',
        )
    return files


def _gaps(known: Known, meaning: Mapping[str, Any], features: Sequence[str]) -> list[str]:
    """Features in which values are missing; of a booster, which takes gaps, also where its features are not known."""
    boosted = known.candidate is not None and known.candidate.flavor in _BOOSTED
    no_feature = {meaning["label"], meaning["person"], *meaning["drop"]}
    asked = features or (list(known.types) if boosted else [])
    return [name for name in asked if name in known.types and known.types[name].gaps and name not in no_feature]


def _source(path: str | None, folder: Path) -> str | None:
    """A place that was given from here, as the config in `folder` must name it, in YAML."""
    if path is None:
        return None
    if function := None if _remote(path) else _FUNCTION.fullmatch(path):
        return f"{{dataset: {as_yaml(f'{_beside(function[1], folder)}:{function[2]}')}}}"
    return as_yaml(path if _remote(path) else _beside(path, folder))


def _beside(path: str, folder: Path) -> str:
    return path if os.path.isabs(path) else Path(os.path.relpath(path, folder)).as_posix()


def _schema(known: Known, meaning: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(column, its type in YAML, remark) of the model's inputs in its order; [] where they are not known.

    By the signature (or the model's own file) and the file of members. With neither by the file of members alone, if
    its label is known: the rest are features.
    """
    candidate = known.candidate
    if candidate is None or not (candidate.inputs or (known.types and meaning["label"])):
        return []
    no_feature = {meaning["label"]} if known.inputs else {meaning["label"], meaning["person"], *meaning["drop"]}
    asked = dict(candidate.inputs) or dict.fromkeys(known.named or known.columns, "")
    drafted = []
    for name, signed in asked.items():
        if name not in no_feature:
            typed = _type(known.types.get(name), signed, candidate.flavor)
            if typed is None:
                return []
            drafted.append((name, *typed))
    return drafted


def _type(seen: Seen | None, signed: str, flavor: str) -> tuple[str, str] | None:
    """The type of one input in YAML, and a remark; None: there is none for it."""
    word = _SIGNED.get(signed) if seen is None else _agreed(seen, signed)
    if word is None:
        return None
    text = word in ("string", "category")
    if not text or (word == "string" and flavor not in _BOOSTED):
        return as_yaml(word), ""
    if seen is None:
        return "category", "TODO: levels, if the model knows others than the files hold"
    if seen.type not in ("string", "category"):
        return "category", "the file holds no text here: write it as the training script had it"
    if seen.levels is None:
        return "category", seen.why
    if signed and flavor not in _BOOSTED:
        return "category", ""
    return f"{{dtype: category, levels: [{', '.join(map(as_yaml, seen.levels))}]}}", ""


def _agreed(seen: Seen, signed: str) -> str | None:
    """The type of a column of the file that the signature has as `signed`: files forget types, signatures do not."""
    wanted = _SIGNED.get(signed)
    if wanted == "integer" and seen.type == "float" and seen.whole:
        return "Int64" if seen.gaps else "integer"
    if wanted == "boolean" and seen.type in ("integer", "float", "string"):
        return "object" if seen.gaps else "boolean"
    changes = {
        ("float32", "float"),
        ("float32", "integer"),
        ("float", "integer"),
        ("datetime", "string"),
        ("string", "integer"),
        ("string", "float"),
        ("string", "boolean"),
    }
    return wanted if (wanted, seen.type) in changes else seen.type


def _hints(candidate: Candidate | None) -> Sequence[DatasetHint]:
    return candidate.datasets if candidate else ()


def _meaning(wishes: Wishes, known: Known) -> dict[str, Any]:
    """What the columns mean: as given, else by the model's signature, else by common names.

    A column that the model does not take is no feature: it is the label, the person, or to be dropped.
    """
    person_like = [c for c in known.columns if _PERSON_NAME.search(c)]
    others = [c for c in known.columns if c not in known.inputs] if known.inputs else []
    person, person_reason = wishes.person, "everything that splits, splits by person"
    if person is None:
        # Without the model's inputs nobody knows; a number of persons is hardly ever one of them.
        outside = [c for c in (others if known.inputs else known.columns) if c in person_like]
        if len(outside) == 1:
            person, person_reason = outside[0], "by its name; everything that splits, splits by person. TODO: right?"
    left = [c for c in others if c not in (wishes.label, person)]
    named = [c for c in (left or known.columns) if c.lower() in _LABEL_NAMES]
    label, label_reason = wishes.label, ""
    if label is None and len(left) == 1:
        label, label_reason = left[0], "the one column that is no input of the model"
    elif label is None and len(named) == 1:
        label, label_reason = named[0], "by its name. TODO: right?"
    elif label is None and known.images is not None:
        label, label_reason = FOLDER_LABEL, "the name of the folder that an image is in"
    return {
        "label": label,
        "label_reason": label_reason,
        "person": person,
        "person_reason": person_reason,
        "person_guess": person_like[0] if person_like else None,
        "drop": [c for c in left if c != label] if label is not None else [],
    }


def _recipe(candidate: Candidate | None) -> tuple[str, dict[str, Any]]:
    """clone, model or python, and what the template wants to know about it."""
    if candidate is None or candidate.flavor in _CLONED:
        return "clone", {"logged": _logged_settings(candidate)}
    reason = {"flavor_reason": _FLAVOR_REASONS[candidate.flavor]}
    if candidate.flavor != "pytorch":
        return "python", reason
    found = _logged_training(candidate.params)
    training = [(key, found.get(key, default), key in found) for key, default in _TORCH_DRAFT.items()]
    training += [(key, value, True) for key, value in found.items() if key not in _TORCH_DRAFT]
    return "model", {**reason, "training": training, "training_found": bool(found)}


def _logged_settings(candidate: Candidate | None) -> Logged | None:
    """What XGBoost's file has lost, by the log of the run that trained it; None where it has not, or logged none."""
    from privacy_gate.sandbox.traces import xgboost_settings

    if candidate is None or candidate.flavor != "xgboost":
        return None
    return xgboost_settings(candidate.params)


def _logged_training(params: Mapping[str, str]) -> dict[str, Any]:
    """Training settings among a run's parameters, as far as they mean something to the gate."""
    from pydantic import ValidationError

    from privacy_gate.request import TorchTraining

    found: dict[str, Any] = {}
    for ours, theirs in _TORCH_PARAMS.items():
        raw = next((params[name] for name in theirs if name in params), None)
        if raw is None:
            continue
        try:
            checked = TorchTraining.model_validate({"epochs": 1, ours: raw.strip().lower()})
        except ValidationError:
            continue  # theirs is not ours, e.g. an optimizer that we do not know: the draft keeps its TODO
        found[ours] = getattr(checked, ours)
    return found


def _policy(wishes: Wishes, render: Callable[..., str]) -> str:
    from privacy_gate.policy import CATALOG, resolve
    from privacy_gate.policy.plan import limit_text

    rules = []
    for rule in resolve(wishes.profile).rules:
        limit = getattr(rule.settings, "max", None)
        known = CATALOG[rule.id]
        shown = "" if limit is None else limit_text(limit, known.unit)
        rules.append({"id": rule.id, "title": known.title, "limit": shown, "action": rule.settings.action})
    name = re.match(r"models:/([^/@]+)", wishes.model or "")
    return render(
        "privacy-policy.yaml.jinja",
        policy_file=POLICY_FILE,
        policy_name=f"{name[1]}-release" if name else "release",
        profile=wishes.profile,
        rules=rules,
    )


def _renderer() -> Callable[..., str]:
    """Render a scaffold; `<<` and `<%` because workflows and shells use `{{` and `{%` themselves."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from privacy_gate.resources import templates

    environment = Environment(  # noqa: S701  (YAML and Groovy, not HTML: each value goes through its own filter)
        loader=FileSystemLoader(templates() / "scaffolds"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        variable_start_string="<<",
        variable_end_string=">>",
        block_start_string="<%",
        block_end_string="%>",
        comment_start_string="<#",
        comment_end_string="#>",
    )
    environment.filters |= {"yaml": as_yaml, "flow": as_flow, "comment": as_comment, "groovy": as_groovy}

    def render(name: str, **values: Any) -> str:
        return environment.get_template(name).render(**values)

    return render


def as_yaml(value: Any) -> str:
    """A YAML scalar: plain where every reader sees the same text, else quoted."""
    import yaml

    if not isinstance(value, str):
        return json.dumps(value)
    with contextlib.suppress(yaml.YAMLError, ValueError):  # "@" begins nothing; 2001-99-99 is no day
        if re.fullmatch(r"[\w./:@+-]+", value, re.ASCII) and yaml.safe_load(value) == value:
            return value
    return yaml.safe_dump(value, default_style='"', width=math.inf, allow_unicode=True).rstrip("\n")


def as_flow(value: Any) -> str:
    """A mapping, a list or a scalar in YAML, on one line."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{as_yaml(name)}: {as_flow(inner)}' for name, inner in value.items())}}}"
    return f"[{', '.join(map(as_flow, value))}]" if isinstance(value, list | tuple) else as_yaml(value)


def as_comment(value: Any) -> str:
    """Text from elsewhere on one line of a comment: it must not break out and become a setting."""
    from privacy_gate.cli.console import clean

    return " ".join("".join(c if c.isprintable() else " " for c in clean(value)).split())


def as_groovy(value: str) -> str:
    """A single-quoted Groovy string, which expands nothing."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    return f"'{escaped}'"


def _write(files: Mapping[Path, str], force: bool) -> None:
    """All files or, where one exists already, none."""
    from privacy_gate.errors import StorageFailed, UsageError
    from privacy_gate.storage import write_text

    there = [str(path) for path in files if path.exists() or path.is_symlink()]
    if there and not force:
        raise UsageError(
            f"nothing was written: {', '.join(there)} exist{'s' if len(there) == 1 else ''} already",
            "--force overwrites; --dir chooses another folder",
        )
    for path, text in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageFailed(f"{path.parent}: {error.strerror or error}", "choose another --dir") from error
        write_text(path, text, mode=0o644)  # drafts are for the repository; no record is in them
