from typing import NamedTuple

import pytest

from pellucid.cli.main import run
from pellucid.distributed.processes import Processes


class Done(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


@pytest.fixture
def pellucid(capsys, tmp_path, monkeypatch):
    """Runs a command line in this process, in an empty folder: ``pellucid("heads", "--model", "toy-induction")``."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> Done:
        capsys.readouterr()
        status = run([str(argument) for argument in arguments])
        return Done(status, *capsys.readouterr())

    return command


@pytest.fixture
def ran(monkeypatch):
    """The trainings of a study happen in this process; gives the jobs that were run."""
    jobs_run = []

    def here(self, function, jobs, *, journal=None, advance=None):
        found = []
        for job in jobs:
            held = None if journal is None else journal.read(job)
            if held is None:
                jobs_run.append(job)
                held = function(job)
                if journal is not None:
                    journal.keep(job, held)
            found.append(held)
        return found

    monkeypatch.setattr(Processes, "map", here)
    return jobs_run
