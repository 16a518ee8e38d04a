"""Starts a command as a child process that does not outlive its parent, even one killed by SIGKILL (Linux).

    subprocess.Popen(command_line(["/bin/sleep", "60"], when_orphaned=signal.SIGTERM))

Start it from the main thread: the kernel signals the child when the thread that started it ends.

The new process runs this file, which asks the kernel for the signal and then becomes the command: a step of
its own, because preexec_fn is unsafe in a parent with threads. It imports only the standard library, so
that it starts in 40 ms and runs where a venv cannot be read.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def command_line(
    command: Sequence[str],
    *,
    when_orphaned: signal.Signals,
    user: tuple[int, int] | None = None,
    clean_environment: bool = False,
) -> list[str]:
    """Return what to run to get `command` as a child that is signalled when this process dies.

    command: begins with an absolute path. user: uid and gid to run it as; ours when None.
    clean_environment: give it none of our variables, which may hold secrets, or settings that change it.
    """
    uid, gid = user or (os.geteuid(), os.getegid())
    numbers = [os.getpid(), int(when_orphaned), uid, gid, int(clean_environment)]
    this_file = str(Path(__file__).resolve())
    return [sys.executable, "-I", "-S", this_file, *map(str, numbers), *command]


def _launch(arguments: list[str]) -> NoReturn:
    parent_pid, when_orphaned, uid, gid, clean_environment = map(int, arguments[:5])
    command = arguments[5:]
    if uid != os.geteuid():
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    # From here on nothing can be imported: the user may not be able to read Python's library.
    if sys.platform == "linux":  # after setuid, which clears it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, when_orphaned, 0, 0, 0)
        if os.getppid() != parent_pid:
            sys.exit("the parent died before the launch")
    if clean_environment:
        os.execve(command[0], command, {"PATH": os.defpath, "LC_ALL": "C"})  # noqa: S606
    os.execv(command[0], command)  # noqa: S606


if __name__ == "__main__":
    _launch(sys.argv[1:])
