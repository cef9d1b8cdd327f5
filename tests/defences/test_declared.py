"""The registry's word on a defence: tags that anybody who may write to the registry has written."""

from __future__ import annotations

import pytest

from privacy_gate.defences import Declared, configure, declared


def test_settings_in_a_tag_are_the_defence_and_a_bare_name_is_a_name():
    found = declared({"defence": ' {"output_coarsening": {"decimals": 2}} '})
    assert found.defences == configure({"output_coarsening": {"decimals": 2}})
    assert (found.name, found.digest) == ("output_coarsening", found.defences.digest)
    assert declared({"defence": '{"output_coarsening": {}}', "defence_digest": " AB "}).digest == "ab"
    assert declared({"defence": " memguard "}) == Declared("memguard")
    assert declared({}) == Declared()


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        '{"no such defence": {}}',
        '{"../../etc/passwd": {}}',
        '{"output_coarsening": 5}',
        '{"output_coarsening": {"decimals": 1e999}}',
        '{"output_coarsening": {"decimals": ' + "9" * 4900 + "}}",
        '{"a":' * 900 + "1" + "}" * 900,
        '{"a":' + "[" * 100_000,
        '{"' + "A" * 4900 + '": {}}',
        "A" * 5000,
        "{",
    ],
)
def test_a_hostile_tag_configures_nothing_and_matches_nothing(text):
    found = declared({"defence": text, "defence_digest": "B" * 5000})
    assert found.defences is None
    assert found.name[:20] == text[:20]
    assert len(found.name) <= 200
    assert len(found.digest) <= 200
