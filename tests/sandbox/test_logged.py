"""What a model folder says of its own environment: read without loading, believed as far as it is a name or version."""

import pytest

from privacy_gate.errors import UsageError
from privacy_gate.sandbox import logged
from tests.sandbox import elsewhere

CONDA = """channels: [conda-forge]
dependencies:
- python=3.12.4
- pip<=24
- pip:
  - mlflow==3.17.2
  - numpy<3
"""


@pytest.fixture
def folder(tmp_path):
    return elsewhere.candidate(tmp_path / "model", python="3.12.4").snapshot


def test_requirements_are_names_and_versions_written_anew(folder):
    text = (
        "# made by hand\n\nnumpy==2.1.0  # pinned\nscikit-learn[alldeps]>=1.5,<2 ; python_version < '4'\nnumpy==2.1.0\n"
    )
    (folder / "requirements.txt").write_text(text)
    assert logged.requirements(folder) == (
        "numpy==2.1.0",
        'scikit-learn[alldeps]<2,>=1.5; python_version < "4"',
    )


@pytest.mark.parametrize(
    "line",
    [
        "-e .",
        "-r other.txt",
        "-c constraints.txt",
        "--index-url https://example.org/simple",
        "--extra-index-url=https://example.org/simple",
        "numpy --no-binary :all:",
        "numpy==2.1.0 --hash=sha256:00",
        "./wheels/numpy.whl",
        "/tmp/numpy-2.1.0-py3-none-any.whl",
        "https://example.org/numpy.whl",
        "numpy @ https://example.org/numpy.whl",
        "numpy @ file:///tmp/numpy.whl",
        "git+https://example.org/numpy.git",
        "${INDEX}/numpy",
        "numpy==2.1.0 \\",
        "numpy\x00",
        # What packaging takes for a marker, and pip, once it is written down, for lines and options of their own.
        r"""pip; platform_machine != '"\n/tmp/evil\n#'""",
        r"pip; platform_machine != 'a\n--index-url https://example.org\n#'",
        r"""pip; platform_machine != '"\x27\n'""",
        "pip; platform_machine != 'a --config-settings=x'",
        "pip; platform_machine != '${PIP_INDEX_URL}'",
        "pip===1\\",
    ],
)
def test_a_model_does_not_choose_where_code_comes_from(folder, line):
    (folder / "requirements.txt").write_text(f"scipy==1.17.0\n{line}\n")
    with pytest.raises(UsageError, match=r"requirement 2 of the model .* is no name with versions") as caught:
        logged.requirements(folder)
    assert "environment: /path/to/python" in caught.value.hint


def test_conda_brings_its_pip_part_where_there_is_no_other(folder):
    (folder / "conda.yaml").write_text(CONDA)
    assert logged.requirements(folder) == ("mlflow==3.17.2", "numpy<3")
    (folder / "requirements.txt").write_text("scipy\n")
    assert logged.requirements(folder) == ("scipy",)


def test_packages_that_only_conda_can_bring_are_refused(folder):
    (folder / "conda.yaml").write_text(CONDA.replace("- pip<=24", "- cudatoolkit=11.8\n- pip"))
    with pytest.raises(UsageError, match="needs the conda package cudatoolkit"):
        logged.requirements(folder)


@pytest.mark.parametrize("conda", [None, "", "[1, 2]", "dependencies: python", "a: [", "dependencies: [{pip: 3}]"])
def test_without_requirements_nothing_can_be_built(folder, conda):
    if conda is not None:
        (folder / "conda.yaml").write_text(conda)
    with pytest.raises(UsageError, match=r"neither requirements.txt nor pip requirements in conda.yaml"):
        logged.requirements(folder)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"#" * ((1 << 20) + 1)])
def test_requirements_that_cannot_be_read_are_not_replaced_by_others(folder, content):
    (folder / "conda.yaml").write_text(CONDA)
    (folder / "requirements.txt").write_bytes(content)
    with pytest.raises(UsageError, match="cannot be read"):
        logged.requirements(folder)


