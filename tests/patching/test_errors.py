"""What cannot be asked of a sweep: one clear error each, before the model has run."""

import math

import numpy as np
import pytest
import torch

from pellucid import HookedTransformer, Noise, Site, Zero, patching
from pellucid.base.errors import ArgumentError, MisreadWarning, OutputError, TokenError, TooLargeError, UnknownNameError
from pellucid.patching import KL, Logit, LogitDiff, Loss
from tests.models import CONFIGS, model_of
from tests.patching.comparing import prompts_of

pytestmark = pytest.mark.usefixtures("without_shape_checks")

PAIRS = prompts_of((6, 6)).pairs
UNEVEN = prompts_of((6, 4)).pairs
PLAIN = patching.pairs([[1, 2, 3]], [[1, 4, 3]])


@pytest.fixture
def never_run(monkeypatch):
    """A model must not be run while this is there."""
    monkeypatch.setattr(HookedTransformer, "forward", lambda *args, **options: pytest.fail("the model was run"))


def refused(error, match, *, kind="gpt2", pairs=PAIRS, **ask):
    with pytest.raises(error, match=match) as caught:
        patching.sweep(model_of(kind), pairs, **{"site": "z", "over": "layer", "progress": False} | ask)
    return str(caught.value)


NAMES = [
    ({"direction": "denoising"}, "direction must be 'denoise' .* or 'noise', got 'denoising'"),
    ({"freeze": "patterns"}, "freeze must be of ln_scale and pattern, got 'patterns'.*pattern"),
    ({"freeze": ("pattern", "scale")}, "freeze must be of ln_scale and pattern, got 'scale'.*ln_scale"),
    ({"site": "resid_per"}, "site must be the short name of an activation, got 'resid_per'; nearest: .*resid_pre"),
    ({"site": "normalized"}, "'normalized'; there is: ln1.normalized, ln2.normalized, ln_final.normalized"),
    ({"site": ("z", "mlp_uot")}, "got 'mlp_uot'; nearest: .*mlp_out"),
    ({"site": "rot_q"}, "site must be one that this model has, got 'rot_q'"),
    ({"metric": LogitDiff(at="ends")}, "at must name positions of the pairs, got 'ends'; nearest: end"),
    ({"metric": LogitDiff(at=("end", "subject"))}, "got 'subject'; there is: first, early, end"),
    ({"corrupt": Noise("embed", pos="subject", std=1.0)}, "positions must be named by the pairs, got 'subject'"),
    (
        {"site": None, "over": "group", "groups": {"a": [Site("z", layer=0, pos="frist")]}},
        "positions must be named by the pairs, got 'frist'; nearest: first",
    ),
    ({"site": None, "over": "group", "groups": {"a": Site("rot_k", layer=0)}}, "one that this model has, got 'rot_k'"),
]


@pytest.mark.parametrize("ask, match", NAMES)
def test_names_that_mean_nothing_are_told_with_the_nearest(ask, match, never_run):
    refused(UnknownNameError, match, **ask)


LACKING = {
    "attn_in": "llama",
    "pos_embed": "llama",
    "mlp_out": "attention only",
    "resid_mid": "attention only",
    "ln2.normalized": "attention only",
    "ln1.normalized": "bare",
    "ln_final.scale": "bare",
    "pre_linear": "gpt2",
}


@pytest.mark.parametrize("site, kind", LACKING.items())
def test_a_site_that_the_model_lacks_is_refused(site, kind, never_run):
    refused(UnknownNameError, f"site must be one that this model has, got '{site}'", kind=kind, site=site)


OVER = [
    ("z", ("layer", "neuron"), "over must name axes of z, which are layer, position, pos, head.*, got 'neuron'"),
    ("mlp_out", ("layer", "head"), "axes of mlp_out, which are layer, position, pos.*, got 'head'"),
    ("z", "k_pos", "got 'k_pos'"),
    ("pattern", ("layer", "pos"), "got 'pos'; take q_pos"),
    ("pattern", ("layer", "position"), "got 'position'"),
    ("z", ("layer", "q_pos"), "got 'q_pos'; take pos"),
    ("embed", ("layer", "pos"), "axes of embed, which are position, pos.*, got 'layer'"),
    ("z", ("layer", "heads"), "got 'heads'"),
    ("z", ("layer", "prompt"), "got 'prompt'"),
    ("z", ("layer", "layer"), "over must name each axis once, got layer, layer"),
    ("z", ("pos", "position"), "over must have one of pos, position, got both; leave one out"),
    (("z", "mlp_out"), ("layer", "head"), r"axes of z \+ mlp_out, which are layer, position, pos.*, got 'head'"),
    (("z", "pattern"), ("layer", "pos"), r"axes of z \+ pattern"),
]


@pytest.mark.parametrize("site, over, match", OVER)
def test_axes_that_the_site_lacks_are_refused_with_those_it_has(site, over, match, never_run):
    refused(ArgumentError, match, site=site, over=over)


