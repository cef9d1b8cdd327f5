"""What walks the guides reads pages as people do, and sees when a page quotes what was not printed."""

from pathlib import Path

import pytest
import yaml

from tests.examples.guides import Command, Edit, edit, installed, page, quotes, same_line

PAGE = """# A guide

    $ python train.py data \\
          --leaves 7
    version 1: 0.990

Prose between.

    $ gate check    # ends with 1
    …

    rule  limit
    $ gate explain

```yaml
# gate.yaml
data:
  seen: v.csv
```
```
not a step
```
"""


def test_a_page_is_its_commands_and_settings_in_order() -> None:
    assert list(page(PAGE)) == [
        Command("python train.py data --leaves 7", 0, ("version 1: 0.990",)),
        Command("gate check", 1, ("…", "", "rule  limit")),
        Command("gate explain"),
        Edit("gate.yaml", {"data": {"seen": "v.csv"}}),
    ]


@pytest.mark.parametrize(
    ("quoted", "said", "expected"),
    [
        ("PG101  63.5 %  [61.5, 64.4]", "PG101  63.5 % [61.5, 64.4]", True),
        ("accuracy 63.5 %", "accuracy 64.2 %", True),
        ("accuracy 63.5 %", "accuracy 75.0 %", False),  # more than a tenth
        ("accuracy 63.5 %", "AUC 63.5 %", False),
        ("4,000 persons", "4000 persons", True),
        ("4,000 persons", "5,000 persons", False),
        ("accuracy 63.5 %", "accuracy 63.5 % of all", False),
        ("accuracy … of all", "accuracy 63.5 % of all", True),
        ("a (b) [c] 1 # 2", "a (b) [c] 1 # 2", True),
    ],
)
def test_a_line_is_quoted_by_its_words_and_nearly_its_numbers(quoted: str, said: str, expected: bool) -> None:
    assert same_line(quoted, said) is expected


@pytest.mark.parametrize(
    ("quoted", "expected"),
    [
        (("a", "b", "c"), True),
        (("a", "…"), True),
        (("…", "b", "…"), True),
        (("…", "c"), True),
        (("a", "b"), False),
        (("b", "…"), False),
        (("…", "b"), False),
        (("…", "a", "c", "…"), False),
        (("…", "c", "…", "a", "…"), False),
    ],
)
def test_a_quotation_says_what_it_leaves_out(quoted: tuple[str, ...], expected: bool) -> None:
    assert quotes(quoted, ["a", "b", "c"]) is expected


def test_settings_of_a_page_stand_beside_those_of_the_draft(tmp_path: Path) -> None:
    path = tmp_path / "gate.yaml"
    path.write_text("data: {label: y}\nattacks: [lira, rmia]\n")
    edit(path, {"data": {"seen": "v.csv"}, "attacks": ["lira"], "rules": {"PG104": {"action": "warn"}}})
    assert yaml.safe_load(path.read_text()) == {
        "data": {"label": "y", "seen": "v.csv"},
        "attacks": ["lira"],
        "rules": {"PG104": {"action": "warn"}},
    }


def test_what_pip_is_told_to_install_must_exist() -> None:
    installed("privacy-gate[demo]")
    for wrong in ("privacy-gates", "privacy-gate[none]"):
        with pytest.raises((AssertionError, KeyError)):
            installed(wrong)
