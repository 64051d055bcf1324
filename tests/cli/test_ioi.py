"""`pellucid study ioi` and `pellucid explain`: what is found is told, what cannot be is one line."""

import json

import pytest

STUDY = ("study", "ioi", "--model", "toy-ioi", "--prompts", "30", "--no-neurons")
EXPLAIN = ("explain", "5 9 7 3 5 9", "--answer", "7", "--model", "toy-induction")


def test_the_study_tells_behaviour_and_evidence_and_writes_them(pellucid, tmp_path):
    done = pellucid(*STUDY, "--out", "out/ioi")
    assert done.status == 0
    for told in ("prefers the right name", "left without", "Each head was chosen on one half", "control"):
        assert told in done.out
    assert max(map(len, done.out.splitlines())) <= 80
    assert done.out.endswith("Written to out/ioi/result.json\nReport: out/ioi/report.html\n")
    figures = json.loads((tmp_path / "out/ioi/result.json").read_text())["figures"]
    assert figures["accuracy"]["value"] > 0.9 and figures["paragraph_loss"]["reason"]
    again = pellucid(*STUDY, "--out", "out/ioi")
    assert again.status == 1 and "must not hold results already" in again.err


def test_a_model_without_the_names_ends_well_and_says_so(pellucid, tmp_path):
    done = pellucid("study", "ioi", "--model", "toy-induction", "--out", "out")
    assert done.status == 0 and "must be single tokens here" in " ".join(done.out.split())
    figures = json.loads((tmp_path / "out/result.json").read_text())["figures"]
    assert figures["accuracy"] | {"reason": ""} == figures["accuracy"] | {"value": None, "reason": ""}
    assert figures["name_mover_head"]["reason"]


def test_json_is_the_result(pellucid):
    told = json.loads(pellucid(*STUDY, "--json").out)
    assert told["study"] == "ioi" and told["record"]["settings"]["prompts"] == 30
    assert told["files"][0] == "result.json" and "report.html" not in told["files"]


class TestExplain:
    def test_one_page_about_a_prompt(self, pellucid, tmp_path):
        done = pellucid(*EXPLAIN, "--corrupted", "5 9 4 3 5 9", "--out", "page.html")
        assert done.status == 0 and done.out.startswith("It can. '7': ")
        assert "head, patched" in done.out and "set to zero" not in done.out
        page = (tmp_path / "page.html").read_text()
        for told in ("Which parts write the answer?", "Where do the heads look that matter most?", "It can"):
            assert told in page
        again = pellucid(*EXPLAIN, "--out", "page.html")
        assert again.status == 1 and "page.html is there already" in again.err

    def test_without_a_corrupted_prompt_it_ablates_and_says_so(self, pellucid):
        done = pellucid(*EXPLAIN)
        assert done.status == 0 and "head, set to zero" in done.out
        assert "parts were set to zero, which is cruder than patching" in done.out

    def test_what_it_cannot_do_is_told_with_what_it_says_instead(self, pellucid):
        done = pellucid("explain", "5 9 7 3 5 9", "--answer", "8", "--model", "toy-induction", "--json")
        told = json.loads(done.out)
        assert told["difference"] < 0 and told["rank"] > 0 and told["wrong"] == told["said"][0][0] == "7"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--answer", "7 8"), "must be exactly one token, ' 7 8' is 2"),
            (("--answer", "7", "--wrong", "7"), "answer and wrong must be two tokens"),
            (("--answer", "7", "--corrupted", "5 9"), "must have as many tokens, got 7 and 3"),
        ],
    )
    def test_what_cannot_be_is_one_line(self, pellucid, arguments, message):
        done = pellucid("explain", "5 9 7 3 5 9", "--model", "toy-induction", *arguments)
        assert done.status == 1 and message in done.err.replace("\n", " ") and "Traceback" not in done.err
