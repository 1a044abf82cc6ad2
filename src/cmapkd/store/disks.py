"""File system types: whether a path lies on a network disk, where memory maps are slow and end a process on a lost server."""

from __future__ import annotations

from pathlib import Path

MOUNTS = Path("/proc/mounts")
NETWORK = ("9p", "afs", "beegfs", "ceph", "cifs", "fuse", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "ocfs2",
           "orangefs", "panfs", "pvfs2", "smb", "virtiofs", "wekafs")  # fmt: skip
LOCAL = ("fuse.fuse-overlayfs", "fuseblk")


def network_type(path: Path) -> str | None:
    """Type of the network file system that holds a path (nfs4, cifs, lustre, fuse.sshfs, …); None on a local disk.

    Local too wherever the system has no table of mounts.
    """
    try:
        table = [line.split() for line in MOUNTS.read_text().splitlines()]
    except OSError:
        return None
    place, best, kind = path.resolve(), -1, ""
    for _, point, name, *_ in (row for row in table if len(row) > 2):
        folder = Path(point.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"))
        if place.is_relative_to(folder) and len(folder.parts) >= best:  # of two on one folder the later one counts
            best, kind = len(folder.parts), name
    return kind if kind.startswith(NETWORK) and kind not in LOCAL else None
