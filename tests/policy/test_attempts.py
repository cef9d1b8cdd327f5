"""Repeated testing: which look this is, what it may spend, and what all looks together promise."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy_gate.datamodel import Attempt
from privacy_gate.errors import ExitCode
from privacy_gate.policy.attempts import attempt_number, looks, spend


def made(data: str, seed: int, at: int, code: int = 1, policy: str = "p", run: str = "") -> Attempt:
    return Attempt(data, seed, policy, "fail", code, run or f"run{at}", f"2026-01-01T00:00:{at:02}.000+00:00")


def test_the_first_look_is_the_first():
    assert attempt_number([], "d", 0) == 1


def test_an_identical_rerun_is_no_new_look_whatever_the_policy():
    earlier = [made("d", 0, 1), made("d", 0, 2, policy="q"), made("d", 0, 3, code=0)]
    assert attempt_number(earlier, "d", 0) == 1
    assert attempt_number(earlier, "d", 1) == 2
    assert attempt_number(earlier, "e", 0) == 2


def test_a_rerun_of_the_jth_look_gets_its_number_again():
    earlier = [made("d", 0, 1), made("d", 1, 2), made("e", 1, 3), made("d", 1, 4)]
    assert [attempt_number(earlier, *look) for look in (("d", 0), ("d", 1), ("e", 1), ("e", 2))] == [1, 2, 3, 4]


@pytest.mark.parametrize("code", [ExitCode.USAGE, ExitCode.FAILED, ExitCode.INTERRUPTED])
def test_what_broke_spends_nothing(code):
    earlier = [made("d", 0, 1, code=code), made("e", 5, 2, code=code)]
    assert attempt_number(earlier, "x", 9) == 1
    assert attempt_number([*earlier, made("e", 5, 3)], "d", 0) == 2  # it never was the first


@pytest.mark.parametrize("code", [ExitCode.PASS, ExitCode.VIOLATED, ExitCode.INCONCLUSIVE])
def test_what_was_seen_spends(code):
    assert attempt_number([made("d", 0, 1, code=code)], "d", 1) == 2


def test_the_order_is_by_time_then_run_and_not_the_lists():
    earlier = [made("a", 0, 1), made("b", 0, 2, run="r1"), made("c", 0, 2, run="r2"), made("a", 0, 3)]
    for shuffled in permutations(earlier):
        assert looks(shuffled) == [("a", 0), ("b", 0), ("c", 0)]


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


RECORDED = st.builds(
    made, st.sampled_from("de"), st.integers(0, 2), st.integers(0, 59), st.sampled_from([0, 1, 2, 3, 4, 130])
)


@given(st.lists(RECORDED, max_size=12), st.sampled_from("de"), st.integers(0, 2))
def test_the_number_against_a_slow_twin(earlier, data, seed):
    """Replayed one after the other: each evaluation is either known or the next one."""
    numbers: dict[tuple[str, int], int] = {}
    for a in sorted(earlier, key=lambda a: (a.at, a.run_id)):
        if a.exit_code in (0, 1, 4) and (a.data_digest, a.seed) not in numbers:
            numbers[a.data_digest, a.seed] = len(numbers) + 1
    assert attempt_number(earlier, data, seed) == numbers.get((data, seed), len(numbers) + 1)


@given(st.lists(RECORDED, max_size=12), st.sampled_from("de"), st.integers(0, 2))
def test_recording_a_look_does_not_change_its_number(earlier, data, seed):
    number = attempt_number(earlier, data, seed)
    later = Attempt(data, seed, "p", "fail", 1, "zzz", "2026-01-01T00:01:00.000+00:00")
    assert attempt_number([*earlier, later], data, seed) == number
