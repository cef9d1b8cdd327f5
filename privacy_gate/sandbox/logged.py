"""What a model folder says that the model was made with: Python, libraries, requirements. Nothing is loaded.

A stranger wrote these files: what comes out of them are names and versions, checked, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from privacy_gate.errors import UsageError
from privacy_gate.sandbox.mlmodel import flavors, parsed, read_mlmodel
from privacy_gate.sandbox.untrusted import clean

if TYPE_CHECKING:
    from packaging.requirements import Requirement
    from packaging.version import Version

REQUIREMENTS, PYTHON_ENV, CONDA = "requirements.txt", "python_env.yaml", "conda.yaml"
_MOST_BYTES = 1 << 20
_MOST_LINES = 1000
_LONGEST_NAME = 100

# Settings of MLflow's flavors -> the distribution whose version they are.
_SETTINGS = {
    "sklearn": {"sklearn_version": "scikit-learn"},
    "pytorch": {"pytorch_version": "torch"},
    "lightgbm": {"lgb_version": "lightgbm"},
    "xgboost": {"xgb_version": "xgboost"},
    "python_function": {"python_version": "python", "cloudpickle_version": "cloudpickle"},
}
_BOOSTING = ("lightgbm", "xgboost")
# The same module under another name.
ALSO = {"xgboost": "xgboost-cpu", "xgboost-cpu": "xgboost"}
# How many parts of a version must agree: a library's objects are only promised to load in the same minor version, these
# ones' in the same major one.
_PARTS, _FEWER_PARTS = 2, {"numpy": 1, "mlflow": 1, "cloudpickle": 1}
# Libraries that a model of this flavor is made of: a wrapper or a pipeline holds another library's model. They are told
# first.
_MADE_OF = {
    "sklearn": ("scikit-learn", *_BOOSTING),
    "pytorch": ("torch",),
    "lightgbm": ("lightgbm", "scikit-learn"),
    "xgboost": ("xgboost", "scikit-learn"),
    "pyfunc": ("scikit-learn", "torch", *_BOOSTING),
}


def normal(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def made_with(snapshot: Path) -> dict[str, str]:
    """Distribution, and "python" -> version that the model was logged with; what nobody told, or junk, is absent."""
    told, own = flavors(read_mlmodel(snapshot)), {}
    if python := _python_env(snapshot):
        own["python"] = python
    for flavor, names in _SETTINGS.items():
        for setting, name in names.items():
            if (version := _version(told.get(flavor, {}).get(setting))) is not None:
                own[name] = str(version)
    # The flavor's own word is of what was there; a requirement may have been written by hand.
    return {**_pins(snapshot, own.get("python")), **own}


def differences(made: Mapping[str, str], have: Mapping[str, str], flavor: str, pickled: bool) -> tuple[str, ...]:
    """What may keep the model from loading, or change what it answers: "scikit-learn 1.5.2, here 1.9.1".

    What it is made of comes first, then what is not there, then other major versions. A requirement that only its
    training had is told, too: nobody can tell which these are.
    made     as `made_with` tells it
    have     distribution, and "python" -> version in the interpreter that will load it
    pickled  whether it was written by cloudpickle, which promises nothing across its own versions
    """
    first = ["python", *_MADE_OF.get(flavor, ()), "numpy", *(["cloudpickle"] if pickled else [])]
    found = []
    for name in dict.fromkeys([*first, *sorted(made)]):
        was, is_now = _version(made.get(name)), _version(have.get(name, have.get(ALSO.get(name, name))))
        if was is None or (name == "cloudpickle" and not pickled):
            continue
        rank = first.index(name) if name in first else len(first)
        count = _FEWER_PARTS.get(name, _PARTS)
        if is_now is None and name not in ("python", "cloudpickle"):
            found.append((rank, 0, f"{name} {was}, here none"))
        elif is_now is not None and _release(was, count) != _release(is_now, count):
            shown = "Python" if name == "python" else name
            found.append((rank, 1 + (was.major == is_now.major), f"{shown} {was}, here {is_now}"))
    return tuple(text for _, _, text in sorted(found, key=lambda one: one[:2]))


def _release(version: Version, count: int) -> tuple[int, ...]:
    """Its first parts: 2 is 2.0."""
    return (*version.release, *[0] * count)[:count]


def pickled(snapshot: Path) -> bool:
    """Whether a flavor of the model was written by pickle or cloudpickle."""
    told = flavors(read_mlmodel(snapshot))
    formats = {str(settings.get("serialization_format")) for settings in told.values()}
    return bool(formats & {"pickle", "cloudpickle"}) or "cloudpickle_version" in told.get("python_function", {})


def python_wanted(snapshot: Path) -> tuple[int, int] | None:
    """Major and minor version of Python that the model was logged with; None where nobody told."""
    version = _version(made_with(snapshot).get("python"))
    return None if version is None or len(version.release) < 2 else (version.release[0], version.release[1])


def requirements(snapshot: Path) -> tuple[str, ...]:
    """The model's own requirements, each `name[extras] specifier; marker`, written anew, in their order.

    Raises UsageError where there are none, or where a line is anything else: an option, a path, a URL. A model must not
    choose where code comes from.
    """
    lines = _lines(snapshot)
    if not lines:
        raise UsageError(
            f"environment: model: the model has neither {REQUIREMENTS} nor pip requirements in {CONDA}",
            "log it with pip_requirements=[...], or name an interpreter: environment: /path/to/python",
        )
    found = []
    for number, line in lines:
        requirement = _requirement(line)
        if requirement is None:
            raise UsageError(
                f"environment: model: requirement {number} of the model ({clean(line, 60)}) is no name with versions",
                "options, paths and URLs are refused: the model must not choose where code comes from; make the"
                " environment yourself and name its interpreter: environment: /path/to/python",
            )
        found.append(str(requirement))
    return tuple(dict.fromkeys(found))


# What pip reads out of a line beside a requirement: escapes and joined lines, variables, options after a space.
_MORE = re.compile(r"[^ -~]|[\\$]| -")


def _requirement(line: str) -> Requirement | None:
    """What pip would look up in its index; None for everything else.

    A marker may hold any text, an escaped end of line among it: written anew, that would be a line of its own for pip.
    """
    from packaging.requirements import Requirement

    try:
        requirement = Requirement(line)
        same = Requirement(str(requirement)) == requirement
    # InvalidRequirement is a ValueError; a text with both kinds of quotes cannot be written, either. A marker may be
    # brackets in brackets.
    except (ValueError, RecursionError):
        return None
    return requirement if requirement.url is None and same and not _MORE.search(f"{line}{requirement}") else None


def _pins(snapshot: Path, python: str | None) -> dict[str, str]:
    """Distribution -> the one version that the model's requirements pin it to; {} where the files are junk.

    Of two versions of the same one, nobody can say which was there.
    python  that the model was logged with; some requirements are of others
    """
    try:
        lines = _lines(snapshot)
    except UsageError:
        return {}
    found: dict[str, set[str]] = {}
    for _, line in lines:
        one = _requirement(line)
        if one is None or len(one.name) > _LONGEST_NAME or not _applies(one, python):
            continue
        if (version := _pinned(one)) is not None:
            found.setdefault(normal(one.name), set()).add(version)
    # No distribution is Python itself, whatever it is called.
    return {name: min(versions) for name, versions in found.items() if len(versions) == 1 and name != "python"}


def _applies(requirement: Requirement, python: str | None) -> bool:
    """Whether its marker is true of that Python, on this machine."""
    if requirement.marker is None:
        return True
    known = {"extra": ""}
    if python is not None:
        known |= {"python_full_version": python, "python_version": ".".join(python.split(".")[:2])}
    try:
        return requirement.marker.evaluate(known)
    except (ValueError, KeyError, RecursionError):  # it asks for what nobody knows, or compares what has no order
        return False


def _pinned(requirement: Requirement) -> str | None:
    """The version that `==` names."""
    exact = [one.version for one in requirement.specifier if one.operator in ("==", "===")]
    version = _version(exact[0]) if len(exact) == 1 else None
    return None if version is None else str(version)


def _version(told: Any) -> Version | None:
    from packaging.version import InvalidVersion, Version

    try:
        return Version(told) if isinstance(told, str) and len(told) <= 60 else None
    except InvalidVersion:
        return None


# --- files ----------------------------------------------------------------------------------------------------------


def _lines(snapshot: Path) -> list[tuple[int, str]]:
    """(number, text) of the lines that say something; of conda.yaml where there is no requirements.txt."""
    text = _text(snapshot / REQUIREMENTS)
    if text is None and (snapshot / REQUIREMENTS).exists():
        raise UsageError(f"the model's {REQUIREMENTS} cannot be read", "log the model again")
    raw = text.splitlines() if text is not None else list(_conda(snapshot))
    if len(raw) > _MOST_LINES:
        raise UsageError(f"the model has {len(raw):,} requirements", f"at most {_MOST_LINES:,} are read")
    # A comment starts a line, or follows a space, as pip reads it.
    told = [(number, re.sub(r"(^|\s)#.*$", "", line).strip()) for number, line in enumerate(raw, 1)]
    return [(number, line) for number, line in told if line]


def _conda(snapshot: Path) -> Iterator[str]:
    """The pip part of conda.yaml; UsageError where conda itself would bring more than Python and pip."""
    told = _yaml(snapshot / CONDA)
    listed = told.get("dependencies") if isinstance(told, dict) else None
    for one in listed if isinstance(listed, list) else ():
        if isinstance(one, dict):
            yield from (str(line) for line in _listed(one.get("pip")))
        elif (name := re.split(r"[\s=<>!~\[]", str(one), maxsplit=1)[0]) not in ("python", "pip"):
            raise UsageError(
                f"environment: model: the model needs the conda package {clean(name, 60)}",
                "pip cannot install it: make the environment yourself and name its interpreter:"
                " environment: /path/to/python",
            )


def _python_env(snapshot: Path) -> str | None:
    """The version of Python in python_env.yaml."""
    told = _yaml(snapshot / PYTHON_ENV)
    version = _version(told.get("python")) if isinstance(told, dict) else None
    return None if version is None else str(version)


def _listed(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else ()


def _yaml(path: Path) -> Any:
    text = _text(path)
    try:
        return None if text is None else parsed(text)
    except ValueError:
        return None


def _text(path: Path) -> str | None:
    """None where there is no such file, or none that could be one."""
    try:
        if path.is_symlink() or path.stat().st_size > _MOST_BYTES:
            return None
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return None
