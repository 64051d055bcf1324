"""`pellucid study attention-only` on the command line."""

import json

import pytest

from pellucid.studies import attention_only_runs
from pellucid.studies.attention_only_arms import REFERENCE, Sizes
from pellucid.train import train

STUDY = ("study", "attention-only", "--quick", "--beside", "model", "--data", "ours=made:200")


@pytest.fixture
def short(monkeypatch, ran):
    """The study with runs of few steps, one of each arm, in this process; gives the jobs that were run."""
    monkeypatch.setattr(Sizes, "steps", 11)
    monkeypatch.setattr(Sizes, "tokens", 512)
    monkeypatch.setattr(Sizes, "seeds", lambda self, arm: 1)
    return ran


@pytest.mark.slow
def test_the_study_is_told_in_a_terminal_and_goes_on_where_it_was_interrupted(pellucid, short, tmp_path, monkeypatch):
    run, n = attention_only_runs.run, 3
    train(Sizes(quick=True).recipe(REFERENCE, 0, "made:200"), out="model", device="cpu", report=False)

    def interrupted(job):
        if len(short) > n:
            raise KeyboardInterrupt
        return run(job)

    monkeypatch.setattr("pellucid.studies.attention_only.run", interrupted)
    assert pellucid(*STUDY, "--out", "out").status == 130
    done = pellucid(*STUDY, "--out", "out")
    assert done.status != 0 and "out holds a study that was interrupted; add --resume" in done.err
    monkeypatch.setattr("pellucid.studies.attention_only.run", run)
    short.clear()
    done = pellucid(*STUDY, "more=made:200", "--out", "out", "--resume")
    assert done.status != 0 and "must be the journal of the same work" in done.err and not short
    done = pellucid(*STUDY, "--out", "out", "--resume")
    assert done.status == 0, done.err
    jobs = 7
    assert len(short) == jobs - n, "finished runs are not run again"
    lines = done.out.splitlines()
    assert lines[0] == f"{jobs} models trained here, 11 steps each, on ours" and max(map(len, lines)) <= 80
    assert lines[-2:] == ["Written to out/result.json", "Report: out/report.html"]
    told = json.loads((tmp_path / "out" / "result.json").read_text())
    (line,) = (line for line in lines if line.startswith("2 layers with MLP"))
    assert f" {told['figures']['bits_per_byte_2_layers_mlp']['value']:.3f}" in line
    assert {"attention_model", "written_model"} <= set(told["measurements"])
    assert not (tmp_path / "out" / "journal").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--data", "imdb"), "a text must be NAME=SOURCE, such as imdb=reviews.csv, got 'imdb'"),
        (("ours=made:3",), "each text must have a name of its own, got 'ours' twice"),
        (("b=made:none",), "text that is made here must be made:N, a number of documents, got 'made:none'"),
        (("b=nowhere",), "nowhere must be a file or a folder that exists"),
        (("--full",), "one of --quick and --full must be chosen, got both"),
        (("--resume", "--overwrite"), "one of --resume and --overwrite must be chosen"),
    ],
)
def test_what_cannot_be_is_told_in_one_line_before_anything_is_trained(pellucid, short, more, message):
    done = pellucid(*STUDY, *more, "--out", "out")
    assert done.status != 0 and message in " ".join(done.err.split()).replace("│ ", "") and not short
