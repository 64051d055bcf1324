"""Estimates by gradients: against finite differences, complete sums, literal formulas, and exact sweeps."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from pellucid import HookedTransformer, Site, patching
from pellucid.base.errors import ArgumentError, TooLargeError, UnknownNameError
from pellucid.model.positional import Shortformer
from pellucid.patching.gradients import Gradients
from pellucid.patching.saturation import changed_by_softmax
from tests.models import CONFIGS, config_of, model_of


def pairs_of(seed=0, n=2, length=6, d_vocab=17):
    draw = torch.Generator().manual_seed(seed)
    clean = torch.randint(d_vocab, (n, length), generator=draw)
    corrupted = clean.clone()
    corrupted[:, 2] = (clean[:, 2] + 3) % d_vocab
    return patching.pairs(clean, corrupted, answer=[1, 2][:n], wrong=[3, 4][:n])


def logit_diff(pairs, prompt):
    right, wrong = int(pairs.answer[prompt, 0]), int(pairs.wrong[prompt, 0])
    return lambda logits: logits[0, -1, right] - logits[0, -1, wrong]


def full(site, layer):
    return (
        f"blocks.{layer}.attn.hook_{site}" if site in ("z", "q", "k", "v", "pattern") else f"blocks.{layer}.hook_{site}"
    )


SITES = [
    ("z", ("layer", "head")),
    ("k", ("layer", "kv_head", "pos")),
    ("resid_pre", ("layer", "pos")),
    ("v", ("layer", "pos")),
    ("mlp_in", ("layer", "pos")),
]


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize(("site", "over"), SITES)
def test_atp_is_the_slope_of_the_patch(kind, site, over):
    """Finite differences of the metric, along the patch: to 1e-6 in float64."""
    model = model_of(kind).double().requires_grad_(False)
    pairs, step = pairs_of(), 1e-5
    if site == "mlp_in" and model.config.mlp is None:
        pytest.skip("a model without MLPs")
    if "kv_head" in over and model.config.attention.kv_heads == model.config.attention.n_heads:
        over = tuple("head" if axis == "kv_head" else axis for axis in over)
    found = patching.attribute(model, pairs, site=site, over=over).effect().to_frame()
    names = [full(site, layer) for layer in range(2)]
    for prompt in range(2):
        base, donor = pairs.corrupted[prompt : prompt + 1], pairs.clean[prompt : prompt + 1]
        _, old = model.run_with_cache(base, names_filter=names)
        _, new = model.run_with_cache(donor, names_filter=names)
        for row in found[found["prompt"] == prompt].to_dict("records")[::5]:
            pos = slice(None) if "pos" not in row else row["pos"]
            head = next((row[axis] for axis in ("head", "kv_head") if axis in row), slice(None))
            name = full(site, row["layer"])
            part = torch.zeros_like(old[name])
            part[:, pos] = (new[name] - old[name])[:, pos]
            part = part if site in ("resid_pre", "mlp_in") else _only(part, head)
            ends = [float(logit_diff(pairs, prompt)(moved(model, base, name, by * part))) for by in (step, -step)]
            assert row["value"] == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-6)


def moved(model, base, name, by):
    return model.run_with_hooks(base, fwd_hooks=[(name, lambda x, hook: x + by)])


def replaced(model, base, name, value, *hooks):
    return model.run_with_hooks(base, fwd_hooks=[(name, lambda x, hook: value), *hooks])


def with_cache(model, base, name, value):
    with model.hooks(fwd_hooks=[(name, lambda x, hook: value)]):
        return model.run_with_cache(base)


def _only(part, head):
    kept = torch.zeros_like(part)
    kept[..., head, :] = part[..., head, :]
    return kept


@pytest.mark.parametrize("kind", ["gpt2", "llama", "attention only"])
def test_integrated_gradients_are_complete(kind):
    """Over a complete cut they add up to the difference of the metric, to 1 %."""
    model = model_of(kind).double().requires_grad_(False)
    pairs = pairs_of(seed=3)
    exact = patching.sweep(model, pairs, site="resid_pre", over=("layer",))
    embed = patching.attribute(model, pairs, site="embed", over=(), method="ig-inputs", steps=64).effect()
    layer = patching.attribute(model, pairs, site="resid_pre", over=("layer", "pos"), method="ig-activations", steps=64)
    whole = exact.effect().values[:, 0]
    scale = abs(whole).max()
    assert scale > 1e-3
    torch.testing.assert_close(torch.tensor(embed.values), torch.tensor(whole), atol=0.01 * scale, rtol=0)
    for number in range(model.config.n_layers):
        found = layer.effect().values[:, number].sum(-1)
        torch.testing.assert_close(torch.tensor(found), torch.tensor(whole), atol=0.01 * scale, rtol=0)


def saturated():
    """A model of scores so large that its softmax is flat, while a patch may still turn it round."""
    model = model_of("gpt2").double().requires_grad_(False)
    for block in model.blocks:
        block.attn.W_Q.mul_(30.0)
        block.attn.W_K.mul_(30.0)
    return model


@pytest.mark.parametrize("site", ["q", "k"])
def test_a_saturated_softmax_hides_from_atp_and_not_from_atp_star(site):
    model, pairs = saturated(), pairs_of(seed=1, n=1)
    over = ("layer", "head", "pos")
    exact = abs(patching.sweep(model, pairs, site=site, over=over).effect().values[0])
    plain = abs(patching.attribute(model, pairs, site=site, over=over).effect().values[0])
    star = patching.attribute(model, pairs, site=site, over=over, method="atp*").values[0]
    last = model.config.n_layers - 1
    hidden = (exact[last] > 0.05) & (plain[last] < 0.01 * exact[last])
    assert hidden.any()
    assert (abs(star[last] - exact[last])[hidden] < 0.5 * exact[last][hidden]).all()


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("site", ["q", "k"])
@pytest.mark.parametrize("single", [True, False])
def test_the_softmax_is_taken_anew(kind, site, single):
    """In the last layer, where no dropped layer lies above: Σ (pattern′ − pattern) · gradient, cell by cell."""
    model = model_of(kind).double().requires_grad_(False)
    pairs, last = pairs_of(n=1), 1
    grouped = model.config.attention.kv_heads != model.config.attention.n_heads
    head = "kv_head" if grouped and site == "k" else "head"
    over = ("layer", head, "pos") if single else ("layer", head)
    found = patching.attribute(model, pairs, site=site, over=over, method="atp*").sel(layer=last).values[0]
    base, name = pairs.corrupted, full("pattern", last)
    _, old = model.run_with_cache(base)
    _, new = model.run_with_cache(pairs.clean)
    pattern = old[name].clone().requires_grad_()
    logits = replaced(model, base, name, pattern)
    (gradient,) = torch.autograd.grad(logit_diff(pairs, 0)(logits), pattern)
    for index in range(found.shape[0]):
        for pos in range(found.shape[1]) if single else [slice(None)]:
            at = full(site, last)
            part = old[at].clone()
            part[:, pos, index] = new[at][:, pos, index]
            _, patched = with_cache(model, base, at, part)
            change = ((patched[name] - old[name]) * gradient).sum()
            # two layers: dropping the other one leaves this estimate; dropping its own leaves none; 2 − 1 = 1
            value = found[index, pos] if single else found[index]
            # two layers: dropping the other one leaves this estimate; dropping its own leaves none; 2 − 1 = 1
            assert value == pytest.approx(abs(float(change)), abs=1e-9)


def test_dropped_layers_pass_no_gradient_back():
    """GradDrop of z, literally: the mean over the other layers of |Δ · gradient with that layer's output held|."""
    model = HookedTransformer(config_of(n_layers=3), seed=4).double().requires_grad_(False)
    pairs = pairs_of(n=1)
    found = patching.attribute(model, pairs, site="z", over=("layer", "head"), method="atp*").values[0]
    _, old = model.run_with_cache(pairs.corrupted)
    _, new = model.run_with_cache(pairs.clean)
    for layer in range(3):
        name, sizes = full("z", layer), torch.zeros(4, dtype=torch.float64)
        for drop in range(3):
            z = old[name].clone().requires_grad_()
            stopped = [(f"blocks.{drop}.hook_{part}", lambda x, hook: x.detach()) for part in ("attn_out", "mlp_out")]
            logits = replaced(model, pairs.corrupted, name, z, *stopped)
            metric = logit_diff(pairs, 0)(logits)
            gradient = torch.autograd.grad(metric, z)[0] if metric.requires_grad else torch.zeros_like(z)
            sizes += ((new[name] - old[name]) * gradient).sum((0, 1, 3)).abs()
        torch.testing.assert_close(torch.tensor(found[layer]), sizes / 2, atol=1e-9, rtol=0)


