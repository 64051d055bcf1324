import json

import pytest
import torch

from pellucid.studies import emergence_runs
from pellucid.studies.emergence_arms import Sizes

STUDY = ("study", "emergence", "--quick")


@pytest.fixture
def short(monkeypatch, ran):
    """The study with runs of few steps, one of each arm, in this process; gives the jobs that were run."""
    monkeypatch.setattr(Sizes, "steps", 51)
    monkeypatch.setattr(Sizes, "seeds", lambda self, arm: 1)
    return ran


@pytest.mark.slow
def test_the_study_is_told_in_a_terminal_and_goes_on_where_it_was_interrupted(pellucid, short, tmp_path, monkeypatch):
    run, n = emergence_runs.run, 3

    def interrupted(job):
        if len(short) > n:
            raise KeyboardInterrupt
        return run(job)

    monkeypatch.setattr("pellucid.studies.emergence.run", interrupted)
    assert pellucid(*STUDY, "--out", "out").status == 130
    assert len(list((tmp_path / "out" / "journal").glob("*.safetensors"))) == n
    done = pellucid(*STUDY, "--out", "out")
    assert done.status != 0 and "out holds a study that was interrupted; add --resume" in done.err
    monkeypatch.setattr("pellucid.studies.emergence.run", run)
    short.clear()
    done = pellucid(*STUDY, "--out", "out", "--resume")
    assert done.status == 0, done.err
    assert len(short) == 11 - n, "finished runs are not run again"
    lines = done.out.splitlines()
    assert lines[0] == "11 models trained here, 51 steps each" and max(map(len, lines)) <= 80
    assert lines[-2:] == ["Written to out/result.json", "Report: out/report.html"]
    told = json.loads((tmp_path / "out" / "result.json").read_text())
    (line,) = (line for line in lines if line.startswith("previous token, first third"))
    value = told["figures"]["score_first_third"]["value"]
    assert line.split()[4] == ("-" if value is None else f"{value:.3f}")
    assert not (tmp_path / "out" / "journal").exists() and torch.is_grad_enabled()
    done = pellucid(*STUDY, "--out", "out")
    assert done.status != 0 and "--overwrite" in done.err


def test_a_folder_with_other_results_is_refused_before_anything_is_trained(pellucid, short, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "result.json").write_text("{}")
    done = pellucid(*STUDY, "--out", "out")
    assert done.status != 0 and "--overwrite" in done.err and len(done.err.splitlines()) == 1
    done = pellucid(*STUDY, "--out", "out", "--resume", "--overwrite")
    assert done.status != 0 and "one of --resume and --overwrite must be chosen" in done.err
    assert not short and (tmp_path / "out" / "result.json").read_text() == "{}"


def test_where_it_goes_must_be_said(pellucid, short):
    done = pellucid(*STUDY)
    assert done.status == 2 and "--out" in done.err and not short
