"""From options to a request, for the command line and the Python API: finds the config, checks what excludes what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from privacy_gate import frames
from privacy_gate.attacks import CATALOG as ATTACKS
from privacy_gate.catalog import Catalog
from privacy_gate.defences import CATALOG as DEFENCES
from privacy_gate.documents import Loaded, Trail, in_order, load_yaml
from privacy_gate.errors import ConfigError, Diagnostic, UsageError
from privacy_gate.request import CheckRequest, Config

CONFIG_FILE = "privacy-gate.yaml"
_ONE_OF = "judge a model with its config, or predictions with --observations"


def build(*, config: Path | None, observations: Path | None = None, **options: Any) -> CheckRequest:
    """One request out of a command line. Errors: UsageError, ConfigError (exit 2)."""
    if observations is not None:
        for name in ("model", "store", "baseline"):
            if options.get(name) is not None:
                raise UsageError(f"--observations judges predictions alone; {name} has no meaning with it", _ONE_OF)
        if options.get("records", "none") != "none":
            raise UsageError("--observations holds no record ids; --records has no meaning with it", _ONE_OF)
        if options.get("trust", "code") != "code":
            raise UsageError("--observations loads no model; --trust has no meaning with it", _ONE_OF)
        if config is not None:
            raise UsageError("--observations judges predictions alone; --config has no meaning with it", _ONE_OF)
    elif config is None and Path(CONFIG_FILE).is_file():
        config = Path(CONFIG_FILE)
    loaded: Config | None = None
    if config is not None and observations is None:
        loaded = _read(config)
    base = config.resolve().parent if config is not None else Path()
    try:
        return CheckRequest(config=loaded, config_dir=base, observations=observations, **options)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "options"
        raise UsageError(f"--{where.replace('_', '-')}: {first['msg']}", "privacy-gate check --help") from error


def registry_named(config: Path | None) -> tuple[str | None, str | None]:
    """Tracking and registry URI of a config, by default of the one in this folder. Errors: UsageError, ConfigError.

    No plug-in is looked up for that: whoever asks may hold a key.
    """
    place = config or Path(CONFIG_FILE)
    if config is None and not place.is_file():
        return None, None
    named = load_yaml(place, Config).value
    return named.tracking_uri, named.registry_uri


def _read(path: Path) -> Config:
    """The config; names and settings of plug-ins are looked up here, where the line that is wrong is still known."""
    loaded = load_yaml(path, Config)
    findings = list(_mistakes(loaded))
    if findings:
        raise ConfigError.at(in_order(findings))
    return loaded.value


def _mistakes(loaded: Loaded[Config]) -> Iterator[Diagnostic]:
    config, positions = loaded.value, loaded.positions
    yield from _of_schema(loaded)
    for number, name in enumerate(config.attacks or ()):
        yield from _unknown(ATTACKS, name, loaded, ("attacks", number))
    named: list[tuple[Trail, Mapping[str, Any]]] = [(("defence",), config.defence)]
    named += [(("compare", number), settings) for number, settings in enumerate(config.compare)]
    for trail, chosen in named:
        for name, settings in chosen.items():
            unknown = list(_unknown(DEFENCES, name, loaded, (*trail, name)))
            yield from unknown
            if not unknown:
                try:
                    DEFENCES[name].configure(settings)
                except ValidationError as error:
                    errors = error.errors(include_url=False, include_input=False)
                    yield from positions.explain(errors, DEFENCES[name].settings, (*trail, name))


def _of_schema(loaded: Loaded[Config]) -> Iterator[Diagnostic]:
    """Types that there are none of, and features without one: found before any record is read."""
    data = loaded.value.data
    for name, column in (data.columns or {}).items():
        if wrong := frames.mistake(column):
            yield loaded.positions.finding(("data", "schema", name), "schema-column", wrong)
    for number, name in enumerate(data.features or ()):
        if data.columns is not None and name not in data.columns:
            message = f"no type for the feature {name!r}: name it in the schema, or leave out features:"
            yield loaded.positions.finding(("data", "features", number), "schema-column", message)


def _unknown(catalog: Catalog[Any], name: str, loaded: Loaded[Config], trail: Trail) -> Iterator[Diagnostic]:
    try:
        catalog[name]
    except UsageError as error:
        yield loaded.positions.finding(trail, f"unknown-{catalog.kind}", f"{error.what} ({error.hint})")
