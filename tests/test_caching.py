"""`run_with_cache`: what is kept, where, and in which form."""

import pytest
import torch

from pellucid import ActivationCache, KeyValueCache
from pellucid.base.errors import ArgumentError, UnknownNameError
from pellucid.hooks.names import ON_DEMAND, axes, short_name
from pellucid.text.vocabulary import integer_vocabulary
from tests.models import CONFIGS, model_of, tokens_of

TOKENS = tokens_of()


@pytest.fixture
def model():
    return model_of("gpt2", tokenizer=integer_vocabulary(17))


@pytest.mark.parametrize("kind", CONFIGS)
def test_by_default_everything_is_kept_but_points_on_demand(kind):
    model, tokens = model_of(kind), tokens_of(kind)
    logits, cache = model.run_with_cache(tokens)
    assert isinstance(cache, ActivationCache)
    assert set(cache) == {name for name in model.hook_names if short_name(name) not in ON_DEMAND}
    torch.testing.assert_close(logits, model(tokens), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "names_filter, kept",
    [
        ("blocks.1.attn.hook_z", ["blocks.1.attn.hook_z"]),
        ("z", ["blocks.0.attn.hook_z", "blocks.1.attn.hook_z"]),
        (("z", 1), ["blocks.1.attn.hook_z"]),
        (("result", 1), ["blocks.1.attn.hook_result"]),
        (["hook_embed", ("z", -1)], ["hook_embed", "blocks.1.attn.hook_z"]),
        (lambda name: "pattern" in name, ["blocks.0.attn.hook_pattern", "blocks.1.attn.hook_pattern"]),
        (lambda name: name.endswith("mlp_in"), ["blocks.0.hook_mlp_in", "blocks.1.hook_mlp_in"]),
    ],
)
def test_a_filter_says_what_is_kept(model, names_filter, kept):
    logits, cache = model.run_with_cache(TOKENS, names_filter=names_filter)
    assert list(cache) == kept
    full_logits, full = model.run_with_cache(TOKENS, names_filter=model.hook_names)
    assert torch.equal(logits, full_logits)
    assert all(torch.equal(cache[name], full[name]) for name in kept)


def test_a_filter_that_means_nothing_is_refused(model):
    with pytest.raises(UnknownNameError, match="'blocks.0.hook_patern'; nearest"):
        model.run_with_cache(TOKENS, names_filter="blocks.0.hook_patern")
    with pytest.raises(UnknownNameError, match="accepted none"):
        model.run_with_cache(TOKENS, names_filter=lambda name: False)
    with pytest.raises(UnknownNameError, match="at least one hook point"):
        model.run_with_cache(TOKENS, names_filter=[])


def test_a_run_that_stops_before_everything_wanted_is_refused(model):
    with pytest.raises(ArgumentError, match="such as blocks.1.attn.hook_z, but it stopped before; raise stop_at_layer"):
        model.run_with_cache(TOKENS, names_filter=("z", 1), stop_at_layer=1)
    _, cache = model.run_with_cache(TOKENS, names_filter="z", stop_at_layer=1)
    assert list(cache) == ["blocks.0.attn.hook_z"]


def test_what_a_call_gives_comes_first(model):
    for return_type in ("logits", "loss", "both", None):
        out, _ = model.run_with_cache(TOKENS, return_type=return_type)
        expected = model.run_with_hooks(TOKENS, return_type=return_type)
        if return_type == "both":
            assert all(torch.equal(a, b) for a, b in zip(out, expected, strict=True))
        else:
            assert out is expected or torch.equal(out, expected)
    stream, _ = model.run_with_cache(TOKENS, stop_at_layer=1)
    assert stream.shape == (2, 7, 10)


def test_the_batch_axis_is_taken_off_the_cache_and_never_off_the_logits(model):
    logits, cache = model.run_with_cache(TOKENS[:1], remove_batch_dim=True)
    assert logits.shape == (1, 7, 17)
    assert not cache.has_batch_dim
    _, full = model.run_with_cache(TOKENS[:1])
    assert all(torch.equal(cache[name], full[name][0]) for name in full)
    with pytest.raises(ArgumentError, match="remove_batch_dim needs a batch of one prompt, got 2 at hook_embed"):
        model.run_with_cache(TOKENS, remove_batch_dim=True)


