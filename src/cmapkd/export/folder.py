"""A folder of files that appears in one rename, whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from cmapkd.core import fsio
from cmapkd.core.errors import UsageError


def write_folder(folder: Path, files: Mapping[str, bytes], replace: bool = False) -> Path:
    """Write `files`, by name, as `folder`. replace: whether a folder that is there already gives way.

    Raises UsageError when the folder exists and does not give way, DiskError when it cannot be written.
    """
    if folder.exists() and not replace:
        raise UsageError(f"export {folder}: exists already; give a new folder or remove it first")
    # The name that fsio sweeps away if this process is killed.
    part = folder.with_name(f"{folder.name}.tmp.{os.getpid()}")
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise fsio.disk_error(folder, error) from None
    try:
        for name, content in files.items():
            fsio.write_bytes(part / name, content)
        fsio.commit_dir(part, folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return folder
