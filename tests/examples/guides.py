"""Walks a guide as its reader does: each command of the README in a fresh folder, each edit, each line that it quotes.

```console
$ a command, on several lines \\
    if need be
what it prints; … alone on a line stands for any number of lines, … within one for anything
```

`$ echo $?` quotes how the command before it ended; without it that must be 0. A block of ```diff names a file and
replaces lines of it. Commands of the gate run in this process: the same code, seconds faster than the program.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]

_BLOCK = re.compile(r"^```(console|diff)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_ANY = "…"


@dataclass(frozen=True)
class Step:
    """One command with what the guide says it prints, or one edit of a file."""

    kind: str
    text: str
    said: tuple[str, ...] = ()


def steps(readme: str) -> Iterator[Step]:
    """All steps of a guide, in order."""
    for kind, block in _BLOCK.findall(readme):
        if kind == "diff":
            yield Step("edit", block)
            continue
        lines = iter(block.splitlines())
        command, said = "", []
        for line in lines:
            if not line.startswith("$ "):
                said.append(line.rstrip())
                continue
            if command:
                yield Step("run", command, tuple(said))
            command, said = line[2:], []
            while command.endswith("\\"):
                command = command[:-1] + next(lines).strip()
        yield Step("run", command, tuple(said))


def same_line(quoted: str, said: str) -> bool:
    """The same words, and about the same numbers: the last digits are another processor's."""
    quoted, said = " ".join(quoted.split()), " ".join(said.split())
    parts = [".*" if part == _ANY else _NUMBER.sub("#", part) for part in re.split(f"({_ANY})", quoted)]
    pattern = "".join(p if p == ".*" else re.escape(p).replace(r"\#", f"({_NUMBER.pattern})") for p in parts)
    found = re.fullmatch(pattern, said)
    if found is None:
        return False
    mine = [float(n.replace(",", "")) for n in _NUMBER.findall(quoted)]
    theirs = [float(n.replace(",", "")) for n in found.groups()]
    return all(abs(a - b) <= max(1.0, 0.1 * a) for a, b in zip(mine, theirs, strict=True))


def quotes(quoted: tuple[str, ...], said: list[str]) -> bool:
    """Whether these lines were printed, with … for what was left out."""
    if not quoted:
        return True  # a guide need not quote anything
    if quoted[0] == _ANY:
        return any(quotes(quoted[1:], said[k:]) for k in range(len(said) + 1)) if quoted[1:] else True
    return bool(said) and same_line(quoted[0], said[0]) and (quotes(quoted[1:], said[1:]) if quoted[1:] else not said[1:])


@dataclass
class Guide:
    """A reader's folder, and the exit codes of the gate in the order of the commands."""

    folder: Path
    patch: pytest.MonkeyPatch
    code: int = 0
    codes: list[tuple[str, int]] = field(default_factory=list)
    printed: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.patch.chdir(self.folder)
        for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
            self.patch.delenv(name)
        places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        for name, value in {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "OMP_NUM_THREADS": "1",
            "PATH": places,
            "COLUMNS": "80",
            "CI": "true",  # asks nothing
        }.items():
            self.patch.setenv(name, value)

    def walk(self, readme: str) -> None:
        """Do all that the guide says."""
        for step in steps(readme):
            if step.kind == "edit":
                self.edit(step.text)
            else:
                self.run(step)
        assert self.code == 0, self.printed[-1]

    def edit(self, block: str) -> None:
        """Replace each run of `-` lines, which stand in the file once, by the `+` lines that follow it."""
        head, *lines = block.splitlines()
        assert head.startswith("--- "), head
        path = self.folder / head[4:].strip()
        text = path.read_text(encoding="utf-8")
        for old, new in re.findall(r"((?:^-.*\n)+)((?:^\+.*\n?)*)", "\n".join(lines) + "\n", re.MULTILINE):
            before, after = ("".join(f"{line[1:]}\n" for line in part.splitlines()) for part in (old, new))
            assert text.count(before) == 1, f"{path.name} has no such lines:\n{before}"
            text = text.replace(before, after)
        path.write_text(text, encoding="utf-8")

    def run(self, step: Step) -> None:
        """Do one command; what it printed must be what the guide quotes, and how it ended what the guide says."""
        words = shlex.split(step.text)
        if words[:2] == ["echo", "$?"]:
            assert step.said == (str(self.code),), (self.code, *self.printed[-1])
            self.code = 0
            return
        assert self.code == 0, f"the guide does not say that this ends with {self.code}: {self.printed[-1]}"
        if words[:2] == ["pip", "install"]:
            for requirement in words[2:]:
                installed(requirement)
            return
        if words[0] == "export":
            for word in words[1:]:
                name, _, value = word.partition("=")
                self.patch.setenv(name, value.replace("$PWD", str(self.folder)))
            return
        if words[0] == "privacy-gate":
            said = self.gate(words[1:])
        else:
            done = subprocess.run(["bash", "-c", step.text], cwd=self.folder, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            said, self.code = done.stdout, 0
        self.printed.append((step.text, said))
        lines = [line.rstrip() for line in said.rstrip("\n").split("\n")]
        assert quotes(step.said, lines), f"{step.text}\n--- quoted\n" + "\n".join(step.said) + f"\n--- printed\n{said}"

    def gate(self, words: list[str]) -> str:
        """A command line of the gate, in this process."""
        from privacy_gate.cli import run

        told = io.StringIO()
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
            self.code = run(words)
        self.codes.append((words[0], self.code))
        return told.getvalue()


def installed(requirement: str) -> None:
    """`pip install` of the project names extras that there are, and what they bring is here."""
    asked = Requirement(requirement)
    assert asked.name == "privacy-gate"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for extra in asked.extras:
        for one in map(Requirement, extras[extra]):
            # xgboost-cpu is the same library without what a graphics card needs.
            assert _there(one.name) or (one.name == "xgboost" and _there("xgboost-cpu")), one


def _there(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
