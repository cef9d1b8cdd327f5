"""Any trainer: a program that reads files and leaves a model, or the answers of one, in a folder."""

from __future__ import annotations

import ast
import errno
import functools
import glob
import importlib.metadata
import itertools
import json
import os
import platform
import re
import shutil
import signal
import stat
import string
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from privacy_gate import features as tables
from privacy_gate.catalog import did_you_mean
from privacy_gate.datamodel import Description, Ints
from privacy_gate.errors import (
    ConfigError,
    DataError,
    GateError,
    ModelOutputUnusable,
    RecipeFailed,
    StorageFailed,
    UsageError,
)
from privacy_gate.features import AnyFeatures, Features
from privacy_gate.request import Recipe
from privacy_gate.sandbox import guard, models
from privacy_gate.sandbox.environment import clean_environment
from privacy_gate.sandbox.guard import Ended
from privacy_gate.sandbox.mlmodel import MLMODEL, flavor_of, read_mlmodel
from privacy_gate.sandbox.outputs import checked
from privacy_gate.sandbox.runtime import HERE, Runtime
from privacy_gate.sandbox.untrusted import clean
from privacy_gate.shadows.recipes import Answered, Context, recipe, training_defences
from privacy_gate.shadows.source import failed, parse, sources
from privacy_gate.storage import private_dir, sha256_of_file

PLACEHOLDERS: Mapping[str, str] = {
    "train": "file with the shadow's own records and their labels",
    "validation": "file with the seen records (data.seen) and their labels",
    "records": "file with all records that are asked about, without labels, in an order that tells nothing",
    "out": "empty private folder for the model, or for signals.npz",
    "seed": "a whole number below 2^32; all randomness comes from it",
}
SIGNALS = "signals.npz"

_KEY = "shadows.recipe.command"
_PASSED = "PRIVACY_GATE_COMMAND_"  # before the names of env: on their way through the worker, which obeys none of them
_ORDER_STREAM = 11  # keeps the order of {records} apart from every other use of a shadow's seed
_FULL = 16 << 20  # bytes that are free on a disk that is as good as full
_ASKED = 60.0  # seconds in which another interpreter must have told its versions

_KNOWN = f"known are {', '.join(f'{{{name}}}' for name in PLACEHOLDERS)}; a brace itself is {{{{ or }}}}"


# --- what was asked for -----------------------------------------------------------------------------------------------


def _pieces(word: str) -> Iterator[tuple[str, str | None]]:
    """(text, placeholder after it) in turn. Raises ConfigError."""
    try:
        found = list(string.Formatter().parse(word))
    except ValueError as error:
        raise ConfigError(f"{_KEY}: a single brace in {word!r}", _KNOWN) from error
    for text, name, spec, conversion in found:
        if name is not None and (name not in PLACEHOLDERS or spec or conversion):
            raise ConfigError(f"{_KEY}: there is no placeholder {{{name}}} ({word!r})", _KNOWN)
        yield text, name


def _used(command: Sequence[str]) -> frozenset[str]:
    """The placeholders of a command."""
    return frozenset(name for word in command for _, name in _pieces(word) if name is not None)


