"""Promotion through a real server: the bytes go over the wire, and so does the evidence."""

from __future__ import annotations

import pytest

from privacy_gate.promotion import Approval, Moved, promote
from tests.cli.test_init import model_folder
from tests.test_attestation import sample
from tests.test_promotion import Shop, names


@pytest.mark.server
@pytest.mark.slow
def test_promotion_through_a_server(server, tmp_path):
    shop = Shop(server.registry, tmp_path, server.uri)
    good, other = shop.model(), shop.model()
    evidence = shop.judged(good)
    found = shop.ask(good)
    assert isinstance(found, Approval), found
    assert promote(server.registry, found, "champion") == Moved(found.name, "champion", None, "1")
    assert server.registry.alias(found.name, "champion") == "1"

    shop.forge(other, shop.tags(good))
    assert names(shop.ask(other)) == {"tags", "signature"}
    assert names(shop.ask(other, envelope=evidence.envelope, report=evidence.report)) == {"tags", "subject"}

    copied = server.registry._client.copy_model_version(good, "copy-of-good")
    copy = f"models:/{copied.name}/{copied.version}"
    assert names(shop.ask(copy)) == {"name"}
    assert isinstance(shop.ask(copy, judged_as=frozenset({found.name})), Approval)
    [stored] = (server.database.parent / "artifacts").rglob(f"{run_of(server, good)}/**/model.skops")
    stored.write_bytes(b"y" + stored.read_bytes()[1:])
    assert names(shop.ask(copy)) == {"tags", "signature"}
    assert names(shop.ask(good)) == {"tags", "signature"}

    version = shop.register(found.name, model_folder(tmp_path / "next"))
    run = shop.judged(version).run
    assert isinstance(shop.ask(version), Approval)
    taken = shop.judged(version, sample("inconclusive"), at="2026-09-01T13:00:00+00:00")
    shop.junk(version, 21)
    shop.forge(version, {"privacy_gate.run_id": run})
    for _ in range(2):
        assert names(shop.ask(version)) == {"result"}
        server.registry._client.delete_run(taken.run)  # its files are served all the same
    server.registry._client.delete_run(run)
    assert names(shop.ask(version)) == {"deleted"}
    assert server.registry.alias(found.name, "champion") == "1"


def run_of(server, uri: str) -> str:
    """The run that a version's files belong to."""
    name, version = uri.removeprefix("models:/").split("/")
    return server.registry.version(name, version).run_id
