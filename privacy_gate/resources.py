"""Where the templates are: inside the package in a wheel, beside it in a checkout."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from privacy_gate.errors import EvaluationFailed

_LANDMARK = Path("policies", "standard.yaml")


def templates() -> Path:
    """The template folder; EvaluationFailed naming every place that was tried if the installation has none."""
    # In a broken wheel the second place would be somebody else's `templates`: the landmark tells them apart.
    places = (Path(str(files("privacy_gate") / "templates")), Path(__file__).resolve().parents[1] / "templates")
    for place in places:
        if (place / _LANDMARK).is_file():
            return place
    raise EvaluationFailed(
        f"the templates of privacy-gate are neither in {places[0]} nor in {places[1]}",
        "the installation is incomplete: reinstall privacy-gate",
    )


def template(*parts: str) -> Path:
    """One file of the template folder, by its path in it; EvaluationFailed if it is missing."""
    path = templates().joinpath(*parts)
    if not path.is_file():
        raise EvaluationFailed(f"the template {path} is missing", "the installation is incomplete: reinstall it")
    return path
