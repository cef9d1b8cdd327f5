"""Every mistake in a file is shown at its line and column, all of them at once."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from privacy_gate.documents import MAX_BYTES, keys_of, load_yaml, parse
from privacy_gate.errors import ConfigError, ExitCode
from privacy_gate.request import Config


class Rule(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: str
    max: Annotated[float, Field(le=1)] = 1.0
    action: Literal["block", "warn", "off"] = "block"


class File(BaseModel):
    model_config = ConfigDict(extra="forbid")
    api_version: str = Field(alias="apiVersion")
    rules: list[Rule] = []
    by_name: dict[str, Rule] = {}
    size: int | list[int] | None = None
    date: str = ""


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def findings(tmp_path: Path, text: str | bytes, model: type[BaseModel] = File) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_yaml(write(tmp_path, text), model, "p.yaml")
    assert caught.value.exit_code is ExitCode.USAGE
    return [str(diagnostic) for diagnostic in caught.value.diagnostics]


def test_all_findings_come_together_in_the_order_of_the_file(tmp_path):
    text = """\
apiVersion: v1
rules:
  - id: PG101
    maxx: 0.5
  - id: PG102
    max:   1.5
    id: PG103
  - max: 0.5
by_name:
  PG104: {id: a, action: blok}
"""
    assert findings(tmp_path, text) == [
        "p.yaml:4:5: error[extra_forbidden]: rules.0.maxx: Extra inputs are not permitted (did you mean 'max'?)",
        "p.yaml:6:12: error[less_than_equal]: rules.1.max: Input should be less than or equal to 1",
        "p.yaml:7:5: error[duplicate-key]: rules.1.id: the key is already given in line 5",
        "p.yaml:8:5: error[missing]: rules.2.id: Field required",
        "p.yaml:10:26: error[literal_error]: by_name.PG104.action: Input should be 'block', 'warn' or 'off'",
    ]


def test_a_missing_key_of_the_whole_file_stands_at_its_start(tmp_path):
    assert findings(tmp_path, "rules: []\n") == ["p.yaml:1:1: error[missing]: apiVersion: Field required"]


def test_a_union_complains_once(tmp_path):
    found = findings(tmp_path, "apiVersion: v1\nsize: large\n")
    assert len(found) == 1
    assert found[0].startswith("p.yaml:2:7: error[")
    assert ": size: Input should be a valid integer" in found[0]
    assert " or Input should be a valid list" in found[0]


def test_loaded_knows_where_keys_stand(tmp_path):
    path = write(tmp_path, "apiVersion: v1\nby_name:\n  PG101: {id: a}\n")
    loaded = load_yaml(path, File)
    place = loaded.location(("by_name", "PG101"))
    assert (place.file, place.line, place.column) == (path.as_posix(), 3, 3)
    assert loaded.location(("by_name", "PG101", "id")).column == 11
    # What is not in the file stands where its parent does.
    assert loaded.location(("by_name", "PG101", "max")) == place
    assert loaded.value.by_name["PG101"].id == "a"


@pytest.mark.parametrize(
    "text", ["off", "on", "yes", "no", "Y", "2026-13-40", "2026-01-01", "12:30:45", "1_000", "null2"]
)
def test_words_and_dates_are_text(tmp_path, text):
    assert load_yaml(write(tmp_path, f"apiVersion: v1\ndate: {text}\n"), File).value.date == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("false", False),
        ("~", None),
        ("", None),
        ("0o17", 15),
        ("0x1F", 31),
        ("0644", 644),  # YAML 1.1 would read octal 420
        ("-3", -3),
        ("1e-3", 0.001),  # YAML 1.1 would read text
        (".5", 0.5),
        ("2.", 2.0),
        (".nan", ".nan"),
        ("nan", "nan"),
        ("'1'", "1"),
        ("!!str 5", "5"),
        ("|\n  a\n  b\n", "a\nb\n"),
    ],
)
def test_scalars_follow_the_core_schema(tmp_path, text, value):
    tree = parse(write(tmp_path, f"key: {text}\n")).tree
    assert tree == {"key": value}
    assert type(tree["key"]) is type(value)


def test_aliases_repeat_what_they_name(tmp_path):
    document = parse(write(tmp_path, "a: &x {id: q}\nb: *x\n"))
    assert document.tree == {"a": {"id": "q"}, "b": {"id": "q"}}
    assert document.location(("b",)).line == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "p.yaml:1:1: error[empty]"),
        ("# nothing\n---\n", "p.yaml:1:1: error[mapping]"),
        ("- a\n", "p.yaml:1:1: error[mapping]"),
        ("a: [1, 2\nb: 3\n", "p.yaml:2:2: error[yaml]"),
        ("a: 1\n---\nb: 2\n", "p.yaml:2:1: error[yaml]"),
        ("a: \x07\n", "p.yaml:1:4: error[yaml]: the character #x0007"),
        ("a: *unknown\n", "p.yaml:1:4: error[yaml]"),
        ("a: &x [*x]\n", "p.yaml:1:4: error[cycle]"),
        (b"a: 1\nb: \xff\xfe\n", "p.yaml:2:4: error[utf-8]"),
        (b"\xff\xfea\x00:\x00", "p.yaml:1:1: error[utf-8]"),
        ("[" * 5000, "p.yaml:1:1: error[too-large]"),
        ("a: '" + "x" * MAX_BYTES + "'", "p.yaml:1:1: error[too-large]"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(tmp_path, text, expected):
    found = findings(tmp_path, text)
    assert len(found) == 1
    assert found[0].startswith(expected)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("1: a", "key"),
        ("true: a", "key"),
        ("{a: b}: c", "key"),
        ("<<: {date: a}", "merge-key"),
        ("date: !!python/object:os.system x", "tag"),
        ("date: !secret x", "tag"),
        ("date: !!int abc", "tag"),
        ("date: !!bool yes", "tag"),
        ("date: " + "9" * 5000, "tag"),
    ],
)
def test_what_has_no_plain_meaning_is_refused(tmp_path, line, code):
    found = findings(tmp_path, f"apiVersion: v1\n{line}\n")
    assert any(f"error[{code}]" in finding and finding.startswith("p.yaml:2:") for finding in found)


def test_an_alias_bomb_is_stopped(tmp_path):
    levels = [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 12)]
    found = findings(tmp_path, "l0: &l0 [x]\n" + "\n".join(levels))
    assert len(found) == 1
    assert "error[too-large]" in found[0]


def test_files_that_are_not_there(tmp_path):
    for path, expected in ((tmp_path / "no.yaml", "there is no such file"), (tmp_path, "is a folder")):
        with pytest.raises(ConfigError, match=expected) as caught:
            load_yaml(path, File)
        assert path.as_posix() in str(caught.value)
        assert caught.value.hint


def test_the_configuration_is_checked_with_positions(tmp_path):
    text = """\
