"""A grid under fire: killed before it began, between two checkpoints, between two runs; and resumed each time."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from pellucid.measurement import Measurement
from pellucid.train.recipe import toml
from tests.train.recipes import TINY

GRID = {
    **TINY,
    "steps": 300,
    "seed": [0, 1],
    "optimiser": {"lr": [5e-3, -1, 1e30]},  # of the last two, one cannot be, and one has no finite loss
    "schedule": {"warmup": 0},
    "checkpoints": {"every": 10, "log_spaced": False},
}
BEGUN, FAILED, BETWEEN, ENDED = (
    *("grid.toml", "journal/*.safetensors", "runs/0/checkpoints/step-00000050", "runs/*/model.safetensors"),
)
"""What is there as soon as a grid has begun, a run has failed, another is between two checkpoints, and it has ended."""


def begin(folder, *arguments):
    """`pellucid train` as a process of its own, in a folder."""
    command = [sys.executable, "-m", "pellucid", "train", *arguments, "--out", "out", "--processes", "2"]
    return subprocess.Popen(
        command, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def end(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err.decode()
    return out.decode(), err.decode()


def kill(process, folder, seen):
    """Kills it as soon as something is there."""
    try:
        until = time.monotonic() + 120
        while not list((folder / "out").glob(seen)) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.002)
        assert process.poll() is None, process.communicate()
    finally:
        process.kill()
        process.communicate()
    assert list((folder / "out").glob(seen))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder for a grid in one go, and one for a grid that is killed, each with the file."""
    found = [tmp_path_factory.mktemp(name) for name in ("whole", "killed")]
    for folder in found:
        (folder / "mine.toml").write_text(toml(GRID))
    return found


@pytest.mark.slow
@pytest.mark.long
def test_a_grid_that_is_killed_at_any_moment_ends_bit_for_bit_as_if_it_never_was(folders):
    whole, killed = folders
    said = end(begin(whole, "mine.toml"))
    kill(begin(killed, "mine.toml"), killed, BEGUN)
    for moment in (FAILED, BETWEEN):
        kill(begin(killed, "mine.toml", "--resume"), killed, moment)
        assert not list((killed / "out").glob(ENDED)), "no other run had ended"
    kill(begin(killed, "mine.toml", "--resume"), killed, ENDED)
    assert not (killed / "out" / "results.nc").exists(), "some had not ended"
    assert end(begin(killed, "--resume")) == said
    ours, theirs = (Measurement.load(folder / "out" / "results.nc") for folder in folders)
    assert ours.dataset.identical(theirs.dataset) and ours.record == theirs.record
    assert np.isfinite(ours.values).sum() == 2 and ours.dataset["failed"].values.sum() == 4
    names = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(killed) for path in killed.rglob("*") if path.is_file()), "no halves left"
    alike = [name for name in names if name.suffix in (".csv", ".safetensors", ".toml")]
    assert len([name for name in alike if name.name == "model.safetensors"]) > 60, "models, those of checkpoints too"
    for name in alike:
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name
    table = (whole / "out" / "runs.csv").read_text()
    assert table.count("the loss must be a finite number") == 2 and table.count("lr must be above 0") == 2

    before = {path: path.stat().st_mtime_ns for path in (whole / "out").rglob("*") if path.parts[-2] in ("0", "1")}
    assert end(begin(whole, "--resume")) == said
    assert before and all(path.stat().st_mtime_ns == moment for path, moment in before.items()), "nothing is run again"
    assert (whole / "out" / "runs.csv").read_text() == table
