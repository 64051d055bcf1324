"""Modules of others in the place of ours: they know only `forward(x)`, and may have hook points within."""

import copy

import pytest
import torch
from torch import nn

from pellucid import HookPoint, KeyValueCache
from pellucid.base.errors import ArgumentError, UnknownNameError
from tests.models import CONFIGS, model_of, tokens_of
from tests.reference.literal import literal

TOKENS = tokens_of()


class Half(nn.Module):
    """Knows nothing of runs."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x / 2


class Dictionary(nn.Module):
    """Like a sparse autoencoder: hook points of ours within, called as modules."""

    def __init__(self, width, inner=5):
        super().__init__()
        torch.manual_seed(0)
        self.encode, self.decode = nn.Linear(width, inner), nn.Linear(inner, width)
        self.hook_acts = HookPoint()
        self.hook_error = HookPoint()

    def forward(self, x):
        acts = self.hook_acts(torch.relu(self.encode(x)))
        return self.hook_error(self.decode(acts))


class Around(nn.Module):
    """Wraps the model's own module."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return 2 * self.inner(x)


def put(model, path, module):
    place, _, name = path.rpartition(".")
    setattr(model.get_submodule(place), name, module)
    model.setup()
    return module


POINTS = [
    "hook_embed",
    "hook_pos_embed",
    "blocks.0.hook_resid_pre",
    "blocks.0.hook_attn_out",
    "blocks.1.hook_mlp_in",
    "blocks.1.hook_mlp_out",
    "blocks.0.hook_resid_post",
    "blocks.0.ln1.hook_scale",
    "blocks.1.ln2.hook_normalized",
    "ln_final.hook_normalized",
    "blocks.0.attn.hook_q",
    "blocks.0.attn.hook_v",
    "blocks.1.attn.hook_attn_scores",
    "blocks.1.attn.hook_pattern",
    "blocks.0.attn.hook_z",
    "blocks.0.attn.hook_result",
    "blocks.0.mlp.hook_post",
]


@pytest.mark.parametrize("name", POINTS)
def test_a_module_in_a_point_s_place_is_called_in_every_run(name):
    model = model_of("gpt2")
    expected, _ = literal(model, TOKENS, edit={name: lambda x: x / 2})
    half = put(model, name, Half())
    runs = {
        "plain": lambda: model(TOKENS),
        "run": lambda: model.run(TOKENS).logits,
        "explicit": lambda: model.run(TOKENS, attention="explicit").logits,
        "cache": lambda: model.run_with_cache(TOKENS)[0],
        "hooks": lambda: model.run_with_hooks(TOKENS, fwd_hooks=[("hook_resid_mid", lambda x, hook: None)]),
        "result": lambda: model.run(TOKENS, reads=["attn_out", "z" if "hook_z" not in name else "q"]).logits,
    }
    for number, (way, run) in enumerate(runs.items(), start=1):
        torch.testing.assert_close(run(), expected, rtol=0, atol=1e-5, msg=lambda why, way=way: f"{way}: {why}")
        assert half.calls == number
    assert name not in model.hook_names


def test_the_name_of_a_point_that_was_taken_out_means_nothing_any_more():
    model = model_of("gpt2")
    put(model, "blocks.0.hook_mlp_out", Half())
    with pytest.raises(UnknownNameError, match="'blocks.0.hook_mlp_out'"):
        model.run_with_cache(TOKENS, names_filter="blocks.0.hook_mlp_out")
    put(model, "blocks.0.hook_mlp_out", HookPoint())
    assert "blocks.0.hook_mlp_out" in model.run_with_cache(TOKENS)[1]


