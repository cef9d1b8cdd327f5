"""`privacy-gate version`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from privacy_gate import __version__
from privacy_gate.cli import app

LIBRARIES = ("mlflow", "numpy", "pandas", "scikit-learn", "scipy", "torch")


@app.command()
def version(as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False) -> None:
    """Print the versions of the gate and of what it stands on."""
    import platform
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    versions = {"privacy-gate": __version__, "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            versions[library] = installed(library)
        except PackageNotFoundError:
            versions[library] = "not installed"
    typer.echo(json.dumps(versions, indent=2) if as_json else "\n".join(f"{k} {v}" for k, v in versions.items()))
