"""Token buckets against a slow twin that counts, and memory that stays bounded."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy_gate.service.limits import Bucket, PerClient, Recent, network, per_minute

steps = st.lists(st.tuples(st.integers(0, 40), st.booleans()), min_size=1, max_size=60)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(steps=steps, capacity=st.integers(1, 8))
def test_a_bucket_is_what_refilling_it_quarter_second_by_quarter_second_gives(steps, capacity):
    """One token a second. All times are quarters of seconds, so that nothing is rounded."""
    bucket, quarters, last = Bucket(1.0, float(capacity)), 4 * capacity, 0
    for passed, take in steps:
        last += passed
        for _ in range(passed):
            quarters = min(4 * capacity, quarters + 1)
        expected = 0.0 if quarters >= 4 else (4 - quarters) / 4
        assert (bucket.take if take else bucket.wait)(1000.0 + last / 4) == expected
        if take and quarters >= 4:
            quarters -= 4


def test_who_waits_as_long_as_told_gets_a_token():
    bucket = per_minute(120)
    assert [bucket.take(5.0) for _ in range(120)] == [0.0] * 120
    wait = bucket.take(5.0)
    assert wait == pytest.approx(0.5)
    assert bucket.take(5.0 + wait + 1e-9) == 0.0
    assert bucket.take(5.0 + wait + 1e-9) > 0.0


def test_it_holds_no_more_than_its_capacity_however_long_nobody_comes():
    bucket = per_minute(3)
    assert bucket.take(0.0) == 0.0
    assert sum(bucket.take(1e9) == 0.0 for _ in range(10)) == 3


def test_a_clock_that_goes_back_gives_no_tokens_and_takes_none():
    bucket = per_minute(60)
    assert all(bucket.take(1000.0) == 0.0 for _ in range(60))
    assert bucket.take(10.0) == 1.0
    assert bucket.take(10.5) == pytest.approx(0.5)
    assert bucket.take(11.0) == 0.0


def test_one_client_does_not_use_up_what_is_anothers():
    clients = PerClient(1.0, 3.0, 100)
    assert [clients.take("192.0.2.1", 0.0) > 0 for _ in range(5)] == [False, False, False, True, True]
    assert clients.take("192.0.2.2", 0.0) == 0.0
    assert clients.wait("192.0.2.1", 0.0) > 0.0
    assert clients.wait("192.0.2.2", 0.0) == 0.0
    assert clients.wait("192.0.2.1", 1.0) == 0.0


def test_who_never_did_wrong_is_not_remembered():
    clients = PerClient(1.0, 1.0, 10)
    for i in range(100):
        assert clients.wait(f"192.0.2.{i}", 0.0) == 0.0
    assert len(clients) == 0


def test_memory_is_bounded_and_the_one_not_seen_for_longest_goes_first():
    clients = PerClient(1.0, 1.0, 3)
    for name in ("192.0.2.1", "192.0.2.2", "192.0.2.3"):
        assert clients.take(name, 0.0) == 0.0
    assert clients.take("192.0.2.1", 0.0) > 0.0
    assert clients.take("192.0.2.4", 0.0) == 0.0
    assert len(clients) == 3
    assert clients.wait("192.0.2.2", 0.0) == 0.0, "forgotten"
    assert clients.wait("192.0.2.1", 0.0) > 0.0, "seen after it"
    for i in range(10_000):
        clients.take(f"198.51.{i // 256}.{i % 256}", 0.0)
    assert len(clients) == 3


@pytest.mark.parametrize(
    ("address", "whose"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        (None, ""),
        ("", ""),
        ("testclient", ""),
        ("192.0.2.7\n", ""),
    ],
)
def test_whom_an_address_belongs_to(address, whose):
    assert network(address) == whose


def test_recent_ids_are_bounded():
    recent = Recent(3)
    for id in "abcda":
        recent.add(id)
    assert [id in recent for id in "abcd"] == [True, False, True, True]