@pytest.mark.parametrize("path", ["blocks.0.hook_mlp_out", "blocks.0.mlp", "blocks.0.attn", "blocks.1.ln2", "ln_final"])
def test_points_inside_a_foreign_module_are_named_read_and_edited(path):
    model = model_of("gpt2")
    plain = model(TOKENS)
    inside = put(model, path, Dictionary(10))
    names = [f"{path}.hook_acts", f"{path}.hook_error"]
    assert [name for name in model.hook_names if name in names] == names
    logits, cache = model.run_with_cache(TOKENS)
    torch.testing.assert_close(logits, model(TOKENS), rtol=0, atol=1e-5)
    assert not torch.allclose(logits, plain)
    torch.testing.assert_close(cache[names[1]], inside.decode(cache[names[0]]))
    assert cache[names[0]].shape == (2, 7, 5)

    zeroed = model.run_with_hooks(TOKENS, fwd_hooks=[(names[0], lambda x, hook: torch.zeros_like(x))])
    inside.forward = lambda x: inside.decode(0 * inside.encode(x))
    torch.testing.assert_close(zeroed, model(TOKENS), rtol=0, atol=1e-5)


def test_points_inside_a_foreign_module_have_layers_gradients_and_standing_hooks():
    model = model_of("gpt2")
    put(model, "blocks.1.hook_mlp_out", Dictionary(10))
    name = "blocks.1.hook_mlp_out.hook_acts"
    seen = []
    model.hook_dict[name].add_hook(lambda x, hook: seen.append(hook.layer()))
    model(TOKENS)
    assert seen == [1]
    _, cache = model.run_with_cache(TOKENS, return_type="loss", incl_bwd=True, names_filter=name)
    assert cache[f"{name}_grad"].shape == (2, 7, 5)
    assert cache[f"{name}_grad"].abs().sum() > 0


def test_pieces_of_ours_inside_a_foreign_module_take_part_in_the_run():
    model = model_of("gpt2")
    expected, _ = literal(model, TOKENS, edit={"blocks.0.hook_mlp_out": lambda x: 2 * x})
    zeroed, _ = literal(
        model, TOKENS, edit={"blocks.0.hook_mlp_out": lambda x: 2 * x, "blocks.0.mlp.hook_post": torch.zeros_like}
    )
    put(model, "blocks.0.mlp", Around(model.blocks[0].mlp))
    name = "blocks.0.mlp.inner.hook_post"
    assert name in model.hook_names and "blocks.0.mlp.hook_post" not in model.hook_names
    logits, cache = model.run_with_cache(TOKENS)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(model(TOKENS), expected, rtol=0, atol=1e-5)
    assert cache[name].shape == (2, 7, 14)
    found = model.run_with_hooks(TOKENS, fwd_hooks=[(name, lambda x, hook: torch.zeros_like(x))])
    torch.testing.assert_close(found, zeroed, rtol=0, atol=1e-5)


def test_norms_inside_a_foreign_module_take_part_too():
    model = model_of("gpt2")
    put(model, "blocks.0.ln2", Around(model.blocks[0].ln2))
    _, cache = model.run_with_cache(TOKENS)
    assert cache["blocks.0.ln2.inner.hook_scale"].shape == (2, 7, 1)


def test_a_run_inside_a_foreign_module_is_a_run_of_its_own():
    model, other = model_of("gpt2"), model_of("llama")

    class Asks(nn.Module):
        def forward(self, x):
            found.append(other.run_with_cache(TOKENS, names_filter="hook_embed")[0])
            return x

    found = []
    plain = other.run_with_cache(TOKENS)[0]
    put(model, "blocks.0.hook_mlp_out", Asks())
    seen = []
    model.run_with_hooks(TOKENS, fwd_hooks=[("hook_embed", lambda x, hook: seen.append(1))])
    assert torch.equal(found[0], plain)
    assert seen == [1]


def test_an_exception_inside_a_foreign_module_leaves_no_trace():
    model = model_of("gpt2")
    inside = put(model, "blocks.0.hook_mlp_out", Dictionary(10))
    plain = model(TOKENS)
    seen = []

    def fail(x, hook):
        raise KeyboardInterrupt

    hooks = [("blocks.0.hook_mlp_out.hook_acts", fail), ("hook_error", lambda x, hook: seen.append(1))]
    with pytest.raises(KeyboardInterrupt):
        model.run_with_hooks(TOKENS, fwd_hooks=hooks)
    inside(torch.ones(1, 1, 10))
    assert torch.equal(model(TOKENS), plain)
    assert seen == []


