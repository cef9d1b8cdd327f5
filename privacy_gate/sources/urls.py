"""Records behind a URL: copied into a private folder; nothing but what the config names is asked for.

`http(s)://` is one file, by the standard library. Everything else goes through fsspec: a file, or a folder whose files
all lie below the URL. Credentials come from where each service looks for them: environment variables, its own files.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import SplitResult, unquote, urlsplit

from privacy_gate.errors import DataError, GateError, StorageFailed
from privacy_gate.storage import private_dir

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_WEB = ("http", "https")
_PATIENCE = 60.0  # seconds that a server may stay silent
_BLOCK = 1 << 20
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
_USERS = "give credentials in environment variables of the service (AWS_*, GOOGLE_*, …), never in a URL"
_WRAPPERS = {"data", "dir", "generic", "reference", "jlab", "jupyter", "dask", "git"}


def is_url(text: str) -> bool:
    """Whether a path of the config is a URL, or a chain of them."""
    return _URL.match(text) is not None or "::" in text


def shown(url: str) -> str:
    """The URL without password, query and fragment, on the web without user: all may be secrets."""
    scheme, separator, rest = url.rpartition("::")[2].partition("://")
    if not separator:
        return rest or scheme
    place = re.split(r"[?#]", rest, maxsplit=1)[0]
    # Only before the first "/" does "@" end a user: keys of objects may hold one, too.
    host, slash, path = place.partition("/")
    user, at, host = host.rpartition("@")
    kept = "" if scheme.lower() in _WEB or ":" in user else user + at  # of abfs://container@account/
    return f"{scheme}://{kept}{host}{slash}{path}"


def examine(url: str) -> SplitResult:
    """The parts of a URL that may be opened. Raises DataError for those that may not, and says why; opens nothing."""
    if "::" in url:
        raise DataError(
            f"{shown(url)}: a chained URL", "name the file itself, unpacked: what a chain opens cannot be checked"
        )
    try:
        parts = urlsplit(url)
        secret = parts.password is not None or (parts.scheme.lower() in _WEB and "@" in parts.netloc)
    except ValueError:
        raise DataError("a URL of the config cannot be read", "write protocol://host/path") from None
    if secret:
        raise DataError(f"{shown(url)}: a URL with a user or password in it", _USERS)
    if any(ord(character) < 33 for character in url):
        raise DataError(f"{shown(url)!r}: a URL with spaces or control characters", "write them as %20 and so on")
    if ".." in unquote(parts.path).split("/"):
        raise DataError(f"{shown(url)}: a URL with '..' in it", "write the path that it stands for")
    scheme = parts.scheme.lower()
    if scheme in ("file", "local"):
        raise DataError(f"{shown(url)}: a file of this machine", "write its path, without a protocol")
    if scheme in _WEB and not parts.hostname:
        raise DataError(f"{shown(url)}: a URL without a host", f"write {scheme}://host/path")
    if scheme not in _WEB:
        _require_storage(scheme, url)
    return parts


def _require_storage(scheme: str, url: str) -> None:
    """DataError for protocols that are unknown, not installed, or only a way around another one."""
    import fsspec  # type: ignore[import-untyped]
    from fsspec.registry import known_implementations  # type: ignore[import-untyped]

    wrapped = DataError(
        f"{shown(url)}: {scheme}:// is a way into another place, or keeps copies outside of the gate's private folder",
        "name the files themselves, at the storage that holds them",
    )
    if scheme in _WRAPPERS:
        raise wrapped
    try:
        kind = fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        says = str(known_implementations.get(scheme, {}).get("err", ""))
        mend = f"pip install 'privacy-gate[{extra}]'" if extra else says or f"install the package for {scheme}://"
        raise DataError(f"{shown(url)}: reading {scheme}:// needs a package that is not installed", mend) from error
    except ValueError as error:
        raise DataError(
            f"{shown(url)}: nothing here knows {scheme}://", "use s3://, gs://, https:// or a path"
        ) from error
    names = {parent.__name__ for parent in kind.__mro__}
    if names & {"LocalFileSystem", "AbstractArchiveFileSystem", "CachingFileSystem", "DirFileSystem"}:
        raise wrapped


def fetch(url: str, work: Path, *, checked: bool) -> Path:
    """A private copy, below `work`, of the file or folder behind a URL, under its own name.

    checked  whether a sha256 will tell a torn copy
    Errors: DataError where there is no such thing or it may not be read; StorageFailed where the service, the network
    or the disk does not do its part.
    """
    parts = examine(url)
    # At most one copy per place: two sets of the same run may name one URL.
    place = private_dir(work / "urls")
    number = sum(1 for _ in place.iterdir())
    target = private_dir(place / str(number)) / _name(parts)
    try:
        if parts.scheme.lower() in _WEB:
            _download(url, target, checked=checked)
        else:
            _copy(url, target)
    except GateError:
        shutil.rmtree(target.parent, ignore_errors=True)
        raise
    return target


def _name(parts: SplitResult) -> str:
    """The last part of the path, as a file name that is one everywhere: it tells the reader what it is."""
    last = unquote(parts.path.rstrip("/").rpartition("/")[2]) or parts.netloc
    return re.sub(r"[^\w.=+-]", "_", last).lstrip(".")[-120:] or "records"


def _missing(url: str) -> DataError:
    return DataError(f"{shown(url)}: no such file", "check the URL, and that this user may see it")


# --- the web --------------------------------------------------------------------------------------------------------


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Follows a server to another path of its own, nowhere else."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """The next request; DataError if it leaves the host, the port or the protocol, or names a user."""
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if (old.scheme, old.netloc) != (new.scheme, new.netloc):
            raise DataError(
                f"{shown(req.full_url)}: redirects to another place, {new.scheme}://{new.netloc.rpartition('@')[2]}",
                "name that URL in the config if its records are meant: only what the config names is opened",
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(url: str, target: Path, *, checked: bool) -> None:
    opener = urllib.request.OpenerDirector()
    # No handler for file:, ftp: and data:, whatever a redirect says.
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        _SameHost,
    ):
        opener.add_handler(handler())
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})  # noqa: S310  # http(s) alone
    try:
        with opener.open(request, timeout=_PATIENCE) as answer, target.open("xb") as stream:
            _receive(answer, stream, url, checked=checked)
    except urllib.error.HTTPError as error:
        if error.code in (404, 410):
            raise _missing(url) from error
        if error.code in (401, 403):
            mend = "fetch it by other means and name the copy, or use a storage that takes this user's credentials"
            raise DataError(f"{shown(url)}: may not be read (HTTP {error.code})", mend) from error
        if 400 <= error.code < 500:
            raise DataError(f"{shown(url)}: the server refuses (HTTP {error.code})", "check the URL") from error
        raise StorageFailed(f"{shown(url)}: the server failed (HTTP {error.code})", "try again later") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        said = getattr(reason, "strerror", None) or type(reason).__name__
        raise StorageFailed(
            f"{shown(url)}: cannot be fetched ({said})", "is the network there, the disk free?"
        ) from error


def _receive(answer: Any, stream: IO[bytes], url: str, *, checked: bool) -> None:
    """Write the body; StorageFailed if it is not whole, or if nothing tells whether it is."""
    length = answer.headers.get("Content-Length")
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise DataError(f"{shown(url)}: the server sends it in another encoding", "have it served as it is")
    if length is None and not answer.chunked and not checked:
        raise DataError(
            f"{shown(url)}: the server does not say how long it is, so that a torn copy would not be noticed",
            "add its sha256 to the config",
        )
    received = 0
    while block := answer.read(_BLOCK):
        stream.write(block)
        received += len(block)
    if length is not None and not answer.chunked and received != int(length):
        raise StorageFailed(
            f"{shown(url)}: {received:,} of {int(length):,} bytes arrived", "the connection broke off; try again"
        )


# --- storage that fsspec knows --------------------------------------------------------------------------------------


@contextlib.contextmanager
def _told(url: str) -> Iterator[None]:
    """Whatever a storage package raises, in the gate's words; its own may quote keys and tokens."""
    try:
        yield
    except GateError:
        raise
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise _missing(url) from error
    except PermissionError as error:
        raise DataError(f"{shown(url)}: may not be read by this user", _USERS) from error
    except Exception as error:
        raise StorageFailed(
            f"{shown(url)}: cannot be fetched ({type(error).__name__})",
            "are the network and the credentials there, the disk free?",
        ) from error


