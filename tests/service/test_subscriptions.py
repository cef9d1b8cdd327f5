"""subscriptions.yaml: what it may say, whom a pattern fits, by what versions are judged, and when that changes."""

import dataclasses
import itertools
import re
from functools import cache

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy_gate.errors import ConfigError, UsageError
from privacy_gate.registry import RegisteredVersion
from privacy_gate.service import Event, subscriptions
from privacy_gate.service.subscriptions import (
    Reloading,
    Subscriptions,
    concerns,
    covers,
    fits,
    includes,
    load,
    present,
    queue_url,
    terms,
)

CONFIG = {"apiVersion": "privacy-gate/v1", "data": {"members": "in.csv", "nonmembers": "out.csv"}}
WAIVER = {
    "id": "W1",
    "rule": "PG101",
    "scope": {"model": "churn", "versions": "1"},
    "until_value": 0.7,
    "reason": "accepted until the next release of it",
    "approved_by": ["a person"],
    "ticket": "T-1",
    "created": "2026-01-01",
    "expires": "2026-01-20",
}


def write(folder, name, **content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    return path


def team(folder, *, top=None, config=None, **subscription):
    """A folder with a file of one subscription, unless `subscriptions` lists others; returns its path."""
    write(folder, "privacy-gate.yaml", **{**CONFIG, **(config or {})})
    own = subscription.pop("subscriptions", [{"name": "churn-*", "config": "privacy-gate.yaml", **subscription}])
    content = {"apiVersion": "privacy-gate/subscriptions/v1", **(top or {}), "subscriptions": own}
    return write(folder, "subscriptions.yaml", **content)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Relative paths start at the file, not where the service was started."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")


# --- patterns -------------------------------------------------------------------------------------------------------


@cache
def slow_fits(pattern, name):
    """By the definition of the two marks."""
    if not pattern:
        return not name
    if pattern[0] == "*":
        return slow_fits(pattern[1:], name) or bool(name and slow_fits(pattern, name[1:]))
    return bool(name) and pattern[0] in ("?", name[0]) and slow_fits(pattern[1:], name[1:])


ANY_PATTERN = st.text("ab*?[", max_size=7)


@given(ANY_PATTERN, st.text("ab*?[", max_size=7))
@settings(max_examples=300, derandomize=True)
def test_fits_is_the_slow_obvious_one(pattern, name):
    assert fits(pattern, name) == slow_fits(pattern, name)


@given(ANY_PATTERN, ANY_PATTERN)
@settings(max_examples=300, derandomize=True)
def test_what_includes_another_fits_all_that_it_fits(pattern, other):
    """Nobody is told that a subscription is never used while a name could still reach it."""
    if includes(pattern, other):
        for length in range(5):
            for name in map("".join, itertools.product("abz", repeat=length)):
                assert fits(pattern, name) or not fits(other, name)


@pytest.mark.parametrize(
    ("pattern", "other", "included"),
    [
        ("*", "churn", True),
        ("churn", "churn", True),
        ("churn-*", "churn-eu-?", True),
        ("*?", "?*", True),
        ("a*c", "a*b*c", True),
        ("churn-?", "churn-*", False),
        ("churn", "churn-*", False),
        ("?", "*", False),
        ("[ab]", "a", False),
    ],
)
def test_includes(pattern, other, included):
    assert includes(pattern, other) is included


def test_a_name_that_is_made_to_be_slow_is_not():
    name = "a" * 5000
    assert not fits("*a" * 100 + "b", name)  # a regular expression would still be at it


def test_brackets_are_plain_characters():
    assert fits("churn [eu]", "churn [eu]")
    assert not fits("churn [eu]", "churn e")


# --- reading --------------------------------------------------------------------------------------------------------


def test_everything_is_found_from_the_file(tmp_path):
    write(tmp_path, "policies/team.yaml", apiVersion="privacy-gate/v1", extends="strict")
    write(tmp_path, "waivers.yaml", apiVersion="privacy-gate/waivers/v1", waivers=[WAIVER])
    path = team(
        tmp_path, policy="policies/team.yaml", waivers="waivers.yaml", suite="fast", trust="code", config={"seed": 7}
    )
    subscribed = load(path)
    subscription = subscribed.of("churn-eu")
    request = subscribed.requests["churn-*"]
    assert subscribed.folder == tmp_path
    assert subscribed.state == tmp_path / "privacy-gate-service"
    assert (request.suite, request.trust, request.config.seed) == ("fast", "code", 7)
    assert request.config_dir == tmp_path
    assert request.policy == tmp_path / "policies" / "team.yaml"
    assert subscribed.named("churn-*") is subscription
    assert subscribed.of("fraud") is None
    assert subscribed.named("fraud") is None
    from privacy_gate.policy import resolve

    assert subscribed.terms["churn-*"].policy_sha256 == resolve(tmp_path / "policies/team.yaml").digest


