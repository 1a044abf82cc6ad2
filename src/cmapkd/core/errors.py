"""What a user is told when something is wrong, and the exit code it ends with. Imports no torch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CmapkdError(Exception):
    """One clear line: what, where, the rule, the way out. `code` is the process's exit code."""

    code = 1


class UsageError(CmapkdError):
    """A wrong command line or config."""

    code = 2


class DataError(CmapkdError):
    """Data that cannot be read, or too much of it unreadable."""

    code = 3


class IntegrityError(CmapkdError):
    """Corrupt or stale: a hash that differs, a cache of another teacher, a checkpoint of another model."""

    code = 4


class DiskError(CmapkdError):
    """No room, no permission, or a failed write; nothing committed is lost."""

    code = 5


class NonFiniteError(CmapkdError):
    """A loss or gradient that is NaN or infinite; the weights are those before the step."""

    code = 6


class PeerLostError(CmapkdError):
    """A process of a comparison with several jobs died."""

    code = 7


def did_you_mean(word: str, names: Iterable[str], likeness: float = 0.6) -> str:
    """` (did you mean 'train'?)`, the name nearest to a wrong one, to end a line with; nothing where none is near."""
    near = difflib.get_close_matches(word, list(names), 1, likeness)
    return f" (did you mean '{near[0]}'?)" if near else ""
