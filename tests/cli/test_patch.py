import json
import re

import numpy as np
import pytest

from pellucid import AttentionConfig, Config, HookedTransformer, Measurement, patching
from pellucid.tasks.repeated_tokens import RepeatedTokensTask

MODEL = ("patch", "--model", "toy-induction")
PROMPTS = ("--clean", "5 9 [odd: 7] 3 8 5 9", "--corrupted", "5 9 [odd: 4] 3 8 5 9", "--answer", "7", "--wrong", "4")
HEADS = (*MODEL, "--site", "z", "--over", "layer,head")


def sweep(**asked) -> Measurement:
    model = HookedTransformer.from_pretrained("toy-induction")
    pairs = patching.pairs(
        [[0, 5, 9, 7, 3, 8, 5, 9]], [[0, 5, 9, 4, 3, 8, 5, 9]], answer=7, wrong=4, positions={"odd": 3}
    )
    return patching.sweep(model, pairs, **asked)


@pytest.fixture
def file(tmp_path):
    """A file of three pairs."""
    path = tmp_path / "pairs.csv"
    rows = [f"{a} 9 [odd: 7] 3 8 {a} 9,{a} 9 [odd: 4] 3 8 {a} 9,7,4" for a in (5, 11, 15)]
    path.write_text("\n".join(["clean,corrupted,answer,wrong", *rows]))
    return path


def rows(out: str) -> dict[str, list[str]]:
    """The table's lines, by cell."""
    lines = (re.match(r"(layer \d \S+(?: \d)?|\d\.\d|L\dN\d+) +(.*)", line) for line in out.splitlines())
    return {line[1]: line[2].split() for line in lines if line}


def test_the_table_tells_the_cells_that_move_the_metric_most(pellucid):
    done = pellucid(*HEADS, *PROMPTS, "--top", "3")
    assert done.status == 0
    effect = sweep(site="z", over=("layer", "head"))
    moved, share = effect.effect().mean("prompt"), effect.normalised().mean("prompt")
    order = np.argsort(-np.abs(moved.values.ravel()))[:3]
    expected = {
        moved.labels[i]: [f"{part.values.ravel()[i]:.3f}" for part in (effect.mean("prompt"), moved, share)]
        for i in order
    }
    assert rows(done.out) == expected
    clean, corrupted = (float(effect.dataset[side].values[0]) for side in ("clean", "corrupted"))
    assert f"one prompt: clean {clean:.3f}, corrupted {corrupted:.3f} logits" in done.out
    assert max(map(len, done.out.splitlines())) <= 80
    assert "loading" in done.err and "loading" not in done.out


EDGES = (*MODEL, "--paths", "--senders", "embed,heads", "--receivers", "heads,logits")


def test_edges_are_what_python_gives(pellucid, tmp_path):
    model = HookedTransformer.from_pretrained("toy-induction")
    pairs = patching.pairs([[0, 5, 9, 7, 3, 8, 5, 9]], [[0, 5, 9, 4, 3, 8, 5, 9]], answer=7, wrong=4)
    exact = patching.paths(model, pairs, senders="embed + heads", receivers="heads + logits")
    done = pellucid(*EDGES, *PROMPTS, "--json", "--out", "out")
    cells = {cell["label"]: cell["value"] for cell in json.loads(done.out)["cells"]}
    assert len(cells) == (~np.isnan(exact.values)).sum()
    assert cells["0.1 → 1.2 k"] == pytest.approx(float(exact.sel(sender="0.1", receiver="1.2", input="k").values[0]))
    assert "input k" in (tmp_path / "out" / "report.html").read_text()
    guess = json.loads(pellucid(*EDGES, *PROMPTS, "--json", "--method", "ig-inputs", "--steps", "4").out)
    assert guess["record"]["settings"]["method"] == "ig-inputs" and guess["record"]["settings"]["steps"] == 4
    assert "1.0 → logits" in pellucid(*EDGES, *PROMPTS, "--through", "all").out