@pytest.mark.parametrize("pos_slice", [-1, 2, slice(1, 4), slice(None, None, 2), [0, -1], (3,)])
def test_some_positions_may_be_kept(model, pos_slice):
    _, full = model.run_with_cache(TOKENS)
    _, cache = model.run_with_cache(TOKENS, pos_slice=pos_slice)
    index = list(pos_slice) if isinstance(pos_slice, tuple) else pos_slice
    for name, x in full.items():
        expected = x[:, :, index] if "q_pos" in axes(name) else x[:, index]
        assert torch.equal(cache[name], expected), name


def test_what_is_kept_of_some_positions_holds_no_memory_of_the_others(model):
    _, cache = model.run_with_cache(tokens_of(batch=1, pos=16), pos_slice=-1, names_filter=["resid_post", "pattern"])
    for x in cache.values():
        assert x.untyped_storage().nbytes() == x.numel() * 4


def test_some_positions_of_one_prompt_lose_both_axes(model):
    _, cache = model.run_with_cache(TOKENS[:1], pos_slice=-1, remove_batch_dim=True)
    assert cache["resid_post", 1].shape == (10,)
    assert cache["pattern", 0].shape == (4, 7)
    assert cache["q", 0].shape == (4, 6)


def test_it_may_be_kept_on_another_device(model):
    logits, cache = model.run_with_cache(TOKENS, device="meta")
    assert all(x.is_meta for x in cache.values())
    assert logits.device.type == "cpu"


def test_a_plain_dict_comes_if_no_object_is_wanted(model):
    _, cache = model.run_with_cache(TOKENS[:1], return_cache_object=False, remove_batch_dim=True)
    assert type(cache) is dict
    assert cache["blocks.0.hook_resid_pre"].shape == (7, 10)


def test_a_cache_is_detached_unless_the_graph_is_kept(model):
    _, cache = model.run_with_cache(TOKENS)
    assert not any(x.requires_grad for x in cache.values())
    loss, cache = model.run_with_cache(TOKENS, return_type="loss", keep_graph=True)
    assert all(x.requires_grad for x in cache.values())
    z = cache["z", 1]
    (gradient,) = torch.autograd.grad(loss, z)
    _, with_gradients = model.run_with_cache(TOKENS, return_type="loss", incl_bwd=True)
    torch.testing.assert_close(gradient, with_gradients["blocks.1.attn.hook_z_grad"])
    _, sliced = model.run_with_cache(TOKENS, keep_graph=True, pos_slice=-1)
    sliced["z", 0].sum().backward()


def test_gradients_are_sliced_as_their_activations(model):
    _, cache = model.run_with_cache(TOKENS[:1], return_type="loss", incl_bwd=True, pos_slice=2, remove_batch_dim=True)
    for name in [name for name in cache if name.endswith("_grad")]:
        assert cache[name].shape == cache[name.removesuffix("_grad")].shape, name


def test_contexts_are_forgotten_at_the_end_if_asked(model):
    model.add_hook("z", lambda x, hook: hook.ctx.update(seen=True))
    model.run_with_cache(TOKENS)
    assert model.hook_dict["blocks.0.attn.hook_z"].ctx == {"seen": True}
    model.run_with_cache(TOKENS, clear_contexts=True)
    assert model.hook_dict["blocks.0.attn.hook_z"].ctx == {}


def test_a_past_has_its_keys_in_the_pattern(model):
    past = KeyValueCache.init_cache(model.cfg)
    model(TOKENS[:, :4], past_kv_cache=past)
    _, cache = model.run_with_cache(TOKENS[:, 4:], past_kv_cache=past)
    assert cache["pattern", 0].shape == (2, 4, 3, 7)
    assert cache["k", 0].shape == (2, 3, 4, 6)
    assert len(past) == 7


def test_text_is_read_too(model):
    logits, cache = model.run_with_cache("3 5 12", prepend_bos=False)
    assert logits.shape == (1, 3, 17)
    assert cache["pattern", 0].shape == (1, 4, 3, 3)


def test_nothing_stays_on_the_model(model):
    plain = model(TOKENS)
    model.run_with_cache(TOKENS, incl_bwd=True, return_type="loss")
    assert model.board == []
    assert torch.equal(model(TOKENS), plain)


def test_a_cache_with_gradients_leaves_the_parameters_alone(model):
    model.run_with_cache(TOKENS, incl_bwd=True, return_type="loss")
    assert all(parameter.grad is None for parameter in model.parameters())