apiVersion: privacy-gate/v1
data:
  members: train.npz
  nonmembers: {pth: x}
shadows:
  coutn: 16
  recipe: {clone: true, python: "a.py:train"}
"""
    found = findings(tmp_path, text, Config)
    assert found == [
        (
            "p.yaml:4:16: error[extra_forbidden]: data.nonmembers.pth: "
            "Extra inputs are not permitted (did you mean 'path'?)"
        ),
        "p.yaml:6:3: error[extra_forbidden]: shadows.coutn: Extra inputs are not permitted (did you mean 'count'?)",
        (
            "p.yaml:7:11: error[value_error]: shadows.recipe: "
            "choose one of clone, model, python, command, head, load; got clone and python"
        ),
    ]
    text = "apiVersion: privacy-gate/v2\ndata: {members: a, nonmembers: b}\nshadows: {timeout: soon}\n"
    found = findings(tmp_path, text, Config)
    assert found[0].startswith("p.yaml:1:13: error[literal_error]: apiVersion: ")
    assert found[1] == "p.yaml:3:20: error[value_error]: shadows.timeout: not a duration: write 90s, 15m or 2h"


def test_keys_of_finds_the_keys_at_any_depth():
    assert "apiVersion" in keys_of(Config, ())
    assert "api_version" not in keys_of(Config, ())
    assert keys_of(Config, ("data", "population")) == ["dataset", "format", "path", "sha256"]
    assert keys_of(File, ("by_name", "anything")) == ["action", "id", "max"]
    assert keys_of(File, ("rules", 3)) == ["action", "id", "max"]
    assert keys_of(File, ("date",)) == []


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_no_text_breaks_the_reader(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("any") / "x.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    # Only a valid file of the model gets through, and random text is none; any other exception fails the test.
    with pytest.raises(ConfigError):
        load_yaml(path, File)
