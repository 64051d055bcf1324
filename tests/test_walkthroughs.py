"""Code that readers of public material run, and text that a real model is known to say."""

import math
import re
import shutil
import subprocess
import sys

import pytest
import torch

from pellucid import HookedTransformer
from pellucid.text.vocabulary import integer_vocabulary


@pytest.fixture(scope="module")
def gpt2_like(shared, tmp_path_factory):
    """A small random model of GPT-2's family, with GPT-2's tokenizer and vocabulary, as transformers saves it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("gpt2-like")
    torch.manual_seed(0)
    config = GPT2Config(n_layer=2, n_head=12, n_embd=48, n_positions=256)
    GPT2LMHeadModel(config).save_pretrained(folder)
    for path in (shared / "data" / "gpt2-tokenizer").iterdir():
        shutil.copyfile(path, folder / path.name)
    return folder


def run(shared, *folders):
    done = subprocess.run(
        [sys.executable, shared / "walkthroughs" / "introduction.py", *folders],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_the_public_introduction_runs_to_its_end_and_says_what_it_found(shared, gpt2_like):
    out, err = run(shared, gpt2_like, gpt2_like)
    number = r"(-?\d+\.\d+)"
    loss = float(re.search(rf"^Model loss: tensor\({number}\)$", out, re.M)[1])
    assert loss == pytest.approx(math.log(50257), abs=0.5)
    n_tokens = int(re.search(r"^Model logits: torch.Size\(\[1, (\d+), 50257\]\)$", out, re.M)[1])
    assert n_tokens > 100
    assert 0 <= int(re.search(r"^Most probable next token: tensor\((\d+)\)$", out, re.M)[1]) < 50257
    original = float(re.search(rf"^Original Loss: {number}$", out, re.M)[1])
    ablated = float(re.search(rf"^Ablated Loss: {number}$", out, re.M)[1])
    assert original == pytest.approx(ablated, abs=0.5)
    for prompt in ("Clean", "Corrupted"):
        assert abs(float(re.search(rf"^{prompt} logit difference: {number}$", out, re.M)[1])) < 1
    layer, head, score = re.search(rf"^Highest induction score: (\d+)\.(\d+) {number}$", out, re.M).groups()
    assert int(layer) < 2 and int(head) < 12 and 0 < float(score) < 0.1
    scores = re.findall(r"\d\.\d+(?:e-\d+)?", out[out.index("tensor([[") :])
    assert len(scores) == 24
    assert "Warning" not in err


@pytest.fixture(scope="module")
def stories(shared):
    return HookedTransformer.from_pretrained(shared / "data" / "stories260k", device="cpu")


@pytest.mark.parametrize("cached", [True, False])
def test_a_trained_model_says_what_it_is_known_to_say(shared, stories, cached):
    expected = (shared / "data" / "stories260k" / "expected_greedy.txt").read_text(encoding="utf-8")
    found = stories.generate("", 200, do_sample=False, use_past_kv_cache=cached, verbose=False)
    assert found == expected


def test_it_says_so_with_hooks_that_only_read_and_in_a_batch_with_padding(shared, stories):
    expected = (shared / "data" / "stories260k" / "expected_greedy.txt").read_text(encoding="utf-8")
    prompts = [expected[: expected.index(" time")], expected[: expected.index(" little")]]
    seen = []
    hooks = [(("pattern", 0), lambda x, hook: seen.append(x.shape))]
    found = stories.generate(prompts, 40, do_sample=False, verbose=False, fwd_hooks=hooks)
    assert all(expected.startswith(text) for text in found)
    assert all(len(text) > 60 for text in found)
    assert len(seen) == 40


def test_the_public_article_runs_to_its_end_and_finds_the_heads_of_the_bundled_model(shared):
    done = subprocess.run(
        [sys.executable, shared / "walkthroughs" / "article.py", "toy-induction", "0.1", "1.2"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = map(float, re.search(r"first half (-?[\d.]+), second half (-?[\d.]+)", done.stdout).groups())
    assert second > -3 > -6 > first  # the tokens are drawn anew each time
    assert float(re.search(r"induction score of 1\.2: ([\d.]+)", done.stdout)[1]) > 0.8
    assert float(re.search(r"top-1 accuracy of the two-head circuit: ([\d.]+)", done.stdout)[1]) > 0.9


def test_the_public_article_runs_on_a_model_with_mlps(shared, gpt2_small_context):
    done = subprocess.run(
        [sys.executable, shared / "walkthroughs" / "article.py", gpt2_small_context, "0.1", "1.2"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "largest loss difference" in done.stdout


@pytest.fixture(scope="module")
def gpt2_small_context(shared, tmp_path_factory):
    """A GPT-2-like model of few tokens and a short context, so that the article's loop over positions ends soon."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("gpt2-short")
    torch.manual_seed(0)
    ids = {"bos_token_id": 0, "eos_token_id": 0}
    config = GPT2Config(n_layer=2, n_head=4, n_embd=16, n_positions=24, vocab_size=60, **ids)
    GPT2LMHeadModel(config).save_pretrained(folder)
    integer_vocabulary(60).save(folder)
    return folder
