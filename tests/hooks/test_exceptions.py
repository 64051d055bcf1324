"""Whatever is raised inside a hook reaches the caller as it is, and leaves no trace on the model."""

import random

import pytest
import torch

from pellucid.model.past import KeyValueCache
from tests.models import CONFIGS, model_of, tokens_of


class OwnError(Exception):
    """Something that only a user's code raises."""


ERRORS = [OwnError, KeyboardInterrupt, ValueError, SystemExit, StopIteration, GeneratorExit, MemoryError]


def failing(error, after=0):
    """A hook that raises the error when it was called often enough, and edits in place until then."""
    calls = []

    def hook(x, hook):
        calls.append(hook.name)
        if len(calls) > after:
            raise error
        x.mul_(1.5)

    return hook


WAYS = {
    "run_with_hooks": lambda model, tokens, hooks: model.run_with_hooks(tokens, fwd_hooks=hooks),
    "loss": lambda model, tokens, hooks: model.run_with_hooks(tokens, return_type="loss", fwd_hooks=hooks),
    "clear_contexts": lambda model, tokens, hooks: model.run_with_hooks(tokens, fwd_hooks=hooks, clear_contexts=True),
    "generate": lambda model, tokens, hooks: model.generate(tokens, 3, fwd_hooks=hooks, verbose=False),
}


def in_block(model, tokens, hooks):
    with model.hooks(fwd_hooks=hooks):
        model.run_with_cache(tokens)


def in_inner_block(model, tokens, hooks):
    with model.hooks(fwd_hooks=[("hook_embed", lambda x, hook: 2 * x)]), model.hooks(fwd_hooks=hooks):
        model(tokens)


def after_backward(model, tokens, hooks):
    with model.hooks(bwd_hooks=hooks):
        torch.autograd.grad(model(tokens, return_type="loss"), model.W_E)


WAYS |= {"hooks": in_block, "hooks in hooks": in_inner_block, "bwd_hooks": after_backward}


def test_two_hundred_exceptions_from_random_hooks_leave_no_trace():
    choose = random.Random(0)
    models = {kind: (model_of(kind), tokens_of(kind)) for kind in CONFIGS}
    plain = {kind: (model(tokens), model.run_with_cache(tokens)) for kind, (model, tokens) in models.items()}
    for number in range(200):
        kind = choose.choice(list(models))
        model, tokens = models[kind]
        way, error = choose.choice(list(WAYS)), choose.choice(ERRORS)
        error = error(f"number {number}")
        hooks = [(choose.choice(model.hook_names), failing(error, after=after)) for after in (0, 1, 2)]
        with pytest.raises(type(error)) as caught:
            WAYS[way](model, tokens, hooks)
        assert caught.value is error
        assert model.board == []
        assert not any(point.fwd_hooks or point.bwd_hooks for point in model.hook_points())
        assert torch.is_grad_enabled()
        assert torch.equal(model(tokens), plain[kind][0]), way
    for kind, (model, tokens) in models.items():
        _, (logits, cache) = plain[kind]
        found, now = model.run_with_cache(tokens)
        assert torch.equal(found, logits)
        assert all(torch.equal(now[name], x) for name, x in cache.items())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("error", ERRORS)
def test_an_exception_reaches_the_caller_as_it_is(way, error):
    model, raised = model_of("gpt2"), error("mine")
    with pytest.raises(error) as caught:
        WAYS[way](model, tokens_of(), [("blocks.1.hook_attn_out", failing(raised))])
    assert caught.value is raised
    assert model.board == []


def test_standing_hooks_stay_after_an_exception():
    model = model_of("gpt2")
    hook = failing(OwnError())
    model.add_hook("hook_embed", hook)
    with pytest.raises(OwnError):
        model(tokens_of())
    assert model.hook_dict["hook_embed"].fwd_hooks == [hook]


@pytest.mark.parametrize("point", ["hook_embed", "blocks.1.attn.hook_v", "ln_final.hook_normalized"])
def test_a_pass_that_fails_leaves_the_past_as_it_was(point):
    model, tokens = model_of("gpt2"), tokens_of()
    past = KeyValueCache.init_cache(model.cfg)
    model(tokens[:, :3], past_kv_cache=past)
    held = [(keys.clone(), values.clone()) for keys, values in past.entries]
    with pytest.raises(OwnError):
        model.run_with_hooks(tokens[:, 3:], past_kv_cache=past, fwd_hooks=[(point, failing(OwnError()))])
    assert len(past) == 3
    assert all(
        torch.equal(a, b) for old, now in zip(held, past.entries, strict=True) for a, b in zip(old, now, strict=True)
    )
    found = model(tokens[:, 3:], past_kv_cache=past)
    torch.testing.assert_close(found, model(tokens)[:, 3:], rtol=0, atol=1e-5)


def test_grad_mode_is_restored_when_a_backward_run_fails():
    model = model_of("gpt2")
    with torch.no_grad():
        with pytest.raises(OwnError):
            model.run_with_hooks(
                tokens_of(), fwd_hooks=[("z", failing(OwnError()))], bwd_hooks=[("z", lambda gradient, hook: None)]
            )
        assert not torch.is_grad_enabled()
