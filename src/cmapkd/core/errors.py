"""Errors shown to the user as one line, and their exit codes. Imports no torch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CmapkdError(Exception):
    """An error with a one-line message: what, where, the rule, the way out.

    code: the exit code of the process. told: another process of the run prints it.
    """

    code = 1
    told = False


class UsageError(CmapkdError):
    """A wrong command line or config."""

    code = 2


class DataError(CmapkdError):
    """Data that cannot be read, or too much of it unreadable."""

    code = 3


class IntegrityError(CmapkdError):
    """Corrupt or stale files: a wrong hash, a cache of another teacher, a checkpoint of another model."""

    code = 4


class DiskError(CmapkdError):
    """A full disk, a missing permission or a failed write; nothing committed is lost."""

    code = 5


class NonFiniteError(CmapkdError):
    """A NaN or infinite loss or gradient; the weights are still those before the step."""

    code = 6


class PeerLostError(CmapkdError):
    """A process of a run on several devices or of a comparison with several jobs, or all workers of a cache, died or do not answer."""

    code = 7


def error_of(code: int, message: str) -> CmapkdError:
    """An error of the kind that has this exit code; a plain one for codes that no kind has."""
    kinds = (UsageError, DataError, IntegrityError, DiskError, NonFiniteError, PeerLostError)
    error = next((kind for kind in kinds if kind.code == code), CmapkdError)(message)
    error.code = code
    return error


def did_you_mean(word: str, names: Iterable[str], likeness: float = 0.6) -> str:
    """` (did you mean 'train'?)` with the known name nearest to `word`, or an empty string where none is near."""
    near = difflib.get_close_matches(word, list(names), 1, likeness)
    return f" (did you mean '{near[0]}'?)" if near else ""