def test_too_many_requirements_are_refused(folder):
    (folder / "requirements.txt").write_text("numpy\n" * 1001)
    with pytest.raises(UsageError, match="1,001 requirements"):
        logged.requirements(folder)


def test_what_a_model_was_made_with_is_its_flavors_word_before_its_requirements(folder):
    import sklearn

    (folder / "requirements.txt").write_text("scikit-learn==0.1\nNumPy==1.26.4\nscipy>=1\n-e .\ntorch==2.13.0+cpu\n")
    (folder / "python_env.yaml").write_text("python: 3.9.1\n")
    assert logged.made_with(folder) == {
        "python": "3.12.4",
        "scikit-learn": sklearn.__version__,
        "numpy": "1.26.4",
        "torch": "2.13.0+cpu",
    }
    assert logged.python_wanted(folder) == (3, 12)
    assert logged.pickled(folder)


@pytest.mark.parametrize("junk", ["{}", "[]", "3.11", "\x1b[2J", "'not a version'"])
def test_junk_is_absent(folder, junk):
    text = (folder / "MLmodel").read_text().replace("python_version: 3.12.4", f"python_version: {junk!r}")
    (folder / "MLmodel").write_text(text)
    (folder / "python_env.yaml").write_text("python: [1]\n")
    assert "\x1b" not in str(logged.made_with(folder))
    if junk != "3.11":
        assert logged.python_wanted(folder) is None


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("pandas==1.5.3; python_version < '3.12'\npandas==2.2.3; python_version >= '3.12'", {"pandas": "2.2.3"}),
        ("pandas==1.5.3; extra == 'test'", {}),
        ("pandas==1.5.3; platform_machine ~= 'x'", {}),  # an order of machines: nobody can say
        ("pandas==1.5.3\npandas==3.1.0", {}),  # neither can be told to have been there
        ("pandas==1.5.3\nPANDAS==1.5.3", {"pandas": "1.5.3"}),
        ("pandas==1.5.*\nscipy>=1\ntorch<3,==2.1.0", {"torch": "2.1.0"}),
        ("python==2.7.18", {}),  # no distribution is Python, whatever it calls itself
        ("x" * 101 + "==1.0", {}),
        ("pandas==" + "1" * 1000, {}),
        ("pandas==1.5.3\x1b[2J", {}),
        ("pandas==1.5.3 --global-option=x\n-r other.txt\n--index-url https://e.org\n-e .\nx @ https://e.org/x.whl", {}),
        ("a; " + "(" * 5000 + "python_version < '3'" + ")" * 5000 + "\npandas==1.5.3", {"pandas": "1.5.3"}),
        ("pandas==1.5.3\n" + "#" * (10 << 20), {}),
        ("pandas==1.5.3\n" * 1001, {}),
    ],
)
def test_only_pins_that_apply_are_believed(folder, lines, expected):
    (folder / "requirements.txt").write_text(lines + "\n")
    own = {"python", "scikit-learn"}  # the flavor's word
    assert {name: version for name, version in logged.made_with(folder).items() if name not in own} == expected
    assert logged.made_with(folder)["python"] == "3.12.4"


def test_brackets_in_brackets_are_refused_like_all_that_is_no_name_with_versions(folder):
    (folder / "requirements.txt").write_text("a; " + "(" * 5000 + "python_version < '3'" + ")" * 5000)
    with pytest.raises(UsageError, match="requirement 1 of the model"):
        logged.requirements(folder)


HAVE = {"python": "3.11.7", "scikit-learn": "1.9.1", "numpy": "2.4.6", "cloudpickle": "3.1.2", "xgboost-cpu": "3.2.0"}
HAVE |= {"pandas": "3.1.0", "mlflow": "3.17.2", "scipy": "1.17.0"}