@pytest.mark.parametrize("method", ["atp", "atp*"])
def test_estimates_are_what_python_gives(pellucid, method, tmp_path):
    model = HookedTransformer.from_pretrained("toy-induction")
    pairs = patching.pairs([[0, 5, 9, 7, 3, 8, 5, 9]], [[0, 5, 9, 4, 3, 8, 5, 9]], answer=7, wrong=4)
    found = patching.attribute(model, pairs, site="z", over=("layer", "head"), method=method)
    done = pellucid(*HEADS, *PROMPTS, "--json", "--method", method, "--out", "out")
    cells = {cell["label"]: cell["value"] for cell in json.loads(done.out)["cells"]}
    assert cells["1.0"] == pytest.approx(float(found.sel(layer=1, head=0).values[0]))
    assert f"estimated from gradients, by {method}" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ((*MODEL, "--paths", "--senders", "heads"), 2, "--paths goes with --senders and --receivers"),
        ((*EDGES, "--site", "z"), 2, "--paths patches edges, --site cells"),
        ((*HEADS, "--senders", "heads"), 2, "--senders and --receivers go with --paths"),
        ((*MODEL, "--site", "z"), 2, "give --site and --over, or --paths"),
        ((*EDGES, "--explain"), 2, "--explain tells how a sweep is run"),
        ((*EDGES, "--method", "atp*"), 1, "method must be one of atp, ig-inputs for edges, got 'atp*'"),
        ((*EDGES, "--through", "heads"), 1, "through must be 'edge', 'mlps' or 'all', got 'heads'"),
        ((*HEADS, "--method", "gradient"), 1, "method must be one of atp, atp*, ig-inputs, ig-activations"),
    ],
)
def test_what_cannot_be_asked_of_edges_is_one_line(pellucid, arguments, status, message):
    done = pellucid(*arguments, *PROMPTS)
    assert done.status == status
    assert message in re.sub(r"[\s│]+", " ", done.err)
    assert done.out == ""


def test_named_positions_can_be_patched(pellucid):
    found = rows(pellucid(*MODEL, "--site", "resid_pre", "--over", "layer,position", *PROMPTS).out)
    assert set(found) == {f"layer {layer} {name}" for layer in (0, 1) for name in ("odd", "end")}
    assert found["layer 0 odd"][2] == "1.000"


def test_noising_and_another_metric_are_what_python_gives(pellucid):
    more = ("--direction", "noise", "--metric", "KL", "--freeze", "pattern")
    said = json.loads(pellucid(*HEADS, *PROMPTS, *more, "--json").out)
    effect = sweep(site="z", over=("layer", "head"), direction="noise", metric=patching.KL(), freeze="pattern")
    assert said["unit"] == "nats" and said["record"]["settings"]["direction"] == "noise"
    told = {cell["label"]: cell["value"] for cell in said["cells"]}
    assert told == pytest.approx(dict(effect.mean("prompt").items()))


def test_several_pairs_come_from_a_file_and_have_intervals(pellucid, file):
    done = pellucid(*MODEL, "--site", "resid_pre", "--over", "layer,pos", "--task", file)
    assert "3 prompts" in done.out and "95 % interval" in done.out
    assert len(rows(done.out)["layer 0 pos 3"]) == 5  # the interval is two words
    said = json.loads(pellucid(*MODEL, "--site", "z", "--over", "layer", "--task", file, "--json").out)
    assert all(cell["low"] < cell["effect"] < cell["high"] for cell in said["cells"])
    assert len(said["clean"]) == len(said["corrupted"]) == 3


def test_the_plan_is_told_without_running(pellucid):
    done = pellucid(*MODEL, "--site", "z", "--over", "layer,head,pos", *PROMPTS, "--explain")
    assert "= 64 cells" in done.out and "known without running: 40" in done.out
    assert "fraction" not in done.out


