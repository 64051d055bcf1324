"""The factored matrices of a head, against the run that they are part of."""

import pytest
import torch

from tests.models import model_of, tokens_of


@pytest.mark.parametrize("name", ["gpt2", "attention only", "llama"])
def test_ov_says_what_a_head_writes_for_what_it_reads(name):
    model = model_of(name, dtype=torch.float64)
    for block in model.blocks:
        if block.attn.b_V is not None:
            block.attn.b_V.data.zero_()
    cache = model.run(tokens_of(name), reads=["normalized", "pattern", "result"]).cache
    w = model.blocks[1].ln1.w if name == "llama" else 1  # RMSNorm's point lies before w
    read = cache["blocks.1.ln1.hook_normalized"] * w
    assert model.OV.shape == (2, 4, 10, 10)
    for head in range(4):
        written = cache["pattern", 1][:, head] @ read @ model.OV[1, head].AB
        torch.testing.assert_close(cache["result", 1][:, :, head], written)


@pytest.mark.parametrize("name", ["gpt2", "attention only"])
def test_qk_says_which_query_finds_which_key(name):
    model = model_of(name, dtype=torch.float64)
    for block in model.blocks:
        block.attn.b_Q.data.zero_(), block.attn.b_K.data.zero_()
    cache = model.run(tokens_of(name), reads=["normalized", "attn_scores"]).cache
    read = cache["blocks.1.ln1.hook_normalized"]
    causal = torch.ones(7, 7).tril().bool()
    assert model.QK.shape == (2, 4, 10, 10)
    for head in range(4):
        scores = read @ model.QK[1, head].AB @ read.mT * model.config.attention.factor
        torch.testing.assert_close(cache["attn_scores", 1][:, head][:, causal], scores[:, causal])
