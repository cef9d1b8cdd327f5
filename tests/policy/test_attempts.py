"""Repeated testing: which look this is, what it may spend, and what all looks together promise."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy_gate.datamodel import Attempt
from privacy_gate.errors import ExitCode
from privacy_gate.policy.attempts import NO_REFERENCES, Look, attempt_number, looks, spend


def made(
    data: str, seed: int, at: int, code: int = 1, policy: str = "p", run: str = "", references: str = "s"
) -> Attempt:
    when = f"2026-01-01T00:00:{at:02}.000+00:00"
    return Attempt(data, seed, policy, "fail", code, run or f"run{at}", when, references)


def number(earlier: list[Attempt], data: str, seed: int, references: str = "s") -> int:
    return attempt_number(earlier, data, seed, references)


def test_the_first_look_is_the_first():
    assert number([], "d", 0) == 1


def test_an_identical_rerun_is_no_new_look_whatever_the_policy():
    earlier = [made("d", 0, 1), made("d", 0, 2, policy="q"), made("d", 0, 3, code=0)]
    assert number(earlier, "d", 0) == 1
    assert number(earlier, "d", 1) == 2
    assert number(earlier, "e", 0) == 2


def test_a_rerun_of_the_jth_look_gets_its_number_again():
    earlier = [made("d", 0, 1), made("d", 1, 2), made("e", 1, 3), made("d", 1, 4)]
    assert [number(earlier, *look) for look in (("d", 0), ("d", 1), ("e", 1), ("e", 2))] == [1, 2, 3, 4]


def test_references_drawn_anew_are_a_further_look():
    """16, 17, ... shadows, until some draw passes: each of them has less to spend."""
    earlier = [made("d", 0, at, references=f"{15 + at} shadows") for at in range(1, 9)]
    assert [number(earlier[:at], "d", 0, f"{16 + at} shadows") for at in range(9)] == list(range(1, 10))
    assert number(earlier, "d", 0, "18 shadows") == 3


def test_the_first_references_cost_no_look():
    """The ladder: a look without shadows, then with 16, then with 32, and each once more."""
    none, few, many = (made("d", 0, at, references=r) for at, r in enumerate((NO_REFERENCES, "16", "32"), 1))
    assert number([none], "d", 0, "16") == 1
    assert number([none, few], "d", 0, "32") == 2
    numbers = {r: number([none, few, many], "d", 0, r) for r in (NO_REFERENCES, "16", "32", "64")}
    assert numbers == {NO_REFERENCES: 1, "16": 1, "32": 2, "64": 3}
    assert number([few, many], "d", 0, NO_REFERENCES) == 1
    # It is only ever the same records and seed, and a look keeps its place when its shadows come later.
    between = [none, made("e", 0, 2), made("d", 0, 3, references="16")]
    assert number(between, "d", 0, "16") == 1
    assert number(between, "e", 0) == 2
    assert number(between, "e", 0, NO_REFERENCES) == 2
    assert number(between, "d", 1, NO_REFERENCES) == 3


def test_evaluations_that_do_not_tell_their_references_are_of_one_kind():
    earlier = [made("d", 0, 1, references=""), made("d", 0, 2, references="")]
    assert number(earlier, "d", 0, "") == 1
    assert number(earlier, "d", 0, "16") == 2
    assert number(earlier, "d", 0, NO_REFERENCES) == 2


@pytest.mark.parametrize("code", [ExitCode.USAGE, ExitCode.FAILED, ExitCode.INTERRUPTED])
def test_what_broke_spends_nothing(code):
    earlier = [made("d", 0, 1, code=code), made("e", 5, 2, code=code)]
    assert number(earlier, "x", 9) == 1
    assert number([*earlier, made("e", 5, 3)], "d", 0) == 2  # it never was the first


@pytest.mark.parametrize("code", [ExitCode.PASS, ExitCode.VIOLATED, ExitCode.INCONCLUSIVE])
def test_what_was_seen_spends(code):
    assert number([made("d", 0, 1, code=code)], "d", 1) == 2


def test_the_order_is_by_time_then_run_and_not_the_lists():
    earlier = [made("a", 0, 1), made("b", 0, 2, run="r1"), made("c", 0, 2, run="r2"), made("a", 0, 3)]
    for shuffled in permutations(earlier):
        assert looks(shuffled) == [Look("a", 0, "s"), Look("b", 0, "s"), Look("c", 0, "s")]


def test_levels():
    assert spend(0.05, 1) == 0.05
    assert spend(0.05, 2) == pytest.approx(0.05 * 6 / math.pi**2 / 4)
    with pytest.raises(ValueError, match="count from 1"):
        spend(0.05, 0)


def test_all_looks_together_spend_what_is_promised():
    total = sum(spend(0.05, k) for k in range(1, 200_000))
    # The tail beyond n terms of sum 1/k^2 is below 1/n.
    assert total == pytest.approx(0.05 * (2 - 6 / math.pi**2), abs=0.05 * 6 / math.pi**2 / 200_000 * 1.01)
    assert total < 1.4 * 0.05


REFERENCES = st.sampled_from([NO_REFERENCES, "16", "32", ""])
RECORDED = st.builds(
    made,
    st.sampled_from("de"),
    st.integers(0, 1),
    st.integers(0, 59),
    st.sampled_from([0, 1, 2, 3, 4, 130]),
    references=REFERENCES,
)


@given(st.lists(RECORDED, max_size=12), st.sampled_from("de"), st.integers(0, 1), REFERENCES)
def test_the_number_against_a_slow_twin(earlier, data, seed, references):
    """Replayed one after the other: each evaluation is either known or the next one, the one in question last.

    A place in the row has records, a seed and a set of references: none and one draw may share it.
    """
    ordered = sorted((a for a in earlier if a.exit_code in (0, 1, 4)), key=lambda a: (a.at, a.run_id))
    places: list[tuple[str, int, set[str]]] = []
    for look in [*((a.data_digest, a.seed, a.references) for a in ordered), (data, seed, references)]:
        same = [(i, names) for i, (d, s, names) in enumerate(places) if (d, s) == look[:2]]
        found = [i for i, names in same if look[2] in names]
        if not found and look[2] == NO_REFERENCES:
            found = [i for i, names in same if "" not in names]
        if not found and look[2]:
            found = [i for i, names in same if names == {NO_REFERENCES}]
        if found:
            places[found[0]][2].add(look[2])
            last = found[0]
        else:
            places.append((look[0], look[1], {look[2]}))
            last = len(places) - 1
    assert attempt_number(earlier, data, seed, references) == last + 1


@given(st.lists(RECORDED, max_size=12), st.sampled_from("de"), st.integers(0, 1), REFERENCES)
def test_recording_a_look_does_not_change_its_number(earlier, data, seed, references):
    found = attempt_number(earlier, data, seed, references)
    later = Attempt(data, seed, "p", "fail", 1, "zzz", "2026-01-01T00:01:00.000+00:00", references)
    assert attempt_number([*earlier, later], data, seed, references) == found


@given(st.lists(RECORDED, max_size=12), RECORDED)
def test_no_evaluation_changes_the_number_of_an_earlier_look(earlier, new):
    """Who evaluates once more gets the level that there was, however much was looked at since."""
    later = Attempt(
        *(getattr(new, name) for name in ("data_digest", "seed", "policy_digest", "verdict")),
        1,
        "zzz",
        "2026-01-01T00:01:00.000+00:00",
        new.references,
    )
    for a in earlier:
        if a.exit_code in (0, 1, 4):
            look = (a.data_digest, a.seed, a.references)
            assert attempt_number([*earlier, later], *look) == attempt_number(earlier, *look)