def _filled(command: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """The words with their placeholders filled in."""
    return ["".join(text + (values[name] if name else "") for text, name in _pieces(word)) for word in command]


def _plain(command: Sequence[str]) -> list[str]:
    """The words without a placeholder, doubled braces undone."""
    return ["".join(text for text, _ in _pieces(word)) for word in command if not _used([word])]


_SCRIPT = re.compile(r".*\.(py|ipynb|sh|r|jl|pl|rb|js)", re.IGNORECASE)


def named(command: Sequence[str]) -> str:
    """What messages call a command: its program, and its script where it has one; no other word of it."""
    module = next(_run_as_modules(command), None)
    script = next((os.path.basename(word) for word in command[1:] if _SCRIPT.fullmatch(word)), module)
    return clean(" ".join([os.path.basename(command[0]), *([script] if script else [])]), 120)


def _run_as_modules(command: Sequence[str]) -> Iterator[str]:
    """Names after -m."""
    return (name for option, name in itertools.pairwise(command) if option == "-m")


def check(settings: Recipe, folder: Path, runtime: Runtime = HERE) -> Path:
    """The program that a config names. Raises ConfigError for whatever can be told without running anything.

    folder  of the config
    """
    command = settings.command or []
    used = _used(command)
    for needed in ("train", "out"):
        if needed not in used:
            hint = f"it stands for the {PLACEHOLDERS[needed]}; {_KNOWN}"
            if needed == "out":  # scripts that log their model, and do nothing else, have no such option
                hint += "; a script that takes no folder can be told so: env OUT={out} python ..."
            raise ConfigError(f"{_KEY} has no {{{needed}}}", hint)
    if any("\0" in word for word in command):
        raise ConfigError(f"{_KEY} holds a null character", "no program can be given one")
    _from_env(settings.env)
    _inputs(settings.inputs, folder)
    program = _program(command[0], folder, runtime)
    _check_script(command, program, folder)
    return program


_INTERPRETER = re.compile(r"(python|pypy)\d*(\.\d+)?")


def _check_script(command: Sequence[str], program: Path, folder: Path) -> None:
    """A misspelt script is told before anything is trained. Raises ConfigError."""
    if not (_INTERPRETER.fullmatch(program.name) or program.name in ("sh", "bash", "dash", "Rscript")):
        return  # what the words of other programs mean is theirs to say
    first = next((word for word in command[1:] if word in ("-m", "-c") or not word.startswith("-")), "")
    if _SCRIPT.fullmatch(first) and not _used([first]) and not (folder / first).is_file():
        beside = sorted(path.name for path in folder.glob(f"*{Path(first).suffix}"))
        hint = did_you_mean(first, beside) if beside else f"paths start at {folder}"
        raise ConfigError(f"{_KEY}: there is no script {folder / first}", hint)


def _program(word: str, folder: Path, runtime: Runtime) -> Path:
    if _used([word]) or not word:
        raise ConfigError(f"{_KEY}: the first word is the program, {word!r} is none", "begin with python, for example")
    if word in ("python", "python3"):
        return runtime.python or Path(sys.executable)
    if "/" not in word:
        found = shutil.which(word, path=_path(clean_environment(os.environ, folder, runtime), runtime))
        if found is None:
            raise ConfigError(
                f"{_KEY}: there is no program {word!r} on the PATH",
                f"install it, or write its path; a program beside the config is ./{word}",
            )
        return Path(found)
    path = folder / word
    if not path.is_file():
        raise ConfigError(f"{_KEY}: there is no program {path}", f"paths start at {folder}")
    if not os.access(path, os.X_OK):
        raise ConfigError(f"{_KEY}: {path} is not executable", f"chmod +x {word}, or name its interpreter first")
    return path


def _path(environment: Mapping[str, str], runtime: Runtime) -> str:
    """The PATH of a command: the interpreter's own programs come first, whether its environment is activated or not."""
    return os.pathsep.join(
        [str((runtime.python or Path(sys.executable)).parent), environment.get("PATH") or os.defpath]
    )


def _from_env(names: Iterable[str]) -> dict[str, str]:
    """The variables that `env:` names. Raises ConfigError, without a value of them."""
    key = "shadows.recipe.env"
    for name in names:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ConfigError(f"{key}: {name!r} is not the name of a variable", "list names, without values")
        if name.lstrip("_").startswith("MLFLOW_"):
            raise ConfigError(
                f"{key}: {name} stays out: shadows are logged to a throw-away store",
                "the gate sets MLFLOW_TRACKING_URI and MLFLOW_REGISTRY_URI itself",
            )
        if name not in os.environ:
            raise ConfigError(f"{key}: {name} is not set", "set it where the gate runs, or take it off the list")
    return {name: os.environ[name] for name in names}


def _inputs(patterns: Iterable[str], folder: Path) -> list[Path]:
    """The files behind `inputs:`, and those in the folders that it names. Raises ConfigError."""
    found = set[Path]()
    for pattern in patterns:
        exact = folder / pattern
        matches = [exact] if exact.exists() else [folder / name for name in _globbed(pattern, folder)]
        files = {file for match in matches for file in (match.rglob("*") if match.is_dir() else [match])}
        files = {file for file in files if file.is_file()}
        if not files:
            raise ConfigError(
                f"shadows.recipe.inputs: no file matches {pattern!r}", f"paths and patterns start at {folder}"
            )
        found |= files
    return sorted(found)


def _globbed(pattern: str, folder: Path) -> list[str]:
    return glob.glob(pattern, root_dir=folder, recursive=True, include_hidden=True)


# --- what shadows depend on -------------------------------------------------------------------------------------------


def ready(settings: Recipe, folder: Path, runtime: Runtime = HERE) -> tuple[Path, list[Path], list[str]]:
    """The program, the files and the modules of a command: all that can be wrong before anybody asked the candidate.

    Raises ConfigError, as `check` does, and for code that would log to another registry than the throw-away store.
    """
    program = check(settings, folder, runtime)
    return program, *_sources(settings.command or [], program, folder)


def _identity(context: Context, description: Description | None) -> Mapping[str, Any]:
    settings = context.settings
    command = settings.command or []
    if chosen := training_defences(context):
        raise UsageError(
            f"the defence {chosen[0].title} cannot be put on your command: it alone knows how it trains",
            f"train with it in {named(command)} and say `in_recipe: true`, or choose another recipe",
        )
    program, files, modules = ready(settings, context.folder, context.runtime)
    return {
        "argv": list(command),
        "program": _versions(program, modules, context.runtime),
        "files": _digests(files, context.folder),
        "inputs": _digests(_inputs(settings.inputs, context.folder), context.folder),
        "env": sorted(set(settings.env)),
        "format": settings.files,
        "columns": [context.label, context.weight, context.person],
    }


def _digests(files: Iterable[Path], folder: Path) -> dict[str, str]:
    """Path from the config's folder -> sha256. Raises ConfigError."""
    try:
        return {Path(os.path.relpath(file, folder)).as_posix(): sha256_of_file(file) for file in files}
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}", "the command reads it: make it readable") from error