def test_a_relative_database_is_found_from_the_folder_of_the_caller(tmp_path):
    """As `privacy-gate check` finds the one that a config names."""
    subscribed = load(team(tmp_path, top={"tracking_uri": "sqlite:///mlflow.db"}))
    assert subscribed.tracking_uri == f"sqlite:///{tmp_path}/elsewhere/mlflow.db"
    assert subscribed.registry_uri is None


def test_the_queue_is_in_the_state_folder_unless_the_environment_names_one(tmp_path):
    from sqlalchemy import make_url

    subscribed = load(team(tmp_path / "a b%c?d", top={"service": {"state": "st ate"}}))
    assert make_url(queue_url(subscribed, {})).database == f"{tmp_path}/a b%c?d/st ate/queue.db"
    assert queue_url(subscribed, {"PRIVACY_GATE_QUEUE_URL": "postgresql://x/y"}) == "postgresql://x/y"


def found(path):
    """(file's name, line, code) of every finding."""
    with pytest.raises(ConfigError) as caught:
        load(path)
    return [(d.file.rpartition("/")[2], d.line, d.code) for d in caught.value.diagnostics]


def test_every_mistake_is_at_its_line(tmp_path):
    write(tmp_path, "broken.yaml", **CONFIG, attacks=["lyra"])
    write(tmp_path, "policy.yaml", apiVersion="privacy-gate/v1", rules={"PG101": {"maximum": 1}})
    write(tmp_path, "elsewhere.yaml", **CONFIG, tracking_uri="https://other.example.org")
    write(tmp_path, "privacy-gate.yaml", **CONFIG)
    path = tmp_path / "subscriptions.yaml"
    path.write_text(
        """apiVersion: privacy-gate/subscriptions/v1
tracking_uri: https://user:hunter2@mlflow.example.org
service:
  url: gate.example.org
  alias: v1
subscriptions:
  - name: churn-*
    config: broken.yaml
  - name: churn-eu
    config: none.yaml
  - name: fraud
    config: privacy-gate.yaml
    policy: policy.yaml
  - name: loans
    config: elsewhere.yaml
    versions:
      alias: v1
      tag: {privacy_gate.verdict: pass}
"""
    )
    mistakes = found(path)
    own = [mistake for mistake in mistakes if mistake[0] == "subscriptions.yaml"]
    assert own == mistakes[: len(own)]
    assert own == [
        ("subscriptions.yaml", 2, "secret"),
        ("subscriptions.yaml", 4, "url"),
        ("subscriptions.yaml", 5, "alias"),
        ("subscriptions.yaml", 9, "unreadable"),
        ("subscriptions.yaml", 9, "never-used"),
        ("subscriptions.yaml", 15, "other-registry"),
        ("subscriptions.yaml", 17, "own-alias"),
        ("subscriptions.yaml", 17, "alias"),
        ("subscriptions.yaml", 18, "own-tag"),
    ]
    assert ("broken.yaml", 3, "unknown-attack") in mistakes
    assert {mistake[0] for mistake in mistakes[len(own) :]} == {"broken.yaml", "policy.yaml"}
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        {"name": "x", "config": "privacy-gate.yaml", "policy": "p.yaml", "profile": "strict"},
        {"name": "x", "config": "privacy-gate.yaml", "data_roots": ["/data"]},
        {"name": "x", "config": "privacy-gate.yaml", "trust": "all"},
        {"name": "x", "config": "privacy-gate.yaml", "versions": {"alias": "a b"}},
        {"name": "x", "config": "privacy-gate.yaml", "command": "rm"},
        {"name": "x"},
    ],
)
def test_what_a_subscription_may_not_say(tmp_path, content):
    assert found(team(tmp_path, subscriptions=[content]))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        load(tmp_path / "none.yaml")


# --- terms ----------------------------------------------------------------------------------------------------------


def own_terms(path):
    subscribed = load(path)
    return terms(subscribed, subscribed.value.subscriptions[0], RegisteredVersion("churn-eu", "1", run_id="r"))


RECIPE = {"shadows": {"recipe": {"python": "train.py:train"}}}


@pytest.mark.parametrize(
    ("change", "policy", "config"),
    [
        ({}, False, False),
        ({"suite": "fast"}, False, True),
        ({"config": {**RECIPE, "seed": 1}}, False, True),
        ({"profile": "strict"}, True, False),
        ({"data": "run"}, False, True),
        ({"data": "run", "data_roots": ["/data"]}, False, True),
        ({"trust": "code"}, False, True),
        ({"priority": 9, "concurrency": 4, "timeout": "9h"}, False, False),
        ({"top": {"service": {"attempts": 9}}}, False, False),
    ],
)
def test_what_makes_other_terms(tmp_path, change, policy, config):
    (tmp_path / "train.py").write_text("def train(): ...")
    before = own_terms(team(tmp_path, config=RECIPE))
    after = own_terms(team(tmp_path, **{"config": RECIPE, **change}))
    assert (before.policy_sha256 != after.policy_sha256, before.config_sha256 != after.config_sha256) == (
        policy,
        config,
    )


