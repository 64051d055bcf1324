"""Attention: the fused and the explicit form agree, whatever is masked; precision; the weights' memory."""

import copy
import io
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid import AttentionConfig, HookedTransformer, KeyValueCache
from pellucid.base.errors import ConfigError
from pellucid.model.attention import Attention, as_matrix, laid_out
from tests.models import CONFIGS, assert_agree, config_of, configs, model_of, tokens_of
from tests.reference.literal import literal

MASKS = {
    "none": None,
    "left": torch.tensor([[1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1]]),
    "right": torch.tensor([[1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]]),
    "both": torch.tensor([[0, 1, 1, 1, 1, 0, 0], [0, 0, 1, 0, 1, 1, 1]]),
    "nothing real": torch.tensor([[0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 0]]),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_both_forms_agree_with_the_literal_one_under_every_mask(kind, mask):
    model, tokens = model_of(kind, dtype=torch.float64), tokens_of(kind)
    expected, values = literal(model, tokens, mask=MASKS[mask])
    fused = model.run(tokens, attention_mask=MASKS[mask], reads="z")
    explicit = model.run(tokens, attention_mask=MASKS[mask], attention="explicit", reads=None)
    assert_agree({"logits": fused.logits}, {"logits": expected}, within=1e-10)
    values = {name: x for name, x in values.items() if name in explicit.cache}
    assert_agree({"logits": explicit.logits, **explicit.cache}, {"logits": expected, **values}, within=1e-10)
    assert_agree(fused.cache, {name: values[name] for name in fused.cache}, within=1e-10)


@pytest.mark.parametrize("attention", ["auto", "explicit"])
def test_rows_that_may_see_nothing_attend_to_nothing(attention):
    model, tokens = model_of("llama", dtype=torch.float64), tokens_of("llama")
    reads = ["z"] if attention == "auto" else ["z", "pattern"]
    run = model.run(tokens, attention_mask=MASKS["nothing real"], attention=attention, reads=reads)
    assert run.logits.isfinite().all()
    for layer in range(2):
        assert run.cache["z", layer][0].eq(0).all()
        if attention == "explicit":
            assert run.cache["pattern", layer][0].eq(0).all()
            assert run.cache["pattern", layer][1, :, :, 6].eq(0).all()


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_gradients_are_finite_and_alike_under_every_mask(kind, mask):
    model, tokens = model_of(kind, dtype=torch.float64), tokens_of(kind)
    parameters = dict(model.named_parameters())
    found = []
    for attention in ("auto", "explicit"):
        logits = model.run(tokens, attention_mask=MASKS[mask], attention=attention).logits
        gradients = torch.autograd.grad(logits.square().sum(), list(parameters.values()))
        found.append(dict(zip(parameters, gradients, strict=True)))
    assert all(gradient.isfinite().all() for gradient in found[0].values())
    assert_agree(found[0], found[1], within=1e-10)


def test_a_row_whose_scores_a_hook_blinds_attends_to_nothing_and_spoils_no_gradient():
    model, tokens = model_of("gpt2"), tokens_of()

    def blind(scores, hook):
        scores[:, 0, 2] = -torch.inf

    hooks = [("blocks.0.attn.hook_attn_scores", blind)]
    with model.hooks(fwd_hooks=hooks):
        loss, cache = model.run_with_cache(tokens, return_type="loss")
        loss.backward()
    assert cache["pattern", 0][:, 0, 2].eq(0).all()
    assert cache["z", 0][:, 2, 0].eq(0).all()
    torch.testing.assert_close(cache["pattern", 0][:, 1].sum(-1), torch.ones(2, 7))
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


def test_what_is_not_a_number_in_the_scores_is_not_hidden():
    model = model_of("gpt2")
    with model.hooks(fwd_hooks=[("attn_scores", lambda scores, hook: scores * torch.nan)]):
        assert model(tokens_of()).isnan().all()


@settings(max_examples=30)
@given(configs(), st.integers(1, 6), st.sampled_from([None, "left", "both"]), st.booleans())
def test_both_forms_agree_with_a_past(config, n_past, mask, by_one):
    model, tokens = model_of(config, dtype=torch.float64), tokens_of(config)
    mask = torch.ones_like(tokens) if mask is None else MASKS[mask]
    whole = model.run(tokens, attention_mask=mask, attention="explicit").logits
    steps = [slice(0, n_past), *([slice(i, i + 1) for i in range(n_past, 7)] if by_one else [slice(n_past, 7)])]
    for attention in ("auto", "explicit"):
        past = KeyValueCache(config.n_layers)
        parts = [
            model(
                tokens[:, step],
                attention_mask=mask[:, step],
                past_kv_cache=past,
                run=model.live_run(explicit=attention == "explicit"),
            )
            for step in steps
        ]
        assert len(past) == 7
        real = mask.bool()
        assert_agree({"logits": torch.cat(parts, 1)[real]}, {"logits": whole[real]}, within=1e-10)


@pytest.mark.parametrize("kind", CONFIGS)
def test_float64_is_never_demoted(kind):
    model, tokens = model_of(kind, dtype=torch.float64), tokens_of(kind)
    logits, cache = model.run_with_cache(tokens)
    assert logits.dtype == model(tokens).dtype == torch.float64
    assert {x.dtype for x in cache.values()} == {torch.float64}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", CONFIGS)
def test_half_precision_runs_with_norms_softmax_and_rotation_in_float32(kind, dtype):
    model, tokens = model_of(kind, dtype=dtype), tokens_of(kind)
    logits, cache = model.run_with_cache(tokens)
    assert logits.dtype == model(tokens).dtype == dtype
    for name, x in cache.items():
        assert x.dtype == (torch.float32 if name.endswith("hook_scale") else dtype), name
    for layer in range(2):
        scores = cache["attn_scores", layer].float()
        assert torch.equal(cache["pattern", layer], scores.softmax(-1).to(dtype))
    torch.testing.assert_close(model(tokens), logits, rtol=0.05, atol=0.05 * float(logits.abs().max().detach()))
    wide = copy.deepcopy(model).double()(tokens)
    torch.testing.assert_close(logits.double(), wide, rtol=0.05, atol=0.1 * float(wide.abs().max().detach()))


def layouts(model):
    """Whether each weight lies so that the matrix of a product is a view of it."""
    return [
        as_matrix(W).data_ptr() == W.data_ptr()
        for block in model.blocks
        for W in (block.attn.W_Q, block.attn.W_K, block.attn.W_V)
    ]


def reloaded(model):
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = HookedTransformer(model.config, device="cpu").to(model.dtype)
    other.load_state_dict(torch.load(file, weights_only=True))
    return other


def assigned(model):
    other = HookedTransformer(model.config, device="cpu").to(model.dtype)
    state = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in model.state_dict().items()}
    other.load_state_dict(state, assign=True)
    return other


