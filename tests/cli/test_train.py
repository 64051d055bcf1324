import json

import pytest

from pellucid import HookedTransformer
from pellucid.train import read_recipe
from tests.train.recipes import tiny


@pytest.fixture
def recipe(tmp_path):
    """The name of a file with a recipe, in the present folder."""
    (tmp_path / "mine.toml").write_text(tiny(steps=10, model={"d_vocab": 40}, data={"d_vocab": 40}).to_toml())
    return "mine.toml"


def test_a_recipe_becomes_a_model_and_a_page(pellucid, recipe, tmp_path):
    done = pellucid("train", recipe, "steps=12", "seed=3", "--out", "out/mine")
    assert done.status == 0, done.err
    lines = done.out.splitlines()
    losses = [json.loads(line)["loss"] for line in (tmp_path / "out/mine/metrics.jsonl").read_text().splitlines()]
    assert lines[0] == f"loss    {losses[0]:.4f} → {losses[-1]:.4f} nats in 12 steps"
    assert lines[-2:] == [
        "Written to out/mine, the model and 4 checkpoints",
        "Report: out/mine/report.html",
    ]
    assert any(line.startswith("previous token") for line in lines) and max(map(len, lines)) <= 80
    model = HookedTransformer.from_pretrained(tmp_path / "out" / "mine")
    assert model.record.seed == 3 and len(losses) == 12


def test_a_program_is_told_in_json(pellucid, recipe):
    done = pellucid("train", recipe, "--out", "out", "--json")
    told = json.loads(done.out)
    assert set(told["checkpoints"]) == {"0", "5", "10"} and told["recipe"]["steps"] == 10
    roles = {row["role"]: row for row in told["heads"]}
    assert {"previous token", "induction"} <= set(roles)
    for row in roles.values():
        assert row["low"] <= row["score"] <= row["high"] and 0 <= row["control"] <= 1 and row["prompts"] == 2


def test_the_whole_recipe_can_be_printed_and_used(pellucid, tmp_path):
    done = pellucid("train", "toy-induction", "seed=7", "--print")
    assert done.status == 0 and not done.err
    (tmp_path / "printed.toml").write_text(done.out)
    assert read_recipe(tmp_path / "printed.toml") == read_recipe("toy-induction", ["seed=7"])
    assert "shape = " in done.out and "held_out = " in done.out, "defaults included"
    assert [path.name for path in tmp_path.iterdir()] == ["printed.toml"]


def test_a_run_goes_on_with_or_without_its_recipe_being_named(pellucid, recipe, tmp_path):
    first = pellucid("train", recipe, "--out", "out")
    before = (tmp_path / "out" / "metrics.jsonl").read_text().count("\n")
    for arguments in (("train", "--resume", "--out", "out"), ("train", recipe, "--resume", "--out", "out")):
        done = pellucid(*arguments)
        assert done.status == 0 and done.out == first.out
    assert (tmp_path / "out" / "metrics.jsonl").read_text().count("\n") == before == 10
    done = pellucid("train", "--resume", "steps=20", "--out", "out")
    assert done.status == 1 and "but steps is 10 there and 20 here" in done.err
    done = pellucid("train", recipe, "--out", "out")
    assert done.status == 1 and "add --resume" in done.err and len(done.err.splitlines()) == 1
    assert pellucid("train", recipe, "--out", "out", "--overwrite").status == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mine.toml", "stepz=3", "--out", "out"], "recipe has no field 'stepz'; nearest: steps"),
        (["mine.toml", "optimiser.lr=fast", "--out", "out"], "optimiser.lr must be a number, got 'fast'"),
        (["mine.toml", "--out", "out", "--resume", "--overwrite"], "one of --resume and --overwrite"),
        (["mine.toml", "--out", "out", "--resume"], "it has no recipe.toml"),
        (["nope", "--out", "out"], "a TOML file or one of prose-2l-mixed, toy-induction, toy-ioi, got 'nope'"),
        (["mine.toml"], "give --out DIR"),
        (["--out", "out"], "give a recipe: a TOML file, or one of prose-2l-mixed, toy-induction, toy-ioi"),
        (["--resume", "--out", "out"], "out must hold a run to go on with"),
        (["mine.toml", "--out", "mine.toml"], "must be a folder for the results, it is a file"),
        (["mine.toml", "--device", "warp", "--out", "out"], "warp"),
        (["mine.toml", "optimiser.lr=1e30", "schedule.warmup=0", "--out", "nan"], "must be a finite number"),
    ],
)
def test_what_cannot_be_is_one_clear_error(pellucid, recipe, tmp_path, arguments, said):
    done = pellucid("train", *arguments)
    assert done.status in (1, 2) and not done.out
    assert said in " ".join(done.err.split()), done.err
    assert "Traceback" not in done.err and not (tmp_path / "out").exists()
