"""What heads do at named positions, against loops over single prompts and heads with plain hooks."""

import numpy as np
import pytest
import torch

from pellucid.analysis.task_heads import (
    attention_between,
    attention_from,
    copying,
    lowered_attention,
    previous_attention,
)
from pellucid.base.errors import ArgumentError, UnknownNameError
from pellucid.tasks.pairs import Pairs
from tests.models import CONFIGS, D_VOCAB, config_of, model_of

CLEAN = [[1, 2, 3, 4, 5, 6], [3, 2, 1, 7, 8, 9, 4, 2], [5, 5, 6, 7]]
OTHER = [[1, 2, 9, 4, 5, 1], [3, 2, 1, 8, 8, 9, 4, 4], [5, 1, 6, 9]]
PLACES = {"a": [1, 2, 0], "b": [3, 4, 2]}


@pytest.fixture
def pairs() -> Pairs:
    return Pairs.from_tokens(CLEAN, OTHER, positions=PLACES)


def model_named(name):
    return model_of(name, dtype=torch.float64).requires_grad_(False)


def cached(model, ids):
    return model.run_with_cache(torch.tensor([ids]))[1]


@pytest.mark.parametrize("config", CONFIGS)
def test_lowered_attention_is_what_hooks_on_one_edge_give(config, pairs):
    """One prompt, one sender and one reader at a time; the reader's keys stay."""
    model = model_named(config)
    readers = [(1, 2), (1, 0), (0, 3)]
    found = lowered_attention(model, pairs, pairs.corrupted, readers, ["a", "b"])
    expected = np.zeros(found.shape)
    for i, (clean, other) in enumerate(zip(CLEAN, OTHER, strict=True)):
        end, at = len(clean) - 1, [PLACES["a"][i], PLACES["b"][i]]
        ours, theirs = cached(model, clean), cached(model, other)
        for sender in range(4):
            message = (theirs["z", 0][0, end, sender] - ours["z", 0][0, end, sender]) @ model.W_O[0, sender]
            seen = {}

            def add(stream, hook, message=message, end=end):
                return torch.cat([stream[:, :end], stream[:, end:] + message], 1)

            hooks = [
                ("blocks.1.hook_resid_pre", add),
                ("blocks.1.attn.hook_k", lambda k, hook, ours=ours: ours[hook.name]),
                ("blocks.1.attn.hook_pattern", lambda x, hook, seen=seen: seen.update(pattern=x)),
            ]
            model.run_with_hooks(torch.tensor([clean]), return_type=None, fwd_hooks=hooks)
            for layer, reader in readers:
                if layer == 1:
                    more = seen["pattern"][0, reader, end, at] - ours["pattern", 1][0, reader, end, at]
                    expected[i, 0, sender] += float(more.sum()) / len(readers)
    np.testing.assert_allclose(found.values, expected, atol=1e-12)
    assert np.abs(expected).max() > 1e-5
    assert found.record.settings["readers"] == ["1.2", "1.0", "0.3"]


@pytest.mark.parametrize("config", CONFIGS)
def test_attention_to_the_token_before_and_between_positions(config, pairs):
    model = model_named(config)
    score, control = previous_attention(model, pairs)
    looked, between = attention_from(model, pairs, "b"), attention_between(model, pairs, "end", "a")
    for i, clean in enumerate(CLEAN):
        cache, queries = cached(model, clean), range(2, len(clean))
        assert control.values[i] == pytest.approx(np.mean([1 / (q + 1) for q in queries]))
        for layer in range(2):
            pattern = cache["pattern", layer][0]
            stripe = np.mean([pattern[:, q, q - 1].numpy() for q in queries], 0)
            np.testing.assert_allclose(score.values[i, layer], stripe, atol=1e-12)
            for name in PLACES:
                at = pattern[:, PLACES["b"][i], PLACES[name][i]]
                np.testing.assert_allclose(looked.sel(position=name).values[i, layer], at, atol=1e-12)
            at = pattern[:, len(clean) - 1, PLACES["a"][i]]
            np.testing.assert_allclose(between.values[i, layer], at, atol=1e-12)


@pytest.mark.parametrize("against", [False, True])
@pytest.mark.parametrize("config", CONFIGS)
def test_copying_is_the_share_of_tokens_in_their_own_top_of_the_dense_row(config, against, monkeypatch):
    model = model_named(config)
    monkeypatch.setattr("pellucid.analysis.token_circuits.PART", 40)  # two rows at a time
    tokens = [0, 3, 4, 9, 16]
    found = copying(model, torch.tensor(tokens), against=against)
    mlp, norm = model.blocks[0].mlp, model.config.norm
    for layer, block in enumerate(model.blocks):
        stream = model.W_E[tokens]
        if mlp is not None and layer:
            stream = stream + mlp(model.blocks[0].ln2(stream[None]))[0]
        zero = torch.zeros_like(stream)
        read = stream if norm is None else block.ln1(stream[None])[0] - block.ln1(zero[None])[0]  # without its bias
        for head in range(4):
            attn = block.attn
            written = read @ attn.W_V[head * len(attn.W_V) // 4] @ attn.W_O[head]
            final = model.ln_final
            one = torch.ones_like(written[:, :1])
            rows = (final.held(written, one) - final.held(torch.zeros_like(written), one)) @ model.W_U
            hits = 0
            for token, row in zip(tokens, -rows if against else rows, strict=True):
                better = sum(float(x) > float(row[token]) for x in row)
                hits += better < 5 and float(row[token]) > 0
            assert float(found.values[layer, head]) == pytest.approx(hits / len(tokens)), (layer, head)
    assert len(model.W_U[0]) == D_VOCAB


def test_what_cannot_be_read_is_refused(pairs):
    model = model_named("gpt2")
    two = Pairs.from_tokens([[1, 2], [1, 2, 3]], [[1, 2], [1, 2, 3]])
    with pytest.raises(ArgumentError, match="prompts must have three tokens or more.* got one of 2"):
        previous_attention(model, two)
    with pytest.raises(ArgumentError, match="readers must be one head at least"):
        lowered_attention(model, pairs, pairs.corrupted, [], ["a"])
    with pytest.raises(UnknownNameError, match="got 'c'"):
        lowered_attention(model, pairs, pairs.corrupted, [(1, 0)], ["c"])
    with pytest.raises(ArgumentError, match="tokens must be one at least"):
        copying(model, torch.tensor([], dtype=torch.long))
    with pytest.raises(ArgumentError, match="copying needs tokens that go out .* d_vocab=17 and d_vocab_out=5"):
        copying(model_of(config_of(d_vocab_out=5)), torch.tensor([1, 6]))