@pytest.mark.parametrize("path", ["blocks.0.attn", "blocks.0.mlp", "blocks.1"])
def test_whole_parts_may_be_foreign(path):
    model = model_of("gpt2")
    plain = model(TOKENS)
    put(model, path, nn.Linear(10, 10))
    logits, cache = model.run_with_cache(TOKENS)
    torch.testing.assert_close(logits, model(TOKENS), rtol=0, atol=1e-5)
    assert not torch.allclose(logits, plain)
    assert not [name for name in cache if name.startswith(f"{path}.hook") or name.startswith(f"{path}.attn")]
    model(TOKENS, return_type="loss").backward()
    assert model.get_submodule(path).weight.grad.abs().sum() > 0
    state = model.state_dict()
    assert f"{path}.weight" in state
    model.load_state_dict(state)
    assert torch.equal(copy.deepcopy(model).double()(TOKENS).argmax(-1), model(TOKENS).argmax(-1))


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_embedding_and_an_unembedding_may_be_foreign(kind):
    model, tokens = model_of(kind), tokens_of(kind)
    expected = model(tokens)
    W_E, W_U, b_U = model.W_E.detach().clone(), model.W_U.detach().clone(), model.b_U.detach().clone()
    model.embed = nn.Embedding.from_pretrained(W_E)
    model.unembed = nn.Linear(10, 17)
    model.unembed.weight.data, model.unembed.bias.data = W_U.T, b_U
    model.setup()
    torch.testing.assert_close(model.run_with_cache(tokens)[0], expected, rtol=0, atol=1e-5)


def test_foreign_attention_has_no_past_and_that_is_said():
    model = model_of("gpt2")
    put(model, "blocks.0.attn", nn.Linear(10, 10))
    past = KeyValueCache.init_cache(model.cfg)
    with pytest.raises(
        ArgumentError, match="a past needs keys and values of all 2 layers, got those of 1; .*use_past_kv_cache"
    ):
        model(TOKENS, past_kv_cache=past)
    assert len(past) == 0
    with pytest.raises(ArgumentError, match="use_past_kv_cache=False"):
        model.generate(TOKENS, max_new_tokens=2, verbose=False)
    found = model.generate(TOKENS, max_new_tokens=2, verbose=False, use_past_kv_cache=False, do_sample=False)
    assert torch.equal(found[:, 7], model(TOKENS)[:, -1].argmax(-1))


def test_what_foreign_attention_reads_by_head_can_be_read_but_not_edited():
    model = model_of("gpt2")
    put(model, "blocks.0.attn", nn.Linear(10, 10))
    _, cache = model.run_with_cache(TOKENS, names_filter="blocks.0.hook_q_input")
    assert cache["q_input", 0].shape == (2, 7, 4, 10)
    with pytest.raises(
        ArgumentError, match="only where attention is the model's own, got Linear in its place; change resid_pre"
    ):
        model.run_with_hooks(TOKENS, fwd_hooks=[("blocks.0.hook_q_input", lambda x, hook: 2 * x)])


class Asks(nn.Module):
    """Runs another model, which is no part of the run that it is in itself."""

    def __init__(self, other):
        super().__init__()
        self.other = (other,)

    def forward(self, x):
        self.other[0](TOKENS)
        return x


def test_a_model_that_a_foreign_module_runs_is_a_run_of_its_own():
    model, other, seen = model_of("gpt2"), model_of("llama"), []
    put(model, "blocks.0.mlp", Asks(other))
    expected, whole = model.run_with_cache(TOKENS)
    put(model, "blocks.0.mlp", nn.Identity())
    plain, cache = model.run_with_cache(TOKENS)
    assert torch.equal(plain, expected)
    assert all(torch.equal(whole[name], cache[name]) for name in cache)
    put(model, "blocks.0.mlp", Asks(other))
    other.add_hook("z", lambda z, hook: seen.append(hook.name))
    model.run_with_hooks(TOKENS, fwd_hooks=[("z", lambda z, hook: seen.append("outer"))])
    assert seen == ["outer", "blocks.0.attn.hook_z", "blocks.1.attn.hook_z", "outer"]
