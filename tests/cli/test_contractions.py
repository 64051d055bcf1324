"""`pellucid study contractions` on models that cannot do it: told, written, and no failure."""

import json

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


def test_a_delta_must_be_above_nothing(pellucid):
    done = pellucid(*STUDY, "toy-induction", "--delta", "0")
    assert done.status == 2 and "--delta" in done.err
