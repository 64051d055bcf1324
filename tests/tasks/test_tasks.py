"""Every task: prompts of both sides are aligned, answers are single tokens, the same seed gives the same prompts."""

import inspect
from pathlib import Path

import pytest
import torch

from pellucid import HookedTransformer, patching
from pellucid.base.errors import ArgumentError, TokenError, UnknownNameError
from pellucid.tasks import known
from pellucid.tasks.greater_than import GreaterThan
from pellucid.tasks.ioi import FRAMES, IOI, NAMES
from pellucid.tasks.known import TASKS, named
from pellucid.tasks.pairs import NONE, Pairs
from pellucid.tasks.repeated_tokens import RepeatedTokensTask
from pellucid.tasks.task import Task
from pellucid.text.read import read_tokenizer
from pellucid.text.vocabulary import integer_vocabulary, word_vocabulary
from tests.models import config_of

NOT_TASKS = {"__init__", "files", "known", "marked", "metrics", "pairs", "task", "templates"}


@pytest.fixture(scope="module")
def gpt2():
    return read_tokenizer(Path(__file__).parents[3] / "shared" / "data" / "gpt2-tokenizer")


def test_every_file_of_a_task_is_registered_and_documented():
    files = {path.stem for path in Path(known.__file__).parent.glob("*.py")} - NOT_TASKS
    assert files == set(TASKS)
    for name, made in TASKS.items():
        assert made.name == name and made.about and inspect.getdoc(made)
        module = inspect.getmodule(made)
        assert module is not None and "Source:" in (module.__doc__ or "")


@pytest.mark.parametrize("name", TASKS)
def test_prompts_are_aligned_and_answers_are_tokens(name, gpt2):
    made = named(name)
    pairs = made.pairs(gpt2, n=40, seed=3)
    assert len(pairs) == 40 and not torch.equal(pairs.clean, pairs.corrupted)
    assert ((pairs.clean == pairs.corrupted) | pairs.mask).all()
    made.metric.check(pairs)
    for right, wrong in zip(pairs.answer.tolist(), pairs.wrong.tolist(), strict=True):
        right, wrong = ({i for i in side if i != NONE} for side in (right, wrong))
        assert right and wrong and not right & wrong
    assert (pairs.positions["end"] == pairs.lengths - 1).all()
    if pairs.text is not None:
        for row, (clean, _) in zip(pairs.clean, pairs.text, strict=True):
            assert "".join(gpt2.strings(row)).startswith(f"<|endoftext|>{clean}") or clean in "".join(gpt2.strings(row))


@pytest.mark.parametrize("name", TASKS)
def test_a_seed_gives_the_same_prompts_and_fewer_are_the_first_of_more(name, gpt2):
    made = named(name)
    many, few, others = made.pairs(gpt2, n=12, seed=1), made.pairs(gpt2, n=5, seed=1), made.pairs(gpt2, n=12, seed=2)
    width = few.clean.shape[1]
    assert torch.equal(many.clean[:5, :width] * few.mask, few.clean * few.mask)
    assert torch.equal(many.answer[:5, : few.answer.shape[1]], few.answer)
    assert many.text != others.text if many.text else not torch.equal(many.clean, others.clean)


@pytest.mark.parametrize("name", [name for name, made in TASKS.items() if made.groups])
def test_groups_take_turns_or_one_is_asked_for(name, gpt2):
    made = named(name)
    assert made.pairs(gpt2, n=2 * len(made.groups)).group == (*made.groups, *made.groups)
    assert set(made.pairs(gpt2, n=6, group=made.groups[1]).group) == {made.groups[1]}
    with pytest.raises(UnknownNameError, match=f"group of {name} must be one of"):
        made.pairs(gpt2, n=4, group="nope")


def test_every_frame_is_used_as_often(gpt2):
    frames = IOI().pairs(gpt2, n=60).frame
    assert set(frames) == {frame.name for frame in FRAMES} and {frames.count(name) for name in frames} == {4}
    assert named("docstring").pairs(gpt2, n=5).frame is None  # one template alone says nothing of others


@pytest.mark.parametrize("corruption", ["s2", "swap", "random"])
def test_names_stand_where_they_are_said_to(corruption, gpt2):
    pairs = IOI(corruption=corruption).pairs(gpt2, n=30, seed=5)
    rows = torch.arange(30)
    clean, corrupted = (
        {p: side[rows, at] for p, at in pairs.positions.items()} for side in (pairs.clean, pairs.corrupted)
    )
    io, s = pairs.answer[:, 0], pairs.wrong[:, 0]
    assert torch.equal(clean["IO"], io) and torch.equal(clean["S1"], s) and torch.equal(clean["S2"], s)
    first = pairs.positions["IO"] < pairs.positions["S1"]
    assert first.tolist() == [group == "ABBA" for group in pairs.group]
    assert torch.equal(pairs.positions["S1+1"], pairs.positions["S1"] + 1)
    if corruption == "s2":
        assert torch.equal(corrupted["S2"], io) and torch.equal(corrupted["S1"], s)
        assert ((pairs.clean != pairs.corrupted).sum(1) == 1).all()
    elif corruption == "swap":
        assert torch.equal(corrupted["IO"], s) and torch.equal(corrupted["S1"], io) and torch.equal(corrupted["S2"], io)
    else:
        five = torch.stack([io, s, corrupted["IO"], corrupted["S1"], corrupted["S2"]], 1)
        assert all(len(set(row)) == 5 for row in five.tolist())


