"""Members are those that the model gets right."""

from privacy_gate.attacks import attack
from privacy_gate.datamodel import Floats, Observations


@attack(
    id="correctness",
    family="correctness",
    paper="Leino & Fredrikson, USENIX Security 2020; Song & Mittal, USENIX Security 2021 (I_corr)",
    requires={"correctness"},
    thresholded=False,
)
def score(seen: Observations) -> Floats:
    """1 where the model's top class is the label, else 0: the floor that no label-preserving defence can lower."""
    return seen.target["correctness"].copy()
