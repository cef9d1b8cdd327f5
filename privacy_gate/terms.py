"""What a run was asked for, by name, before anything is touched: every misspelling is found before a download."""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass
from pathlib import Path

from privacy_gate.annex import key_from_environment
from privacy_gate.attacks import CATALOG as ATTACKS
from privacy_gate.baseline import pseudonym_key
from privacy_gate.defences import NOTHING, Defences, configure
from privacy_gate.errors import UsageError
from privacy_gate.policy import Policy, read_waivers, resolve, suite
from privacy_gate.policy.waivers import Entry
from privacy_gate.request import CheckRequest
from privacy_gate.validity import CATALOG as CHECKS


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """The names of a request, looked up.

    attacks   ids, each once
    defences  what the config says that the model was trained with, or is released behind
    others    what `defences compare` tries in their place; empty: what the defences themselves suggest
    waivers   of the waiver file; whether they have an effect is the policy's business
    baseline  the approved model or its report; None for none
    key       of the pseudonyms; None: neither a member list nor an annex can be written
    today     UTC; one day for all of the run, even if it ends on the next
    """

    policy: Policy
    attacks: tuple[str, ...]
    defences: Defences
    others: tuple[Defences, ...]
    waivers: tuple[Entry, ...]
    baseline: str | None
    key: bytes | None
    today: datetime.date

    @property
    def in_effect(self) -> Policy:
        """The policy of today: rules that do not block yet warn."""
        return self.policy.on(self.today)


def settle(request: CheckRequest) -> Terms:
    """Everything by its name. Errors: UsageError, ConfigError (exit 2)."""
    policy = resolve(policy_source(request))
    for check in policy.validity_limits:
        CHECKS[check]
    chosen = (request.config.attacks if request.config else None) or suite(request.suite)
    # The annex is refused without a key before anything runs; a member list is a bonus of having one.
    key = key_from_environment() if request.records == "restricted" else pseudonym_key(os.environ)
    return Terms(
        policy=policy,
        attacks=tuple(ATTACKS[name].id for name in dict.fromkeys(chosen)),
        defences=configure(request.config.defence) if request.config else NOTHING,
        others=_others(request),
        waivers=_waivers(request, policy),
        baseline=_baseline(request),
        key=key,
        today=datetime.datetime.now(datetime.UTC).date(),
    )


def _others(request: CheckRequest) -> tuple[Defences, ...]:
    given = request.config.compare if request.config else []
    return tuple(configure(settings, f"compare.{n}") for n, settings in enumerate(given))


def _waivers(request: CheckRequest, policy: Policy) -> tuple[Entry, ...]:
    """--waivers, the config's, or the policy's. A file that was named must be there."""
    path = request.waivers or policy.waivers.file
    if request.waivers is None and request.config is not None and request.config.waivers is not None:
        path = request.config_dir / request.config.waivers
    return () if path is None else read_waivers(path)


def _baseline(request: CheckRequest) -> str | None:
    """--baseline, or the config's; a report is found relative to the config."""
    if request.baseline is not None or request.config is None or request.config.baseline is None:
        return request.baseline
    given = request.config.baseline
    return given if given.startswith(("models:", "runs:")) else str(request.config_dir / given)


def policy_source(request: CheckRequest) -> Path | str:
    """The policy asked for, the one the config names, or the profile (default: standard)."""
    if request.policy is not None and request.profile is not None:
        raise UsageError("--policy and --profile exclude each other", "a policy file names its profile with extends:")
    if request.policy is not None:
        return request.policy
    if request.profile is None and request.config is not None and request.config.policy is not None:
        return shown(request.config_dir / request.config.policy)
    return request.profile or "standard"


def store_path(request: CheckRequest) -> Path:
    """--store, the config's, PRIVACY_GATE_STORE, or the user's cache folder."""
    if request.store is not None:
        return request.store
    if request.config is not None and request.config.store is not None:
        return request.config_dir / request.config.store
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("PRIVACY_GATE_STORE") or Path(cache) / "privacy-gate")


def shown(path: Path) -> Path:
    """The path as a person in this folder would type it: reports quote it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def seed_of(request: CheckRequest) -> int:
    """--seed, the config's, or 0."""
    if request.seed is not None:
        return request.seed
    return request.config.seed if request.config else 0
