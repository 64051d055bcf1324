"""`pellucid study contractions`: told, written, and no failure where a model cannot; wrong input is told first."""

import json
from dataclasses import replace

import pytest

from pellucid.studies.contractions import contractions
from pellucid.studies.contractions_parts import contexts
from pellucid.studies.result import Figure
from tests.studies.test_contractions import RIGHT, prompts_of, speaking, with_neurons

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
    done = pellucid(*STUDY, "model", "-n", "60", "--out", "out")
    assert done.status == 0
    text = " ".join(done.out.split())
    assert "groups attn 0 different" in text and "copied attn 0 different 1.000" in text
    assert "seen attn 0" not in text  # of what was compared, only what differs
    assert "Missing: the model has no MLPs." in text and "no texts" not in text
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


def test_texts_are_refused_where_neurons_are_left_out(pellucid):
    done = pellucid(*STUDY, "prose-2l-mixed", "--corpus", "/nope.txt", "--no-neurons")
    assert done.status == 1 and "loading" not in done.err
    assert "and --no-neurons leaves them out, got --corpus /nope.txt and --no-neurons; leave" in " ".join(
        done.err.split()
    )


def test_neurons_are_looked_up_in_texts_where_no_head_changes_anything(pellucid, tmp_path, monkeypatch):
    """A habit of neurons alone: the result is made with what the texts tell, and not refused for want of a head."""
    found = contractions(with_neurons(), prompts_of(6))
    habit = replace(found, figures=found.figures | {"head": Figure(unit="logits", reason="no head changes anything")})
    monkeypatch.setattr("pellucid.studies.contractions.contractions", lambda *_, **__: habit)
    (tmp_path / "texts.txt").write_text("We're here.")
    seen = contexts(with_neurons(), found.measurements, [[0, 12, RIGHT, 13]])
    monkeypatch.setattr("pellucid.studies.contractions_parts.contexts", lambda *_: seen)
    figures = json.loads(pellucid(*STUDY, "prose-2l-mixed", "--corpus", "texts.txt", "--json").out)["figures"]
    assert (figures["head"]["value"], figures["texts"]["label"]) == (None, f"L0N1 at '{RIGHT}'")


def test_an_empty_corpus_is_told_before_any_work(pellucid, tmp_path):
    (tmp_path / "empty.txt").write_text(" \n")
    done = pellucid(*STUDY, "prose-2l-mixed", "--corpus", "empty.txt")
    assert done.status == 1 and "must hold one document at least" in done.err and "loading" not in done.err
