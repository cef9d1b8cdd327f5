"""Walks a guide as its reader does: each command of the page in a fresh folder, each setting, each line that it quotes.

    $ a command, on several lines \\
        if need be    # ends with 1
    what it prints; … alone on a line stands for any number of lines, … within one for anything

A block of YAML names its file in its first line and puts its settings there. Scripts and the gate run in this process:
the same code, seconds faster than the programs.

The last section of a page, "In a small form", says what is done instead where the page is walked with few records: each
of its commands replaces those above that begin with the same two words, its settings come on top of all others, and
what nothing of it needs is left out.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import shlex
import shutil
import sys
import tomllib
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from privacy_gate.datamodel import Candidate, Description
from privacy_gate.features import Features, digest
from privacy_gate.policy.load import resolve
from privacy_gate.reports.document import Report, parse, verify
from privacy_gate.sandbox import Scored, examine, models
from tests.mlflow_server import embedded_registry, tracking

ROOT = Path(__file__).resolve().parents[2]
GUIDES = ("lightgbm_adult", "torch_images", "typed_frame")
SMALL = "\n## In a small form\n"
BY_HAND = (
    "mkdir ",
    "cp ",
    "python -m venv ",
    "python3 -m venv ",
)  # what only a shell can do; the fixture does the same
MERGED = ("data", "shadows", "rules")  # sections of which a page shows some settings only

_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_ANY = "…"


@dataclass(frozen=True)
class Command:
    """A command of the page, how it may end, and what the page quotes of what it prints."""

    line: str
    ends: tuple[int, ...] = (0,)
    quoted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Edit:
    """Settings that the page puts into a file."""

    file: str
    settings: dict[str, Any]


# --- the page -------------------------------------------------------------------------------------------------------


def page(text: str) -> Iterator[Command | Edit]:
    """Commands and settings, in their order."""
    return _steps(text.partition(SMALL)[0])


def small_page(text: str, skipped: tuple[str, ...] = (), until: str = "") -> Iterator[Command | Edit]:
    """The same in the small form.

    skipped  starts of the commands that are walked at night alone
    until    heading from which all is, down to the small form
    """
    long, found, short = text.partition(SMALL)
    assert found
    if until:
        long, found, _ = long.partition(f"\n## {until}\n")
        assert found
    changes = list(_steps(short))
    edits = [step for step in changes if isinstance(step, Edit)]
    commands = {tuple(step.line.split()[:2]): step for step in changes if isinstance(step, Command)}
    for step in _steps(long):
        if isinstance(step, Edit):
            yield step
            yield from (edit for edit in edits if edit.file == step.file)
        elif step.line.startswith("privacy-gate init"):
            yield replace(step, quoted=())
            yield from edits
        elif not step.line.startswith(skipped):
            words = tuple(step.line.split()[:2])
            instead = commands.pop(words, None) or step
            yield replace(instead, quoted=())
    assert not commands, "the small form replaces what is not on the page"


def ends(codes: str) -> tuple[int, ...]:
    """What stands after "# ends with": one exit code, or several with "or" between them; nothing is 0."""
    return tuple(map(int, (codes or "0").split(" or ")))


def _steps(text: str) -> Iterator[Command | Edit]:
    for fenced, indented in re.findall(r"^```yaml\n((?:.*\n)*?)```$|((?:^    .*\n|^\n(?=    ))+)", text, re.M):
        if fenced:
            yield Edit(fenced.splitlines()[0].removeprefix("# "), yaml.safe_load(fenced))
            continue
        shown = re.sub(r" *\\\n +", " ", indented)
        for block in re.split(r"^    \$ ", shown, flags=re.M)[1:]:
            first, *printed = block.rstrip().split("\n")
            line, _, code = first.partition("# ends with ")
            yield Command(line.strip(), ends(code), tuple(row[4:].rstrip() for row in printed))


def same_line(quoted: str, said: str) -> bool:
    """The same words and about the same numbers: the last digits are another processor's."""
    quoted, said = " ".join(quoted.split()), " ".join(said.split())
    parts = [".*" if part == _ANY else _NUMBER.sub("\0", part) for part in re.split(f"({_ANY})", quoted)]
    pattern = "".join(p if p == ".*" else re.escape(p).replace("\0", f"({_NUMBER.pattern})") for p in parts)
    found = re.fullmatch(pattern, said)
    if found is None:
        return False
    pairs = zip(_NUMBER.findall(quoted), found.groups(), strict=True)
    numbers = [[float(number.replace(",", "")) for number in pair] for pair in pairs]
    return all(abs(ours - theirs) <= max(1.0, 0.1 * ours) for ours, theirs in numbers)


