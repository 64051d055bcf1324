"""`pellucid study contractions`: told, written, and no failure where a model cannot; wrong input is told first."""

import json

import pytest

from tests.studies.test_contractions import speaking

STUDY = ("study", "contractions", "--model")


def test_a_model_whose_tokenizer_splits_contractions_ends_well_and_says_so(pellucid, tmp_path):
    done = pellucid(*STUDY, "prose-2l-mixed", "--out", "out")
    assert done.status == 0
    assert "Missing: the prompts cannot be made for this model: contractions needs" in " ".join(done.out.split())
    assert max(map(len, done.out.splitlines())) <= 80
    figures = json.loads((tmp_path / "out/result.json").read_text())["figures"]
    assert all(figure["value"] is None and figure["reason"] for figure in figures.values())
    assert "Nothing can be said of the habit" in (tmp_path / "out/report.html").read_text()
    assert pellucid(*STUDY, "prose-2l-mixed", "--out", "out").status == 1


def test_json_is_the_result(pellucid):
    told = json.loads(pellucid(*STUDY, "toy-induction", "--json").out)
    assert told["study"] == "contractions" and told["record"]["settings"]["delta"] == 0.2


def test_a_model_that_contracts_has_every_verdict_in_its_result(pellucid, tmp_path, shared):
    speaking(shared).float().save_pretrained(tmp_path / "model")
    done = pellucid(*STUDY, "model", "-n", "50", "--out", "out")
    assert done.status == 0
    text = " ".join(done.out.split())
    assert "groups attn 0 different" in text and "copied attn 0 different 1.000" in text
    assert "seen attn 0" not in text  # of what was compared, only what differs
    assert "Missing: the model has no MLPs. Missing: no texts were given" in text
    figures = json.loads((tmp_path / "out/result.json").read_text())["figures"]
    assert (figures["seen attn 0"]["label"], figures["groups attn 0"]["label"]) == ("shared", "different")
    assert figures["habit"]["label"] == "shown"


def test_a_habit_that_is_not_shown_is_told(pellucid, tmp_path, shared):
    speaking(shared).float().save_pretrained(tmp_path / "model")
    done = pellucid(*STUDY, "model", "-n", "10")
    told = " ".join(done.out.split())
    assert "The habit is not shown, and what follows from it is exploratory: one frame has no interval" in told


@pytest.mark.parametrize(
    ("option", "value", "match"),
    [
        ("--delta", "0", "--delta"),
        ("--delta", "inf", "delta must be a difference above 0, got inf"),
        ("--corpus", "/nope.txt", "/nope.txt must be a file or a folder that exists"),
    ],
)
def test_wrong_input_is_told_before_any_work(pellucid, option, value, match):
    done = pellucid(*STUDY, "prose-2l-mixed", option, value)
    assert done.status in (1, 2) and match in done.err
    assert "loading" not in done.err


def test_an_empty_corpus_is_told_before_any_work(pellucid, tmp_path):
    (tmp_path / "empty.txt").write_text(" \n")
    done = pellucid(*STUDY, "prose-2l-mixed", "--corpus", "empty.txt")
    assert done.status == 1 and "must hold one document at least" in done.err and "loading" not in done.err
