"""Where rotviz keeps what it makes, and how a file gets there whole.

    ROTVIZ_HOME   the cache folder: converted models, runs, artifacts   (default: the platform's user cache folder)
    ROTVIZ_DATA   local corpora, preferred to the hub                   (default: none)

Whatever is kept appears under its final name only once it is complete: it is written beside that name, flushed to the disk, and
renamed, which a file system does in one step. A crash leaves a hidden leftover, never half a file that the next run trusts.
"""

import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rotviz.errors import BadInput, OutOfRoom

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says when there is no room: the disk, the user's quota, or the largest file it allows."""
HOME_VARIABLE = "ROTVIZ_HOME"
DATA_VARIABLE = "ROTVIZ_DATA"


def home() -> Path:
    """The cache folder, made if it is not there.

    Raises:
        BadInput: the folder cannot be made or is not a folder.
        OutOfRoom: the disk is full.
    """
    named = os.environ.get(HOME_VARIABLE)
    folder = Path(named).expanduser().absolute() if named else _user_cache() / "rotviz"
    return make_folder(folder)


@contextmanager
def home_of_its_own() -> Iterator[None]:
    """A block with an empty cache folder, thrown away afterwards: for measurements that must find nothing kept."""
    with tempfile.TemporaryDirectory() as folder:
        before, os.environ[HOME_VARIABLE] = os.environ.get(HOME_VARIABLE), folder
        try:
            yield
        finally:
            os.environ.pop(HOME_VARIABLE)
            os.environ |= {HOME_VARIABLE: before} if before else {}


def data_home() -> Path | None:
    """The folder with local corpora that ROTVIZ_DATA names, or None.

    Raises:
        BadInput: the variable names something that is no folder; ignoring it would quietly fetch another text.
    """
    named = os.environ.get(DATA_VARIABLE)
    if not named:
        return None
    folder = Path(named).expanduser().absolute()
    if not folder.is_dir():
        raise BadInput(f"{DATA_VARIABLE} = {named} is no folder; point it at a folder that holds wikitext-2-raw/, or unset it")
    return folder


def file_mark(path: Path) -> str:
    """A mark of a file that is known without reading it: for cache keys. Path, size and time of change; the name alone where there is no file."""
    if not path.is_file():
        return str(path)
    stat = path.stat()
    return f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"


def make_folder(folder: Path) -> Path:
    """The folder, with its parents.

    Raises:
        BadInput: it cannot be made (a file is in the way, or no permission).
        OutOfRoom: the disk is full.
    """
    try:
        with room_in(folder):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot make the folder {folder} ({error.strerror}); set {HOME_VARIABLE} to a folder you can write to") from error
    return folder


@contextmanager
def room_in(folder: Path) -> Iterator[None]:
    """Turns "no space left" inside the `with` into OutOfRoom; every other error passes."""
    try:
        yield
    except Exception as error:  # safetensors reports a full disk as an error of its own, with the system's words in it
        if getattr(error, "errno", None) not in FULL and not any(os.strerror(code) in str(error) for code in FULL):
            raise
        raise OutOfRoom(f"no room left on the disk that holds {folder}; free some space, or set {HOME_VARIABLE} to a folder "
                        "on another disk; what had been finished is kept") from error


def write_atomically(path: Path, writer: Callable[[Path], None]) -> Path:
    """Make a file that is either whole or not there.

    Args:
        path: its final name; an older file of that name is replaced in one step.
        writer: writes everything into the path it is given (in the same folder, so that the rename never copies).

    Raises:
        OutOfRoom: the disk is full; the older file, if any, is untouched.
    """
    make_folder(path.parent)
    with room_in(path.parent):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            writer(temporary)
            _flush(temporary)
            os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes it private; a cache is as readable as any file
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _flush(path.parent)
    return path


def fill_folder_atomically(path: Path, writer: Callable[[Path], None]) -> Path:
    """Make a folder that is either whole or not there.

    Args:
        path: its final name; an older folder of that name is moved aside and removed once the new one is in place.
        writer: writes everything into the empty folder it is given.

    Raises:
        OutOfRoom: the disk is full; the older folder, if any, is untouched.
    """
    make_folder(path.parent)
    with room_in(path.parent):
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            writer(temporary)
            for file in temporary.rglob("*"):
                _flush(file)
            os.chmod(temporary, 0o777 & ~_umask())
            _swap_in(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        _flush(path.parent)
    return path


def _swap_in(new: Path, path: Path) -> None:
    for _ in range(3):  # another process may put its own copy there between the two renames
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.old.", dir=path.parent) as aside:
            if path.exists():
                os.rename(path, Path(aside) / "old")
            try:
                os.rename(new, path)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            else:
                return
    raise BadInput(f"another process keeps writing {path}; let it finish and try again")


def _user_cache() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _umask() -> int:
    # Linux tells it without a change; elsewhere it can only be read by setting it, which other threads would notice.
    try:
        status = Path("/proc/self/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("Umask:")).split()[1], 8)
    except (OSError, StopIteration, ValueError):
        return 0o022


def _flush(path: Path) -> None:
    if path.is_dir() and sys.platform == "win32":
        return  # Windows opens no folder; its rename is journalled
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
