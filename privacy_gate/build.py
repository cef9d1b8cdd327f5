"""From options to a request, for the command line and the Python API: finds the config, checks what excludes what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from privacy_gate.documents import load_yaml
from privacy_gate.errors import UsageError
from privacy_gate.request import CheckRequest, Config

CONFIG_FILE = "privacy-gate.yaml"


def build(*, config: Path | None, observations: Path | None = None, **options: Any) -> CheckRequest:
    """One request out of a command line. Errors: UsageError, ConfigError (exit 2)."""
    if observations is not None:
        for name in ("model", "store"):
            if options.get(name) is not None:
                raise UsageError(f"--observations judges predictions alone; {name} has no meaning with it")
        if config is not None:
            raise UsageError("--observations judges predictions alone; --config has no meaning with it")
    elif config is None and Path(CONFIG_FILE).is_file():
        config = Path(CONFIG_FILE)
    loaded: Config | None = None
    if config is not None and observations is None:
        loaded = load_yaml(config, Config).value
    base = config.resolve().parent if config is not None else Path()
    try:
        return CheckRequest(config=loaded, config_dir=base, observations=observations, **options)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "options"
        raise UsageError(f"--{where.replace('_', '-')}: {first['msg']}", "privacy-gate check --help") from error