def _sources(command: Sequence[str], program: Path, folder: Path) -> tuple[list[Path], list[str]]:
    """The files among the words and what those of Python import beside them; modules that they import from elsewhere.

    Raises ConfigError where one of them would log to another registry than the throw-away store.
    """
    words = [part for word in _plain(command[1:]) for part in {word, word.partition("=")[2]} if part]
    given = [path for word in words if (path := folder / word).is_file()]
    if "/" in command[0]:
        given.append(program)
    code = {path for path in given if path.suffix in (".py", ".ipynb")}
    found = [file for path in sorted(code) for file in sources([path], path.parent)]
    run = {name.partition(".")[0] for name in _run_as_modules(command)}
    for name in sorted(run):
        found.extend(sources(_module(name, folder), folder))
    for path in found:
        _refuse_hard_wired(path)
    files = sorted({*given, *found})
    return files, sorted(run | {name for path in found for name in _imported(parse(path))})


def _module(name: str, folder: Path) -> list[Path]:
    """The files of a module beside the config; none where it is installed."""
    single = folder / f"{name}.py"
    return [single] if single.is_file() else sorted((folder / name).rglob("*.py"))


def _imported(tree: ast.Module) -> set[str]:
    """Top-level names of the modules that are imported, from wherever."""
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    return {name.partition(".")[0] for name in names}


