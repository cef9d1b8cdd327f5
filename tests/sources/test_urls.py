"""URLs: a real server on this machine, and storages that fsspec has without further packages."""

import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from privacy_gate import sources
from privacy_gate.errors import DataError, StorageFailed
from privacy_gate.request import DataManifest, Source
from privacy_gate.sources import urls

FRAME = pd.DataFrame({"age": [1.5, 2.5], "who": ["007", "8"], "y": [0, 1]})
TEXT = FRAME.to_csv(index=False).encode()
SHA = __import__("hashlib").sha256(TEXT).hexdigest()


class Server(BaseHTTPRequestHandler):
    """Answers by the path it is asked for, and keeps what it was asked."""

    asked: list[str] = []  # noqa: RUF012
    headers_seen: list[dict[str, str]] = []  # noqa: RUF012
    other = ""  # a second server

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """One answer for each way of misbehaving."""
        self.asked.append(self.path)
        self.headers_seen.append(dict(self.headers))
        path = self.path.partition("?")[0]
        port = self.server.server_address[1]
        moves = {
            "/moved.csv": "/good.csv",
            "/away.csv": f"{self.other}/good.csv",
            "/port.csv": f"http://localhost:{port}/good.csv",
            "/user.csv": f"http://me:hidden@127.0.0.1:{port}/good.csv",
            "/file.csv": "file:///etc/passwd",
            "/loop.csv": "/loop.csv",
        }
        codes = {"/missing.csv": 404, "/closed.csv": 403, "/broken.csv": 500, "/odd.csv": 418}
        if path in moves:
            self.send_response(302)
            self.send_header("Location", moves[path])
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif path in codes:
            self.send_response(codes[path])
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self.send_response(200)
            if path == "/packed.csv":
                self.send_header("Content-Encoding", "gzip")
            if path == "/torn.csv":
                self.send_header("Content-Length", str(len(TEXT) + 10))
            elif path != "/endless.csv":
                self.send_header("Content-Length", str(len(TEXT)))
            self.end_headers()
            self.wfile.write(TEXT)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server, and another host that it may send its callers to."""
    pair = [ThreadingHTTPServer(("127.0.0.1", 0), Server) for _ in range(2)]
    for each in pair:
        threading.Thread(target=each.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    here, Server.other = (f"http://127.0.0.1:{each.server_address[1]}" for each in pair)
    yield here
    for each in pair:
        each.shutdown()
        each.server_close()


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    Server.asked.clear()
    Server.headers_seen.clear()
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def read(tmp_path: Path, source: Any, **settings: Any) -> Any:
    manifest = DataManifest.model_validate({"members": source, "nonmembers": "n", "person": "who", **settings})
    return sources.read(manifest.members, manifest, tmp_path, Path, tmp_path / "work")


# --- the web --------------------------------------------------------------------------------------------------------


def test_a_file_of_a_server(tmp_path: Path, server: str) -> None:
    pd.testing.assert_frame_equal(read(tmp_path, f"{server}/good.csv?signature=abc"), FRAME)
    pd.testing.assert_frame_equal(read(tmp_path, {"path": f"{server}/good.csv", "sha256": SHA}), FRAME)
    assert Server.asked == ["/good.csv?signature=abc", "/good.csv"]
    assert all("Authorization" not in headers for headers in Server.headers_seen)
    for path in [tmp_path / "work", *(tmp_path / "work").rglob("*")]:
        if path.is_dir():
            assert path.stat().st_mode & 0o077 == 0


def test_another_path_of_the_same_server_is_followed(tmp_path: Path, server: str) -> None:
    pd.testing.assert_frame_equal(read(tmp_path, f"{server}/moved.csv"), FRAME)
    assert Server.asked == ["/moved.csv", "/good.csv"]


@pytest.mark.parametrize("path", ["away", "port", "user"])
def test_no_other_place_is_followed(tmp_path: Path, server: str, path: str) -> None:
    with pytest.raises(DataError, match="redirects to another place") as caught:
        read(tmp_path, f"{server}/{path}.csv")
    assert Server.asked == [f"/{path}.csv"]
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("missing.csv", DataError, "no such file"),
        ("closed.csv", DataError, r"may not be read \(HTTP 403\)"),
        ("odd.csv", DataError, r"the server refuses \(HTTP 418\)"),
        ("broken.csv", StorageFailed, r"the server failed \(HTTP 500\)"),
        ("file.csv", StorageFailed, r"the server failed \(HTTP 302\)"),
        ("loop.csv", StorageFailed, r"the server failed \(HTTP 302\)"),
        ("torn.csv", StorageFailed, f"{len(TEXT)} of {len(TEXT) + 10} bytes arrived"),
        ("packed.csv", DataError, "in another encoding"),
        ("endless.csv", DataError, "does not say how long it is"),
        ("good", DataError, "unknown kind of file ''"),
    ],
)
def test_answers_that_are_none(tmp_path: Path, server: str, path: str, error: type, message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        read(tmp_path, f"{server}/{path}?token=hidden")
    assert f"{server}/{path}" in str(caught.value)
    assert "hidden" not in str(caught.value)
    assert caught.value.hint
    if path != "good":
        assert list((tmp_path / "work" / "urls").iterdir()) == []


def test_a_sha256_stands_in_for_a_length(tmp_path: Path, server: str) -> None:
    pd.testing.assert_frame_equal(read(tmp_path, {"path": f"{server}/endless.csv", "sha256": SHA}), FRAME)
    with pytest.raises(DataError, match="sha256 is"):
        read(tmp_path, {"path": f"{server}/endless.csv", "sha256": "0" * 64})


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    gone = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    port = gone.server_address[1]
    gone.server_close()
    with pytest.raises(StorageFailed, match=r"cannot be fetched \(Connection refused\)"):
        read(tmp_path, f"http://127.0.0.1:{port}/good.csv")


def test_errors_of_a_reader_name_the_url(tmp_path: Path, server: str) -> None:
    with pytest.raises(DataError, match=f"{server}/good.npz: not a readable") as caught:
        read(tmp_path, f"{server}/good.npz?key=hidden")
    assert "work" not in caught.value.what
    assert "hidden" not in caught.value.what


# --- what is not opened ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "message", "shown"),
    [
        ("https://me:hidden@example.org/in.csv", "user or password", "https://example.org/in.csv"),
        ("https://hidden@example.org/in.csv", "user or password", "https://example.org/in.csv"),
        ("s3://key:hidden@bucket/in.csv", "user or password", "s3://bucket/in.csv"),
        ("HTTPS://me:hidden@example.org/in.csv", "user or password", "HTTPS://example.org/in.csv"),
        ("https://me:hidden@/in.csv", "user or password", "https:///in.csv"),
        ("zip://in.csv::https://me:hidden@example.org/a.zip", "chained", "https://example.org/a.zip"),
        ("simplecache::s3://bucket/in.csv", "chained", "s3://bucket/in.csv"),
        ("filecache::in.csv", "chained", "in.csv"),
        ("file:///etc/passwd", "a file of this machine", "file:///etc/passwd"),
        ("local:///etc/passwd", "a file of this machine", ""),
        ("zip:///data/in.csv", "a way into another place", ""),
        ("tar://in.csv", "a way into another place", ""),
        ("dir://x/in.csv", "a way into another place", ""),
        ("reference://x", "a way into another place", ""),
        ("simplecache://x/in.csv", "a way into another place", ""),
        ("blockcache://x/in.csv", "a way into another place", ""),
        ("git://x/in.csv", "a way into another place", ""),
        ("nowhere://x/in.csv", "nothing here knows nowhere://", ""),
        ("https:///in.csv", "without a host", ""),
        ("https://example.org/a b.csv", "spaces or control", ""),
        ("https://example.org/a\r\nHost: x/b.csv", "spaces or control", ""),
        ("s3://bucket/a/../../other/in.csv", "'..' in it", ""),
        ("s3://bucket/a/%2e%2e/in.csv", "'..' in it", ""),
        ("https://[::1/in.csv", "chained", ""),
        ("https://[1/in.csv", "cannot be read", ""),
    ],
)
def test_urls_that_are_never_opened(
    tmp_path: Path, url: str, message: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: Any, **__: Any) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr(fsspec.core, "url_to_fs", opened)
    monkeypatch.setattr(urls.urllib.request.OpenerDirector, "open", opened)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, url)
    assert "hidden" not in str(caught.value)
    assert shown in caught.value.what
    assert caught.value.hint


@pytest.mark.parametrize(("url", "extra"), [("s3://b/in.csv", "s3"), ("gs://b/in.csv", "gs"), ("gcs://b/x", "gs")])
def test_a_package_that_is_missing_is_named_as_an_extra(
    tmp_path: Path, url: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("s3fs", "gcsfs"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DataError, match="needs a package that is not installed") as caught:
        read(tmp_path, url)
    assert caught.value.hint == f"pip install 'privacy-gate[{extra}]'"


def test_a_container_of_azure_is_no_user() -> None:
    url = "abfs://container@account.dfs.core.windows.net/in.csv"
    assert urls.shown(url) == url


@pytest.mark.parametrize("path", ["in.csv", "runs:/1/in.csv", "C:/in.csv", "a:b.csv", "./http/in.csv", "~/in.csv"])
def test_paths_are_no_urls(path: str) -> None:
    assert not urls.is_url(path)


# --- storage that fsspec knows --------------------------------------------------------------------------------------


def test_a_file_and_a_folder_of_a_storage(tmp_path: Path) -> None:
    storage = fsspec.filesystem("memory")
    storage.pipe("/bucket/in.csv", TEXT)
    pd.testing.assert_frame_equal(read(tmp_path, "memory://bucket/in.csv"), FRAME)
    FRAME.to_parquet(tmp_path / "part.parquet")
    for zone in ("b", "a"):
        storage.pipe(f"/bucket/t/zone={zone}/0.parquet", (tmp_path / "part.parquet").read_bytes())
    storage.pipe("/bucket/t-other/0.parquet", b"not asked for")
    found = read(tmp_path, "memory://bucket/t")
    assert found["zone"].tolist() == ["a", "a", "b", "b"]
    assert found["who"].tolist() == ["007", "8"] * 2
    np.savez(tmp_path / "a.npz", x=np.ones((2, 2)), y=[0, 1])
    storage.pipe("/bucket/a.npz", (tmp_path / "a.npz").read_bytes())
    assert read(tmp_path, "memory://bucket/a.npz")["x"].tolist() == [[1, 1], [1, 1]]


def test_what_a_storage_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"memory://bucket/in\.csv: no such file"):
        read(tmp_path, "memory://bucket/in.csv")
    fsspec.filesystem("memory").mkdir("/bucket/empty")
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path, "memory://bucket/empty")


class Strange(MemoryFileSystem):  # type: ignore[misc]
    """A storage that lists, sizes and fails as it is told."""

    protocol = "strange"
    cachable = False
    listing: dict[str, Any] | None = None
    size: int | None = None
    fails: BaseException | None = None

    @classmethod
    def _strip_protocol(cls, path: str) -> Any:
        return super()._strip_protocol(path.removeprefix("strange://"))

    def info(self, path: str, **settings: Any) -> Any:
        """What is known of one path."""
        if Strange.fails is not None:
            raise Strange.fails
        found = super().info(path, **settings)
        return found if Strange.size is None else {**found, "size": Strange.size}

    def find(self, path: str, *arguments: Any, **settings: Any) -> Any:
        """All files below a path."""
        return Strange.listing if Strange.listing is not None else super().find(path, *arguments, **settings)


@pytest.fixture
def strange(monkeypatch: pytest.MonkeyPatch) -> type[Strange]:
    fsspec.register_implementation("strange", Strange, clobber=True)
    monkeypatch.setattr(Strange, "listing", None)
    monkeypatch.setattr(Strange, "size", None)
    monkeypatch.setattr(Strange, "fails", None)
    Strange().pipe("/bucket/t/1.parquet", b"x")
    return Strange


@pytest.mark.parametrize(
    "name",
    [
        "/bucket/t/../../../../escaped.parquet",
        "/bucket/other/1.parquet",
        "/etc/passwd",
        "/bucket/t//etc/passwd",
        "/bucket/t/..",
        "/bucket/t/a\\..\\b",
        "/bucket/t/a\0b",
        "/bucket/tt/1.parquet",
    ],
)
def test_a_listing_never_leaves_its_folder(tmp_path: Path, strange: Any, name: str) -> None:
    strange.listing = {name: {"size": 1, "type": "file"}}
    with pytest.raises(DataError, match="its listing names a file that is not below it"):
        read(tmp_path, "strange://bucket/t")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_copy_that_is_not_whole(tmp_path: Path, strange: Any) -> None:
    strange().pipe("/bucket/in.csv", TEXT)
    strange.size = len(TEXT) + 1
    with pytest.raises(StorageFailed, match=f"{len(TEXT)} of {len(TEXT) + 1} bytes"):
        read(tmp_path, "strange://bucket/in.csv")


@pytest.mark.parametrize(
    ("raised", "error", "message"),
    [
        (PermissionError("key=hidden"), DataError, "may not be read by this user"),
        (FileNotFoundError("hidden"), DataError, "no such file"),
        (ConnectionError("hidden"), StorageFailed, r"cannot be fetched \(ConnectionError\)"),
        (RuntimeError("token hidden"), StorageFailed, r"cannot be fetched \(RuntimeError\)"),
    ],
)
def test_words_of_a_storage_are_not_repeated(
    tmp_path: Path, strange: Any, raised: Exception, error: type, message: str
) -> None:
    strange.fails = raised
    with pytest.raises(error, match=message) as caught:
        read(tmp_path, "strange://bucket/in.csv")
    assert "hidden" not in str(caught.value)


def test_globs_are_names(tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe("/bucket/in.csv", TEXT)
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path, "memory://bucket/*.csv")


def test_a_source_is_shown_without_secrets() -> None:
    assert sources.places.shown(Source(path="https://h/in.csv?sig=hidden#x")) == "https://h/in.csv"
    assert sources.places.shown(Source(path="s3://b/a@b/in.csv")) == "s3://b/a@b/in.csv"
