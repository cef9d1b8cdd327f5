"""Noise on the answers, and what is left of it for an attacker who asks again."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from scipy.special import ndtri, softmax

from privacy_gate.datamodel import Floats, Outputs
from privacy_gate.defences import Protect, defence
from privacy_gate.defences.row_randomness import uniforms
from privacy_gate.request import Settings


@defence(id="output_noise", paper="Jia et al., CCS 2019, section 3.3 (random noise as a baseline)", on="any model")
class OutputNoise(Settings):
    """Random noise on the logits (log-probabilities where there are none). Answers are probabilities.

    Noise that is drawn anew for each query is averaged away by an attacker who asks again and again: without `one_time`
    the gate judges the mean of `queries` answers in log-probabilities, and without a limit to them the answer that has
    no noise. The top class can change.
    """

    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        description="standard deviation (gaussian) or mean absolute value (laplace) of the noise on a logit"
    )
    kind: Literal["laplace", "gaussian"] = Field("gaussian", description="distribution of the noise")
    one_time: bool = Field(False, description="noise is a function of the answer and a secret: asking again is no use")
    queries: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None, description="how often anybody may ask about one record, if something holds them to it; default: no limit"
    )
    in_model: bool = Field(False, description="the registered model adds its noise itself already")

    def drawn(self, seed: int) -> Protect:
        """The output path of one model: [n, K] in, probabilities [n, K] out."""

        def protect(outputs: Outputs) -> Outputs:
            rows, classes = outputs.values.shape
            queries = 1 if self.one_time else self.queries
            noise = np.zeros((rows, classes))
            if queries is not None:
                drawn = self._noise(uniforms(outputs, seed, queries * classes))
                noise = drawn.reshape(rows, queries, classes).mean(axis=1)
            # The mean of log softmax(z + noise) over the queries is z + mean noise, but for a constant.
            return Outputs(np.asarray(softmax(_logits(outputs) + noise, axis=1)), "probabilities")

        return protect

    def _noise(self, uniform: Floats) -> Floats:
        if self.kind == "gaussian":
            return np.asarray(self.scale * ndtri(uniform))
        away = uniform - 0.5
        return np.asarray(-self.scale * np.sign(away) * np.log1p(-2 * np.abs(away)))


def _logits(outputs: Outputs) -> Floats:
    """[n, K]; a class with probability zero keeps it, and a row rounded to nothing says nothing."""
    values = outputs.values.astype(np.float64)
    if outputs.kind == "logits":
        return values
    empty = values.max(axis=1, keepdims=True) <= 0
    with np.errstate(divide="ignore"):
        return np.asarray(np.where(empty, 0.0, np.log(values)))
