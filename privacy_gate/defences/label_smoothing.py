"""Labels that are a little less than certain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from privacy_gate.defences import TrainingDefence, defence
from privacy_gate.request import TorchTraining


@defence(
    id="label_smoothing",
    paper="Szegedy et al., CVPR 2016, section 7",
    on="torch modules",
)
class LabelSmoothing(TrainingDefence):
    """The label gets 1 - epsilon, and epsilon is shared by all classes: answers are less sure of themselves."""

    epsilon: float = Field(gt=0, lt=1, description="probability that is taken from the label and spread evenly")

    @classmethod
    def suggestions(cls, estimator: str, training: TorchTraining | None) -> Sequence[Mapping[str, Any]]:
        """One strength that is usual for modules."""
        return [{"epsilon": 0.2}] if training is not None and training.loss == "cross_entropy" else ()

    def training(self, training: TorchTraining) -> TorchTraining:
        """`label_smoothing` set to epsilon, whatever it was."""
        return training.model_copy(update={"label_smoothing": self.epsilon})
