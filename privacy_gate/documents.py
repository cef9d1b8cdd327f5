"""YAML files that people write, read so that every mistake can be shown at its line and column.

The YAML is version 1.2's core schema: `off`, `yes` and dates are text, only `true` and `false` are booleans.
A key that is given twice is refused, because the last one would silently win and could loosen a limit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from privacy_gate.catalog import did_you_mean
from privacy_gate.datamodel import Location
from privacy_gate.errors import ConfigError, Diagnostic

Trail: TypeAlias = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)

MAX_BYTES = 1 << 20
MAX_NODES = 20_000  # after aliases are followed: nested aliases can stand for billions of values in a few lines


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file: its content, where every key and value stands, and what is wrong with it already.

    keys      trail -> where the key (in a list: the item) starts
    values    trail -> where the value starts
    findings  mistakes of the YAML itself
    """

    file: str
    tree: dict[str, Any]
    keys: Mapping[Trail, Location]
    values: Mapping[Trail, Location]
    findings: tuple[Diagnostic, ...] = ()

    def location(self, trail: Trail) -> Location:
        """Where the key of `trail` stands; of the nearest enclosing key if there is no such key."""
        while trail and trail not in self.keys:
            trail = trail[:-1]
        return self.keys.get(trail, Location(self.file, 1, 1))

    def finding(self, trail: Trail, code: str, message: str, *, at_value: bool = False) -> Diagnostic:
        """A mistake at `trail`, shown as `file:line:column: error[code]: trail: message`."""
        place = self.values.get(trail, self.location(trail)) if at_value else self.location(trail)
        shown = ".".join(str(part) for part in trail)
        return Diagnostic(place.file, place.line, place.column, code, f"{shown}: {message}" if shown else message)

    def explain(self, errors: Sequence[ErrorDetails], model: type[BaseModel], under: Trail = ()) -> list[Diagnostic]:
        """Pydantic's errors about `model`, which was built from the part of the file at `under`."""
        joined: dict[tuple[Trail, str], list[ErrorDetails]] = {}
        for error in errors:
            trail = self._matched((*under, *error["loc"]))
            if error["type"] == "missing":
                trail += error["loc"][-1:]
            # The members of a union each complain about the same value: one mistake, not several.
            joined.setdefault((trail, "" if _in_union(trail, under, error) else error["type"]), []).append(error)
        return [self._explained(trail, group, model) for (trail, _), group in joined.items()]

    def _matched(self, loc: Trail) -> Trail:
        """`loc` without the union tags and validator names that Pydantic puts in."""
        trail: Trail = ()
        for part in loc:
            if (*trail, part) in self.keys:
                trail = (*trail, part)
        return trail

    def _explained(self, trail: Trail, group: list[ErrorDetails], model: type[BaseModel]) -> Diagnostic:
        first = group[0]
        kind = first["type"]
        message = " or ".join(dict.fromkeys(error["msg"].removeprefix("Value error, ") for error in group))
        if kind == "extra_forbidden":
            message += f" ({did_you_mean(str(first['loc'][-1]), keys_of(model, first['loc'][:-1]))})"
        return self.finding(trail, kind, message, at_value=kind not in ("extra_forbidden", "missing"))

    def validated(self, model: type[M]) -> M:
        """The content as `model`; ConfigError with every finding, of the YAML and of the model."""
        try:
            value = model.model_validate(self.tree)
        except ValidationError as error:
            found = self.explain(error.errors(include_url=False, include_input=False), model)
            raise ConfigError.at(in_order([*self.findings, *found])) from error
        if self.findings:
            raise ConfigError.at(in_order(self.findings))
        return value


@dataclass(frozen=True, slots=True)
class Loaded(Generic[M]):
    """A validated file and where everything in it stands."""

    value: M
    positions: Document

    def location(self, trail: Trail) -> Location:
        """Where a key stands, e.g. `("rules", "PG101")`."""
        return self.positions.location(trail)


def load_yaml(path: Path, model: type[M], shown: str | None = None) -> Loaded[M]:
    """The file as `model`, with positions; ConfigError with all findings. `shown` replaces the path in messages."""
    document = parse(path, shown)
    return Loaded(document.validated(model), document)


def in_order(findings: Sequence[Diagnostic], files: Sequence[str] = ()) -> list[Diagnostic]:
    """Findings as a reader meets them: by file (in the order of `files`), then line and column."""
    order = list(dict.fromkeys([*files, *(finding.file for finding in findings)]))
    return sorted(findings, key=lambda f: (order.index(f.file), f.line, f.column))


def parse(path: Path, shown: str | None = None) -> Document:
    """Read a YAML mapping; ConfigError if the file is missing, a folder, not UTF-8, empty, or not YAML."""
    file = shown if shown is not None else path.as_posix()
    text = _text(path, file)
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        message = " ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError.at([Diagnostic(file, *place, "yaml", message)]) from error
    except yaml.reader.ReaderError as error:
        place = _line_and_column(text[: error.position])
        message = f"the character #x{error.character:04x} is not allowed"
        raise ConfigError.at([Diagnostic(file, *place, "yaml", message)]) from error
    except RecursionError as error:
        raise ConfigError.at([Diagnostic(file, 1, 1, "too-large", "the file is nested too deeply")]) from error
    if root is None:
        raise ConfigError.at([Diagnostic(file, 1, 1, "empty", "the file is empty")], "write at least apiVersion:")
    builder = _Builder(file)
    tree = builder.build(root, ())
    if not isinstance(tree, dict):
        raise ConfigError.at([Diagnostic(file, 1, 1, "mapping", "the file must be a mapping of keys to values")])
    return Document(file, tree, builder.keys, builder.values, tuple(builder.findings))


