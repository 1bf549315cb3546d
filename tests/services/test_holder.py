import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from app.services.holder import Processes, process_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
BOOT_ID = "7cfb9f6e-5a6c-4a53-a1d4-0c7d1f0b6a7e\n"


class FakeProc:
    """A `/proc` that shows what a test wants; the processes it names are real."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "sys/kernel/random").mkdir(parents=True)
        (folder / "sys/kernel/random/boot_id").write_text(BOOT_ID)
        (folder / "self/ns").mkdir(parents=True)
        (folder / "self/ns/pid").symlink_to("pid:[1]")
        self.set_clock(1_700_000_000)

    def set_clock(self, boot_time: int) -> None:
        (self.folder / "stat").write_text(f"cpu  1 2 3 4\nbtime {boot_time}\n")

    def show(self, pid: int, ticks: int, state: str = "S", program: str = "python") -> None:
        (self.folder / str(pid)).mkdir(exist_ok=True)
        fields = [state, *("0" * 18), str(ticks), "0", "0"]
        (self.folder / str(pid) / "stat").write_text(f"{pid} ({program}) {' '.join(fields)}\n")

    def hide(self, pid: int) -> None:
        (self.folder / str(pid) / "stat").unlink()
        (self.folder / str(pid)).rmdir()

    def processes(self) -> Processes:
        return Processes.of_this_host(self.folder)


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    fake = FakeProc(tmp_path)
    fake.show(os.getpid(), 5000)
    fake.show(os.getppid(), 4000)
    return fake


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def holder_of(pid: int) -> str:
    """As the process itself would say it; this one is its parent."""
    processes = Processes.of_this_host()
    return f"{processes.host}{os.getpid()}.{ticks_of(os.getpid())}/{pid}/{ticks_of(pid)}"


def ticks_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def test_a_step_of_the_clock_kills_nobody(proc: FakeProc) -> None:
    holder = proc.processes().name_of_this()
    proc.set_clock(1_700_000_001)
    assert not proc.processes().is_dead(holder)


def test_a_process_that_is_hidden_is_not_dead(proc: FakeProc) -> None:
    holder = proc.processes().name_of_this()
    proc.hide(os.getpid())
    assert not proc.processes().is_dead(holder)


def test_without_a_proc_nothing_is_dead_that_answers_to_its_number(tmp_path: Path) -> None:
    processes = Processes.of_this_host(tmp_path / "nothing")
    holder = processes.name_of_this()
    assert not processes.is_dead(holder)
    assert processes.is_dead(holder.replace(f"/{os.getpid()}/", f"/{2**22 + 1}/"))


def test_of_other_hosts_boots_and_containers_nothing_is_known(proc: FakeProc) -> None:
    holder = proc.processes().name_of_this()
    proc.show(os.getpid(), 6000)
    assert proc.processes().is_dead(holder), "the number belongs to another process now"
    for old, new in (
        (holder.split("/")[0], "other"),
        (BOOT_ID.strip(), "another boot"),
        ("pid:[1]", "pid:[2]"),
    ):
        assert not proc.processes().is_dead(holder.replace(old, new, 1))
    assert not proc.processes().is_dead("written by an earlier version/1/1.0")


def test_a_program_may_call_itself_anything(proc: FakeProc) -> None:
    proc.show(os.getpid(), 5000, program="a) Z (b")
    assert not proc.processes().is_dead(proc.processes().name_of_this())


def test_a_killed_process_is_dead_before_and_after_its_parent_has_noticed(
    child: "subprocess.Popen[bytes]",
) -> None:
    holder = holder_of(child.pid)
    assert not Processes.of_this_host().is_dead(holder)
    child.kill()
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert Processes.of_this_host().is_dead(holder)
    child.wait()
    assert Processes.of_this_host().is_dead(holder)


def test_one_dead_child_is_told_apart_from_a_dead_worker(
    child: "subprocess.Popen[bytes]",
) -> None:
    holder = holder_of(child.pid)
    processes = Processes.of_this_host()
    assert not processes.is_alone_dead(holder)
    child.kill()
    child.wait()
    assert processes.is_alone_dead(holder)
    mine = f"{os.getpid()}.{ticks_of(os.getpid())}"
    assert not processes.is_alone_dead(holder.replace(mine, f"{os.getpid()}.1"))


def test_the_process_in_a_name_is_read_and_a_name_of_another_shape_is_left_alone() -> None:
    assert process_of("host/boot/pid:[1]/7.70/8/80") == ("host", 8)
    assert [process_of(name) for name in ("", "host", "host:8", "host/8/80", "host/a/b/c/d/e")] == [None] * 5
