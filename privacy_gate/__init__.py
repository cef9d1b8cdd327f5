"""privacy-gate decides whether a trained model may be released without exposing the people it was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from privacy_gate.release import VERSION

__version__ = VERSION

__all__ = ["__version__", "check"]

if TYPE_CHECKING:
    from privacy_gate.closing import Outcome


def check(model: str | None = None, *, config: Path | str | None = None, **options: Any) -> Outcome:
    """Judge a model; the same street as the command line, whose options (out, profile, seed, ...) are accepted.

    Returns the report, the exit code and the written files. Errors: UsageError where the command line ends with 2.
    """
    # Not at the top: `privacy-gate --help` must not wait for numpy.
    from privacy_gate.build import build
    from privacy_gate.pipeline import check as run

    return run(build(model=model, config=None if config is None else Path(config), **options))