def quotes(quoted: tuple[str, ...], said: list[str]) -> bool:
    """Whether these lines, and no others, were printed; … stands for others."""
    if not quoted:
        return not said
    if quoted[0] == _ANY:
        return any(quotes(quoted[1:], said[k:]) for k in range(len(said) + 1))
    return bool(said) and same_line(quoted[0], said[0]) and quotes(quoted[1:], said[1:])


# --- its reader -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Done:
    """What a command did: how it ended, what it printed, and the report if it wrote one."""

    command: Command
    code: int
    said: str
    report: Report | None = None

    @property
    def rules(self) -> dict[str, str]:
        """Rule -> its status."""
        assert self.report is not None
        return {rule.id: rule.status for rule in self.report.rules}

    @property
    def as_quoted(self) -> bool:
        """Whether the page quotes nothing, or what was printed."""
        return not self.command.quoted or quotes(self.command.quoted, [x.rstrip() for x in self.said.splitlines()])


@dataclass
class Hour:
    """A reader's folder and what happened in it.

    draft  privacy-gate.yaml as `init` wrote it
    """

    folder: Path
    done: list[Done] = field(default_factory=list)
    draft: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, start: str) -> list[Done]:
        return [one for one in self.done if one.command.line.startswith(start)]


@contextlib.contextmanager
def walked(
    name: str, folder: Path, reference_data: Path | None = None, *, small: Iterable[Command | Edit] | None = None
) -> Iterator[Hour]:
    """Commands and settings of examples/NAME/README.md, one after the other; the folder stays current.

    small  those of the small form, where they are walked: its first model alone is asked in a process of its own
    """
    home = ROOT / "examples" / name
    for file in home.glob("*.py"):
        shutil.copy(file, folder)
    text = (home / "README.md").read_text(encoding="utf-8")
    uri = embedded_registry(folder)
    hour = Hour(folder)
    with pytest.MonkeyPatch.context() as patch, tracking(uri), contextlib.chdir(folder):
        for known in [n for n in os.environ if n.startswith(("MLFLOW_", "PRIVACY_GATE_"))]:
            patch.delenv(known)
        if reference_data is not None:
            patch.setenv("PRIVACY_GATE_REFERENCE_DATA", str(reference_data))
        for variable, value in {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PRIVACY_GATE_STORE": str(folder / "store"),
            "PRIVACY_GATE_DEBUG": "",
            "COLUMNS": "80",
        }.items():
            patch.setenv(variable, value)
        _spare_processes(patch, alone=small is None)
        for step in page(text) if small is None else small:
            if isinstance(step, Edit):
                hour.draft = hour.draft or yaml.safe_load(Path("privacy-gate.yaml").read_text(encoding="utf-8"))
                edit(Path(step.file), step.settings)
            elif not step.line.startswith(BY_HAND):
                hour.done.append(follow(step, patch, place_of(text)))
        yield hour


def _spare_processes(patch: pytest.MonkeyPatch, alone: bool) -> None:
    """Ask a model only once for the same answers, as `plan` and `check` do twice, and start one worker, not two.

    alone  each model is asked in a process of its own, as it should be; else the first one, the others in this process
    """
    known: dict[tuple[object, ...], tuple[Description, Scored]] = {}

    def ask(candidate: Candidate, features: Features, workdir: Path, **options: Any) -> tuple[Description, Scored]:
        question = candidate.digest, candidate.executes_code, digest(features), options.get("form")
        if question not in known and (alone or not known):
            known[question] = examine(candidate, features, workdir, **options)
        elif question not in known:
            model = models.load(candidate.snapshot, candidate.flavor)
            answers = models.query(model, features)
            known[question] = models.describe(model, candidate.flavor), Scored(answers, True, 0.0, workdir / "log")
        return known[question]

    patch.setattr("privacy_gate.preparation.examine", ask)
    patch.setattr("privacy_gate.shadows.train.usable_cores", lambda: 1)