def _copy(url: str, target: Path) -> None:
    import fsspec

    with _told(url):
        # No instance and no listing of an earlier time.
        storage, root = fsspec.core.url_to_fs(url, skip_instance_cache=True)
        about = storage.info(root)
        if about["type"] != "directory":
            _copy_file(storage, root, about.get("size"), target, url)
            return
        prefix = root.rstrip("/") + "/"
        for name, found in sorted(storage.find(root, detail=True).items()):
            if name.endswith("/") and not found.get("size"):
                continue  # how some stores mark a folder
            relative = _relative(name, prefix, url)
            private_dir((target / relative).parent)
            _copy_file(storage, name, found.get("size"), target / relative, url)
        if not target.is_dir():
            raise _missing(url)


def _relative(name: str, prefix: str, url: str) -> str:
    """Where a file of a listing goes; DataError if that is not below the folder that was asked for."""
    relative = name.removeprefix(prefix)
    parts = relative.split("/")
    if not name.startswith(prefix) or any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts):
        raise DataError(
            f"{shown(url)}: its listing names a file that is not below it, or has a strange name",
            "give the files plain names",
        )
    return relative


def _copy_file(storage: Any, name: str, size: Any, target: Path, url: str) -> None:
    received = 0
    with storage.open(name, "rb") as source, target.open("xb") as stream:
        while block := source.read(_BLOCK):
            stream.write(block)
            received += len(block)
    if isinstance(size, int) and received != size:
        raise StorageFailed(f"{shown(url)}: {received:,} of {size:,} bytes arrived", "try again")
