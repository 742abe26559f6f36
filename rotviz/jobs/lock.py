"""One worker per home: a lock that the kernel lets go of when its holder ends, however it ends.

A file that merely exists would outlive a `kill -9`; an flock does not. Whoever holds it has written its own name into the file,
so that others can see who it is and stop it. On systems without flock, msvcrt's lock on a byte far behind the text does the same.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from rotviz.home import make_folder
from rotviz.store import processes

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None


class WorkerLock:
    """The lock of one home folder.

    lock = WorkerLock(home)
    if lock.acquire(): ...          # held until release() or the end of the process
    """

    def __init__(self, home: Path) -> None:
        self.path = Path(home) / "worker.lock"
        self._file: int | None = None

    def acquire(self) -> bool:
        """Take the lock if it is free; True when this object holds it now."""
        make_folder(self.path.parent)
        file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        if not _try_lock(file, shared=False) or _identity(file) != _identity(self.path):  # the second: removed while we locked it
            os.close(file)
            return False
        os.ftruncate(file, 0)
        os.lseek(file, 0, os.SEEK_SET)
        os.write(file, processes.this_process().encode())
        self._file = file
        if hasattr(os, "register_at_fork"):
            # A child of a fork shares the lock and would keep it after we died. It closes its copy; ours stays locked.
            os.register_at_fork(after_in_child=self._forget)
        return True

    def release(self) -> None:
        """Let go of the lock."""
        if self._file is not None:
            os.ftruncate(self._file, 0)
            if fcntl is not None:
                fcntl.flock(self._file, fcntl.LOCK_UN)  # closing alone waits for a child that has just been forked and not yet let go
            self._forget()

    def intact(self) -> bool:
        """Whether the file that this object locked is still the one that others look at."""
        return self._file is not None and _identity(self._file) == _identity(self.path)

    def free(self) -> bool:
        """Whether nobody holds it at this moment."""
        try:
            file = os.open(self.path, os.O_RDWR)
        except FileNotFoundError:
            return True
        try:
            # Shared, so that two who look at the same time do not see each other.
            return _try_lock(file, shared=True)
        finally:
            os.close(file)

    def holder(self) -> str | None:
        """The name of the process that holds it, None when it is free."""
        if self.free():
            return None
        return self.path.read_text().strip() or None

    def _forget(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = None


@contextlib.contextmanager
def held(lock: WorkerLock) -> Iterator[bool]:
    """The lock for the length of a `with` block; the value says whether it could be had."""
    got = lock.acquire()
    try:
        yield got
    finally:
        lock.release()


def _identity(file: int | Path) -> tuple[int, int] | None:
    try:
        found = os.stat(file)
    except FileNotFoundError:
        return None
    return (found.st_dev, found.st_ino)


def _try_lock(file: int, shared: bool) -> bool:
    try:
        if fcntl is not None:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        else:
            import msvcrt

            os.lseek(file, 1 << 30, os.SEEK_SET)  # a locked byte cannot be read, so it must not be one of the name
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
    except OSError:
        return False
    return True