def _refuse_hard_wired(path: Path) -> None:
    """A registry that is written into the code wins over the environment: every shadow would be registered there."""
    tree = parse(path)
    texts = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign) and _is_text(node.value)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        first = node.args[0]
        wired = _is_text(first) or (isinstance(first, ast.Name) and first.id in texts)
        if name in ("set_tracking_uri", "set_registry_uri", "MlflowClient") and wired:
            place = f"{path}:{node.lineno}" if path.suffix == ".py" else str(path)
            raise ConfigError(
                f"{place}: {name}() with a fixed address: every shadow would be logged there",
                f"leave it to the environment, or write {name}(os.environ.get('MLFLOW_TRACKING_URI', ...))",
            )


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


_ASK = (
    "import json, platform, sys\n"
    "from importlib import metadata\n"
    "owners = metadata.packages_distributions()\n"
    "names = sorted({owner for name in sys.argv[1:] for owner in owners.get(name, ())})\n"
    "print(json.dumps([platform.python_version(), {name: metadata.version(name) for name in names}]))\n"
)


@functools.cache
def _owners() -> Mapping[str, list[str]]:
    """Module -> the distributions that installed it, in this interpreter."""
    return importlib.metadata.packages_distributions()


def _versions(program: Path, modules: Sequence[str], runtime: Runtime) -> Mapping[str, Any]:
    """Of the interpreter and of what the sources import; of other programs their content."""
    own = runtime.python or Path(sys.executable)
    is_python = _INTERPRETER.fullmatch(program.name) is not None
    # Whatever starts `python` finds that of the gate's runtime first.
    python = program if is_python and program.parent != own.parent else own
    beside = {} if is_python else {"sha256": sha256_of_file(program)}
    if python == Path(sys.executable):
        owners = _owners()
        packages = sorted({owner for name in modules for owner in owners.get(name, ())})
        found = {name: importlib.metadata.version(name) for name in packages}
        return {**beside, "python": platform.python_version(), "packages": found}
    try:
        told = subprocess.run(  # noqa: S603  # the interpreter that the config names, isolated, on our own text
            [str(python), "-I", "-B", "-c", _ASK, *modules],
            capture_output=True,
            check=True,
            timeout=_ASKED,
            env=clean_environment(os.environ, Path(tempfile.gettempdir()), runtime),
        )
        version, packages = json.loads(told.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise ConfigError(
            f"{_KEY}: the interpreter {python} does not tell its versions ({type(error).__name__})",
            "it must be Python 3.10 or newer",
        ) from error
    return {**beside, "python": version, "packages": packages}


# --- in the worker ----------------------------------------------------------------------------------------------------


def _passed(settings: Recipe) -> Mapping[str, str]:
    return {_PASSED + name: value for name, value in _from_env(settings.env).items()}


@recipe(
    id="command",
    labels="values",
    imports=(),
    identity=_identity,
    seen=lambda settings: "validation" in _used(settings.command or ()),
    persons=lambda settings: settings.command is not None,
    passed=_passed,
)
def command(features: Features, labels: NDArray[Any], seed: int, context: Context) -> Any:
    """The program of the config, run in its folder; it leaves an MLflow model, or signals.npz, in {out}.

    There is no shell. `python` and `python3` as the first word are the interpreter that the gate runs models with
    (`environment:`), whose folder comes first on the PATH; a word with a slash is a path from the config's folder;
    any other is looked up on the PATH.

    {train} and {validation} hold the features, the labels under data.label, and where they are declared the weights
    under data.weight and, in {train}, the persons under data.person, as whole numbers. Tables are parquet (types and
    levels of categories are kept, but for levels that are numbers: they come as numbers) or csv; arrays are npz,
    features under x. An array as a table has columns x0, x1, ...

    The model is {out}/MLmodel, or the one model below {out}; where there is none, the one model that was logged to the
    throw-away store which MLFLOW_TRACKING_URI and MLFLOW_REGISTRY_URI point at. signals.npz, which takes {records},
    holds `probs` or `logits` [n, K] in the order of {records}, columns in the order of the candidate's classes, or of
    an array `classes` [K] beside them. A command that fails is run again, `shadows.retries` times.
    """
    words = context.settings.command or []
    who, runs = f"the command {named(words)}", context.retries + 1
    program = _found_program(context)
    with _storing():
        work = _work_folder()
        files, order = _records(features, labels, seed, context, work, _used(words))
    for run in range(1, runs + 1):
        with _storing():
            place = _Place.fresh(work)
        argv = [program, *_filled(words[1:], {**files, "out": str(place.out), "seed": str(seed % 2**32)})]
        with suppress(OSError):  # the log's own line; user code may have closed it
            os.write(1, f"privacy-gate: {who}, run {run} of at most {runs}\n".encode())
        ended = _run(argv, place, context, who)
        if ended.code == 0:
            for file in files.values():  # the model may stay here for as long as it is asked; its records need not
                Path(file).unlink(missing_ok=True)
            return _left(place, who, order, context)
    raise _ended_badly(who, ended, runs, work)


@contextmanager
def _storing() -> Iterator[None]:
    """What the gate itself cannot write is no fault of the command."""
    try:
        yield
    except OSError as error:
        raise StorageFailed(f"a worker cannot write: {error.strerror or error}", "free some space") from error


def _found_program(context: Context) -> str:
    """The program, as the worker finds it."""
    return str(_program((context.settings.command or [""])[0], context.folder, context.runtime))


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one run of a command works.

    out        empty, for what it leaves
    home       its HOME and TMPDIR
    artifacts  of the throw-away store
    database   of the throw-away store
    """

    out: Path
    home: Path
    artifacts: Path
    database: Path

    @classmethod
    def fresh(cls, work: Path) -> _Place:
        """Without anything of an earlier run."""
        folder = work / "run"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        out, home, artifacts = (private_dir(folder / name) for name in ("out", "home", "artifacts"))
        return cls(out, home, artifacts, folder / "mlflow.db")


def _work_folder() -> Path:
    """Private, and empty: what the shadow before left here is no longer asked."""
    folder = Path(tempfile.gettempdir()).absolute() / f"privacy-gate-command-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    return folder


def _environment(place: _Place, context: Context) -> dict[str, str]:
    own = clean_environment(os.environ, place.home, context.runtime)
    for name in context.settings.env:
        if _PASSED + name not in os.environ:
            raise RecipeFailed(f"the variable {name} did not reach the worker", "set it where the gate runs")
        own[name] = os.environ[_PASSED + name]
    store = f"sqlite:///{place.database}"
    return own | {
        "PATH": _path(own, context.runtime),
        "MLFLOW_TRACKING_URI": store,
        "MLFLOW_REGISTRY_URI": store,
        # What MLflow's server tells its own processes. Without it a local store keeps its files in ./mlruns.
        "_MLFLOW_SERVER_ARTIFACT_ROOT": str(place.artifacts),
    }


def _run(argv: list[str], place: _Place, context: Context, who: str) -> Ended:
    try:
        ended = guard.run(argv, folder=context.folder, environment=_environment(place, context))
    except OSError as error:
        raise RecipeFailed(f"{who} cannot be started: {error.strerror}", "fewer --jobs need fewer processes") from error
    if ended.code is None:
        why = os.strerror(ended.errno) if ended.errno else "its process could not be prepared"
        hint = "begin the file with #! and its interpreter" if ended.errno == errno.ENOEXEC else "run it by hand"
        raise RecipeFailed(f"{who} cannot be started: {why}", hint)
    return ended


def _ended_badly(who: str, ended: Ended, runs: int, work: Path) -> GateError:
    code = ended.code or 0
    how = f"exit code {code}" if code > 0 else _signal(-code)
    times = "in its only run" if runs == 1 else f"in the last of {runs} runs, all of which failed"
    if shutil.disk_usage(work).free < _FULL:
        return StorageFailed(f"{who} ended with {how}, {times}; the disk is full", "free some space")
    memory = "out of memory, perhaps; " if code == -signal.SIGKILL else ""
    return RecipeFailed(f"{who} ended with {how}, {times}", f"{memory}run it by hand on a few records")


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


# --- what a command reads ---------------------------------------------------------------------------------------------


def _records(
    features: Features, labels: NDArray[Any], seed: int, context: Context, work: Path, used: frozenset[str]
) -> tuple[dict[str, str], Ints | None]:
    """Placeholder -> the file that was written for it; which record stands in each row of {records}."""
    frame = tables.is_frame(features)
    kind = context.settings.files or ("parquet" if frame else "npz")
    weights = {context.weight: context.weights} if context.weight and context.weights is not None else {}
    persons = {context.person: context.persons} if context.person and context.persons is not None else {}
    files = {"train": _write(features, {context.label: labels, **weights, **persons}, work / "train", kind)}
    if "validation" in used:
        if context.reference is None:
            raise ConfigError(f"{_KEY}: {{validation}} takes data.seen", "name the seen records under data.seen")
        seen, theirs = context.reference
        files["validation"] = _write(seen, {context.label: theirs}, work / "validation", kind)
    order = None
    if "records" in used:
        assert context.records is not None
        order = np.random.default_rng([_ORDER_STREAM, seed]).permutation(len(context.records))
        files["records"] = _write(context.records, {}, work / "records", kind, order)
    return {name: str(file) for name, file in files.items()}, order


Kind = Literal["parquet", "csv", "npz"]


def _write(
    features: AnyFeatures, beside: Mapping[str, NDArray[Any]], stem: Path, kind: Kind, order: Ints | None = None
) -> Path:
    """A file of the features, and of columns beside them, for a program to read; the rows in `order`."""
    path = stem.with_suffix(f".{kind}")
    try:
        if kind == "npz":
            _write_arrays(features, beside, path, order)
        else:
            table = _table(features if order is None else tables.take(features, order), beside)
            table.to_parquet(path, index=False) if kind == "parquet" else table.to_csv(path, index=False)
    except OSError:
        raise
    except (ValueError, TypeError, OverflowError) as error:  # its words quote the value that did not fit
        raise DataError(
            f"the records cannot be written as {kind} ({type(error).__name__})",
            "give every column values of one type, or choose another format under shadows.recipe.files",
        ) from error
    path.chmod(0o400)  # a second run reads what the first one did
    return path


def _table(features: AnyFeatures, beside: Mapping[str, NDArray[Any]]) -> Any:
    """A frame; columns beside the features come last. A person or weight that is a feature, too, stays what it is."""
    import pandas as pd

    rows = tables.in_memory(features)
    if isinstance(rows, np.ndarray):
        if rows.ndim != 2:
            raise ConfigError(
                f"shadows.recipe.files: records of {rows.ndim - 1} axes are no table", "write `files: npz`"
            )
        table = pd.DataFrame(rows, columns=[f"x{i}" for i in range(rows.shape[1])])
    else:
        table = rows.copy(deep=False)
    more = {name: values for name, values in beside.items() if name not in table.columns}
    return table.assign(**more)


def _write_arrays(features: AnyFeatures, beside: Mapping[str, NDArray[Any]], path: Path, order: Ints | None) -> None:
    """An uncompressed .npz, block by block: features may be larger than the memory."""
    if tables.is_frame(features):
        features = features.to_numpy()
    rows = np.arange(len(features)) if order is None else order
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("x.npy", "w", force_zip64=True) as stream:
            if features.dtype.hasobject:
                raise ValueError("values of several types")
            header = {"descr": features.dtype.str, "fortran_order": False, "shape": features.shape}
            np.lib.format.write_array_header_2_0(stream, header)
            step = tables.batch_rows(features, 1 << 16)
            for start in range(0, len(rows), step):
                stream.write(np.ascontiguousarray(features[rows[start : start + step]]).data)
        for name, values in beside.items():
            with archive.open(f"{name}.npy", "w") as stream:
                np.lib.format.write_array(stream, np.asarray(values), allow_pickle=False)


# --- what a command leaves --------------------------------------------------------------------------------------------


def _left(place: _Place, who: str, order: Ints | None, context: Context) -> Any:
    """The model, or the answers, that a command left. Raises RecipeFailed, ModelOutputUnusable."""
    found = _models(place.out)
    answers = place.out / SIGNALS
    if os.path.lexists(answers):
        if found:
            raise RecipeFailed(f"{who} left a model and {SIGNALS}", "leave one of them in {out}")
        return _signals(answers, who, order, context)
    where = "{out}"
    if not found:
        found, where = _models(place.artifacts), "the throw-away store"
    if not found:
        raise RecipeFailed(
            f"{who} ended well and left neither an MLflow model nor {SIGNALS} in {{out}}, and logged no model",
            "save the model there: mlflow.sklearn.save_model(model, out), for example",
        )
    if len(found) > 1:
        raise RecipeFailed(f"{who} left {len(found)} models in {where}", "leave the one that is released, in {out}")
    return _loaded(found[0], who)


def _models(folder: Path) -> list[Path]:
    """The model folders in and below `folder`; what is inside of one is a part of it. Links are not followed."""
    if _is_regular(folder / MLMODEL):
        return [folder]
    below = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.is_symlink())
    return [model for entry in below for model in _models(entry)]


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _loaded(folder: Path, who: str) -> Any:
    try:
        flavor = flavor_of(read_mlmodel(folder))
    except UsageError as error:
        raise RecipeFailed(f"{who} left a model whose {MLMODEL} file cannot be read", error.hint) from error
    try:
        model = models.load(folder, flavor)
        kind = models.describe(model, flavor).kind
    except GateError:
        raise
    except (Exception, SystemExit) as error:
        raise failed(f"loading the model that {who} left", error, folder) from error
    if kind == "regressor":
        raise RecipeFailed(f"{who} left a regressor", "train a classifier, as the candidate is one")
    return model


def _signals(path: Path, who: str, order: Ints | None, context: Context) -> Answered:
    """The answers in a signals.npz, in the order of the records. Raises RecipeFailed, ModelOutputUnusable."""
    if order is None:
        raise RecipeFailed(f"{who} left {SIGNALS} and was given no {{records}}", "add {records} to the command")
    arrays = _arrays(path, who, len(order) * len(context.class_values))
    values = [name for name in ("probs", "logits") if name in arrays]
    odd = sorted(set(arrays) - {"probs", "logits", "classes"})
    if len(values) != 1 or odd:
        raise RecipeFailed(
            f"{who}: {SIGNALS} holds {clean(', '.join(sorted(arrays)) or 'nothing', 200)}",
            "it must hold probs or logits [n, K], one of the two, and perhaps classes [K]",
        )
    raw, classes = arrays[values[0]], arrays.get("classes")
    columns = len(context.class_values) if classes is None else len(classes.reshape(-1))
    if raw.ndim != 2 or raw.shape != (len(order), columns):
        raise ModelOutputUnusable(
            f"{SIGNALS}: {values[0]} has shape {list(raw.shape)}, expected {[len(order), columns]}",
            "one row for each row of {records}, one column for each class",
        )
    try:
        outputs = checked(raw, "logits" if values[0] == "logits" else "probabilities", len(order))
    except ModelOutputUnusable as error:
        raise ModelOutputUnusable(f"{SIGNALS}: {error.what}", error.hint) from error
    sorted_back = np.empty_like(outputs.values)
    sorted_back[order] = outputs.values
    return Answered(sorted_back, outputs.kind, classes)


def _arrays(path: Path, who: str, numbers: int) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz: no pickles, no links, no more than that many numbers can take."""
    wrong = RecipeFailed(f"{who}: {SIGNALS} cannot be read", "write it with numpy.savez, without objects")
    if not _is_regular(path):
        raise wrong
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > numbers * 16 + (1 << 20):
                raise RecipeFailed(f"{who}: {SIGNALS} is too large", "it must hold one number per record and class")
        return tables.read_npz(path)
    except (DataError, zipfile.BadZipFile, OSError) as error:
        raise wrong from error
