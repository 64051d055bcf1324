"""The public introduction, as its readers run it, with its pictures."""

import os
import subprocess
import sys

import pytest

from pellucid import AttentionConfig, Config, HookedTransformer, MLPConfig
from pellucid.text.read import read_tokenizer


@pytest.fixture
def folder(shared, tmp_path):
    """A model of GPT-2 small's layers, heads and tokens, with random weights and narrow."""
    config = Config(
        n_layers=12,
        d_model=24,
        d_vocab=50257,
        n_ctx=256,
        attention=AttentionConfig(n_heads=12, d_head=2),
        mlp=MLPConfig(d_mlp=32, act="gelu_new"),
        tied=True,
    )
    tokenizer = read_tokenizer(shared / "data" / "gpt2-tokenizer")
    HookedTransformer(config, tokenizer, seed=0, device="cpu").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.slow
def test_the_introduction_runs_with_its_pictures(folder, shared, tmp_path):
    done = subprocess.run(
        [sys.executable, shared / "walkthroughs" / "introduction.py", folder, "--pictures"],
        env=os.environ | {"PELLUCID_PICTURES": str(tmp_path / "pictures")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Highest induction score" in done.stdout
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == [
        "001-attention-patterns-12-heads-32-tokens.html",
        "002-normalized-logit-difference-after-patching-residual-stream-o.html",
        "003-loss-by-position-on-random-repeated-tokens.html",
        "004-induction-score-by-head.html",
        "005-attention-patterns-head-0-40-tokens.html",
    ]