def _text(path: Path, file: str) -> str:
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{file}: there is no such file", "check the path; it is relative to where it is named"
        ) from error
    except IsADirectoryError as error:
        raise ConfigError(f"{file}: is a folder, not a file", "name a file inside it") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}", "") from error
    if len(raw) > MAX_BYTES:
        raise ConfigError.at([Diagnostic(file, 1, 1, "too-large", f"the file has more than {MAX_BYTES} bytes")])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = _line_and_column(raw[: error.start].decode("utf-8", "replace"))
        raise ConfigError.at(
            [Diagnostic(file, *place, "utf-8", "the file is not UTF-8")], "save it as UTF-8"
        ) from error


def _line_and_column(before: str) -> tuple[int, int]:
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


# --- YAML -----------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Composes nodes; scalars are typed by the resolvers below and by no other."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


_TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"^[-+]?[0-9]+$|^0o[0-7]+$|^0x[0-9a-fA-F]+$")
_FLOAT = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")
_BOOL = re.compile(r"^(true|True|TRUE|false|False|FALSE)$")
_NULL = re.compile(r"^(~|null|Null|NULL|)$")
for _name, _pattern, _first in (
    ("null", _NULL, ["~", "n", "N", ""]),
    ("bool", _BOOL, list("tTfF")),
    ("int", _INT, list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(_TAG + _name, _pattern, _first)


class _Builder:
    """Turns nodes into values and remembers where they stand."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.keys: dict[Trail, Location] = {}
        self.values: dict[Trail, Location] = {}
        self.findings: list[Diagnostic] = []
        self._count = 0
        self._open: list[yaml.Node] = []

    def build(self, node: yaml.Node, trail: Trail) -> Any:
        self._count += 1
        if self._count > MAX_NODES:
            raise ConfigError.at([self._at(node, "too-large", f"the file stands for more than {MAX_NODES} values")])
        if any(node is outer for outer in self._open):
            raise ConfigError.at([self._at(node, "cycle", "an alias must not stand inside of what it names")])
        self.values[trail] = self._place(node)
        self.keys.setdefault(trail, self._place(node))
        self._open.append(node)
        value = self._value(node, trail)
        self._open.pop()
        return value

    def _value(self, node: yaml.Node, trail: Trail) -> Any:
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, trail)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self.build(item, (*trail, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        self._found(node, "tag", f"the tag {node.tag} is not supported")
        return None

    def _mapping(self, node: yaml.MappingNode, trail: Trail) -> dict[str, Any]:
        built: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != _TAG + "str":
                self._found(key_node, "key", "a key is text; put it in quotes if it looks like something else")
            elif key == "<<":
                self._found(key_node, "merge-key", "merge keys are not supported; write the keys out")
            elif key in built:
                first = self.keys[*trail, key].line
                shown = ".".join(str(part) for part in (*trail, key))
                self._found(key_node, "duplicate-key", f"{shown}: the key is already given in line {first}")
            else:
                self.keys[*trail, key] = self._place(key_node)
                built[key] = self.build(value_node, (*trail, key))
        return built

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text: str = node.value
        tag = node.tag.removeprefix(_TAG)
        if tag == "str":
            return text
        if tag == "null" and _NULL.match(text):
            return None
        if tag == "bool" and _BOOL.match(text):
            return text.lower() == "true"
        if tag == "int" and _INT.match(text) and len(text) < 400:  # Python refuses to read very long integers
            return int(text, 8 if text[:2] == "0o" else 16 if text[:2] == "0x" else 10)
        if tag == "float" and _FLOAT.match(text):
            return float(text)
        self._found(node, "tag", f"{text[:40]!r} cannot be read as {tag}")
        return None

    def _place(self, node: yaml.Node) -> Location:
        return Location(self.file, node.start_mark.line + 1, node.start_mark.column + 1)

    def _at(self, node: yaml.Node, code: str, message: str) -> Diagnostic:
        place = self._place(node)
        return Diagnostic(place.file, place.line, place.column, code, message)

    def _found(self, node: yaml.Node, code: str, message: str) -> None:
        self.findings.append(self._at(node, code, message))


# --- models ---------------------------------------------------------------------------------------------------------


def keys_of(annotation: Any, loc: Trail) -> list[str]:
    """The keys that a model (or a type made of models) takes at `loc`, as they are written in a file."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = {field.alias or name: field.annotation for name, field in annotation.model_fields.items()}
        if not loc:
            return sorted(fields)
        # What is not a field is a union tag or the name of a validator.
        return keys_of(fields[str(loc[0])] if loc[0] in fields else annotation, loc[1:])
    arguments = get_args(annotation)
    if get_origin(annotation) in (list, dict, tuple):
        return keys_of(arguments[-1], loc[1:]) if loc else []
    return sorted({key for argument in arguments for key in keys_of(argument, loc)})


def _in_union(trail: Trail, under: Trail, error: ErrorDetails) -> bool:
    """Whether the error's place has a tag that is no key of the file: the branch of a union."""
    return error["type"] not in ("missing", "extra_forbidden") and len(trail) < len(under) + len(error["loc"])
