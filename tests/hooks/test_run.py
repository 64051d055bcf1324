"""A run as a value: it gives logits and what was read, and leaves nothing behind."""

import pytest
import torch

from pellucid import HookPoint, KeyValueCache, Zero
from pellucid.base.errors import ArgumentError, HookError, UnknownNameError
from pellucid.hooks.run import LiveRun
from tests.models import CONFIGS, assert_agree, model_of, tokens_of

TOKENS = tokens_of()


def test_a_run_unpacks_as_logits_and_cache():
    model = model_of("gpt2")
    run = model.run(TOKENS, reads=["pattern"])
    logits, cache = run
    assert logits is run.logits
    assert cache is run.cache
    assert list(cache) == ["blocks.0.attn.hook_pattern", "blocks.1.attn.hook_pattern"]
    assert run.mask is None


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_run_without_reads_and_edits_is_the_plain_pass_bit_for_bit(kind):
    model, tokens = model_of(kind), tokens_of(kind)
    assert torch.equal(model.run(tokens).logits, model(tokens))
    assert torch.equal(model.run(tokens, reads=()).logits, model.run(tokens, reads=[]).logits)


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_explicit_run_is_that_of_run_with_cache_bit_for_bit(kind):
    model, tokens = model_of(kind), tokens_of(kind)
    logits, cache = model.run_with_cache(tokens)
    run = model.run(tokens, reads=None, attention="explicit")
    assert torch.equal(run.logits, logits)
    assert all(torch.equal(run.cache[name], cache[name]) for name in cache)
    assert torch.equal(model.run(tokens, attention="explicit").logits, logits)


@pytest.mark.parametrize("kind", CONFIGS)
def test_whatever_is_read_the_values_agree(kind):
    model, tokens = model_of(kind, dtype=torch.float64), tokens_of(kind)
    everything = model.run(tokens, reads=model.hook_names)
    for name in model.hook_names:
        run = model.run(tokens, reads=name)
        assert_agree(
            {"logits": run.logits, **run.cache},
            {"logits": everything.logits, name: everything.cache[name]},
            within=1e-10,
        )


def test_reads_are_names_short_names_shorthands_or_a_callable():
    model = model_of("gpt2")
    assert list(model.run(TOKENS, reads=("z", 1)).cache) == ["blocks.1.attn.hook_z"]
    assert list(model.run(TOKENS, reads=["hook_embed", ("z", -1)]).cache) == ["hook_embed", "blocks.1.attn.hook_z"]
    assert len(model.run(TOKENS, reads=lambda name: "mlp" in name).cache) == 6
    with pytest.raises(UnknownNameError, match="'zz'"):
        model.run(TOKENS, reads="zz")


def test_what_is_read_is_detached_and_what_is_given_back_is_not():
    run = model_of("gpt2").run(TOKENS, reads="z")
    assert run.logits.requires_grad
    assert not run.cache["z", 0].requires_grad


def test_a_run_takes_what_a_call_takes():
    model = model_of("gpt2")
    past = KeyValueCache.init_cache(model.cfg)
    model(TOKENS[:, :4], past_kv_cache=past)
    assert len(past) == 4
    run = model.run(TOKENS[:, 4:], past=past, logits_at=[0, -1], edits=[Zero("z", layer=0, head=0)], reads="pattern")
    assert run.logits.shape == (2, 2, 17)
    assert run.cache["pattern", 1].shape == (2, 4, 3, 7)
    stream = model.run(TOKENS, stop_at_layer=1).logits
    assert torch.equal(model.run(stream, start_at_layer=1).logits, model(TOKENS))


def test_a_run_tells_which_tokens_are_real():
    mask = torch.tensor([[1] * 7, [0, 0, 1, 1, 1, 1, 1]])
    run = model_of("gpt2").run(TOKENS, attention_mask=mask)
    assert torch.equal(run.mask, mask.bool())
    assert model_of("gpt2").run(TOKENS, attention_mask=torch.ones_like(mask)).mask is None


def test_an_attention_that_is_neither_form_is_refused():
    with pytest.raises(ArgumentError, match="attention must be 'auto' or 'explicit', got 'fused'"):
        model_of("gpt2").run(TOKENS, attention="fused")


def test_a_listener_sees_the_activation_after_every_edit():
    live, point, seen = LiveRun(), HookPoint(), []
    point.name = "here"
    live.add_reader("here", lambda x, point: seen.append(float(x)))
    live.add_edit("here", lambda x: x + 1)
    live.add_hook("here", lambda x, hook: x * 10)
    assert live.listens(point) and live.edits(point)
    assert float(live.visit(point, torch.tensor(1.0))) == 20
    assert seen == [20]
    assert not live.listens(HookPoint()) and not live.edits(HookPoint())


def test_a_reader_alone_leaves_the_tensor_itself_in_place():
    live, point, x = LiveRun(), HookPoint(), torch.ones(2)
    point.name = "here"
    live.add_reader("here", lambda x, point: None)
    assert live.visit(point, x) is x
    assert live.listens(point) and not live.edits(point)


def test_an_edit_that_gives_another_shape_is_refused():
    live, point = LiveRun(), HookPoint()
    point.name = "here"
    live.add_edit("here", lambda x: x[:1])
    with pytest.raises(HookError, match=r"shape at here must stay \[2\], got \[1\] from .*lambda"):
        live.visit(point, torch.ones(2))
