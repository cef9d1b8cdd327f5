"""Members keep their class when the image is turned or moved: an attacker who sees only classes."""

from privacy_gate.attacks import attack
from privacy_gate.datamodel import Floats, Observations


@attack(
    id="augmentation",
    family="label-only",
    paper="Choquette-Choo et al., ICML 2021 (data augmentation)",
    requires={"augmentation_robustness"},
    cost="29 answers per image, of the target and of every shadow",
)
def score(seen: Observations) -> Floats:
    """Share of turned and moved copies of an image that get its class; images that miss it come last."""
    return seen.target["augmentation_robustness"].copy()