def test_only_single_tokens_are_names(gpt2):
    few = ("Mary", "John", "Aaron", "Laura", "Kevin", "Simon", "Bartholomew")
    names = IOI(names=few).said_words(gpt2)["names"]
    assert names == list(few[:-1])
    with pytest.raises(TokenError, match=r"6 names of ioi or more must be single tokens here, got 1 of 3: .*' Barthol"):
        IOI(names=("Bartholomew", "Guinevere", "Mary")).pairs(gpt2, n=2)
    assert len(IOI().said_words(gpt2)["names"]) == len(NAMES)


def test_a_tokenizer_without_the_words_is_one_clear_error():
    numbers = integer_vocabulary(30)
    for name in set(TASKS) - {"repeated_tokens"}:
        with pytest.raises(TokenError, match=name):
            named(name).pairs(numbers, n=2)
        with pytest.raises(TokenError, match="the model has no tokenizer"):
            named(name).pairs(None, n=2)
    with pytest.raises(TokenError, match="no tokenizer"):
        RepeatedTokensTask().pairs(None)
    with pytest.raises(TokenError, match="31 tokens beside special ones are needed, got 29"):
        RepeatedTokensTask(length=30).pairs(numbers)
    with pytest.raises(ArgumentError, match="n must be 1 or more, got 0"):
        IOI().pairs(numbers, n=0)
    with pytest.raises(UnknownNameError, match="corruption must be one of s2, swap, random, got 's3'"):
        IOI(corruption="s3")


def test_years_are_cut_into_century_and_end(gpt2):
    pairs = GreaterThan().pairs(gpt2, n=30, seed=2)
    for row, place, right, wrong in zip(
        pairs.clean, pairs.positions["year"].tolist(), pairs.answer.tolist(), pairs.wrong.tolist(), strict=True
    ):
        year = int(gpt2.strings(row[place : place + 1])[0])
        ends = [[int(text) for text in gpt2.strings([i for i in side if i != NONE])] for side in (right, wrong)]
        assert min(ends[0]) > year >= max(ends[1]) and len(ends[0]) + len(ends[1]) > 20


def test_sentences_of_a_vocabulary_that_lacks_some_frames_are_made_of_the_others(gpt2):
    words = {word for frame in FRAMES[:2] for word in frame.text.replace(",", " ").replace(".", " ").split()}
    kept = sorted(word for word in words if "{" not in word)
    small = word_vocabulary([*kept, ",", ".", *NAMES[:8], "store", "ring"])
    assert set(IOI().pairs(small, n=8).frame) == {"frame 00", "frame 01"}


def test_pairs_and_files_are_tasks(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("clean,corrupted,answer,wrong,group,frame\n5 6,5 7,1,2,a,x\n8 6,8 7,1,2,b,y\n")
    numbers = integer_vocabulary(30)
    read = named(file, numbers)
    assert read.name == "mine" and read.groups == ("a", "b")
    assert read.pairs(numbers).frame == ("x", "y") and len(read.pairs(numbers, group="b")) == 1
    with pytest.raises(ArgumentError, match=r"n must lie in 1..2"):
        read.pairs(numbers, n=3)
    with pytest.raises(UnknownNameError, match="a task must be one of ioi, .*or a .csv or .jsonl file.*got 'io'"):
        named("io")
    mine = Task.from_pairs(Pairs.from_tokens([[5, 6]], [[5, 7]], answer=1))
    assert mine.metric == patching.Logit()
    model = HookedTransformer(config_of(), seed=0)
    assert patching.sweep(model, mine, site="z", over=("layer", "head")).shape == (1, 2, 4)


def test_intervals_go_by_frames(gpt2):
    config = config_of(d_vocab=50257, n_ctx=40)
    effect = patching.sweep(HookedTransformer(config, gpt2, seed=0), IOI(), site="z", over=("layer", "head"), n=30)
    assert effect.mean("prompt").n == 15 and effect.dataset["frame"].dims == ("prompt",)
    told = effect.values[:, 0, 0].tolist()
    frames = effect.dataset["frame"].values.tolist()
    means = [sum(v for v, f in zip(told, frames, strict=True) if f == frame) / 2 for frame in dict.fromkeys(frames)]
    assert float(effect.mean("prompt").values[0, 0]) == pytest.approx(sum(means) / 15, rel=1e-5)