@pytest.mark.parametrize(
    ("made", "flavor", "pickled", "expected"),
    [
        ({}, "sklearn", True, ()),
        (HAVE, "sklearn", True, ()),
        ({"python": "3.11.0", "numpy": "2.0.0", "scikit-learn": "1.9.0"}, "sklearn", True, ()),
        ({"python": "3.12.0"}, "sklearn", False, ("Python 3.12.0, here 3.11.7",)),
        ({"scikit-learn": "1.5.2"}, "sklearn", False, ("scikit-learn 1.5.2, here 1.9.1",)),
        ({"scikit-learn": "1.5.2"}, "pytorch", False, ("scikit-learn 1.5.2, here 1.9.1",)),
        ({"numpy": "1.26.4"}, "pytorch", False, ("numpy 1.26.4, here 2.4.6",)),
        ({"cloudpickle": "2.2.1"}, "pyfunc", True, ("cloudpickle 2.2.1, here 3.1.2",)),
        ({"cloudpickle": "2.2.1"}, "pyfunc", False, ()),
        ({"torch": "2.6.0+cu124"}, "pytorch", False, ("torch 2.6.0+cu124, here none",)),
        ({"torch": "2.6.0"}, "sklearn", False, ("torch 2.6.0, here none",)),
        ({"pandas": "1.5.3"}, "pyfunc", False, ("pandas 1.5.3, here 3.1.0",)),
        ({"pandas": "3.0.2"}, "sklearn", False, ("pandas 3.0.2, here 3.1.0",)),
        ({"pandas": "3.1.9"}, "pytorch", False, ()),
        ({"pandas": "3"}, "pytorch", False, ("pandas 3, here 3.1.0",)),  # 3 is 3.0
        ({"mlflow": "3.1.0"}, "pyfunc", False, ()),  # it reads what its older versions wrote
        ({"mlflow": "2.22.0"}, "pyfunc", False, ("mlflow 2.22.0, here 3.17.2",)),
        ({"xgboost-cpu": "3.2.0"}, "pyfunc", False, ()),
        # What the model is made of, what is not there, other major versions, other minor ones.
        (
            {"catboost": "1.2.8", "pandas": "1.5.3", "scipy": "1.16.0", "transformers": "4.30.0", "numpy": "1.26.4"},
            "pyfunc",
            True,
            (
                "numpy 1.26.4, here 2.4.6",
                "catboost 1.2.8, here none",
                "transformers 4.30.0, here none",
                "pandas 1.5.3, here 3.1.0",
                "scipy 1.16.0, here 1.17.0",
            ),
        ),
        ({"xgboost": "3.2.0"}, "xgboost", False, ()),
        ({"xgboost": "2.1.0"}, "xgboost", False, ("xgboost 2.1.0, here 3.2.0",)),
    ],
)
def test_differences_that_may_matter_are_told(made, flavor, pickled, expected):
    assert logged.differences(made, HAVE, flavor, pickled) == expected


LAUGHS = "\n".join(["x0: &x0 [lol, lol]", *(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 10)}]" for i in range(1, 10))])


@pytest.mark.parametrize("bomb", [LAUGHS, "x9: &x9 [*x9]"])
def test_aliases_do_not_fill_the_memory(folder, bomb):
    (folder / "conda.yaml").write_text(f"{bomb}\ndependencies: [{{pip: [*x9]}}]\n")
    with pytest.raises(UsageError, match=r"neither requirements\.txt nor pip requirements"):
        logged.requirements(folder)
    (folder / "MLmodel").write_text(f"{bomb}\nflavors: {{sklearn: {{serialization_format: *x9}}}}\n")
    with pytest.raises(UsageError, match="MLmodel file cannot be read"):
        logged.pickled(folder)


def test_an_alias_that_says_something_twice_is_read(folder):
    (folder / "conda.yaml").write_text("same: &one mlflow==3.17.2\ndependencies: [{pip: [*one, numpy]}]\n")
    assert logged.requirements(folder) == ("mlflow==3.17.2", "numpy")
