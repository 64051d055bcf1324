"""`pellucid train` of a file in which keys hold lists."""

import csv
import json

import pytest

from tests.train.recipes import tiny

BAD = ("optimiser.lr=[5e-3,1e30,-1]", "schedule.warmup=0")
"""A learning rate with which a run ends, one with which it fails, and one that cannot be."""
HERE = ("--out", "out", "--processes", "1")


@pytest.fixture(autouse=True)
def mine(tmp_path):
    """The file of one run, in the present folder."""
    (tmp_path / "mine.toml").write_text(tiny(steps=5, checkpoints={"every": 0}, model={"d_model": 8}).to_toml())


def test_the_runs_can_be_listed_before_they_are_begun(pellucid, tmp_path):
    done = pellucid("train", "mine.toml", "seed=[0,7]", *BAD, "--print")
    assert done.status == 0 and not done.err
    first, head, *lines = [line for line in done.out.splitlines() if line.strip()]
    assert first == "6 runs" and head.split()[:3] == ["run", "seed", "optimiser.lr"]
    rows = [line.split(maxsplit=3) for line in lines if line.split()[0].isdigit()]
    labels = [(seed, lr) for seed in ("0", "7") for lr in ("0.005", "1e+30", "-1")]
    assert [tuple(row[1:3]) for row in rows] == labels and [row[0] for row in rows] == list("012345")
    assert [len(row) > 3 and "lr must be above 0" in " ".join(row[3:]) for row in rows] == [False, False, True] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


def test_what_fails_is_told_and_the_others_go_on(pellucid, tmp_path):
    done = pellucid("train", "mine.toml", "seed=[0,7]", *BAD, *HERE)
    assert done.status == 0, done.err
    assert done.out.startswith("2 of 6 runs ended; by loss (nats), the best first\n")
    assert done.out.endswith(
        "Written to out: runs.csv, results.nc, and a folder for each run\nReport: out/report.html\n"
    )
    told = [line.partition(": ")[2] for line in done.err.splitlines() if line.startswith("failed: ")]
    assert [line[:6] for line in told] == [f"run {i} " for i in (1, 2, 4, 5)]
    assert "(seed 0, optimiser.lr 1e+30): the loss must be a finite number" in told[0]
    assert "(seed 7, optimiser.lr -1): optimiser: lr must be above 0, got -1" in told[3]
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("the loss must be a finite number") == page.count("lr must be above 0") == 2

    with (tmp_path / "out" / "runs.csv").open() as file:
        table = list(csv.DictReader(file))
    as_json = pellucid("train", "--resume", "--json", *HERE)
    found = json.loads(as_json.out)
    assert as_json.status == 0 and found["figure"] == "loss" and found["effects"] == []
    for run, row in zip(found["runs"], table, strict=True):
        assert run["run"] == row["run"] and run["settings"]["seed"] == int(row["seed"])
        assert (run["reason"] or "") == row["reason"] and bool(run["figures"]) == (run["reason"] is None)
        assert run["figures"].get("loss", "") == (float(row["loss"]) if row["loss"] else "")

    other = pellucid("train", "--resume", "seed=[0,8]", *HERE)
    assert other.status == 1 and "must be the journal of the same work, but its grid.seed is [0, 7]" in other.err
    full = pellucid("train", "mine.toml", "seed=[0,7]", *HERE)
    assert full.status == 1 and "add --resume" in full.err and len(full.err.splitlines()) == 1


def test_a_setting_has_an_effect_over_seeds(pellucid):
    done = pellucid("train", "mine.toml", "seed=[0,1,2]", "optimiser.lr=[1e-4,1e-2]", *HERE)
    assert done.status == 0 and not [line for line in done.err.splitlines() if line.startswith("failed")]
    assert "What a setting changes, all else equal (nats)" in done.out and max(map(len, done.out.splitlines())) <= 80
    line = next(line for line in done.out.splitlines() if "→" in line)
    assert line.split()[:4] == ["optimiser.lr", "0.0001", "→", "0.01"] and "[" in line


def test_if_no_run_ends_the_command_has_failed(pellucid):
    done = pellucid("train", "mine.toml", "optimiser.lr=[1e30,1e31]", "schedule.warmup=0", *HERE)
    assert done.status == 1 and done.out.startswith("0 of 2 runs ended")
    assert done.err.count("the loss must be a finite number") == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mine.toml", *HERE], "--processes is for grids, in which a key holds a list; leave it out"),
        (["mine.toml", "seed=[0,1]"], "give --out DIR, where the trained models go"),
        (["mine.toml", "seed=[0,1]", *HERE, "--resume", "--overwrite"], "one of --resume and --overwrite"),
        (["mine.toml", "seed=[0,1]", *HERE, "--resume"], "out must hold a grid to go on with, it has no grid.toml"),
        (["mine.toml", "seed=[0,1]", "--out", "mine.toml"], "must be a folder for the results, it is a file"),
        (["mine.toml", "seed=[0,1]", "--out", "out", "--processes", "0"], "--processes"),
        (["mine.toml", "seed=[]", *HERE], "seed must have a value, got an empty list"),
        (["mine.toml", "seed=[1,1]", *HERE], "the values of seed must differ, got 1 twice"),
        (["mine.toml", "sede=[0,1]", *HERE], "recipe has no field 'sede'; nearest: seed"),
        (["mine.toml", "optimiser.lr=[0,-1]", *HERE], "a combination that can be run, but in the first of 2"),
        (["mine.toml", "seed=[0,1]", "grid.samples=3", *HERE], "grid has no field 'samples'"),
    ],
)
def test_what_cannot_be_is_one_clear_error(pellucid, tmp_path, arguments, said):
    done = pellucid("train", *arguments)
    assert done.status in (1, 2) and not done.out
    assert said in " ".join(done.err.split()), done.err
    assert "Traceback" not in done.err and not (tmp_path / "out").exists()