@pytest.mark.parametrize("site", ["k", "v", "rot_k", "k_input", "v_input"])
@pytest.mark.parametrize("kind", ["llama", "attention only"])
def test_heads_of_shared_keys_and_values_are_refused_and_kv_head_is_offered(site, kind, never_run):
    if site == "rot_k" and kind == "attention only":
        site = "k"
    refused(
        ArgumentError, f"over must name axes of {site}.*got 'head'; take kv_head", kind=kind, site=site, over="head"
    )


@pytest.mark.parametrize("site, over", [("z", "pos"), ("pattern", "q_pos"), ("attn_scores", ("layer", "k_pos"))])
def test_prompts_of_different_length_have_no_common_positions(site, over, never_run):
    match = "prompts must have one length to be patched over pos, got 4 and 6 tokens; .*patch over position"
    refused(ArgumentError, match, pairs=UNEVEN, site=site, over=over)


ARGUMENTS = [
    ({"site": None}, "site must name what is patched, got none"),
    ({"site": ()}, "site must name what is patched, got none"),
    ({"site": 3}, "site must be"),
    ({"site": (3,)}, "site must be the name of an activation"),
    ({"over": "group"}, "groups and over='group' go together"),
    ({"groups": {"a": Site("z", layer=0)}}, "groups and over='group' go together"),
    ({"over": "group", "groups": {}}, "groups and over='group' go together"),
    ({"over": "group", "groups": {"a": []}}, "a group must be one Site or more"),
    ({"over": "group", "groups": {"a": ["z"]}}, "a group must be one Site or more"),
    (
        {"over": "group", "site": "mlp_out", "groups": {"a": Site("z")}},
        "site must be left out, or be that of the groups, z",
    ),
    ({"over": ("group", "head"), "groups": {"a": Site("z")}}, "over must be group, with pos or position at most"),
    ({"over": "group", "groups": {"a": Site("z", layer=2)}}, "layers of a .*site must be some of .*0, 1"),
    ({"over": "group", "groups": {"a": Site("z", layer=-3)}}, "layers of a .*site must be some of .*0, 1"),
    ({"over": "group", "groups": {"a": Site("z", head=4)}}, "head must lie in 0..3, got 4"),
    ({"over": "group", "groups": {"a": Site("z", pos=6)}}, "pos must lie in 0..5, got 6"),
    ({"metric": LogitDiff}, "metric must be a metric such as LogitDiff\\(\\), or a function"),
    ({"metric": "logit_diff"}, "metric must be a metric such as LogitDiff\\(\\), or a function"),
    ({"metric": LogitDiff(), "pairs": PLAIN}, "needs pairs with answer"),
    ({"metric": Logit(), "pairs": PLAIN}, "needs pairs with answer"),
    ({"metric": Loss(at="end")}, "needs a token after each position"),
    ({"max_memory": "much"}, "max_memory must be bytes, or text such as '2GB', got 'much'"),
    ({"max_memory": "-1GB"}, "max_memory must be bytes"),
    ({"corrupt": Noise("resid_pre", std=1.0)}, "corrupt must be an edit of embed or pos_embed"),
    ({"corrupt": Noise(std=1.0)}, "corrupt must be an edit of embed or pos_embed"),
    ({"corrupt": Noise("embed", pos=6, std=1.0)}, "pos must lie in|6"),
    ({"freeze": "ln_scale", "kind": "bare"}, "freezing ln_scale needs a model with norms"),
]


@pytest.mark.parametrize("ask, match", ARGUMENTS)
def test_arguments_that_cannot_be_are_refused(ask, match, never_run):
    refused(ArgumentError, match, **({"site": None} if "groups" in ask else {}) | ask)


def test_prompts_that_cannot_be_aligned_are_refused():
    with pytest.raises(ArgumentError, match="as many tokens, to be aligned by position, got 3 and 2 in prompt 1"):
        patching.pairs([[1, 2], [1, 2, 3]], [[1, 3], [1, 2]])
    with pytest.raises(ArgumentError, match="as many prompts"):
        patching.pairs([[1, 2]], [[1, 3], [1, 2]])


TOKENS = [
    ({"clean": [[1, 17]]}, TokenError, "token ids of clean must lie in 0..16, got 17"),
    ({"corrupted": [[99, 1]]}, TokenError, "token ids of corrupted must lie in 0..16, got 99"),
    ({"answer": [17]}, TokenError, "token ids of answer must lie in 0..16, got 17"),
    ({"wrong": [[3, 20]]}, TokenError, "token ids of wrong must lie in 0..16, got 20"),
    ({"clean": [[1] * 17], "corrupted": [[1] * 17]}, ArgumentError, "at most n_ctx=16 tokens, got 17"),
]


@pytest.mark.parametrize("given, error, match", TOKENS)
def test_tokens_that_the_model_has_not_are_refused(given, error, match, never_run):
    told = {"clean": [[1, 2]], "corrupted": [[1, 3]], "answer": [5], "wrong": [6]} | given
    refused(error, match, pairs=patching.pairs(told.pop("clean"), told.pop("corrupted"), **told))


