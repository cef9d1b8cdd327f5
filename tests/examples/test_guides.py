"""What walks the guides reads pages as people do, and sees when a page quotes what was not printed."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.examples.guides import (
    GUIDES,
    ROOT,
    Command,
    Edit,
    edit,
    install_line,
    installed,
    page,
    place_of,
    quotes,
    same_line,
    small_page,
)

PAGE = """# A guide

    $ python train.py data \\
          --leaves 7
    version 1: 0.990

Prose between.

    $ gate check    # ends with 1 or 4
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
        Command("python train.py data --leaves 7", (0,), ("version 1: 0.990",)),
        Command("gate check", (1, 4), ("…", "", "rule  limit")),
        Command("gate explain"),
        Edit("gate.yaml", {"data": {"seen": "v.csv"}}),
    ]


SHORTER = """
## In a small form

    $ python train.py few
    an aside

```yaml
# gate.yaml
shadows: {count: 4}
```
"""


def test_the_small_form_replaces_commands_and_comes_on_top_of_settings() -> None:
    long = PAGE.replace("    $ gate explain", "    $ privacy-gate init\n    $ gate explain")
    changed = Edit("gate.yaml", {"shadows": {"count": 4}})
    assert list(small_page(long + SHORTER, skipped=("gate check",))) == [
        Command("python train.py few"),
        Command("privacy-gate init"),
        changed,
        Command("gate explain"),
        Edit("gate.yaml", {"data": {"seen": "v.csv"}}),
        changed,
    ]
    assert list(page(long + SHORTER)) == list(page(long))
    with pytest.raises(AssertionError):
        list(small_page(long + SHORTER.replace("train.py", "other.py")))


def test_the_small_form_may_end_at_a_heading() -> None:
    assert Command("later") not in small_page(
        "\n    $ early\n\n## Later\n\n    $ later\n" + SHORTER.split("    $")[0], until="Later"
    )


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
    installed("..[demo]", ROOT / "visits")
    for wrong in ("privacy-gate", "privacy-gate[demo]", "..[none]", "../..", "."):
        with pytest.raises((AssertionError, KeyError)):
            installed(wrong, ROOT / "visits")


@pytest.mark.parametrize("name", GUIDES)
def test_a_page_installs_the_checkout_that_it_is_in(name: str) -> None:
    text = (ROOT / "examples" / name / "README.md").read_text(encoding="utf-8")
    (place,) = install_line(text)
    installed(place, place_of(text))


UNKNOWN = "does not provide the extra"  # pip goes on without it, and ends with 0


@pytest.mark.nightly
def test_pip_finds_what_a_page_tells_it_to_install(tmp_path: Path) -> None:
    """In a new environment, from the folder of the page; nothing is installed."""
    text = (ROOT / "examples" / "lightgbm_adult" / "README.md").read_text(encoding="utf-8")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    checkout = tmp_path / "checkout"
    for name in ("privacy_gate", "templates"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, checkout)
    stands = checkout / place_of(text).relative_to(ROOT)
    stands.mkdir()

    def pip(*places: str) -> str:
        command = [tmp_path / "venv" / "bin" / "python", "-m", "pip", "install", "--dry-run", *places]
        done = subprocess.run(command, cwd=stands, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    said = pip(*install_line(text))
    assert UNKNOWN not in said
    assert "lightgbm" in said.split("Would install")[1]
    assert UNKNOWN in pip("..[nothing]")
