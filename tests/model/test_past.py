"""Continuing a past: in one step, token by token, with padding, frozen, from one prompt for many."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid import KeyValueCache, Zero
from pellucid.base.errors import ArgumentError
from tests.models import CONFIGS, assert_agree, config_of, configs, model_of, tokens_of

LENGTH = 7


def past_of(model):
    return KeyValueCache.init_cache(model.cfg)


@settings(max_examples=25)
@given(configs(), st.lists(st.integers(1, 3), min_size=1, max_size=4), st.booleans())
def test_a_prompt_in_any_pieces_gives_the_logits_of_the_whole(config, pieces, explicit):
    model = model_of(config, dtype=torch.float64)
    tokens = tokens_of(config, pos=sum(pieces))
    past, parts = past_of(model), []
    for piece in tokens.split(pieces, dim=1):
        parts.append(model(piece, past_kv_cache=past, run=model.live_run(explicit=explicit)))
    assert_agree({"logits": torch.cat(parts, dim=1)}, {"logits": model(tokens)}, within=1e-10)
    assert len(past) == sum(pieces) == past.counts()


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_activation_of_a_continuation_is_that_of_the_whole(kind):
    model, tokens = model_of(kind, dtype=torch.float64), tokens_of(kind)
    _, whole = model.run_with_cache(tokens)
    past = past_of(model)
    model(tokens[:, :4], past_kv_cache=past)
    _, later = model.run_with_cache(tokens[:, 4:], past_kv_cache=past)
    expected = {name: x[:, :, 4:] if x.ndim == 4 and x.shape[-1] == LENGTH else x[:, 4:] for name, x in whole.items()}
    assert_agree(later, expected, within=1e-10)


def test_a_frozen_past_stays_as_it_is():
    model, tokens = model_of("llama"), tokens_of("llama")
    past = past_of(model)
    model(tokens[:, :4], past_kv_cache=past)
    past.freeze()
    first = model(tokens[:, 4:], past_kv_cache=past)
    assert len(past) == 4
    assert torch.equal(model(tokens[:, 4:], past_kv_cache=past), first)
    past.unfreeze()
    assert torch.equal(model(tokens[:, 4:], past_kv_cache=past), first)
    assert len(past) == LENGTH


@pytest.mark.parametrize("kind", CONFIGS)
def test_one_prompt_s_past_serves_many(kind):
    model, tokens = model_of(kind, dtype=torch.float64), tokens_of(kind, batch=3)
    tokens[:, :4] = tokens[0, :4]
    past = past_of(model)
    model(tokens[:1, :4], past_kv_cache=past)
    past.freeze()
    torch.testing.assert_close(model(tokens[:, 4:], past_kv_cache=past), model(tokens)[:, 4:])


@pytest.mark.parametrize("kind", CONFIGS)
def test_padding_of_the_past_is_remembered(kind):
    model, tokens = model_of(kind, dtype=torch.float64), tokens_of(kind)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 0, 1, 1, 1]])
    past = past_of(model)
    model(tokens[:, :5], attention_mask=mask[:, :5], past_kv_cache=past)
    assert past.counts().tolist() == [3, 4]
    found = model(tokens[:, 5:], past_kv_cache=past)
    for row in range(2):
        alone = tokens[row : row + 1, mask[row].bool()]
        torch.testing.assert_close(found[row], model(alone)[0, -2:])
    assert past.counts().tolist() == [5, 6]
    assert len(past) == 7


def test_padding_may_come_after_a_past_without_any():
    model, tokens = model_of("gpt2", dtype=torch.float64), tokens_of()
    past = past_of(model)
    model(tokens[:, :3], past_kv_cache=past)
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    found = model(tokens[:, 3:], attention_mask=mask, past_kv_cache=past)
    torch.testing.assert_close(found[0], model(tokens[:1])[0, 3:])
    torch.testing.assert_close(found[1, 2:], model(tokens[1:, [0, 1, 2, 5, 6]])[0, 3:])


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_run_goes_on_from_a_layer_and_a_position(kind):
    model, tokens = model_of(kind, dtype=torch.float64), tokens_of(kind)
    whole, past = model(tokens), past_of(model)
    model(tokens[:, :4], past_kv_cache=past)
    past.freeze()
    for layer in range(3):
        stream = model(tokens, stop_at_layer=layer)[:, 4:]
        found = model(stream, start_at_layer=layer, past_kv_cache=past)
        torch.testing.assert_close(found, whole[:, 4:])


def test_only_a_whole_pass_makes_the_past_longer():
    model, tokens = model_of("gpt2"), tokens_of()
    past = past_of(model)
    model(tokens, stop_at_layer=1, past_kv_cache=past)
    model(torch.zeros(2, 3, 10), start_at_layer=1, past_kv_cache=past)
    assert len(past) == 0 and past.entries == [None, None]
    model(tokens, past_kv_cache=past, return_type=None)
    assert len(past) == LENGTH


def test_the_past_holds_true_key_value_heads_after_rotation_and_edits():
    model, tokens = model_of("llama"), tokens_of("llama")
    past = past_of(model)
    with model.hooks(fwd_hooks=[("v", lambda x, hook: 2 * x)]):
        _, cache = model.run_with_cache(tokens, past_kv_cache=past)
    for layer, (keys, values) in enumerate(past.entries):
        assert keys.shape == values.shape == (2, LENGTH, 2, 6)
        assert torch.equal(keys, cache["rot_k", layer])
        assert torch.equal(values, cache["v", layer])


def test_a_past_can_be_copied_and_then_goes_its_own_way():
    model, tokens = model_of("gpt2"), tokens_of()
    past = past_of(model)
    with torch.no_grad():
        model(tokens[:, :4], past_kv_cache=past)
        other = copy.deepcopy(past)
        model(tokens[:, 4:], past_kv_cache=other)
    assert (len(past), len(other)) == (4, 7)


def test_text_and_past_must_fit_the_context_together():
    model = model_of("llama")
    past = past_of(model)
    model(tokens_of(pos=10), past_kv_cache=past)
    with pytest.raises(ArgumentError, match="at most n_ctx=16 tokens, got 17"):
        model(tokens_of(pos=7), past_kv_cache=past)
    assert model(tokens_of(pos=6), past_kv_cache=past).shape == (2, 6, 17)


def test_padding_does_not_count_towards_the_context():
    model, tokens = model_of("llama", dtype=torch.float64), tokens_of(pos=20)
    mask = torch.ones(2, 20, dtype=torch.bool)
    mask[:, :4] = False
    found = model(tokens, attention_mask=mask)
    torch.testing.assert_close(found[:, 4:], model(tokens[:, 4:]))


def test_a_past_of_other_prompts_or_another_model_is_refused():
    model = model_of("gpt2")
    past = past_of(model)
    model(tokens_of(batch=3), past_kv_cache=past)
    with pytest.raises(ArgumentError, match="the past must hold 1 prompt or as many as are given, 2, got 3"):
        model(tokens_of(), past_kv_cache=past)
    deeper = KeyValueCache.init_cache(model_of(config_of(n_layers=3)).cfg)
    with pytest.raises(
        ArgumentError, match="the past must be of a model of n_layers=2, got 3; make it by KeyValueCache.init"
    ):
        model(tokens_of(), past_kv_cache=deeper)


def test_positions_may_be_said_for_what_continues_a_past():
    model, tokens = model_of("gpt2", dtype=torch.float64), tokens_of()
    past = past_of(model)
    model(tokens[:, :4], past_kv_cache=past)
    past.freeze()
    counted = model(tokens[:, 4:], past_kv_cache=past)
    said = model(tokens[:, 4:], past_kv_cache=past, positions=torch.tensor([[4, 5, 6]]))
    torch.testing.assert_close(said, counted)
    other = model(tokens[:, 4:], past_kv_cache=past, positions=torch.tensor([[9, 10, 11]]))
    assert not torch.allclose(other, counted)


def test_a_past_works_for_a_model_without_layers():
    model, tokens = model_of(config_of(n_layers=0), dtype=torch.float64), tokens_of()
    past = past_of(model)
    parts = [model(piece, past_kv_cache=past) for piece in tokens.split([3, 4], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(tokens))
    assert len(past) == LENGTH


def test_a_run_as_a_value_leaves_the_past_as_it_is():
    model, past = model_of("gpt2"), KeyValueCache(2)
    model(tokens_of()[:, :4], past_kv_cache=past)
    entries = list(past.entries)
    first = model.run(tokens_of()[:, 4:], past=past)
    model.run(tokens_of()[:, 4:], past=past, edits=[Zero("z")])
    assert torch.equal(model.run(tokens_of()[:, 4:], past=past).logits, first.logits)
    assert len(past) == 4 and not past.frozen
    assert all(now is then for now, then in zip(past.entries, entries, strict=True))


def test_a_view_of_a_past_is_frozen_and_holds_the_same():
    model, past = model_of("gpt2"), KeyValueCache(2)
    model(tokens_of()[:, :4], past_kv_cache=past)
    view = past.view()
    assert view.frozen and len(view) == 4 and view.entries == past.entries
    expected = model(tokens_of()[:, 4:], past_kv_cache=view)
    assert torch.equal(model(tokens_of()[:, 4:], past_kv_cache=past), expected)
    assert len(past) == 7 and len(view) == 4