@pytest.mark.parametrize("ask", [{}, {"site": ("q", "z")}, {"metric": KL()}, {"metric": lambda x, pairs: x[:, -1, 0]}])
def test_a_metric_that_is_no_number_is_told(ask):
    model = model_of("gpt2")
    model.ln_final.b.data[:] = math.nan
    with pytest.raises(
        ArgumentError, match="the metric must be a number in runs that are not patched, got NaN for prompt 0"
    ):
        patching.sweep(model, PAIRS, **{"site": "z", "over": "layer", "progress": False} | ask)


def test_cells_whose_metric_is_no_number_are_counted():
    """The two runs have one, but patched cells have not: they stay NaN, and that is said."""
    ask = {"site": "z", "over": ("layer", "head"), "max_memory": "1GB", "progress": False}

    def failing(logits, pairs):
        return logits[:, -1, 0].masked_fill(torch.arange(len(logits)) == 3, math.nan)

    with pytest.warns(MisreadWarning, match="the metric is no number in 4 of 16 cells"):
        found = patching.sweep(model_of("gpt2"), PAIRS, metric=failing, **ask)
    assert np.isnan(found.values).sum() == 4


@pytest.mark.parametrize("ask", [{}, {"site": ("z", "mlp_out")}, {"site": "pattern", "over": ("layer", "head")}])
def test_a_bound_that_holds_no_cell_says_what_is_needed_and_that_is_enough(ask, never_run, monkeypatch):
    said = refused(
        TooLargeError, "max_memory must hold one cell at least, which takes .* MB here", max_memory="1kB", **ask
    )
    needed = float(said.split("takes ")[1].split(" MB")[0])
    monkeypatch.undo()
    ask = {"site": "z", "over": "layer", "progress": False} | ask
    found = patching.sweep(model_of("gpt2"), PAIRS, **ask, max_memory=f"{needed + 0.1}MB")
    assert found.shape[0] == 2
    refused(TooLargeError, "max_memory must hold", max_memory=f"{max(0.0, needed - 0.2)}MB", **ask)


@pytest.mark.parametrize("site, over", [("post", "neuron"), ("pattern", "head"), ("resid_pre", "layer")])
def test_what_is_told_to_be_needed_is_enough_for_a_long_prompt_too(site, over, never_run):
    prompts, model = prompts_of((1000,), same=100), model_of(CONFIGS["gpt2"].change(n_ctx=1024))
    ask = {"pairs": prompts.pairs, "site": site, "over": ("layer", *({over} - {"layer"}))}
    with pytest.raises(TooLargeError) as caught:
        patching.plan(model, **ask, max_memory=1)
    needed = float(str(caught.value).split("takes ")[1].split(" MB")[0])
    assert "cells" in patching.plan(model, **ask, max_memory=f"{needed + 0.1}MB").explain()


OTHER = [
    {"site": "q"},
    {"over": ("layer", "head", "pos")},
    {"direction": "noise"},
    {"metric": Logit()},
    {"freeze": "pattern"},
    {"pairs": prompts_of((6, 6), seed=1).pairs},
    {"pairs": PAIRS[[1, 0]]},
    {"pairs": patching.pairs(PAIRS.clean, PAIRS.corrupted, answer=PAIRS.wrong, wrong=PAIRS.answer)},
    {"model": model_of("gpt2", seed=1)},
    {"model": model_of("gpt2", dtype=torch.float64)},
    {"corrupt": Noise("embed", std=1.0)},
]


@pytest.mark.parametrize("other", OTHER, ids=str)
def test_a_journal_of_another_sweep_is_refused(other, tmp_path, monkeypatch):
    ask = {"model": model_of("gpt2"), "pairs": PAIRS, "site": "z", "over": ("layer", "head"), "progress": False}
    patching.sweep(**ask, journal=tmp_path / "here")
    forward = HookedTransformer.forward
    monkeypatch.setattr(HookedTransformer, "forward", lambda *args, **options: pytest.fail("the model was run"))
    with pytest.raises(OutputError, match="here"):
        patching.sweep(**ask | other, journal=tmp_path / "here")
    monkeypatch.setattr(HookedTransformer, "forward", forward)
    patching.sweep(**ask | other, journal=tmp_path / "there")


def test_a_sweep_is_no_ablation_to_a_journal(tmp_path):
    ask = {"site": "z", "over": ("layer", "head"), "progress": False, "journal": tmp_path}
    patching.sweep(model_of("gpt2"), PAIRS, **ask)
    with pytest.raises(OutputError):
        patching.ablate(model_of("gpt2"), PAIRS, by=Zero(), **ask)


def test_the_plan_refuses_what_the_sweep_refuses(never_run):
    for ask, match in [({"site": "zz"}, "site must be"), ({"site": "z", "over": "neuron"}, "over must name axes of z")]:
        with pytest.raises((UnknownNameError, ArgumentError), match=match):
            patching.plan(model_of("gpt2"), PAIRS, **{"over": "layer"} | ask)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_plan_runs_nothing(kind, never_run):
    told = patching.plan(model_of(kind), PAIRS, site="z", over=("layer", "head", "pos")).explain()
    assert "96 cells" in told
