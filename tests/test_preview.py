"""`plan` says how long it takes and whether the registry agrees with the manifest, and guesses neither."""

from types import SimpleNamespace

import pytest

from privacy_gate import preview
from privacy_gate.datamodel import ThreatModel
from privacy_gate.ladder import Rung


def hint(context, rows, name="adult"):
    return SimpleNamespace(name=name, context=context, source_type="local", digest="d", rows=rows)


def said(*hints, members=10_000, nonmembers=5_000, train_size=10_121, removed=None):
    dataset = SimpleNamespace(members=members, nonmembers=nonmembers, train_size=train_size, removed=removed or {})
    return list(preview._hints(SimpleNamespace(datasets=hints), dataset))


def shown(**changes):
    defaults = {
        "model": "models:/churn/1",
        "digest": "0" * 64,
        "flavor": "sklearn",
        "executes_code": False,
        "policy": "standard",
        "policy_sha256": "1" * 64,
        "attacks": ("lira",),
        "members": 10,
        "nonmembers": 10,
        "member_persons": 10,
        "nonmember_persons": 10,
        "removed": {},
        "shadows": 16,
        "cached": 4,
        "train_size": 10,
        "jobs": 2,
        "minutes": 3.0,
        "notes": (),
        "hints": (),
        "rules": (("PG101", True, "a"), ("PG103", False, "b")),
        "undecidable": ("PG103",),
    }
    return list(preview.Preview(**{**defaults, **changes}).lines())


def known(run_seconds, shadow_seconds=None):
    return SimpleNamespace(run_seconds=run_seconds, shadow_seconds=shadow_seconds)


def test_minutes_are_the_runs_own_time_shared_by_the_workers():
    assert preview._minutes(known(60.0), missing=12, jobs=4) == pytest.approx(3.0)
    assert preview._minutes(known(None), missing=12, jobs=4) is None
    assert preview._minutes(known(None), missing=0, jobs=4) == 0.0


def test_what_shadows_took_here_is_better_than_what_the_run_took():
    assert preview._minutes(known(60.0, 20.0), missing=12, jobs=4) == pytest.approx(1.0)
    assert "         about 1.0 minutes, going by shadows that were trained here" in shown(minutes=1.0, measured=True)


def test_models_that_exist_are_shown_with_the_records_that_they_had():
    assert any(line.startswith("shadows  16 of 8 records each") for line in shown(each=8))
    assert any(line.startswith("shadows  16 of 10 records each") for line in shown())


def test_what_was_noticed_on_the_way_is_said():
    assert "warning  numpy 2.0 here, 1.26 in the model's requirements" in shown(
        warnings=("numpy 2.0 here, 1.26 in the model's requirements",)
    )


def test_the_time_is_said_or_said_to_be_unknown():
    assert "         about 3.0 minutes, going by the training run's own time" in shown()
    assert "         time unknown: the training run did not log its duration" in shown(minutes=None)
    assert not [line for line in shown(cached=16, minutes=0.0) if "minutes" in line or "time" in line]


def test_what_cannot_pass_is_marked():
    assert shown()[-2:] == ["decides  a", "CANNOT   b"]
    rung = Rung(
        "none",
        "0 shadows",
        "none",
        0,
        {ThreatModel.KNOWN_SUBSET: ("confidence",)},
        ("PG103",),
        (),
        ("PG101",),
        False,
        0.0,
        chosen=True,
    )
    first, second = shown(ladder=(rung,))[-2:]
    assert first == "CANNOT   a; for a pass this rung lacks more than records: see the ladder"
    assert second == "CANNOT   b"


@pytest.mark.parametrize("context", ["train", "training", " Training "])
def test_training_data_is_compared_with_what_the_model_was_trained_on(context):
    assert said(hint(context, 10_121))[0].endswith(": agrees (10,121 rows)")
    (differs,) = said(hint(context, 9_000))
    assert differs.endswith(": DIFFERS: 9,000 rows logged, 10,121 members in the manifest")


def test_held_out_data_is_compared_with_the_non_members_before_some_were_left_out():
    removed = {"in both sets": 20}
    assert said(hint("test", 5_000), removed=removed)[0].endswith("agrees (5,000 rows)")
    assert said(hint("eval", 5_020), removed=removed)[0].endswith("agrees (5,020 rows)")
    for rows in (4_999, 5_021):
        (line,) = said(hint("evaluation", rows), removed=removed)
        assert line.endswith(f"DIFFERS: {rows:,} rows logged, 5,000 non-members in the manifest")


def test_nothing_is_claimed_of_what_is_not_known():
    assert said(hint("training", None))[0].endswith(": its number of rows was not logged")
    (line,) = said(hint("", 7))
    assert "as input" in line
    assert line.endswith("7 rows; a hint, not compared")
    assert said() == []
