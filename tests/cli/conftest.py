from typing import NamedTuple

import pytest

from pellucid.cli.main import run


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
