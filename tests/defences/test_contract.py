"""What every output defence owes."""

import numpy as np
import pytest
from pydantic import ValidationError

from privacy_gate.datamodel import Outputs
from privacy_gate.defences import CATALOG

SETTINGS = {"output_coarsening": {"top_k": 2, "decimals": 2, "temperature": 1.5}}
every_output_defence = pytest.mark.parametrize("name", sorted(SETTINGS))


def test_the_catalog_is_found():
    assert set(SETTINGS) <= set(CATALOG.names())


@every_output_defence
@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_answers_are_probabilities_of_the_same_shape(name, kind):
    values = np.random.default_rng(1).dirichlet(np.ones(4), size=20)
    protected = CATALOG[name].configure(SETTINGS[name]).protect(Outputs(values.copy(), kind))
    assert protected.values.shape == (20, 4)
    assert protected.kind == "probabilities"
    assert ((protected.values >= 0) & (protected.values <= 1)).all()


@every_output_defence
def test_records_are_answered_one_by_one_and_the_input_is_kept(name):
    """A row's answer depends on nothing but the row, so that target and shadows are treated alike."""
    values = np.random.default_rng(2).dirichlet(np.ones(4), size=20)
    outputs = Outputs(values.copy(), "probabilities")
    protect = CATALOG[name].configure(SETTINGS[name]).protect
    together = protect(outputs).values
    alone = np.concatenate([protect(Outputs(row[None].copy(), "probabilities")).values for row in values])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(outputs.values, values)


@every_output_defence
def test_unknown_settings_are_refused(name):
    with pytest.raises(ValidationError, match="topk"):
        CATALOG[name].configure({**SETTINGS[name], "topk": 3})


@every_output_defence
def test_frozen(name):
    configured = CATALOG[name].configure(SETTINGS[name])
    with pytest.raises(ValidationError, match="frozen"):
        configured.temperature = 3.0  # type: ignore[attr-defined]
