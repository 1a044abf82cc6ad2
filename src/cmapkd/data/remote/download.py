"""Download of one shard: its size as the server said it, its checksum where one is known, retries, and one line for a failure."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cmapkd.core import fsio
from cmapkd.core.errors import CmapkdError, DataError, DiskError
from cmapkd.core.log import say
from cmapkd.data.remote.urls import file_system

CHUNK = 1 << 20
PAUSES = (1.0, 4.0)  # seconds before the second and the third attempt
WAY_OUT = "check the address and the connection, or download the shards yourself and give their folder"


LASTING = (FileNotFoundError, PermissionError)  # asking again does not help


class Wrong(Exception):
    """A transfer that broke off, or did not bring what was announced. lasting: asking again does not help."""

    def __init__(self, reason: str, lasting: bool = False) -> None:
        super().__init__(reason)
        self.lasting = lasting


def remote_size(url: str) -> int:
    """The number of bytes that the server announces. Raises DataError."""
    size = _attempts(url, lambda: file_system(url).info(url)["size"])
    if size is None:
        raise DataError(f"{url}: the server does not say how large it is; {WAY_OUT}")
    return int(size)


def download(url: str, path: Path, size: int, sha256: str | None = None) -> None:
    """Copy a shard of `size` bytes to `path`, which appears when it is complete.

    Raises DataError where the server fails, falls silent or sends something else, DiskError for a full disk.
    """
    if fsio.free_bytes(path) < size:
        raise DiskError(
            f"disk full: {size / 1e6:.0f} MB needed for a copy of {url} in {path.parent}, "
            f"{fsio.free_bytes(path) / 1e6:.0f} MB free; free some room, or lower data.copies_gb"
        )
    _attempts(url, lambda: fsio.write_bytes(path, _checked(url, size, sha256), size))


def _checked(url: str, size: int, sha256: str | None) -> Iterator[bytes]:
    """The bytes of a shard. Raises Wrong where they are not the announced ones, before the last is used."""
    got, digest = 0, hashlib.sha256()
    for chunk in _sent(url):
        got += len(chunk)
        if got > size:
            raise Wrong(f"sends more than the {size} bytes that it announced")
        digest.update(chunk)
        yield chunk
    if got < size:
        raise Wrong(f"ended after {got} of the {size} bytes that it announced")
    if sha256 is not None and digest.hexdigest() != sha256:
        raise Wrong(f"has SHA-256 {digest.hexdigest()[:12]}…, not the {sha256[:12]}… of data.checksums")


def _sent(url: str) -> Iterator[bytes]:
    """The bytes that the server sends. Raises Wrong: an OSError would pass for one of the local disk."""
    whole = {"block_size": 0} if url.startswith("http") else {}  # 0: one request for all of it
    try:
        with file_system(url).open(url, "rb", **whole) as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except OSError as told:
        error = _cause(told)
        raise Wrong(_reason(error), isinstance(error, LASTING)) from None


def _attempts(url: str, act: Any) -> Any:
    """The result of act(), tried three times. Raises DataError with the last reason."""
    for pause in (*PAUSES, None):
        try:
            return act()
        except CmapkdError:
            raise
        except Exception as told:
            error = _cause(told)
            reason = _reason(error)
            if pause is None or isinstance(error, LASTING) or getattr(error, "lasting", False):
                raise DataError(f"{url}: {reason}; {WAY_OUT}") from None
            say(f"{url}: {reason}; trying again in {pause:g} s")
            with contextlib.suppress(Exception):
                file_system(url).invalidate_cache()
            time.sleep(pause)
    raise AssertionError("unreachable")


def _cause(error: BaseException) -> BaseException:
    """The real reason, by the server's answer, of the FileNotFoundError that fsspec makes of every failure to look at a URL."""
    while isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    status = getattr(error, "status", None)
    if status in (404, 410):
        return FileNotFoundError()
    return PermissionError() if status in (401, 403) else error


def _reason(error: BaseException) -> str:
    """One line on a failed transfer."""
    if isinstance(error, FileNotFoundError):
        return "no such file on the server"
    if isinstance(error, PermissionError):
        return "the server refuses access; are your credentials set?"
    if isinstance(error, TimeoutError):
        return "the server does not answer in time"
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:160]
