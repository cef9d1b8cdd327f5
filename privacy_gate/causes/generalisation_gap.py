"""Classes that the model knows by heart: accuracy on members minus accuracy on non-members, against their risk."""

from __future__ import annotations

import numpy as np

from privacy_gate.causes import CauseInput, cause
from privacy_gate.causes.association import association, generator
from privacy_gate.datamodel import Cause, CauseRow

FEWEST = 10  # persons on a side from which a class's accuracy says anything, and of no single one
SURE = 0.05


@cause(id="generalisation_gap", paper="Song & Mittal, USENIX Security 2021, section 4.2.4")
def generalisation_gap(given: CauseInput) -> Cause | None:
    """Per class: the gap, the mean risk of its members, and how the two go together over classes."""
    if given.risk is None:
        return None
    rows = []
    for label, name in enumerate(given.audit.classes):
        inside, outside = (side & (given.audit.labels == label) for side in (given.audit.member, ~given.audit.member))
        people = [len(np.unique(given.audit.persons[side])) for side in (inside, outside)]
        if min(people) < FEWEST:
            continue
        train, test = (float(given.target_correct[side].mean()) for side in (inside, outside))
        risk = float(given.risk.scores[inside].mean())
        numbers = {"accuracy_members": train, "accuracy_nonmembers": test, "gap": train - test, "mean_risk": risk}
        rows.append(CauseRow(name, people[0], numbers))
    if not rows:
        return None
    gaps = np.array([row.numbers["gap"] for row in rows])
    risks = np.array([row.numbers["mean_risk"] for row in rows])
    found = association(gaps, risks, generator(given.seed, 1))
    title = "Generalisation gap and risk, by class"
    member = given.audit.member
    whole = float(given.target_correct[member].mean() - given.target_correct[~member].mean())
    said = f"The model is right on {100 * whole:.1f} percentage points more members than non-members"
    if found is None:
        reason = f"{said}; there are too few classes to say whether the gap goes with the risk."
        return Cause("generalisation_gap", title, None, None, reason, tuple(rows))
    verdict = (
        f"classes with a {'larger' if found.spearman > 0 else 'smaller'} gap have members at higher risk"
        if found.p_value <= SURE
        else "no connection between a class's gap and its risk is shown"
    )
    reason = (
        f"{said}; {verdict} (over {len(rows)} classes: Pearson {found.pearson:.2f}, "
        f"Spearman {found.spearman:.2f}, p = {found.p_value:.2g})."
    )
    return Cause("generalisation_gap", title, found.pearson, found.p_value, reason, tuple(rows))
