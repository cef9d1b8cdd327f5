"""Templates are found in a checkout and in a wheel, and a broken installation says where it looked."""

import pytest

from privacy_gate import resources
from privacy_gate.errors import EvaluationFailed


def test_templates_are_found_in_the_checkout():
    assert resources.template("policies", "standard.yaml").is_file()


def test_a_folder_in_the_package_wins(tmp_path, monkeypatch):
    (tmp_path / "templates" / "policies").mkdir(parents=True)
    (tmp_path / "templates" / "policies" / "standard.yaml").write_text("x")
    monkeypatch.setattr(resources, "files", lambda package: tmp_path)
    assert resources.templates() == tmp_path / "templates"


def test_both_places_are_named_when_there_are_none(tmp_path, monkeypatch):
    # A folder that is called `templates` but is somebody else's does not count.
    (tmp_path / "templates").mkdir()
    monkeypatch.setattr(resources, "files", lambda package: tmp_path / "package")
    monkeypatch.setattr(resources, "__file__", str(tmp_path / "package" / "resources.py"))
    with pytest.raises(EvaluationFailed) as caught:
        resources.templates()
    assert str(tmp_path / "package" / "templates") in str(caught.value)
    assert str(tmp_path / "templates") in str(caught.value)


def test_a_missing_template_is_named():
    with pytest.raises(EvaluationFailed, match=r"nothing\.yaml"):
        resources.template("policies", "nothing.yaml")
