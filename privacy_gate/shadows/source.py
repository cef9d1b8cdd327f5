"""Python files that a config names as `path.py:function`: found and hashed without being run, run in the worker."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privacy_gate.errors import ConfigError, RecipeFailed
from privacy_gate.sources import functions
from privacy_gate.storage import sha256_of_file


@dataclass(frozen=True, slots=True)
class Source:
    """A function in a file beside the config."""

    path: Path
    function: str

    def digests(self) -> dict[str, str]:
        """Name -> sha256 of the file and of every module beside it that it imports, directly or not."""
        return {
            path.relative_to(self.path.parent).as_posix(): sha256_of_file(path)
            for path in sources([self.path], self.path.parent)
        }

    def identity(self) -> Mapping[str, Any]:
        """What shadows made by this function depend on: its name and the content of the files."""
        return {"function": self.function, "files": self.digests()}

    def load(self) -> Callable[..., Any]:
        """Run the file afresh, so that its globals carry nothing from one shadow to the next. In workers only."""
        folder = str(self.path.parent)
        own = {str(self.path.parent / name) for name in self.digests()}
        for name in [n for n, module in sys.modules.items() if getattr(module, "__file__", None) in own]:
            del sys.modules[name]
        if folder not in sys.path:
            sys.path.insert(0, folder)
        name = f"privacy_gate_recipe_{self.path.stem}"
        spec = importlib.util.spec_from_file_location(name, self.path)
        if spec is None or spec.loader is None:
            raise RecipeFailed(f"{self.path} cannot be imported", "name a .py file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses and pickles inside the file look themselves up here
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            raise failed(f"importing {self.path.name}", error, self.path.parent) from error
        found = getattr(module, self.function, None)
        if not callable(found):
            raise RecipeFailed(f"{self.path.name} defines no function {self.function!r}", "name a function of the file")
        return found  # type: ignore[no-any-return]


def sources(paths: Iterable[Path], folder: Path) -> list[Path]:
    """These files and every module in `folder` that they import, directly or not, sorted. Raises ConfigError."""
    pending, seen = list(paths), set[Path]()
    while pending:
        path = pending.pop()
        if path not in seen:
            seen.add(path)
            pending.extend(_neighbours(parse(path), folder))
    return sorted(seen)


def locate(reference: str, folder: Path, key: str) -> Source:
    """The file and function behind `path.py:function`; `key` is the config key to name. Raises ConfigError."""
    found = functions.locate(reference, folder, key)
    return Source(found.path, found.name)


def failed(what: str, error: BaseException, folder: Path) -> RecipeFailed:
    """RecipeFailed with the exception's class and the innermost place in the user's own files.

    Not its text: that may quote a training record, and belongs into the private log alone.
    """
    name = type(error).__name__
    if isinstance(error, SyntaxError):
        return RecipeFailed(f"{what}: {name} ({error.filename}:{error.lineno})", "mend the recipe")
    own = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(folder)]
    where = f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
    return RecipeFailed(f"{what} raised {name}{where}", "mend the recipe, or run it by hand on a few records")


def parse(path: Path) -> ast.Module:
    """The syntax tree of a Python file, or of the cells of a notebook; ConfigError where it is none."""
    if path.suffix == ".ipynb":
        return _notebook(path)
    return functions.parse(path)


def _notebook(path: Path) -> ast.Module:
    """The code cells of a notebook one after the other, without what only its own shell understands."""
    try:
        told = json.loads(path.read_bytes())
        texts = ["".join(cell["source"]) for cell in told["cells"] if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path}: not a readable notebook", "save it as .ipynb of format 4") from error
    body: list[ast.stmt] = []
    for text in texts:
        if text.lstrip().startswith("%%"):
            continue
        lines = ["" if line.lstrip().startswith(("%", "!", "?")) else line for line in text.splitlines()]
        try:
            body += ast.parse("\n".join(lines)).body
        except (SyntaxError, ValueError):  # x = !ls and the like: what it imports must be found nevertheless
            body += [found for line in lines for found in _import(line)]
    return ast.Module(body, [])


def _import(line: str) -> list[ast.stmt]:
    if not line.lstrip().startswith(("import ", "from ")):
        return []
    try:
        return ast.parse(line.strip()).body
    except (SyntaxError, ValueError):
        return []


def _neighbours(tree: ast.Module, folder: Path) -> list[Path]:
    """Files beside the recipe that it imports: modules, and whole packages."""
    modules: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            modules.update([node.module.partition(".")[0]] if node.module else [alias.name for alias in node.names])
    found: list[Path] = []
    for module in sorted(modules):
        if (folder / f"{module}.py").is_file():
            found.append(folder / f"{module}.py")
        elif (folder / module).is_dir():
            found.extend(sorted((folder / module).rglob("*.py")))
    return found