def test_waivers_and_code_are_part_of_the_terms(tmp_path):
    (tmp_path / "train.py").write_text("def train(): ...")
    waivers = write(tmp_path, "waivers.yaml", apiVersion="privacy-gate/waivers/v1", waivers=[])
    path = team(tmp_path, config={**RECIPE, "waivers": "waivers.yaml"})
    seen = {own_terms(path)}
    write(tmp_path, waivers.name, apiVersion="privacy-gate/waivers/v1", waivers=[WAIVER])
    seen.add(own_terms(path))
    (tmp_path / "train.py").write_text("def train(): return 1")
    seen.add(own_terms(path))
    assert len(seen) == 3


def test_the_same_words_in_another_folder_are_other_terms(tmp_path):
    """Their relative paths name other records: what was judged by the one set says nothing by the other."""
    places = ("a/privacy-gate.yaml", "b/privacy-gate.yaml")
    for place in places:
        write(tmp_path / place.split("/")[0], "privacy-gate.yaml", **CONFIG)
    wanted = [{"name": f"team-{place[0]}-*", "config": place} for place in places]
    path = write(tmp_path, "subscriptions.yaml", apiVersion="privacy-gate/subscriptions/v1", subscriptions=wanted)
    one, other = load(path).terms.values()
    assert one.policy_sha256 == other.policy_sha256
    assert one.config_sha256 != other.config_sha256


def test_where_runs_name_the_records_a_verdict_is_about_one_name_and_one_run(tmp_path):
    """A stranger may register the same files with a run of his own, which names records that the model never saw."""
    versions = [
        RegisteredVersion("churn-eu", "1", run_id="r"),
        RegisteredVersion("churn-eu", "2", run_id="r"),
        RegisteredVersion("churn-eu", "3", run_id="s"),
        RegisteredVersion("churn-us", "1", run_id="r"),
        RegisteredVersion("churn-us", "2"),
    ]
    for data, different in (("config", 1), ("run", 4)):
        subscribed = load(team(tmp_path, data=data))
        subscription = subscribed.value.subscriptions[0]
        by = [terms(subscribed, subscription, version) for version in versions]
        assert len(set(by)) == different
        assert by[0] == by[1]
        assert by == [present(subscribed, version) for version in versions]


def test_terms_do_not_depend_on_where_the_folder_is(tmp_path):
    """Another host keeps the same files elsewhere."""
    for place in ("a", "b"):
        write(tmp_path / place, "policy.yaml", apiVersion="privacy-gate/v1", extends="strict")
        write(tmp_path / place, "waivers.yaml", apiVersion="privacy-gate/waivers/v1", waivers=[])
    one, other = (
        own_terms(team(tmp_path / place, policy="policy.yaml", waivers="waivers.yaml")) for place in ("a", "b")
    )
    assert one == other


# --- while files change ---------------------------------------------------------------------------------------------


def test_broken_files_are_not_read_all_the_time(tmp_path, monkeypatch):
    """A worker asks each second, and forty configs take a part of it."""
    path = team(tmp_path)
    reloading = Reloading(path)
    loads, whole = [], subscriptions.load
    monkeypatch.setattr(subscriptions, "load", lambda path: loads.append(path) or whole(path))
    monkeypatch.setattr(subscriptions, "_UNSEEN", 1e9)
    good = path.read_text()
    path.write_text("no")
    for _ in range(5):
        reloading.refresh()
    assert (len(loads), reloading.broken is None) == (1, False)
    monkeypatch.setattr(subscriptions, "_UNSEEN", 0.0)
    path.write_text("not yet")
    for _ in range(3):
        reloading.refresh()
    assert len(loads) == 4  # what is missing may be there by now
    path.write_text(good)
    reloading.refresh()
    assert (len(loads), reloading.broken) == (5, None)


def test_a_broken_file_keeps_the_old_terms_until_it_is_mended(tmp_path):
    path = team(tmp_path)
    reloading = Reloading(path)
    first = reloading.value
    assert reloading.refresh() is first  # nothing has changed

    (tmp_path / "privacy-gate.yaml").write_text("apiVersion: privacy-gate/v1\nseed: many\n")
    assert reloading.refresh() is first
    assert re.search(r"privacy-gate.yaml:2:7: .*seed", reloading.broken)

    write(tmp_path, "privacy-gate.yaml", **CONFIG, seed=5)
    second = reloading.refresh()
    assert reloading.broken is None
    assert reloading.value is second
    assert second.terms != first.terms
    assert second.requests["churn-*"].config.seed == 5

    path.unlink()
    assert reloading.refresh() is second
    assert "no such file" in reloading.broken


