"""Jobs that several processes do together."""

import json
import os
import subprocess
import sys

import torch

from pellucid.distributed.executor import Executor
from pellucid.distributed.journal import Journal
from pellucid.distributed.together import Together

WORK = """
import json, sys
import torch, torch.distributed as dist
from pathlib import Path
from pellucid.distributed.journal import Journal
from pellucid.distributed.together import Together

together = Together()
journal = None
if together.is_main:
    journal = Journal.open(sys.argv[1], identity={"function": "sum"})
    journal.begin([1, 2, 3])
ran, told = [], []

def function(job):
    ran.append(job)
    x = torch.tensor(float(job + dist.get_rank()))
    dist.all_reduce(x)  # waits for the others: all must be at the same job
    if job == 2 and "stop" in sys.argv:
        raise RuntimeError("stopped")
    return {"sum": x, "rank": torch.tensor(dist.get_rank())}

found = together.map(function, [1, 2, 3], journal=journal, advance=told.append)
plain = [{name: x.item() for name, x in one.items()} for one in found]
sys.stdout.write(json.dumps([dist.get_rank(), ran, len(told), plain]) + chr(10))  # in one piece
dist.destroy_process_group()
"""


def by_two(tmp_path, *more):
    script = tmp_path / "work.py"
    script.write_text(WORK)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    command += [str(tmp_path / "journal"), *more]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert (done.returncode == 0) == (not more), done.stderr
    return {
        line[0]: line[1:] for line in map(json.loads, filter(lambda s: s.startswith("["), done.stdout.splitlines()))
    }


def test_all_do_each_job_together_and_the_first_one_keeps_what_came_out(tmp_path):
    assert by_two(tmp_path, "stop") == {}
    journal = Journal.open(tmp_path / "journal", identity={"function": "sum"})
    assert journal.read(1)["sum"] == 3.0 and journal.read(2) is None
    found = by_two(tmp_path)
    assert found[0][:2] == found[1][:2] == [[2, 3], 2], "what was done before is not done again, in no process"
    assert [one["sum"] for one in found[0][2]] == [3.0, 5.0, 7.0]
    assert [one["rank"] for one in found[0][2]] == [0, 0, 0]
    assert found[1][2][0] == {} and [one["sum"] for one in found[1][2][1:]] == [5.0, 7.0]


def test_alone_it_is_as_any_other():
    together = Together()
    assert isinstance(together, Executor) and together.is_main
    assert together.map(lambda job: {"x": torch.tensor(job)}, [4, 5]) == [
        {"x": torch.tensor(4)},
        {"x": torch.tensor(5)},
    ]
