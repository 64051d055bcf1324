"""Jobs in other processes; the functions are those of a module that these can import."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from jobs import failing, gone, hungry, killed, mistaken, mortal, where

from pellucid.base.errors import ArgumentError
from pellucid.distributed.executor import Executor
from pellucid.distributed.journal import Journal
from pellucid.distributed.local import Local
from pellucid.distributed.processes import Processes


def test_results_come_in_order_from_other_processes():
    told = []
    found = Processes(2, threads=1).map(where, [3, 1, 2], advance=told.append)
    assert [result["job"].item() for result in found] == [3, 1, 2]
    assert {result["threads"].item() for result in found} == {1}
    assert os.getpid() not in {result["process"].item() for result in found}
    assert told == [1, 1, 1]
    assert isinstance(Processes(), Executor)


def test_what_a_journal_holds_is_not_run_again(tmp_path):
    journal = Journal.open(tmp_path, identity={"function": "where"})
    journal.begin([1, 2])
    first = Processes(1).map(where, [1, 2], journal=journal)
    again = Processes(1).map(failing, [1, 2], journal=Journal.open(tmp_path, identity={"function": "where"}))
    assert all(torch.equal(a["process"], b["process"]) for a, b in zip(first, again, strict=True))


def test_an_error_of_a_job_reaches_the_caller_and_what_ended_is_kept(tmp_path):
    journal = Journal.open(tmp_path, identity={"function": "failing"})
    journal.begin([0, 1])
    with pytest.raises(ZeroDivisionError):
        Processes(1).map(failing, [1, 0], journal=journal)
    assert journal.read(1) is not None and journal.read(0) is None


def test_a_process_that_is_killed_is_told():
    with pytest.raises(ArgumentError, match="a process must live until its job ends, but one was killed"):
        Processes(1).map(killed, [1])


def test_a_job_that_kills_its_process_is_lost_alone(tmp_path):
    jobs, told = [5, -1, 6], []
    journal = Journal.open(tmp_path, identity={"function": "mortal"})
    journal.begin(jobs)
    found = Processes(2, lost=gone).map(mortal, jobs, journal=journal, advance=told.append)
    assert [result["job"].item() for result in found] == jobs
    assert [job for job, result in zip(jobs, found, strict=True) if "lost" in result] == [-1]
    threads = {result["threads"].item() for result in found if "threads" in result}
    assert len(threads) == 1, "one that is run again alone has no more threads: its last bits would differ"
    assert told == [1] * 3 and all(journal.read(job) is not None for job in jobs)


def test_what_ended_before_a_process_was_killed_is_kept(tmp_path):
    journal = Journal.open(tmp_path, identity={"function": "mortal"})
    journal.begin([5, 6, -1])
    with pytest.raises(ArgumentError, match="but one was killed .out of memory.. while -1 or another job ran"):
        Processes(1).map(mortal, [5, 6, -1], journal=journal)
    assert journal.read(5) is not None and journal.read(6) is not None and journal.read(-1) is None


@pytest.mark.skipif(sys.platform != "linux", reason="no other system keeps the bound")
def test_a_job_that_asks_for_more_memory_than_it_may_have_gets_an_error():
    assert Processes(1, max_memory=10**9).map(hungry, [10**8])[0]["taken"].item() == 1
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        Processes(1, max_memory=10**9).map(hungry, [10**8, 2 * 10**9])


def test_a_job_that_returns_something_else_is_refused_as_by_the_local_executor():
    for executor in (Local(), Processes(1)):
        with pytest.raises(ArgumentError, match="a job must return tensors by name"):
            executor.map(mistaken, [1])


def test_no_process_outlives_the_one_that_wants_its_results(tmp_path):
    told = tmp_path / "process"
    code = f"from jobs import lasting; from pellucid.distributed.processes import Processes; W = [{str(told)!r}]"
    code += "\nif __name__ == '__main__': Processes(1, threads=1).map(lasting, W)"
    (tmp_path / "work.py").write_text(code)
    tests = str(Path(__file__).resolve().parents[1])
    parent = subprocess.Popen([sys.executable, tmp_path / "work.py"], env=os.environ | {"PYTHONPATH": tests})
    try:
        worker = int(within_a_minute(lambda: told.exists() and told.read_text()))
        os.kill(worker, 0)
    finally:
        parent.kill()
        parent.wait()
    assert within_a_minute(lambda: not Path(f"/proc/{worker}").exists() or zombie(worker))


def within_a_minute(found):
    end = time.monotonic() + 60
    while not found() and time.monotonic() < end:
        time.sleep(0.05)
    return found()


def zombie(process):
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize("settings", [{"n": 0}, {"threads": 0}, {"max_memory": 0}])
def test_less_than_one_is_refused(settings):
    with pytest.raises(ArgumentError, match="must be 1 or more, got 0"):
        Processes(**settings)
