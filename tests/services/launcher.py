"""Become another program that dies with the test run: `launcher.py PARENT_PID [UID GID] -- COMMAND...`.

A program of its own, and not `preexec_fn`, because Python 3.12 warns when a process with threads forks into
Python code, and warnings are errors here. It knows only the standard library.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Drop privileges, ask to be killed when the parent dies, and exec."""
    split = sys.argv.index("--")
    parent, *ids = (int(number) for number in sys.argv[1:split])
    command = sys.argv[split + 1 :]
    libc = ctypes.CDLL(None)
    if ids:
        uid, gid = ids
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # after setuid, which clears it
        if os.getppid() != parent:
            sys.exit("the test run ended before its service started")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