def test_report_and_numbers_are_written_and_not_overwritten_unasked(pellucid, tmp_path):
    command = (*HEADS, *PROMPTS, "--out", "out")
    done = pellucid(*command)
    assert done.status == 0 and done.out.endswith("Report: out/report.html\n")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["effect.nc", "report.html"]
    saved = Measurement.load(tmp_path / "out" / "effect.nc")
    np.testing.assert_array_equal(saved.values, sweep(site="z", over=("layer", "head")).values)
    refused = pellucid(*command)
    assert refused.status == 1
    assert refused.err == "Error: out must not hold results already, it has effect.nc; add --overwrite\n"
    assert pellucid(*command, "--overwrite").status == 0


def test_what_was_interrupted_is_continued_when_asked(pellucid, tmp_path, monkeypatch):
    command = (*HEADS, *PROMPTS, "--out", "out")

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("pellucid.patching.experiment.walk", interrupted)
        assert pellucid(*command).status == 130
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["journal"]
    refused = pellucid(*command)
    assert refused.status == 1
    assert refused.err.startswith("Error: out holds a sweep that was interrupted; add --resume to continue it")
    other = pellucid(*MODEL, "--site", "q", "--over", "layer,head", *PROMPTS, "--out", "out", "--resume")
    assert other.status == 1 and "must be the journal of the same work" in other.err
    assert pellucid(*command, "--resume").status == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["effect.nc", "report.html"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--clean", "5 9"), 2, "give --clean and --corrupted, or --task TASK"),
        ((*PROMPTS, "--task", "p.csv"), 2, "--task has the prompts; leave --clean, --corrupted, --answer, --wrong"),
        (("--task", "p.csv"), 1, "p.csv must be a file of text, got:"),
        (("--task", "io"), 1, "a task must be one of ioi, "),
        (("--clean", "5 9", "--corrupted", "5 9 7", "--answer", "7"), 1, "must have as many tokens, got 3 and 4"),
        ((*PROMPTS, "--wrong", "4 5"), 1, "wrong must be one token"),
        ((*PROMPTS, "--metric", "logitdif"), 1, "metric must be a known one, got 'logitdif'"),
        ((*PROMPTS, "--direction", "back"), 1, "direction must be 'denoise'"),
        ((*PROMPTS, "--freeze", "scale"), 1, "freeze must be of ln_scale and pattern, got 'scale'"),
        ((*PROMPTS, "--max-memory", "much"), 1, "max_memory must be bytes, or text such as '2GB', got 'much'"),
    ],
)
def test_what_cannot_be_is_one_line(pellucid, arguments, status, message):
    done = pellucid(*HEADS, *arguments)
    assert done.status == status
    assert message in done.err.replace("\n", " ")
    assert done.out == ""


def test_a_model_without_tokenizer_is_refused(pellucid, tmp_path):
    config = Config(n_layers=1, d_model=8, d_vocab=30, n_ctx=16, attention=AttentionConfig(n_heads=2, d_head=4))
    HookedTransformer(config, seed=0, device="cpu").save_pretrained(tmp_path / "model")
    done = pellucid("patch", "--model", "model", "--site", "z", "--over", "layer,head", *PROMPTS)
    assert done.status == 1 and "text needs a tokenizer" in done.err


def test_a_task_brings_its_prompts_and_its_metric(pellucid):
    asked = ("--model", "toy-induction", "--task", "repeated_tokens", "--site", "z", "--over", "layer,head")
    said = json.loads(pellucid("patch", *asked, "--prompts", "6", "--seed", "2", "--json").out)
    model = HookedTransformer.from_pretrained("toy-induction")
    effect = patching.sweep(model, RepeatedTokensTask(), site="z", over=("layer", "head"), n=6, seed=2)
    values = {cell["label"]: cell["value"] for cell in said["cells"]}
    assert values["1.0"] == pytest.approx(float(effect.mean("prompt").sel(layer=1, head=0).values), rel=1e-4)
    assert said["record"]["settings"]["prompts"] == 6 and len(said["clean"]) == 6
