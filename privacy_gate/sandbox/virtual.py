"""A virtual environment with a model's own requirements, built once and kept in the store.

The gate reaches the package index that pip is configured for, and only where a config says `environment: model`.
Packages come as wheels: to build one from source would run its code here. What is installed is run by nobody but the
sandbox.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from privacy_gate.errors import EvaluationFailed, GateError, StorageFailed, UsageError
from privacy_gate.sandbox import guard
from privacy_gate.sandbox.interpreters import OLDEST, ask
from privacy_gate.sandbox.untrusted import clean
from privacy_gate.storage import private_dir, sha256_of_json, write_text

FOLDER = "environments"
_SEAL = "complete.json"  # written last: what has none was never finished
_LIMIT = 1800.0  # seconds for pip
_DAY = 86400.0
_WHICH = "import json, sys\nsys.stdout.write(json.dumps({'v': '%d.%d.%d' % tuple(sys.version_info[:3])}))"

# What pip needs of the caller's settings: which index, and how to get there. No tokens of the registry or of a cloud.
_PASSED = frozenset(
    {
        "PATH",
        "HOME",
        "USER",
        "LANG",
        "TMPDIR",
        "LD_LIBRARY_PATH",
        "XDG_CONFIG_HOME",
        "XDG_CONFIG_DIRS",
        "XDG_CACHE_HOME",
    }
    | {"NETRC", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}
    | {name for proxy in ("http_proxy", "https_proxy", "all_proxy", "no_proxy") for name in (proxy, proxy.upper())}
)
# These would put packages elsewhere than into the new environment, or more into it than the model asks for.
_ELSEWHERE = frozenset({"PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_PYTHON", "PIP_REQUIREMENT", "PIP_LOG"})


def interpreter(wanted: tuple[int, int] | None) -> tuple[Path, str]:
    """The Python to build with, and its full version: the gate's own if that fits, else pythonX.Y on the PATH.

    wanted  major and minor version; None: any
    Raises UsageError where there is none.
    """
    if wanted is None or wanted == sys.version_info[:2]:
        return Path(sys.executable), platform.python_version()
    named = ".".join(map(str, wanted))
    if wanted < OLDEST:
        raise UsageError(
            f"environment: model: the model was logged with Python {named}; the gate's own part needs "
            f"{'.'.join(map(str, OLDEST))} or newer",
            "log the model again from a newer Python, or load it with the gate's: environment: current",
        )
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        python = Path(folder) / f"python{named}"
        if folder and os.access(python, os.X_OK):
            # A launcher that stands for a version which is not installed is none.
            with contextlib.suppress(UsageError):
                version = ask(python, _WHICH, (), 30.0).get("v")
                if isinstance(version, str) and re.fullmatch(rf"{re.escape(named)}\.\d{{1,3}}", version):
                    return python, version
    raise UsageError(
        f"environment: model: the model was logged with Python {named}, and there is no python{named} on the PATH",
        f"install Python {named}, or name an interpreter: environment: /path/to/python",
    )


def environment(
    requirements: Sequence[str],
    wanted: tuple[int, int] | None,
    store: Path,
    *,
    limit: float = _LIMIT,
    stage: Callable[[str], None] = lambda _: None,
) -> Path:
    """The interpreter of the environment with these requirements; built if there is none yet, or if it was changed.

    Models share it: what one of them wrote into it must not reach the next one.

    requirements  as `logged.requirements` gives them
    wanted        major and minor version of Python; None: any
    store         root of the gate's store
    limit         seconds for pip
    stage         is told that one is being built
    Raises UsageError (no such Python, or a package without a wheel), EvaluationFailed (pip failed), StorageFailed.
    """
    python, version = interpreter(wanted)
    key = sha256_of_json(
        {
            "requirements": list(requirements),
            "python": version,
            "interpreter": os.path.realpath(python),
            "machine": platform.machine(),
        }
    )
    folder = private_dir(private_dir(store) / FOLDER) / key
    with _locked(folder):
        if not _whole(folder):
            stage(f"building the environment of the model: {len(requirements)} requirements, Python {version}")
            _build(folder, python, requirements, private_dir(store / "logs"), limit)
        with contextlib.suppress(OSError):  # only tells `prune` what was used last
            os.utime(folder / _SEAL)
    return folder / "bin" / "python"


def content(python: Path) -> str:
    """sha256 over what is in a built environment: names, kinds, sizes and times, which no model can set back."""
    folder, found = python.parent.parent, []
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            status = path.lstat()
            about = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
            # The time of a folder is that of what is in it, which is here itself; that of the seal is its last use.
            found.append(
                [str(path.relative_to(folder)), status.st_mode, *([] if stat.S_ISDIR(status.st_mode) else about)]
            )
    return sha256_of_json(sorted(one for one in found if one[0] != _SEAL))


def _whole(folder: Path) -> bool:
    """Whether it was finished, and is what it was then."""
    try:
        told = json.loads((folder / _SEAL).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(told, dict) and told.get("content") == content(folder / "bin" / "python")


def prune(store: Path, *, older_than: float, dry_run: bool = False) -> list[str]:
    """Remove environments that were not used for `older_than` seconds, a day at least: a run may last for hours.

    Returns their names. Half-built ones go, too.
    """
    before, removed = time.time() - max(older_than, _DAY), []
    for folder in sorted((store / FOLDER).glob("*/")):
        with _locked(folder):
            if (used := _used(folder)) is not None and used < before:
                removed.append(folder.name)
                if not dry_run:
                    _remove(folder)
    return removed


def _used(folder: Path) -> float | None:
    """Seconds since the epoch of its last use, or of its last change where it was never finished."""
    for path in (folder / _SEAL, folder):
        with contextlib.suppress(FileNotFoundError):
            return path.stat().st_mtime
    return None


# --- building -------------------------------------------------------------------------------------------------------


def _build(folder: Path, python: Path, requirements: Sequence[str], logs: Path, limit: float) -> None:
    """In its final place, since scripts in an environment carry its path; the seal makes it whole."""
    _remove(folder)
    try:
        descriptor, name = tempfile.mkstemp(dir=logs, prefix="environment-", suffix=".log")
        os.close(descriptor)
        log = Path(name)
        _run([str(python), "-I", "-m", "venv", str(folder)], log, _LIMIT, "no environment could be made")
        listed = folder / "requirements.txt"
        write_text(listed, "".join(f"{line}\n" for line in requirements))
        own = str(folder / "bin" / "python")
        # Nothing that a package brings runs here: pip unpacks wheels, and it has started before they are there.
        pip = ["-m", "pip", "install", "--only-binary", ":all:", "--no-input", "--disable-pip-version-check"]
        pip += ["--no-color", "--progress-bar", "off", "--no-warn-script-location", "--requirement", str(listed)]
        _run([own, "-I", *pip], log, limit, "the model's requirements could not be installed")
        write_text(folder / _SEAL, json.dumps({"content": content(folder / "bin" / "python")}))
    except OSError as error:
        raise StorageFailed(f"{folder}: {error.strerror or error}", "choose another store") from error
    except GateError:
        _remove(folder)
        raise
    log.unlink(missing_ok=True)


def _run(command: Sequence[str], log: Path, limit: float, failed: str) -> None:
    """Run one of Python's own tools with the caller's settings of pip; its words go to the log alone.

    It ends with this process: the next gate would build anew what a tool that was left behind still writes to.
    """
    hint = f"what it said is in logs/{log.name} in the store"
    try:
        with log.open("ab") as stream:
            ended = guard.run(command, folder=log.parent, environment=_callers(os.environ), output=stream, limit=limit)
    except subprocess.TimeoutExpired:
        raise EvaluationFailed(f"environment: model: {failed} within {limit:g} s", hint) from None
    if ended.code == 0:
        return
    if package := _without_wheel(log):
        raise UsageError(
            f"environment: model: the package index has no wheel that fits for {package}",
            "only wheels are installed, since building a package runs its code: build one with `pip wheel` where pip"
            f" finds it (PIP_FIND_LINKS), or name an interpreter: environment: /path/to/python; {hint}",
        )
    how = "it does not start" if ended.code is None else f"exit code {ended.code}"
    raise EvaluationFailed(f"environment: model: {failed} ({how})", hint)


def _callers(own: Mapping[str, str]) -> dict[str, str]:
    """The part of the caller's environment that pip works with."""
    kept = {k: v for k, v in own.items() if k in _PASSED or (k.startswith("PIP_") and k not in _ELSEWHERE)}
    return kept | {"PIP_USER": "0"}


def _without_wheel(log: Path) -> str | None:
    """The requirement that pip found nothing for; the name comes from an index, so it is checked."""
    words = log.read_text(errors="replace")[-100_000:]
    found = re.search(r"No matching distribution found for ([A-Za-z0-9][^\s;]{0,80})", words)
    return None if found is None else clean(found[1])


def _remove(folder: Path) -> None:
    """The seal first: what is removed half is not taken for whole."""
    with contextlib.suppress(OSError):
        (folder / _SEAL).unlink()
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One gate at a time; another one waits, and finds what the first one built. The lock's file stays."""
    try:
        descriptor = os.open(folder.with_name(f".{folder.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageFailed(f"{folder.parent}: {error.strerror or error}", "choose another store") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
