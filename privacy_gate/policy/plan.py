"""Which rules a number of records can decide: said before any shadow is trained."""

from __future__ import annotations

from privacy_gate.policy.contract import CATALOG, Effort, Policy
from privacy_gate.policy.judge import POWER


def decidability(policy: Policy, members: int, nonmembers: int) -> list[tuple[str, bool, str]]:
    """(rule id, whether these numbers can decide it, a sentence) for an attack that does no better than guessing.

    `members` and `nonmembers` count persons where a person column exists, records elsewhere.
    """
    answers = []
    for in_force in policy.rules:
        rule, settings = CATALOG[in_force.id], in_force.settings
        limit = getattr(settings, "max", None)
        if settings.action == "off" or limit is None:
            continue
        needed = rule.needed(settings, Effort(None, policy.alpha_pass, POWER, members, nonmembers))
        shown = f"{100 * limit:g} %" if rule.unit == "percent" else f"{limit:.2f}"
        what = f"{rule.id} {rule.title} ≤ {shown}"
        if not needed:
            answers.append((rule.id, False, f"{what}: no number of records proves this"))
            continue
        enough = needed["members"] <= members and needed["nonmembers"] <= nonmembers
        verb = "can be decided" if enough else "cannot be decided"
        counts = f"about {needed['members']:,} members and {needed['nonmembers']:,} non-members are needed"
        answers.append((rule.id, enough, f"{what} {verb} with {members:,} and {nonmembers:,}: {counts}"))
    return answers
