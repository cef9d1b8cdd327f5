"""A defence that the attacks do not know of makes them look weaker than an attacker who does."""

from __future__ import annotations

import re

from privacy_gate.datamodel import Finding, Invalidates
from privacy_gate.validity import Circumstances, check

_NONE = {"", "none", "no", "false", "0"}


def normal(name: str) -> str:
    """A defence's name without case and separators: DP-SGD and dp_sgd are one."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


@check(id="undeclared_defence", title="attacks know the defence", invalidates=Invalidates.PASS)
def undeclared_defence(c: Circumstances) -> Finding:
    """Whether the defence that the registry declares is the one that the shadows went through."""
    name, takes = "undeclared_defence", Invalidates.PASS
    declared = "" if c.declared_defence is None else c.declared_defence.strip()
    if normal(declared) in _NONE:
        reason = f"the attacks went through {c.defence}" if c.defence else "no defence is declared"
        return Finding(name, "pass", takes, None, reason)
    if normal(declared) == normal(c.defence):
        if not c.declared_digest or c.declared_digest == c.defence_digest:
            return Finding(name, "pass", takes, None, f"the attacks went through {c.defence}, as declared")
        reason = (
            f"the registry declares {c.defence} with settings of digest {c.declared_digest[:12]}, the attacks went "
        )
        reason += f"through it with other settings ({c.defence_digest[:12]}): `privacy-gate defences show` tells them"
        return Finding(name, "fail", takes, None, reason)
    has = f"names {c.defence}" if c.defence else "names none"
    reason = f"the registry declares the defence {declared!r}, the configuration {has}: the attacks were not adaptive; "
    reason += "name it under `defence:`, or mend the model's tag"
    return Finding(name, "fail", takes, None, reason)