def test_groups_positions_by_name_and_lengths():
    model = model_of("gpt2").double().requires_grad_(False)
    both = [[1, 2, 3, 4], [5, 6, 7, 8, 9, 10]], [[1, 9, 3, 4], [5, 6, 2, 8, 9, 10]]
    pairs = patching.pairs(*both, answer=[1, 2], wrong=[3, 4], positions={"subject": [1, 2]})
    heads = patching.attribute(model, pairs, site="z", over=("layer", "head")).effect()
    group = {"two": [Site("z", layer=0, head=1), Site("z", layer=1, head=[2, 3])]}
    found = patching.attribute(model, pairs, over="group", groups=group).effect().values[:, 0]
    added = sum(heads.sel(layer=layer, head=head).values for layer, head in [(0, 1), (1, 2), (1, 3)])
    torch.testing.assert_close(torch.tensor(found), torch.tensor(added))
    named = patching.attribute(model, pairs, site="resid_pre", over=("layer", "position")).effect()
    whole = patching.attribute(model, pairs, site="resid_pre", over="layer").effect()
    at = named.sel(layer=0, position="subject").values
    torch.testing.assert_close(torch.tensor(at), torch.tensor(whole.sel(layer=0).values))


def test_what_cannot_be_estimated_is_an_error():
    model, pairs = model_of("gpt2"), pairs_of()
    with pytest.raises(ArgumentError, match="steps must be 1 or more, got 0"):
        patching.attribute(model, pairs, site="z", over="layer", method="ig-inputs", steps=0)
    with pytest.raises(ArgumentError, match="metric must have a gradient"):
        patching.attribute(model, pairs, site="z", over="layer", metric=patching.Accuracy())
    with pytest.raises(UnknownNameError, match="site must be the short name"):
        patching.attribute(model, pairs, site="zz", over="layer")


