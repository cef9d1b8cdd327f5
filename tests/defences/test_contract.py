"""What every defence owes, whatever its kind."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from privacy_gate.datamodel import Bools, Outputs
from privacy_gate.defences import CATALOG, Defences, TrainingDefence, configure
from privacy_gate.errors import NotEvaluable, RecipeFailed, UsageError
from privacy_gate.request import TorchTraining

OUTPUT: Mapping[str, Mapping[str, Any]] = {
    "memguard": {"hidden": [8], "iterations": 40},
    "output_coarsening": {"top_k": 2, "decimals": 2, "temperature": 1.5},
    "output_noise": {"scale": 0.5, "one_time": True},
}
TRAINING: Mapping[str, Mapping[str, Any]] = {
    "adversarial_regularisation": {"strength": 1.0},
    "dp_sgd": {"noise_multiplier": 1.0},
    "dropout": {"rate": 0.3},
    "early_stopping": {"epochs": 2},
    "label_smoothing": {"epsilon": 0.1},
    "tree_limits": {"min_samples_leaf": 5},
    "weight_decay": {"decay": 0.01},
}
SETTINGS = {**OUTPUT, **TRAINING}
KEEP_THE_LABEL = ("memguard",)
NOT_FOR_MODULES = ("tree_limits",)
every_defence = pytest.mark.parametrize("name", sorted(SETTINGS))
every_output_defence = pytest.mark.parametrize("name", sorted(OUTPUT))
every_training_defence = pytest.mark.parametrize("name", sorted(TRAINING))


def known() -> tuple[Outputs, Bools]:
    """A model that is surer of its 40 members than of 30 other records, 4 classes."""
    rng = np.random.default_rng(7)
    member = np.arange(70) < 40
    sharpness = np.where(member, 6.0, 2.0)[:, None]
    return Outputs(sharpness * rng.random((70, 4)), "logits"), member


def around(name: str, seed: int = 3, **kwargs: bool) -> Any:
    return configure({name: OUTPUT[name]}).around(known, seed, **kwargs)


def test_every_defence_of_the_folder_is_held_to_this():
    assert set(CATALOG.names()) == set(SETTINGS)


@every_defence
def test_kind_and_where_it_comes_from(name):
    entry = CATALOG[name]
    assert (entry.kind == "training") == (name in TRAINING) == issubclass(entry.settings, TrainingDefence)
    assert (entry.kind == "fitted output") == hasattr(entry.settings, "fitted")
    assert entry.paper
    assert entry.on
    assert entry.summary.endswith(".")
    if name in OUTPUT:
        assert sum(hasattr(entry.settings, method) for method in ("protect", "drawn", "fitted")) == 1


@every_defence
def test_unknown_settings_are_refused(name):
    with pytest.raises(ValidationError, match="not_a_setting"):
        CATALOG[name].configure({**SETTINGS[name], "not_a_setting": 3})
    with pytest.raises(UsageError, match=f"defence.{name}.not_a_setting"):
        configure({name: {**SETTINGS[name], "not_a_setting": 3}})


@every_defence
def test_every_setting_explains_itself(name):
    for setting, field in CATALOG[name].settings.model_fields.items():
        assert field.description, setting


@every_defence
def test_frozen(name):
    configured = CATALOG[name].configure(SETTINGS[name])
    with pytest.raises(ValidationError, match="frozen"):
        setattr(configured, next(iter(SETTINGS[name])), None)


@every_defence
def test_the_same_settings_have_the_same_digest_on_their_way_through_json(name):
    found = configure({name: SETTINGS[name]})
    again = configure(json.loads(json.dumps(found.document)))
    assert again.digest == found.digest
    assert found.name == name


# --- between a model and its callers ---------------------------------------------------------------------------------


@every_output_defence
@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_answers_are_probabilities_of_the_same_shape(name, kind):
    values = np.random.default_rng(1).dirichlet(np.ones(4), size=20)
    protected = around(name)(Outputs(values.copy(), kind))
    assert protected.values.shape == (20, 4)
    assert protected.kind == "probabilities"
    assert ((protected.values >= 0) & (protected.values <= 1)).all()


@every_output_defence
def test_records_are_answered_one_by_one_and_the_input_is_kept(name):
    """A row's answer depends on the row and the model, to the last bit, and not on what else was asked."""
    values = np.random.default_rng(2).dirichlet(np.ones(4), size=150)
    outputs = Outputs(values.copy(), "probabilities")
    protect = around(name)
    together = protect(outputs).values
    for rows in ([17], [149, 3], np.arange(100)):
        np.testing.assert_array_equal(protect(Outputs(values[rows], "probabilities")).values, together[rows])
    np.testing.assert_array_equal(outputs.values, values)


