"""Which system calls a confined process may make: those of a list, and with harmless arguments only.

The list is what pdfium, pypdf, Python and tesseract were seen to call while they read every file of our
tests, and what other versions of libc call instead. The packages that could write such a filter need a
library of C that is not everywhere, or are too young, and a filter is a loop over a table.
"""

import os
import struct
from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple

# Numbers on (x86-64, arm64); None: not there. Those called most come first.
ALLOWED = {
    "futex": (202, 98),
    "brk": (12, 214),
    "read": (0, 63),
    "newfstatat": (262, 79),
    "lseek": (8, 62),
    "write": (1, 64),
    "close": (3, 57),
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "setitimer": (38, 103),
    "stat": (4, None),
    "lstat": (6, None),
    "fstat": (5, 80),
    "statx": (332, 291),
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect6": (270, 72),
    "readv": (19, 65),
    "writev": (20, 66),
    "pread64": (17, 67),
    "preadv": (295, 69),
    "recvmsg": (47, 212),  # brings the pipes to tesseract
    "getdents64": (217, 61),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "getcwd": (79, 17),
    "fadvise64": (221, 223),
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "close_range": (436, 436),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "times": (100, 153),
    "getitimer": (36, 102),
    "getrusage": (98, 165),
    "getrandom": (318, 278),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "gettid": (186, 178),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "uname": (63, 160),
    "sysinfo": (99, 179),
    "getcpu": (309, 168),
    "sched_getaffinity": (204, 123),
    "sched_yield": (24, 124),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "set_tid_address": (218, 96),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "arch_prctl": (158, None),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
# Only for the process that becomes tesseract.
EXECVE = (59, 221)


class Rule(NamedTuple):
    """A call of which one argument decides: one of `values`, or without any bit of `refused_bits`."""

    numbers: tuple[int | None, int | None]
    argument: int
    values: tuple[int, ...] = ()
    refused_bits: int = 0


_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_ASK_TERMINAL, _TERMINAL_SIZE, _READABLE_BYTES, _KEEP, _CLOSE = 0x5401, 0x5413, 0x541B, 0x5450, 0x5451
_PR_SET_NAME, _PR_SET_VMA = 15, 0x53564D41
_DUPLICATE, _GET, _SET, _GET_STATUS, _SET_STATUS, _DUPLICATE_CLOSING = 0, 1, 2, 3, 4, 1030

RULES = [
    Rule((257, 56), 2, refused_bits=_WRITING),  # openat
    Rule((2, None), 1, refused_bits=_WRITING),  # open
    # ioctl and fcntl could send signals to others by naming them as owners of a descriptor.
    Rule((16, 29), 1, (_ASK_TERMINAL, _TERMINAL_SIZE, _READABLE_BYTES, _KEEP, _CLOSE)),
    Rule((72, 25), 1, (_DUPLICATE, _GET, _SET, _GET_STATUS, _SET_STATUS, _DUPLICATE_CLOSING)),
    Rule((157, 167), 0, (_PR_SET_NAME, _PR_SET_VMA)),  # prctl
    Rule((302, 261), 0, (0,)),  # prlimit64, of the process itself
]
_TGKILL = (234, 131)
OWN_PID = b"<me>"
# What libc then does in an older way; and calls that are younger than this list.
_UNKNOWN = {"clone3": 435, "openat2": 437}
_YOUNGEST = 470

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

# Of the Berkeley packet filter: load a word, jump if equal, at least, or of common bits, return.
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
_X32_CALLS = 0x40000000
_ALLOW, _EPERM, _ENOSYS = 0x7FFF0000, 0x00050001, 0x00050026

# Operation, how many instructions to skip when true, when false, and its operand.
Instruction = tuple[int, int, int, int]

_ALLOWED, _REFUSED = (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _EPERM)


@cache
def filter_of_calls(machine: str, may_execute: bool) -> bytes | None:
    """A program for seccomp, OWN_PID still to be filled in; None where the numbers of calls are not known.

    Made once, before the first fork: each child would take 0.4 ms.
    """
    if machine not in _ARCHITECTURES:
        return None
    column, architecture = _ARCHITECTURES[machine]
    numbers = [pair[column] for pair in (*ALLOWED.values(), *([EXECVE] if may_execute else []))]
    rules = [*RULES, Rule(_TGKILL, 0, struct.unpack("I", OWN_PID))]  # abort() is a signal to itself
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_IF_EQUAL, 1, 0, architecture),
        _REFUSED,
        (_LOAD, 0, 0, _NUMBER_AT),
        (_IF_AT_LEAST, 0, 1, _X32_CALLS),
        _REFUSED,
        *_each((number for number in numbers if number is not None), _ALLOWED),
        *(instruction for rule in rules for instruction in _ruled(rule, column)),
        *_each(_UNKNOWN.values(), (_RETURN, 0, 0, _ENOSYS)),
        (_IF_AT_LEAST, 0, 1, _YOUNGEST + 1),
        (_RETURN, 0, 0, _ENOSYS),
        _REFUSED,
    ]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)


def _each(numbers: Iterable[int], answer: Instruction) -> Sequence[Instruction]:
    return [step for number in numbers for step in ((_IF_EQUAL, 0, 1, number), answer)]


def _ruled(rule: Rule, column: int) -> Sequence[Instruction]:
    """The low half of the argument decides: of all these the kernel reads 32 bits."""
    number = rule.numbers[column]
    if number is None:
        return []
    if rule.refused_bits:
        tests = [(_IF_ANY_BIT, 0, 1, rule.refused_bits), _REFUSED, _ALLOWED]
    else:
        tests = [*_each(rule.values, _ALLOWED), _REFUSED]
    load = (_LOAD, 0, 0, _ARGUMENTS_AT + 8 * rule.argument)
    return [(_IF_EQUAL, 0, len(tests) + 1, number), load, *tests]
