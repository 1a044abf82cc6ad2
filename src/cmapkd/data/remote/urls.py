"""Remote locations: their recognition, and their file systems through fsspec."""

from __future__ import annotations

import re
from typing import Any

from cmapkd.core.errors import UsageError

URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
SCHEMES = ("http", "https", "s3", "gs", "hf")  # fsspec knows more; some of them run programs or read local files
CONNECT, READ = 20.0, 60.0  # seconds without an answer after which a server counts as silent


def is_remote(location: str) -> bool:
    """Whether a location is a URL. Raises UsageError for a scheme that is not allowed."""
    match = URL.match(location)
    if match is None:
        return False
    if match[1].lower() not in SCHEMES or "::" in location:
        raise UsageError(
            f"{location}: shards are read from {', '.join(f'{s}://' for s in SCHEMES)} and from local paths only"
        )
    return True


def file_system(url: str) -> Any:
    """The fsspec file system of a URL. Raises UsageError when a package is missing."""
    scheme = url.partition("://")[0].lower()
    try:
        import fsspec

        return fsspec.filesystem(scheme, **_options(scheme))
    except ImportError as error:
        missing = f" ({error.name})" if error.name else ""
        raise UsageError(f"{url}: reading {scheme}:// needs a package{missing}: pip install 'cmapkd[remote]'") from None


def _options(scheme: str) -> dict[str, Any]:
    """Settings that let no silent server hold up a run."""
    if scheme in ("http", "https"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=READ)
        return {"client_kwargs": {"timeout": timeout}}
    if scheme == "s3":
        return {"config_kwargs": {"connect_timeout": CONNECT, "read_timeout": READ}}
    return {}
