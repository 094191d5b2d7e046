"""Which file system a path is on. Only Linux tells; elsewhere nothing is refused."""

from __future__ import annotations

import re
from pathlib import Path

MOUNT_TABLE = Path("/proc/self/mountinfo")

NETWORK_KINDS = frozenset(
    "afs beegfs ceph cifs coda glusterfs gpfs lustre ncpfs nfs nfs4 ocfs2 gfs2 orangefs panfs pvfs2 smb3 smbfs wekafs"
    " fuse.beegfs fuse.blobfuse fuse.blobfuse2 fuse.ceph fuse.ceph-fuse fuse.curlftpfs fuse.davfs fuse.gcsfuse"
    " fuse.geesefs fuse.glusterfs fuse.goofys fuse.hdfs fuse.juicefs fuse.lizardfs fuse.moosefs fuse.mount.davfs"
    " fuse.mountpoint-s3 fuse.rclone fuse.s3fs fuse.seaweedfs fuse.smbnetfs fuse.sshfs".split()
)
"""File systems that several machines can have mounted. Not 9p and virtiofs, by which a virtual machine sees its host's disk:
what matters to SQLite, that all processes share memory and locks, holds within one machine."""


def network_kind(path: Path) -> str | None:
    """Return the kind of the network file system that `path` is on; None if it is on a disk of this machine."""
    try:
        mounts = MOUNT_TABLE.read_text("utf-8", errors="surrogateescape")
    except OSError:
        return None
    kind = _kind_of(path.resolve(), mounts)
    return kind if kind in NETWORK_KINDS else None


def _kind_of(path: Path, mounts: str) -> str | None:
    """Find the innermost mount above `path`; of several at one place the last one, which covers the others.

    Source: proc(5), /proc/pid/mountinfo. Fields after the optional ones, which a lone hyphen ends: kind, source, options.
    """
    found, depth = None, 0
    for line in mounts.splitlines():
        head, _, tail = line.partition(" - ")
        place = Path(_unescaped(head.split(" ")[4]))
        if path.is_relative_to(place) and len(place.parts) >= depth:
            found, depth = tail.split(" ")[0], len(place.parts)
    return found


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
