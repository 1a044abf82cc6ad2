"""Writing a folder of files atomically."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from cmapkd.core import fsio
from cmapkd.core.errors import UsageError


def write_folder(folder: Path, files: Mapping[str, bytes], replace: bool = False) -> Path:
    """Write `files`, a mapping from name (or FOLDER/name) to content, as `folder` in one rename.

    replace: whether an existing folder is replaced. Raises UsageError for an existing folder that is not to be replaced,
    DiskError when writing fails.
    """
    if folder.exists() and not replace:
        raise UsageError(f"export {folder}: exists already; give a new folder or remove it first")
    # A name that fsio.sweep_temporaries deletes if this process is killed.
    part = folder.with_name(f"{folder.name}.tmp.{os.getpid()}")
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise fsio.disk_error(folder, error) from None
    try:
        for name, content in files.items():
            fsio.make_folder((part / name).parent)
            fsio.write_bytes(part / name, content)
        fsio.commit_dir(part, folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return folder
