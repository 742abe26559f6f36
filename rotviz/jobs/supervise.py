"""Start, find and stop the worker of a home folder.

The worker is a process of its own, in a session of its own, with no open file of ours: closing the browser, Ctrl-C in the
server's terminal or `kill -9` of the server do not reach it. Whether one is there is asked of its lock (rotviz/jobs/lock.py),
never of a process number.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import rotviz
from rotviz.errors import RotvizError
from rotviz.home import HOME_VARIABLE, home, make_folder
from rotviz.jobs.lock import WorkerLock
from rotviz.store import processes

LOG_BYTES = 5_000_000
START_SECONDS = 20.0

_children: list[subprocess.Popen[bytes]] = []  # kept so that one that ended can be reaped instead of staying a zombie


def log_path(folder: Path | None = None) -> Path:
    """Where the worker's output goes."""
    return Path(folder or home()) / "worker.log"


def worker_alive(folder: Path | None = None) -> bool:
    """Whether a worker serves this home."""
    _reap()
    return not WorkerLock(folder or home()).free()


def ensure_worker(folder: Path | None = None, arguments: Sequence[str] = ()) -> bool:
    """Start the worker unless one is there; True when it was started by this call.

    Args:
        folder: the home it serves; None = ROTVIZ_HOME.
        arguments: for the worker's command line.

    Raises:
        RotvizError: it ended at once; the message has the last line it wrote.
    """
    folder = Path(folder or home())
    if worker_alive(folder):
        return False
    rotate_log(folder)
    with open(log_path(make_folder(folder)), "ab") as log:
        child = subprocess.Popen([sys.executable, "-m", "rotviz.jobs.worker", *arguments], stdin=subprocess.DEVNULL, stdout=log,
                                 stderr=log, env=_environment(folder), start_new_session=True)
    _children.append(child)
    return _started(child, folder)


def stop_worker(folder: Path | None = None, timeout: float = 15.0, force: bool = False) -> bool:
    """Ask the worker to end (its run goes back in line) and wait for it; True when none is left.

    Args:
        timeout: seconds to wait.
        force: after that, kill it; the next worker finds its run.
    """
    lock = WorkerLock(folder or home())
    for number, patience in ((signal.SIGTERM, timeout), (getattr(signal, "SIGKILL", signal.SIGTERM), 5.0))[:2 if force else 1]:
        holder = lock.holder()
        if holder is not None and processes.alive(holder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(processes.number_of(holder), number)
        if _wait_until(lock.free, patience):
            _reap()
            return True
    return False


def rotate_log(folder: Path | None = None) -> None:
    """Move the log aside when it has grown past LOG_BYTES. By copying: whoever appends to it now goes on in the same, emptied file."""
    log = log_path(folder)
    with contextlib.suppress(OSError):  # a log is not worth an error
        if log.stat().st_size > LOG_BYTES:
            shutil.copyfile(log, log.with_name("worker.log.1"))
            os.truncate(log, 0)


def _started(child: subprocess.Popen[bytes], folder: Path) -> bool:
    lock = WorkerLock(folder)
    _wait_until(lambda: child.poll() is not None or not lock.free(), START_SECONDS)
    if child.poll():
        raise RotvizError(f"the worker did not start: {_last_line(log_path(folder))} (all of it is in {log_path(folder)})")
    return child.poll() is None  # status 0: another process was quicker to start one


def _environment(folder: Path) -> dict[str, str]:
    # A checkout that is not installed is found through the server's own working folder, which Python's -m may not share.
    package = str(Path(rotviz.__file__).resolve().parent.parent)
    before = os.environ.get("PYTHONPATH")
    return os.environ | {HOME_VARIABLE: str(folder), "PYTHONUNBUFFERED": "1",
                         "PYTHONPATH": os.pathsep.join([package, before] if before else [package])}


def _reap() -> None:
    _children[:] = [child for child in _children if child.poll() is None]


def _wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.03)
    return True


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        return str(error)
    return next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")
