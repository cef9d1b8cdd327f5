"""The interpreter and the device that model code runs on."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where candidates are loaded and recipes run.

    python  interpreter; None: the gate's own
    device  of tensors, for training and for scoring
    """

    python: Path | None = None
    device: Literal["cpu", "cuda"] = "cpu"

    def command(self, module: str) -> list[str]:
        """The beginning of a command line that runs a module of the gate, isolated from the caller's settings."""
        return [sys.executable, "-I", "-m", module]


HERE = Runtime()
