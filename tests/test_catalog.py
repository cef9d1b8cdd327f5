import sys
import threading

import pytest

from privacy_gate.catalog import Catalog


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Two modules: the first waits until another thread has had time to ask, too."""
    folder = tmp_path / "plugs_of_a_test"
    folder.mkdir()
    (folder / "__init__.py").write_text("import threading\ncatalog = None\nasked = threading.Event()\n")
    (folder / "a.py").write_text(
        "import plugs_of_a_test as plugs\n"
        "plugs.asked.wait(10)\n"
        "assert len(plugs.catalog) == 0\n"
        "plugs.catalog.add('a', 1)\n"
    )
    (folder / "b.py").write_text("import plugs_of_a_test as plugs\nplugs.catalog.add('b', 2)\n")
    monkeypatch.syspath_prepend(tmp_path)
    import plugs_of_a_test

    plugs_of_a_test.catalog = Catalog("plug", "plugs_of_a_test")
    yield plugs_of_a_test
    for name in [n for n in sys.modules if n.startswith("plugs_of_a_test")]:
        del sys.modules[name]


def test_a_second_thread_waits_until_all_are_there(package):
    found = []
    first = threading.Thread(target=lambda: found.append(package.catalog["b"]))
    second = threading.Thread(target=lambda: (package.asked.set(), found.append(package.catalog["b"])))
    first.start()
    second.start()
    first.join(20)
    second.join(20)
    assert found == [2, 2]


def test_what_cannot_be_imported_is_missed_each_time(package, tmp_path):
    (tmp_path / "plugs_of_a_test" / "c.py").write_text("raise RuntimeError('broken')")
    package.asked.set()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="broken"):
            package.catalog.names()
