"""The interpreter and the device that model code runs on."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Literal

from privacy_gate.storage import sha256_of_json

PACKAGE = Path(__file__).resolve().parents[1]

# Another environment has no privacy_gate, or another version of it. It gets this package alone, by its folder, and
# nothing else of what is installed beside the gate. No __main__ to find again: processes that a model starts anew
# would look for it and could not import it.
_START = """
import importlib.util, runpy, sys
package, module = sys.argv[1:3]
del sys.argv[1:3]
spec = importlib.util.spec_from_file_location(
    "privacy_gate", package + "/__init__.py", submodule_search_locations=[package]
)
sys.modules["privacy_gate"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["privacy_gate"])
runpy.run_module(module, run_name="__main__")
"""


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where candidates are loaded and recipes run.

    python    interpreter; None: the gate's own
    device    of tensors, for training and for scoring; other models than torch modules stay on the CPU
    versions  distribution, and "python" -> version, as another interpreter told them; {} for the gate's own
    gpu       name of the CUDA device and of what drives it; "" on the CPU
    differs   what the model was logged with, and what it would be loaded with: "torch 2.6.0, here 2.13.0"
    content   digest of an environment that the gate built; "" of others
    """

    python: Path | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    versions: Mapping[str, str] = field(default_factory=dict)
    gpu: str = ""
    differs: tuple[str, ...] = ()
    content: str = ""

    def command(self, module: str) -> list[str]:
        """The beginning of a command line that runs a module of the gate, isolated from the caller's settings."""
        if self.python is None:
            return [sys.executable, "-I", "-m", module]
        # -B: what runs there must not leave bytecode that the gate would load.
        return [str(self.python), "-I", "-B", "-c", _START, str(PACKAGE), module]

    @property
    def identity(self) -> dict[str, Any]:
        """What shadows depend on beside the versions that their recipe names; {} here on the CPU."""
        found: dict[str, Any] = {}
        if self.python is not None:
            found["environment"] = sha256_of_json(dict(self.versions))
        if self.device != "cpu":
            found["device"] = [self.device, self.gpu]
        return found

    def lines(self) -> Iterator[str]:
        """What `plan` says of it beside warnings; nothing of the gate's own interpreter on the CPU."""
        if self.python is not None:
            shown = [f"Python {self.versions['python']}"] if "python" in self.versions else []
            shown += [f"{name} {self.versions[name]}" for name in SHOWN if name in self.versions]
            yield f"python   {self.python} ({', '.join(shown)})"
        if self.device != "cpu":
            yield f"device   {self.gpu}"


class Portable(pickle.Pickler):
    """Pickles for another version of Python: not all have the class of a path in the same module."""

    def reducer_override(self, value: Any) -> Any:
        """A path as its text."""
        return (path_of, (str(value),)) if isinstance(value, PurePath) else NotImplemented


def path_of(text: str) -> Path:
    """The path that `Portable` wrote down."""
    return Path(text)


SHOWN = ("mlflow", "numpy", "scikit-learn", "torch", "lightgbm", "xgboost")
HERE = Runtime()
