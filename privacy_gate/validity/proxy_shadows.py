"""Shadows of another kind than the candidate may show a leak; that they show none says little."""

from __future__ import annotations

from privacy_gate.datamodel import Finding, Invalidates
from privacy_gate.validity import Circumstances, check


@check(id="proxy_shadows", title="shadows are of the candidate's kind", invalidates=Invalidates.PASS)
def proxy_shadows(c: Circumstances) -> Finding:
    """Whether the shadows come from the candidate's own recipe, as far as the config and the models tell.

    A threshold, or a reference, that another recipe gave knows nothing of who is a member of the target: what an
    attack achieves with it is a lower bound on what an attacker can. How far below nobody can tell.
    """
    name, takes = "proxy_shadows", Invalidates.PASS
    if c.plan is None:
        return Finding(name, "not_applicable", takes, None, "there are no shadows")
    if not c.plan.proxy:
        return Finding(name, "pass", takes, None, "nothing is known that sets the shadows apart from the candidate")
    reason = f"the shadows are of another kind than the candidate: {c.plan.proxy}; they may fail it, never pass it"
    return Finding(name, "fail", takes, None, f"{reason}; train shadows with its own recipe")
