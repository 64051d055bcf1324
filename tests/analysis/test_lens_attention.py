"""What one head says of each place: its value there, times W_O, in the place of the final stream."""

import numpy as np
import pytest
import torch

from pellucid.analysis import reading
from pellucid.analysis.lens_attention import attention_lens
from pellucid.base.errors import ArgumentError
from pellucid.pretrained.processing import Processing, process
from pellucid.tasks.pairs import Pairs
from tests.models import CONFIGS, model_of, tokens_of


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_number_is_that_of_the_heads_value_in_the_final_place(kind, monkeypatch):
    model, tokens = model_of(kind, dtype=torch.float64), tokens_of(kind)
    found = attention_lens(model, tokens, 1, 3, k=4)
    _, cache = model.run_with_cache(tokens)
    attn = model.blocks[1].attn
    v = cache["v", 1][:, :, 3 * attn.W_V.shape[0] // 4]
    kv = 3 * attn.W_V.shape[0] // 4
    bias = getattr(model.blocks[1].ln1, "b", torch.zeros(10).double()) @ attn.W_V[kv]
    bias = bias if attn.b_V is None else bias + attn.b_V[kv]
    state = ((v - bias) @ attn.W_O[3]).detach()
    hook = ("blocks.1.hook_resid_post", lambda x, hook: state)
    log_p = model.run_with_hooks(tokens, fwd_hooks=[hook]).detach().log_softmax(-1)
    own = log_p.gather(-1, tokens[..., None])
    np.testing.assert_allclose(found.probability.values, own[..., 0].exp(), atol=1e-12)
    np.testing.assert_array_equal(found.rank.values, (log_p > own).sum(-1))
    np.testing.assert_allclose(found.attention.values, cache["pattern", 1][:, 3, -1], atol=1e-12)
    assert torch.equal(found.ids, log_p.topk(4).indices)
    torch.testing.assert_close(found.shares, log_p.topk(4).values.exp(), rtol=0, atol=1e-12)
    # What a head writes at the query is the sum over sources by attention, but for the values' bias.
    written = torch.einsum("bk,bkm->bm", cache["pattern", 1][:, 3, -1], state)
    at_query = ((cache["z", 1][:, -1, 3] - bias) @ attn.W_O[3]).detach()
    torch.testing.assert_close(written, at_query, rtol=0, atol=1e-10)
    monkeypatch.setattr(reading, "NUMBERS", 1)
    again = attention_lens(model, tokens, 1, 3, k=4)
    np.testing.assert_allclose(again.probability.values, found.probability.values, atol=1e-12)


def test_a_copying_head_says_each_source_token(toy):
    found = attention_lens(toy, "5 9 7 3 5 9", 1, 0)
    assert [cell[0] for cell in found.words[0][1:]] == ["5", "9", "7", "3", "5", "9"]
    assert found.attention.values.argmax() == 3 and found.record.settings["target"] == "source"
    assert found.attention.dataset["token"].values.tolist() == found.tokens[0]
    assert "Attention lens of head 1.0" in repr(found) and "<table>" in found._repr_html_()
    answered = attention_lens(toy, "5 9 7 3 5 9", 1, 0, answer="7", query=4)
    assert answered.rank.values[0, 3] == 0 and answered.record.settings["target"] == "answer"
    assert answered.attention.values[0, 5:].sum() == 0


def test_padding_has_no_numbers():
    model, prompts = model_of("gpt2", dtype=torch.float64), [[1, 2, 3], [4, 5]]
    together = attention_lens(model, Pairs.from_tokens(prompts, prompts, answer=[6, 7]), 0, 1)
    alone = attention_lens(model, [4, 5], 0, 1, answer=7)
    assert np.isnan(together.probability.values[1, 2]) and together.ids[1, 2].tolist() == [-1] * 5
    for name in ("probability", "rank", "attention"):
        np.testing.assert_allclose(getattr(together, name).values[1, :2], getattr(alone, name).values[0], atol=1e-12)


def test_processing_the_weights_changes_nothing():
    model, tokens = model_of("gpt2", dtype=torch.float64), tokens_of()
    with torch.no_grad():
        model.blocks[1].attn.b_V.normal_()
        model.blocks[1].ln1.b.normal_()
    before = attention_lens(model, tokens, 1, 2, answer=3)
    process(model, Processing())
    after = attention_lens(model, tokens, 1, 2, answer=3)
    for name in ("probability", "attention"):
        np.testing.assert_allclose(getattr(after, name).values, getattr(before, name).values, atol=1e-10)


def test_no_whole_pattern_is_made(monkeypatch):
    model, tokens = model_of("llama", dtype=torch.float64), tokens_of("llama")
    made = []
    original = type(model.blocks[1].attn).scores

    def scores(attn, q, k, visible):
        out = original(attn, q, k, visible)
        made.append(out.shape[-2])
        return out

    monkeypatch.setattr(type(model.blocks[1].attn), "scores", scores)
    attention_lens(model, tokens, 1, 3)
    assert made == [1]


def test_what_is_not_there_is_refused():
    model = model_of("gpt2")
    with pytest.raises(ArgumentError, match=r"head must lie in 0\.\.3, got 4"):
        attention_lens(model, [1, 2], 0, 4)
    with pytest.raises(ArgumentError, match="query must lie in every prompt, the shortest of 2 tokens, got 2"):
        attention_lens(model, [1, 2], 0, 0, query=2)
    with pytest.raises(ArgumentError, match="k must be 1 or more, a whole number, got 0"):
        attention_lens(model, [1, 2], 0, 0, k=0)