def edit(path: Path, settings: dict[str, Any]) -> None:
    """The settings beside those of their section, or in place of what stood there."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key, value in settings.items():
        document[key] = {**(document.get(key) or {}), **value} if key in MERGED else value
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


def follow(command: Command, patch: pytest.MonkeyPatch, stands: Path) -> Done:
    """Do one command.

    stands  the folder below the checkout in which the page does it
    """
    words = shlex.split(command.line)
    if words[:2] == ["pip", "install"]:
        for requirement in words[2:]:
            installed(requirement, stands)
        return Done(command, 0, "")
    if words[0] == "export":
        for word in words[1:]:
            variable, _, value = word.partition("=")
            patch.setenv(variable, value.replace("$PWD", str(Path.cwd())))
        return Done(command, 0, "")
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        if words[0] == "privacy-gate":
            from privacy_gate.cli import run

            code = run(words[1:])
        else:
            assert words[0] == "python", command.line
            script(words[1:])
            code = 0
            err = io.StringIO()  # what libraries say there is not the script's
    report = None
    if words[:2] == ["privacy-gate", "check"]:
        report = parse(Path("privacy-gate-report", "report.json").read_bytes())
        assert verify(report)
    return Done(command, code, out.getvalue() + err.getvalue(), report)


def script(words: list[str]) -> None:
    """A script of the team's, in this process: the libraries take seconds to import."""
    before = sys.argv, list(sys.path)
    sys.argv, sys.path = words, [str(Path.cwd()), *sys.path]
    try:
        with warnings.catch_warnings():
            runpy.run_path(words[0], run_name="__main__")
    finally:
        sys.argv, sys.path = before
        for file in Path.cwd().glob("*.py"):  # what it imported is its own
            sys.modules.pop(file.stem, None)


def checkout_of(place: str, folder: Path) -> tuple[Path, set[str]]:
    """The folder that `pip install PLACE` installs, said by a reader in `folder`; the extras that it asks for."""
    found = re.fullmatch(r"(\.{1,2}(?:/\.{1,2})*)(?:\[([\w,-]+)\])?", place)
    assert found, f"{place} is no folder of the checkout: an index has what somebody else put there"
    return (folder / found[1]).resolve(), {extra for extra in (found[2] or "").split(",") if extra}


def installed(place: str, folder: Path) -> None:
    """What `pip install` names is this checkout, its extras are there, and what they bring is here.

    folder  below the checkout, where the reader stands
    """
    project, extras = checkout_of(place, folder)
    assert project == ROOT
    told = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert told["name"] == "privacy-gate"
    for extra in extras:
        for one in map(Requirement, told["optional-dependencies"][extra]):
            # xgboost-cpu is the same library without what a graphics card needs.
            assert _there(one.name) or (one.name == "xgboost" and _there("xgboost-cpu")), one


def _there(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def small_walk(
    name: str, folder: Path, reference_data: Path | None = None, *, skipped: tuple[str, ...] = (), until: str = ""
) -> contextlib.AbstractContextManager[Hour]:
    """`walked` in the small form; `skipped` and `until` as of `small_page`."""
    text = (ROOT / "examples" / name / "README.md").read_text(encoding="utf-8")
    return walked(name, folder, reference_data, small=small_page(text, skipped, until))


def require_small(hour: Hour, refused_for: str) -> None:
    """The walk came to a refusal for this rule and to a model that passes, under a policy that asks for both.

    A rule may warn where the page gives the reason; the attacks, and that the evidence is admissible, are asked for.
    """
    for one in hour.done:
        assert one.code in one.command.ends, f"{one.command.line}\n{one.said}"
    refused, mended = hour["privacy-gate check"]
    assert (refused.code, mended.code) == (1, 0)
    assert refused.rules[refused_for] == "fail"
    policy = resolve(hour.folder / "privacy-policy.yaml")
    blocking = {rule.id for rule in policy.rules if rule.settings.action == "block"}
    assert blocking >= {refused_for, "PG101", "PG102", "PG201", "PG204", "PG501", "PG502"}
    assert {mended.rules[id] for id in blocking} <= {"pass", "not_applicable"}
    for one in (refused, mended):
        assert one.report is not None
        assert one.report.policy.digest == policy.digest
        assert one.report.run.cache.trained in (4, 6)
        assert all(check.status != "fail" for check in one.report.validity)


def place_of(text: str) -> Path:
    """The folder below the checkout where the page installs: the reader starts at the top, makes it and goes there."""
    first = next(step for step in _steps(text) if isinstance(step, Command))
    found = re.fullmatch(r"mkdir (?:-p )?(\S+) && cd (\S+)", first.line)
    assert found, first.line
    assert found[1] == found[2]
    return ROOT / found[1]


def install_line(text: str) -> list[str]:
    """What the page tells pip to install."""
    (line,) = (s.line for s in _steps(text) if isinstance(s, Command) and s.line.startswith("pip install "))
    return shlex.split(line)[2:]