@pytest.mark.parametrize("method", ["atp", "atp*", "ig-inputs", "ig-activations"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "shortformer"])
def test_prompts_together_and_in_small_parts(method, kind, monkeypatch):
    """Prompts of several lengths, as many at once as memory allows: each has the estimates that it has by itself."""
    model = model_of(kind if kind != "shortformer" else "attention only").double().requires_grad_(False)
    if kind == "shortformer":
        model = HookedTransformer(model.config.change(positions=Shortformer()), seed=2).double().requires_grad_(False)
    clean = [[1, 2, 3, 4], [5, 6, 7, 8, 9, 10], [4, 3, 2, 1], [1, 5, 3, 2], [2, 6, 7, 3, 9, 10]]
    corrupted = [[1, 9, 3, 4], [5, 6, 2, 8, 9, 10], [4, 3, 5, 1], [6, 5, 3, 2], [2, 6, 1, 3, 9, 10]]
    pairs = patching.pairs(clean, corrupted, answer=[1, 2, 3, 4, 5], wrong=[3, 4, 5, 6, 7])
    asked = {"over": ("head",), "method": method, "steps": 3, "metric": patching.KL()}
    asked |= {"site": ["pos_embed", "embed"], "over": ()} if kind == "shortformer" else {"site": "q"}
    together = patching.attribute(model, pairs, **asked).values
    for number in range(5):
        alone = patching.attribute(model, pairs[[number]], **asked).values
        torch.testing.assert_close(torch.tensor(together[number : number + 1]), torch.tensor(alone))
    taken, whole = [], Gradients.up

    def up(self, x, *more, **how):
        taken.append(len(x))
        return whole(self, x, *more, **how)

    monkeypatch.setattr(Gradients, "up", up)
    with pytest.raises(TooLargeError, match="max_memory must hold one prompt at least") as told:
        patching.attribute(model, pairs, **asked, max_memory="2 KB")
    least = float(re.search(r"takes ([\d.]+) MB", str(told.value))[1])
    in_parts = patching.attribute(model, pairs, **asked, max_memory=f"{1.9 * least} MB").values
    assert set(taken) == {1}
    torch.testing.assert_close(torch.tensor(in_parts), torch.tensor(together))


@pytest.mark.parametrize("method", ["atp", "atp*", "ig-inputs", "ig-activations"])
@pytest.mark.parametrize(
    ("site", "over"),
    [("post", ("layer", "neuron")), ("pattern", ("layer", "head")), ("attn_scores", ("layer", "head", "q_pos"))],
)
def test_sites_whose_every_axis_tells_cells_apart(method, site, over):
    model, pairs = model_of("gpt2").double().requires_grad_(False), pairs_of(seed=5)
    exact = patching.sweep(model, pairs, site=site, over=over)
    found = patching.attribute(model, pairs, site=site, over=over, method=method)
    assert found.shape == exact.shape and np.isfinite(found.values).all()
    assert patching.compare(exact, found).rank_correlation > 0.5


