"""Units that are left out at random while the model learns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from privacy_gate.defences import TrainingDefence, defence
from privacy_gate.errors import RecipeFailed

if TYPE_CHECKING:
    import torch


@defence(
    id="dropout",
    paper="Srivastava et al., JMLR 2014; as a defence: Salem et al., NDSS 2019, section VI",
    on="torch modules that have dropout layers",
)
class Dropout(TrainingDefence):
    """Every dropout layer of the module gets the same rate. A module without such layers is refused.

    Only the gate's own process of training can look: the layers are known when the factory has made them. What
    attention and recurrent layers drop inside themselves stays as it is.
    """

    rate: float = Field(gt=0, lt=1, description="probability that a unit is left out")

    def module(self, module: torch.nn.Module) -> torch.nn.Module:
        """The same module with every dropout layer's p set to the rate."""
        from torch import nn

        kinds = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
        layers = [layer for layer in module.modules() if isinstance(layer, kinds)]
        if not layers:
            raise RecipeFailed(
                f"dropout: the module {type(module).__name__} has no dropout layer to set a rate on",
                "put torch.nn.Dropout between its layers, in the factory that shadows.recipe.model names",
            )
        for layer in layers:
            layer.p = self.rate
        return module
