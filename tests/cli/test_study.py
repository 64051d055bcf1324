import json

import pytest

from pellucid import AttentionConfig, Config, HookedTransformer
from pellucid.base.errors import OutputError
from pellucid.studies.induction import induction

STUDY = ("study", "induction", "--model", "toy-induction")


@pytest.fixture
def saved(tmp_path):
    """Saves a small random model without tokenizer, and gives its folder."""

    def save(**changes) -> str:
        config = {"n_layers": 1, "d_model": 8, "d_vocab": 30, "n_ctx": 16, **changes}
        model = HookedTransformer(
            Config(attention=AttentionConfig(n_heads=2, d_head=4), **config), seed=0, device="cpu"
        )
        model.save_pretrained(tmp_path / "model")
        return "model"

    return save


def test_the_tables_say_what_was_read_and_found(pellucid):
    done = pellucid(*STUDY)
    assert done.status == 0
    assert "model   toy-induction\n" in done.out
    assert "tokens  30 prompts of BOS, 50 random tokens and the same 50 again; seed 0\n" in done.out
    assert "BOS (id 0) stands in front" in done.out
    figures = induction(HookedTransformer.from_pretrained("toy-induction")).figures
    for name, words in (("induction_head", "induction head"), ("previous_token_head", "previous-token head")):
        figure, control = figures[name], figures[f"{name}_control"]
        (line,) = (line for line in done.out.splitlines() if line.startswith(words))
        score = [f"{figure.value:.3f}", f"[{figure.low:.3f},", f"{figure.high:.3f}]", f"{control.value:.3f}"]
        assert line.removeprefix(words).split() == [figure.label, *score]
    (accuracy,) = (line for line in done.out.splitlines() if line.startswith("accuracy"))
    first, second = (figures[f"accuracy_{half}_half"].value for half in ("first", "second"))
    assert accuracy.split()[1] == f"{first:.3f}" and f" {second:.3f} " in accuracy
    assert "chosen on 15 of the prompts; its figures come from the other 15" in done.out


def test_no_line_is_wider_than_80_columns_and_none_is_cut(pellucid):
    lines = pellucid(*STUDY, "--batch", "4").out.splitlines()
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)


def test_progress_is_on_stderr_alone(pellucid):
    done = pellucid(*STUDY, "--batch", "2")
    assert "loading toy-induction …" in done.err
    assert "…" not in done.out


def test_results_are_written_where_asked(pellucid, tmp_path):
    done = pellucid(*STUDY, "--out", "out/tour", "--seed", "3", "--batch", "4", "--seq-len", "12")
    assert done.status == 0
    assert done.out.endswith("Written to out/tour/result.json\nReport: out/tour/report.html\n")
    result = json.loads((tmp_path / "out" / "tour" / "result.json").read_text())
    assert (result["record"]["seed"], result["record"]["settings"]["seq_len"]) == (3, 12)
    assert all((tmp_path / "out" / "tour" / file).is_file() for file in result["files"])


def test_nothing_is_written_where_nothing_was_asked(pellucid, tmp_path):
    assert pellucid(*STUDY, "--batch", "2").status == 0
    assert list(tmp_path.iterdir()) == []


def test_results_are_not_overwritten_unasked_and_nothing_is_computed_first(pellucid):
    command = (*STUDY, "--out", "out", "--batch", "2")
    assert pellucid(*command).status == 0
    refused = pellucid(*command)
    assert refused.status == 1
    assert (
        refused.err
        == "Error: out must not hold results already, it has result.json; add --overwrite (overwrite=True)\n"
    )
    assert pellucid(*command, "--overwrite").status == 0


def test_json_is_the_result_and_nothing_else(pellucid, tmp_path):
    done = pellucid(*STUDY, "--batch", "4", "--json", "--out", "out")
    assert json.loads(done.out) == json.loads((tmp_path / "out" / "result.json").read_text())


def test_a_length_that_does_not_fit_is_refused_in_one_line(pellucid):
    done = pellucid(*STUDY, "--seq-len", "64")
    assert done.status == 1
    assert done.err.splitlines()[-1].startswith("Error: seq_len must lie in 2..63")


def test_one_prompt_says_that_it_flatters(pellucid):
    done = pellucid(*STUDY, "--batch", "1")
    assert "chosen on the prompt that its figures come from: they flatter it" in done.out
    assert "One prompt has no interval." in done.out


def test_what_a_model_cannot_have_is_said(pellucid, saved):
    done = pellucid("study", "induction", "--model", saved())
    assert done.status == 0
    assert "no tokenizer, so no BOS is known: none was added" in done.out
    assert "tokens  30 prompts of 7 random tokens and the same 7 again; seed 0\n" in done.out
    assert "Missing: no previous-token head can lie below head 0." in done.out


def test_a_model_without_layers_still_predicts(pellucid, saved):
    done = pellucid("study", "induction", "--model", saved(n_layers=0))
    assert done.status == 0
    assert "Missing: the model has no attention heads." in done.out


def test_a_folder_that_cannot_be_written_is_one_line(pellucid, monkeypatch):
    def refuse(self, folder, *, page, overwrite):
        raise OutputError("out must be writable, got: full")

    monkeypatch.setattr("pellucid.studies.result.StudyResult.save", refuse)
    done = pellucid(*STUDY, "--batch", "2", "--out", "out")
    assert (done.status, done.err.splitlines()[-1]) == (1, "Error: out must be writable, got: full")


def test_the_character_model_runs_with_its_right_defaults(pellucid, shared):
    done = pellucid("study", "induction", "--model", shared / "data" / "shakespeare-char-gpt", "--out", "out")
    assert done.status == 0
    assert "tokens  30 prompts of 31 random tokens and the same 31 again; seed 0\n" in done.out
    assert "This model has no BOS: none was added." in done.out
