"""Who works on a run: a name for a process that no later process can have by accident.

A process number alone is not enough: numbers are used again, quickly so after a reboot or in a container. So the name is
host/boot/space/number/start: the boot of the machine, the process namespace (containers have their own numbers) and the
kernel's start time of the process. On systems without /proc these three are "?" and the number has to do.

    me = this_process()
    alive(me)                   # True; False once it has ended; None when it runs elsewhere and nobody here can tell
"""

import os
import socket
from pathlib import Path

_UNKNOWN = "?"


def this_process() -> str:
    """The name of this process."""
    return "/".join((*_place(), str(os.getpid()), _start_of(os.getpid()) or _UNKNOWN))


def number_of(name: str) -> int:
    """The process number in a name."""
    return int(name.split("/")[3])


def alive(name: str) -> bool | None:
    """Whether the process of that name still runs; None when that cannot be known from here."""
    host, boot, space, number, start = name.split("/")
    our_host, our_boot, our_space = _place()
    if host != our_host:
        return None
    if boot != our_boot:
        return False  # this machine has been started again since
    if space != our_space:
        return None
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it exists and belongs to someone else
    return start in (_UNKNOWN, _start_of(int(number)))


def _place() -> tuple[str, str, str]:
    """Host, boot and process namespace, none with a slash in it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
        space = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        boot = space = _UNKNOWN
    return socket.gethostname(), boot, space


def _start_of(number: int) -> str | None:
    """Start time in clock ticks since boot; None for a process that has ended (a zombie too) or where there is no /proc."""
    try:
        # The second field is the program's name in brackets and may hold blanks, so fields are counted after the last bracket.
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else fields[19]