def test_neurons_by_a_literal_product():
    model, pairs = model_of("gpt2").double().requires_grad_(False), pairs_of(n=1)
    found = patching.attribute(model, pairs, site="post", over=("layer", "neuron")).effect().values[0]
    name = "blocks.1.mlp.hook_post"
    _, old = model.run_with_cache(pairs.corrupted)
    _, new = model.run_with_cache(pairs.clean)
    post = old[name].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(logit_diff(pairs, 0)(replaced(model, pairs.corrupted, name, post)), post)
    torch.testing.assert_close(torch.tensor(found[1]), ((new[name] - old[name]) * gradient).sum((0, 1)))


def test_a_single_layer_has_no_other_to_drop():
    model = HookedTransformer(config_of(n_layers=1), seed=2).double().requires_grad_(False)
    pairs = pairs_of()
    for site, over in (("z", ("layer", "head")), ("resid_pre", ("layer",)), ("mlp_out", ("layer",))):
        star = patching.attribute(model, pairs, site=site, over=over, method="atp*").values
        plain = patching.attribute(model, pairs, site=site, over=over).effect().values
        assert abs(plain).max() > 1e-3
        torch.testing.assert_close(torch.tensor(star), torch.tensor(abs(plain)))


def test_behind_the_final_norm_positions_are_told_apart():
    model, pairs = model_of("gpt2").double().requires_grad_(False), pairs_of()
    asked = {"site": "ln_final.normalized", "over": ("pos",)}
    exact, found = patching.sweep(model, pairs, **asked), patching.attribute(model, pairs, **asked)
    torch.testing.assert_close(torch.tensor(found.values), torch.tensor(exact.values))  # linear from there on


def test_a_key_that_was_too_weak_to_tell_may_win():
    """In float32 its weight is 0: the gradient of the softmax is none, and the new softmax is another."""
    attn = HookedTransformer(config_of(n_layers=1), seed=0).blocks[0].attn
    n, d = attn.config.n_heads, attn.config.d_head
    keys = torch.zeros(1, 2, n, d)
    keys[0, 1, :, 0] = 300.0 * d**0.5
    queries = torch.zeros(1, 2, n, d)
    queries[..., 0] = 1.0
    turned = keys.clone()
    turned[0, 0, :, 0] = 600.0 * d**0.5
    gradient = torch.zeros(1, n, 2, 2)
    gradient[:, :, 1] = torch.tensor([2.0, 0.0])
    found = changed_by_softmax(attn, (queries, keys), (queries, turned), gradient, which="k", single=True)
    torch.testing.assert_close(found[0, 0], torch.full((n,), 2.0))


def test_sizes_are_not_taken_for_the_metric():
    model, pairs = model_of("gpt2"), pairs_of()
    sizes = patching.attribute(model, pairs, site="z", over=("layer", "head"), method="atp*")
    for turned in (sizes.effect, sizes.normalised):
        with pytest.raises(ArgumentError, match="got sizes of changes"):
            turned()
    assert sizes.significant(0.5).shape == (2, 4)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["atp", "atp*"])
def test_memory_stays_within_its_bound(method):
    """Peak of a process of its own, above what it held before."""
    told = subprocess.run([sys.executable, "-c", PEAK, method], capture_output=True, text=True, check=True)
    assert int(told.stdout) < 1.2 * 250e6


PEAK = """
import resource, sys
import torch
from pellucid import HookedTransformer, patching
from tests.models import config_of
torch.set_num_threads(1)
model = HookedTransformer(config_of(n_layers=12, n_ctx=512), seed=0)
draw = torch.Generator().manual_seed(0)
clean = torch.randint(17, (8, 256), generator=draw)
corrupted = clean.clone()
corrupted[:, 3] = (clean[:, 3] + 1) % 17
pairs = patching.pairs(clean, corrupted, answer=[1] * 8, wrong=[2] * 8)
asked = {"site": "q", "over": ("layer", "head"), "method": sys.argv[1], "progress": False}
patching.attribute(model, patching.pairs(clean[:1, :8], corrupted[:1, :8], answer=[1], wrong=[2]), **asked)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
patching.attribute(model, pairs, **asked, max_memory="250 MB")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""