@pytest.mark.parametrize(
    "changed",
    [
        copy.deepcopy,
        lambda model: pickle.loads(pickle.dumps(model)),
        lambda model: copy.deepcopy(model).double().float(),
        lambda model: copy.deepcopy(model).to(torch.bfloat16).to(torch.float32),
        lambda model: copy.deepcopy(model).to("cpu"),
        lambda model: copy.deepcopy(model).share_memory(),
        reloaded,
        assigned,
    ],
    ids=[
        "deepcopy",
        "pickle",
        "double and back",
        "bfloat16 and back",
        "to cpu",
        "share_memory",
        "state_dict",
        "assign",
    ],
)
@pytest.mark.parametrize("kind", CONFIGS)
def test_products_need_no_copy_of_the_weights_whatever_was_done_to_the_model(kind, changed):
    model, tokens = model_of(kind), tokens_of(kind)
    other = changed(model)
    assert all(layouts(model)) and all(layouts(other))
    assert all(p.requires_grad for p in other.parameters())
    if torch.equal(other.W_E, model.W_E):  # all but that which went through bfloat16
        torch.testing.assert_close(other(tokens), model(tokens), rtol=0, atol=1e-5)


def test_weights_written_in_another_layout_give_the_same_and_can_be_laid_out_anew():
    model, tokens = model_of("gpt2"), tokens_of()
    expected = model(tokens)
    attn = model.blocks[0].attn
    attn.W_Q.data = attn.W_Q.data.contiguous()
    assert not all(layouts(model))
    torch.testing.assert_close(model(tokens), expected, rtol=0, atol=1e-5)
    attn.lay_out()
    assert all(layouts(model))
    assert torch.equal(model(tokens), expected)


def test_laying_out_changes_no_number_and_leaves_what_lies_well():
    W = torch.randn(3, 5, 4)
    assert torch.equal(laid_out(W), W)
    good = laid_out(W)
    assert laid_out(good) is good
    assert torch.equal(as_matrix(good), torch.cat([W[head].T for head in range(3)]))
    assert as_matrix(good).data_ptr() == good.data_ptr()


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"n_heads": 0, "d_head": 4}, "n_heads must be 1 or more, got 0"),
        ({"n_heads": 2, "d_head": 0}, "d_head must be 1 or more, got 0"),
        (
            {"n_heads": 4, "d_head": 4, "n_kv_heads": 3},
            "n_heads must be a multiple of n_kv_heads, got n_heads=4 and n_kv_heads=3; set .* to a divisor of 4",
        ),
        ({"n_heads": 4, "d_head": 4, "n_kv_heads": 0}, "got n_heads=4 and n_kv_heads=0"),
    ],
)
def test_an_attention_that_cannot_be_is_refused(fields, said):
    with pytest.raises(ConfigError, match=said):
        AttentionConfig(**fields)


def test_an_attention_knows_its_scale_and_its_key_value_heads():
    assert AttentionConfig(n_heads=2, d_head=16).factor == 0.25
    assert AttentionConfig(n_heads=2, d_head=16, scale=1.0).factor == 1.0
    assert AttentionConfig(n_heads=2, d_head=16).kv_heads == 2
    assert AttentionConfig(n_heads=4, d_head=16, n_kv_heads=2).kv_heads == 2


def test_parameters_have_the_field_s_names_and_shapes():
    attn = Attention(10, AttentionConfig(n_heads=4, d_head=6, n_kv_heads=2), layer=0, rotary=False)
    assert {name: tuple(p.shape) for name, p in attn.named_parameters()} == {
        "W_Q": (4, 10, 6),
        "W_K": (2, 10, 6),
        "W_V": (2, 10, 6),
        "W_O": (4, 6, 10),
        "b_Q": (4, 6),
        "b_K": (2, 6),
        "b_V": (2, 6),
        "b_O": (10,),
    }
    bare = config_of(attention=AttentionConfig(n_heads=4, d_head=6, qkv_bias=False, out_bias=False))
    assert not [name for name, _ in model_of(bare).blocks[0].attn.named_parameters() if "b_" in name]
