"""Who holds a lease: a process, named so that others on the same host can see whether it lives."""

import os
import socket
import sys

import psutil


def _host() -> str:
    """The host's name and its process ids' namespace: two containers may share a name, not both."""
    namespace = os.readlink("/proc/self/ns/pid") if sys.platform == "linux" else ""
    return f"{socket.gethostname()}/{namespace}/"


HOST = _host()


def this_holder() -> str:
    """Call it after a fork: a child is a holder of its own."""
    return f"{HOST}{os.getpid()}/{psutil.Process().create_time()}"


def is_dead(holder: str) -> bool:
    """Whether the holder was a process of this host that has ended. Of other hosts nothing is known."""
    if not holder.startswith(HOST):
        return False
    pid, _, create_time = holder.removeprefix(HOST).partition("/")
    try:
        process = psutil.Process(int(pid))
        return str(process.create_time()) != create_time or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
