"""Files that are replaced as a whole or not at all, even if the writer is killed.

A new file is written beside the old one and takes its place when it is complete. Its writer holds a lock on
it, which the system releases when the writer is killed: so the next writer to the same place can tell a
left-over file from one that is being written, and removes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import stat
from collections.abc import Iterator
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows, which does not remove files that are open
    fcntl = None  # type: ignore[assignment]

StrPath = str | os.PathLike[str]
"""The name of a file."""

_DAY = 86_400.0
"""Seconds after which another machine's left-over file is removed: its locks may be invisible here."""

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}


def named(path: StrPath) -> str:
    """Return `path` as text if it can be the name of a file, else raise ValueError; no file is accessed."""
    text = os.fsdecode(path)
    separators = (os.sep, os.altsep) if os.altsep else (os.sep,)
    if not text or text.endswith(separators) or "\0" in text:
        raise ValueError(f"`path` must be the name of a file, got {text!r}; give another name")
    return text


def irregular(path: StrPath) -> str | None:
    """Return what `path` is, following links, such as "a FIFO"; None for a regular or missing file.

    To be checked before a file is opened: opening a FIFO waits, and opening a device may do anything.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return None
    return None if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "not a file")


@contextlib.contextmanager
def replacing(path: StrPath) -> Iterator[BinaryIO]:
    """Yield a new file that replaces `path` at the end, or is removed if anything goes wrong.

    A link stays a link: its target is replaced. The mode of a replaced file is kept; a new file gets the
    default mode.

    Raises
    ------
    OSError
        If `path` exists but is not a regular file, or cannot be written.
    ValueError
        If it is not the name of a file: empty, or with a separator at its end.
    """
    # where?
    name = named(path)
    found = irregular(name)
    if found is not None:
        raise OSError(f"`path` must be a regular file or a new one, got {found}, {path!r}; give another name")
    path = os.path.realpath(name)
    folder, name = os.path.split(path)
    if not os.path.isdir(folder):
        raise FileNotFoundError(
            f"`path` must lie in an existing folder, got {path!r}; make it with os.makedirs"
        )
    place = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:16]
    prefix, mode = os.path.join(folder, f".psgd-{place}-"), _mode(path)
    # write beside it, then replace it
    file, temporary = _new(prefix + _machine(), mode)
    try:
        _remove_left_over(prefix, temporary)
        with file:
            yield file
            file.flush()
            if mode is not None:
                os.chmod(temporary, mode)
            os.fsync(file.fileno())
            if fcntl is not None:
                os.replace(temporary, path)  # while it is locked
        if fcntl is None:
            os.replace(temporary, path)  # Windows does not move open files
    except BaseException:
        file.close()
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    # synchronise the new name as well, where the system can
    with contextlib.suppress(OSError, AttributeError):
        descriptor = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _machine() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _mode(path: str) -> int | None:
    """Return the permissions of a file; None if there is none."""
    try:
        return stat.S_IMODE(os.stat(path).st_mode)
    except FileNotFoundError:
        return None


def _new(prefix: str, mode: int | None) -> tuple[BinaryIO, str]:
    """Return a new file, locked, and its name; private to the user if it is to replace another."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
    while True:
        name = f"{prefix}-{os.urandom(6).hex()}.tmp"
        file = os.fdopen(os.open(name, flags, 0o666 if mode is None else 0o600), "w+b")
        _lock(file, wait=True)
        if fcntl is None or os.fstat(file.fileno()).st_nlink:
            return file, name
        file.close()  # another writer took it for left over before it was locked


def _lock(file: BinaryIO, *, wait: bool) -> bool:
    """Lock a file, where the system has locks; return whether it worked."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:  # locked by another, or the file system has no locks
        return False
    return True


def _remove_left_over(prefix: str, own: str) -> None:
    """Remove what killed writers to the same place have left, except `own`."""
    folder, beginning = os.path.split(prefix)
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        now = os.stat(own).st_mtime  # by the clock of the file system
        for entry in entries:
            if not (entry.name.startswith(beginning) and entry.name.endswith(".tmp")) or entry.path == own:
                continue
            with contextlib.suppress(OSError):
                found = entry.stat(follow_symlinks=False)
                foreign = not entry.name.startswith(f"{beginning}{_machine()}-")
                if not stat.S_ISREG(found.st_mode) or (foreign and now - found.st_mtime < _DAY):
                    continue
                if fcntl is None:
                    os.unlink(entry.path)
                    continue
                with open(entry.path, "r+b") as file:  # over NFS, only files open for writing can be locked
                    if _lock(file, wait=False):
                        os.unlink(entry.path)