def test_a_policy_that_is_extended_is_watched_too(tmp_path):
    write(tmp_path, "base.yaml", apiVersion="privacy-gate/v1", extends="standard")
    write(tmp_path, "policy.yaml", apiVersion="privacy-gate/v1", extends="base.yaml")
    reloading = Reloading(team(tmp_path, policy="policy.yaml"))
    before = reloading.value.terms["churn-*"]
    write(tmp_path, "base.yaml", apiVersion="privacy-gate/v1", extends="strict")
    assert reloading.refresh().terms["churn-*"].policy_sha256 != before.policy_sha256


# --- versions and events --------------------------------------------------------------------------------------------


def asked(**versions):
    own = {"name": "churn-*", "config": "c.yaml", "versions": versions}
    return Subscriptions.model_validate({"apiVersion": "privacy-gate/subscriptions/v1", "subscriptions": [own]})


@pytest.mark.parametrize(
    ("wanted", "version", "covered"),
    [
        ({}, {}, True),
        ({}, {"ready": False}, False),
        ({"alias": "candidate"}, {"aliases": ("candidate", "x")}, True),
        ({"alias": "candidate"}, {"aliases": ("x",)}, False),
        ({"tag": {"stage": "release"}}, {"tags": {"stage": "release", "x": "y"}}, True),
        ({"tag": {"stage": "release"}}, {"tags": {"stage": "draft"}}, False),
        ({"tag": {"stage": "release"}, "alias": "c"}, {"tags": {"stage": "release"}}, False),
    ],
)
def test_covers(wanted, version, covered):
    assert covers(asked(**wanted).subscriptions[0], RegisteredVersion("churn-eu", "1", **version)) is covered


def test_who_is_approved_stays_covered():
    subscription = asked(alias="candidate").subscriptions[0]
    version = RegisteredVersion("churn-eu", "1", aliases=("privacy-approved",))
    assert covers(subscription, version, "privacy-approved")
    assert not covers(subscription, version, "another")
    assert not covers(subscription, dataclasses.replace(version, ready=False), "privacy-approved")


@pytest.mark.parametrize(
    ("wanted", "event", "concerned"),
    [
        ({}, Event("model_version", "created", "churn-eu", "1"), True),
        ({"alias": "c"}, Event("model_version", "created", "churn-eu", "1"), False),
        ({"alias": "c"}, Event("model_version_alias", "created", "churn-eu", "1", alias="c"), True),
        ({"alias": "c"}, Event("model_version_alias", "created", "churn-eu", "1", alias="d"), False),
        ({"alias": "c"}, Event("model_version_alias", "deleted", "churn-eu", alias="c"), False),
        ({}, Event("model_version_alias", "created", "churn-eu", "1", alias="privacy-approved"), False),
        ({"tag": {"stage": "x"}}, Event("model_version_tag", "set", "churn-eu", "1", key="stage"), True),
        ({"tag": {"stage": "x"}}, Event("model_version_tag", "set", "churn-eu", "1", key="other"), False),
        ({}, Event("model_version_tag", "set", "churn-eu", "1", key="privacy_gate.verdict"), False),
    ],
)
def test_concerns(wanted, event, concerned):
    subscriptions = asked(**wanted)
    assert concerns(subscriptions.subscriptions[0], subscriptions.service, event) is concerned


# --- the example ----------------------------------------------------------------------------------------------------


def test_the_example_is_in_order_with_and_without_its_comments(tmp_path, capsys):
    from privacy_gate.cli import run

    assert run(["serve", "--example"]) == 0
    example = capsys.readouterr().out
    write(tmp_path, "privacy-gate.yaml", **CONFIG)
    write(tmp_path, "privacy-policy.yaml", apiVersion="privacy-gate/v1", extends="strict")
    write(tmp_path, "waivers.yaml", apiVersion="privacy-gate/waivers/v1", waivers=[])
    path = tmp_path / "subscriptions.yaml"
    path.write_text(example)
    assert load(path).of("churn-eu").versions.alias == "candidate"
    path.write_text(re.sub(r"^( *)# ([a-z_]+: )", r"\1\2", example, flags=re.MULTILINE))
    whole = load(path)
    assert whole.of("churn-eu").trust == "code"
    assert whole.value.service.url == "https://gate.example.org"
    shown = {*yaml.safe_load(path.read_text())["subscriptions"][0]}
    assert {"profile", *shown} - {"data_roots"} == {*type(whole.of("churn-eu")).model_fields} - {"data_roots"}
