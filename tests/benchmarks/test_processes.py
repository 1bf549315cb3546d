"""Whose CPU time is whose."""

import os
import subprocess
import sys

from benchmarks.processes import PAGE_BYTES, READER, Process, Processes, group_of, process_of

BURN = "import time\nwhile time.process_time() < 0.2: pass\n"
BURN_IN_A_CHILD = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BURN!r}])\n"


def test_the_files_of_proc_are_read_whatever_the_program_is_called() -> None:
    stat = "12 (a) b (c) S 7 12 12 0 -1 4194304 9 8 7 6 11 22 33 44 20 0 1 0 5 6 7"
    found = process_of(stat, "5000 300 100 1 0 700 0")
    assert found == Process(parent=7, cpu_ticks=11 + 22 + 33 + 44, private_bytes=200 * PAGE_BYTES)


def test_a_process_belongs_to_the_nearest_root_above_it() -> None:
    found = {pid: Process(parent, 0, 0) for pid, parent in {2: 1, 3: 2, 4: 3, 5: 1, 6: 4}.items()}
    roots = {2: "worker", 4: "script"}
    assert {pid: group_of(pid, found, roots) for pid in found} == {
        2: "worker", 3: "worker", 4: "script", 5: None, 6: "script",
    }  # fmt: skip


def test_time_is_counted_for_children_that_have_ended_too() -> None:
    keep = "import sys\nsys.stdin.readline()"
    with subprocess.Popen([sys.executable, "-c", keep + f"\n{BURN_IN_A_CHILD}\nprint(flush=True)\n{keep}"],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        with Processes(child=child.pid, nobody=None) as processes:
            child.stdin.write("\n")
            child.stdin.flush()
            child.stdout.readline()
        child.stdin.write("\n")
    assert 0.15 <= processes.use["child"].cpu_seconds < 1
    assert processes.use["child"].largest_mb > 1
    assert 150 <= processes.cpu_ms("child", 1) < 1000
    assert processes.cpu_ms("nobody", 1) == 0


def test_what_reads_pdfs_is_a_group_of_its_own() -> None:
    command = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()", "app.pdf.parent"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        reader.stdout.readline()
        with Processes(worker=os.getpid()) as processes:
            pass
    assert processes.use[READER].largest_mb > 1