@every_output_defence
def test_the_same_seed_gives_the_same_answers(name):
    values = np.random.default_rng(3).dirichlet(np.ones(4), size=20)
    one, two = (around(name)(Outputs(values.copy(), "probabilities")).values for _ in range(2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", sorted(set(OUTPUT) - {"output_coarsening"}))
def test_another_model_draws_other_noise(name):
    """Whoever trains shadows does not know what the released model draws."""
    values = np.random.default_rng(4).dirichlet(np.ones(4), size=20)
    one, two = (around(name, seed)(Outputs(values.copy(), "probabilities")).values for seed in (1, 2))
    assert (one != two).any()


@every_output_defence
def test_no_rows_and_rows_of_zeros_and_ones(name):
    assert around(name)(Outputs(np.empty((0, 4)), "logits")).values.shape == (0, 4)
    sure = np.array([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]])
    assert np.isfinite(around(name)(Outputs(sure, "probabilities")).values).all()


@pytest.mark.parametrize("name", KEEP_THE_LABEL)
@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_the_label_is_kept(name, kind):
    values = np.random.default_rng(5).dirichlet(np.full(4, 0.5), size=300)
    protected = around(name)(Outputs(values.copy(), kind))
    np.testing.assert_array_equal(protected.values.argmax(axis=1), values.argmax(axis=1))


@pytest.mark.parametrize("name", sorted(n for n in OUTPUT if "in_model" in CATALOG[n].settings.model_fields))
def test_a_model_that_answers_through_it_already_is_left_alone(name):
    """The shadows still get it; the released model has it inside."""
    defences = configure({name: {**OUTPUT[name], "in_model": True}})
    outputs = Outputs(np.random.default_rng(6).dirichlet(np.ones(4), size=20), "probabilities")

    def nothing_to_fit() -> tuple[Outputs, Bools]:
        raise AssertionError("nothing is fitted to the released model")

    assert defences.around(nothing_to_fit, 0, released=True)(outputs) is outputs
    assert (defences.around(known, 0)(outputs).values != outputs.values).any()


@pytest.mark.parametrize("name", sorted(n for n in OUTPUT if CATALOG[n].kind == "fitted output"))
@pytest.mark.parametrize("side", [True, False])
def test_a_fitted_defence_needs_both_sides(name, side):
    answers, member = known()
    assert CATALOG[name].reference
    with pytest.raises(NotEvaluable, match="tell members from") as error:
        CATALOG[name].configure(OUTPUT[name]).fitted(answers, np.full(len(member), side), 0)  # type: ignore[attr-defined]
    assert "data.seen" in error.value.hint


def test_defences_stand_behind_one_another_in_the_order_of_the_config():
    """What is fitted second is fitted to what the first lets through."""
    order = configure({"output_coarsening": {"label_only": True}, "memguard": OUTPUT["memguard"]})
    seen: list[Outputs] = []

    class Recorder:
        def fitted(self, answers: Outputs, member: Bools, seed: int) -> Any:
            seen.append(answers)
            return lambda outputs: outputs

    Defences((order.items[0], ("memguard", Recorder()))).around(known, 0)
    np.testing.assert_array_equal(np.unique(seen[0].values), [0.0, 1.0])


# --- in the training -------------------------------------------------------------------------------------------------


@every_training_defence
def test_a_recipe_that_trains_with_it_gets_nothing_more(name):
    inside = configure({name: {**SETTINGS[name], "in_recipe": True}})
    assert inside.training == ()
    assert len(configure({name: SETTINGS[name]}).training) == 1
    assert inside.output == ()


@every_training_defence
def test_an_estimator_that_it_does_not_know_is_refused_with_a_way_out(name):
    (item,) = configure({name: SETTINGS[name]}).training
    with pytest.raises((UsageError, RecipeFailed), match=name) as error:
        item.parameters("Oracle", {})
    assert error.value.hint


@every_training_defence
def test_the_training_of_a_module_comes_back_whole_or_is_refused(name):
    (item,) = configure({name: SETTINGS[name]}).training
    before = TorchTraining(epochs=9, batch_size=7)
    if name in NOT_FOR_MODULES:
        with pytest.raises(UsageError, match=name) as error:
            item.training(before)
        assert error.value.hint
    else:
        after = item.training(before)
        assert (after.epochs, after.batch_size) == (9, 7)
    assert before == TorchTraining(epochs=9, batch_size=7)
