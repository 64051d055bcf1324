"""Ablations: each edit, put in cell by cell, equals the loop; nothing is skipped that an edit can change."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid import Add, HookedTransformer, Mean, Noise, Replace, Resample, Scale, Shift, Site, Zero, patching
from pellucid.base.errors import ArgumentError
from pellucid.patching import LogitDiff, Loss
from pellucid.text.vocabulary import integer_vocabulary
from tests.models import CONFIGS, model_of, tokens_of
from tests.patching.comparing import Asked, assert_equals_the_loop, double, prompts_of
from tests.patching.questions import drawn_questions, question_of
from tests.reference import sweep as loop

pytestmark = pytest.mark.usefixtures("without_shape_checks")

SOURCE = tokens_of(batch=4, pos=6, seed=9)


def changed(function):
    """What each part is replaced by, as a function of the activation alone."""
    return lambda model, i: lambda name, x: function(x)


def of_source(function):
    """What each part is replaced by, as a function of the source's activation ``[batch …]``."""

    def give(model, i):
        def value(name, x):
            with torch.no_grad():
                _, cache = model.run_with_cache(SOURCE, names_filter=[name])
            return function(cache[name], i).expand_as(x)

        return value

    return give


def rolled(x):
    return torch.cat([x[:, :2], x[:, :-2]], 1)


def drawn(donor, i):
    row = torch.randint(len(donor), (1,), generator=torch.Generator().manual_seed(7 + i))
    return donor[row]


def noised(model, i):
    return lambda name, x: Noise(Site(name), std=0.5, seed=5 + i).apply(x)


EDITS = {
    "zero": (Zero(), changed(torch.zeros_like)),
    "mean": (Mean(over=SOURCE), of_source(lambda x, i: x.mean((0, 1), keepdim=True))),
    "mean by position": (Mean(over=SOURCE, per_position=True), of_source(lambda x, i: x.mean(0, keepdim=True))),
    "resample": (Resample(source=SOURCE, seed=7), of_source(drawn)),
    "shift": (Shift(2), changed(rolled)),
    "replace": (Replace(0.5), changed(lambda x: torch.full_like(x, 0.5))),
    "add": (Add(0.5), changed(lambda x: x + 0.5)),
    "scale": (Scale(0.5), changed(lambda x: 0.5 * x)),
    "noise": (Noise(std=0.5, seed=5), noised),
}
SITES = {
    **dict.fromkeys(["resid_pre", "attn_out", "mlp_out", "ln2.normalized", "mlp_in"], ("layer", "pos")),
    **dict.fromkeys(["z", "q", "result", "attn_in", "q_input"], ("layer", "head", "pos")),
    **dict.fromkeys(["k", "v", "rot_k"], ("layer", "kv_head", "pos")),
    **dict.fromkeys(["pre", "post"], ("layer", "neuron")),
    **dict.fromkeys(["attn_scores", "pattern"], ("layer", "head", "q_pos", "k_pos")),
    "embed": ("pos",),
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("site", SITES)
def test_an_edit_of_each_part_equals_the_loop(site, edit):
    by, give = EDITS[edit]
    square = site in ("attn_scores", "pattern")
    if square and edit in ("mean", "shift"):
        pytest.skip("positions are its content: refused, as test_edits.py holds")
    if site == "attn_scores" and edit == "replace":
        give = changed(lambda x: torch.full_like(x, 0.5))
    kinds = [kind for kind in ("gpt2", "llama") if loop.points(double(kind), site)]
    asked = Asked(site, SITES[site], by=by, give=give)
    assert_equals_the_loop(double(kinds[list(EDITS).index(edit) % len(kinds)]), prompts_of((6,)), asked, limit=5)


def assert_any_ablation_equals_the_loop(drawn, edit):
    """Prompts are as long as the source; what an edit is not for is left out."""
    model, prompts, asked = question_of(
        drawn | {"lengths": [6] * len(drawn["lengths"]), "uneven": [6] * len(drawn["uneven"])}
    )
    square = asked.site in ("attn_scores", "pattern")
    if asked.site.endswith(".scale") or (square and edit in ("mean", "shift")):
        return
    by, give = EDITS[edit]
    assert_equals_the_loop(model, prompts, replace(asked, by=by, give=give), limit=5)


@given(drawn_questions(), st.sampled_from(list(EDITS)))
@settings(max_examples=20)
def test_whatever_is_ablated_equals_the_loop(drawn, edit):
    assert_any_ablation_equals_the_loop(drawn, edit)


@pytest.mark.slow
@pytest.mark.long
@given(drawn_questions(), st.sampled_from(list(EDITS)))
@settings(max_examples=200)
def test_whatever_is_ablated_equals_the_loop_very_often(drawn, edit):
    assert_any_ablation_equals_the_loop(drawn, edit)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("site, over", [("z", ("layer", "head")), ("attn_out", ("layer",)), ("v", ("layer", "pos"))])
def test_zeros_in_every_kind_of_model_equal_the_loop(kind, site, over):
    by, give = EDITS["zero"]
    assert_equals_the_loop(double(kind), prompts_of((6, 6)), Asked(site, over, by=by, give=give), limit=10)


@pytest.mark.parametrize("edit", ["zero", "mean", "shift", "scale", "noise"])
def test_prompts_of_different_length_are_ablated_each_at_its_own(edit):
    by, give = EDITS[edit]
    for site, over in [("mlp_out", ("layer", "position")), ("z", ("layer", "head")), ("post", ("layer",))]:
        asked = Asked(site, over, by=by, give=give, metric=Loss())
        assert_equals_the_loop(double(), prompts_of((6, 4, 5)), asked, limit=8)


@pytest.mark.parametrize("freeze", [("pattern",), ("ln_scale",), ("ln_scale", "pattern")])
def test_ablations_with_what_is_held_equal_the_loop(freeze):
    by, give = EDITS["zero"]
    for site, over in [("z", ("layer", "head")), ("mlp_out", ("layer", "pos")), ("embed", ("pos",))]:
        asked = Asked(site, over, by=by, give=give, freeze=freeze)
        assert_equals_the_loop(double("llama"), prompts_of((6, 6)), asked, limit=8)


@pytest.mark.parametrize("edit", ["zero", "mean", "scale", "noise", "shift"])
def test_several_sites_are_edited_as_the_run_has_made_them(edit):
    by, give = EDITS[edit]
    for sites, over in [(("attn_out", "mlp_out"), ("layer",)), (("resid_pre", "resid_post"), ("layer", "pos"))]:
        asked = Asked(sites, over, by=by, give=give)
        assert_equals_the_loop(double(), prompts_of((6, 6)), asked, limit=8)


@pytest.mark.parametrize("edit", EDITS)
def test_without_axes_every_layer_is_edited_as_the_run_has_made_it(edit):
    by, give = EDITS[edit]
    assert_equals_the_loop(double("partly rotary"), prompts_of((6, 6)), Asked("z", (), by=by, give=give))


@pytest.mark.parametrize("edit", [edit for edit in EDITS if edit != "add"])  # norms take a constant away
def test_nothing_is_skipped_for_values_that_are_not_another_run_s(edit):
    """Clean and corrupted are the same here, and yet every position counts."""
    by, give = EDITS[edit]
    asked = Asked("mlp_out", ("layer", "pos"), by=by, give=give)
    found = assert_equals_the_loop(double(), prompts_of((6, 6), same=6), asked)
    changed = found.values[:, 0] != found.dataset["clean"].values[:, None]
    assert changed[:, 2 if edit == "shift" else 0 :].all()


def test_noise_is_the_same_in_every_cell_and_differs_between_layers_and_prompts():
    prompts = prompts_of((6,))
    twice = patching.pairs(prompts.clean * 2, prompts.clean * 2, answer=prompts.answer * 2, wrong=prompts.wrong * 2)
    model = model_of(CONFIGS["bare"].change(residual=True), dtype=torch.float64)
    for block in model.blocks:
        block.attn.W_O.data.zero_()
        block.mlp.W_out.data.zero_()
    found = patching.ablate(model, twice, site="resid_post", over="layer", by=Noise(std=1.0), progress=False).values
    assert len({round(float(value), 9) for value in found.ravel()}) == 4, "each has noise of its own"
    whole = patching.ablate(model, twice, site="resid_pre", over="layer", by=Noise(std=1.0), progress=False).values
    parts = patching.ablate(model, twice, site="resid_pre", over=("layer", "pos"), by=Noise(std=1.0), progress=False)
    assert parts.values[:, :, -1] == pytest.approx(whole, abs=1e-9)  # nothing moves between positions in this model


def test_an_edit_of_the_whole_is_what_a_run_with_that_edit_gives():
    model, prompts = double(), prompts_of((6,))
    right, wrong, tokens = prompts.answer[0], prompts.wrong[0], torch.tensor(prompts.clean)
    for by in (Zero(), Scale(0.5), Noise(std=0.5, seed=2), Resample(source=SOURCE, seed=1), Mean(over=SOURCE)):
        found = patching.ablate(model, prompts.pairs, site="z", over="layer", by=by, progress=False)
        for layer in (0, 1):
            with torch.no_grad():
                logits = model.run(tokens, edits=[by.at(Site("z", layer=layer))], attention="explicit").logits[0, -1]
            expected = float(logits[right].mean() - logits[wrong].mean())
            assert found.sel(prompt=0, layer=layer).item() == pytest.approx(expected, abs=1e-9), by


def test_frozen_patterns_make_ablations_of_a_linear_model_add_up():
    """Elhage et al. 2021: with patterns held, an attention-only model without norms is a sum of paths."""
    config = CONFIGS["attention only"].change(norm=None, n_layers=1)
    model, prompts = model_of(config, dtype=torch.float64), prompts_of((6,))
    ask = {"site": "z", "by": Zero(), "freeze": ("pattern",), "progress": False}
    whole = patching.ablate(model, prompts.pairs, over=(), **ask).effect("clean").values
    parts = patching.ablate(model, prompts.pairs, over=("layer", "head"), **ask).effect("clean").values
    assert parts.sum() == pytest.approx(whole.sum(), abs=1e-9)


def test_prompts_may_be_tokens_lists_text_or_pairs():
    tokens = torch.tensor([[0, 5, 9, 7], [0, 3, 2, 8]])
    model = model_of("gpt2", dtype=torch.float64, tokenizer=integer_vocabulary(17))
    ask = {"site": "z", "over": ("layer", "head"), "by": Zero(), "progress": False}
    given = [tokens, tokens.tolist(), ["5 9 7", "3 2 8"], patching.pairs(tokens, tokens)]
    found = [patching.ablate(model, prompts, **ask) for prompts in given]
    assert all((each.values == found[0].values).all() for each in found)
    assert found[0].unit == "nats" and found[0].dims == ("prompt", "layer", "head")
    alone = patching.ablate(model, "5 9 7", **ask)
    assert alone.values[0] == pytest.approx(found[0].values[0], abs=1e-9)


def test_the_clean_side_of_pairs_is_ablated_and_the_metric_is_theirs():
    prompts, model = prompts_of(), double()
    found = patching.ablate(model, prompts.pairs, site="z", over="layer", by=Zero(), progress=False)
    assert found.unit == "logits" and set(found.dataset.data_vars) == {"value", "clean"}
    expected = [
        loop.measured(model, torch.tensor([ids]), lambda x, r=right, w=wrong: x[0, -1, r].mean() - x[0, -1, w].mean())
        for ids, right, wrong in zip(prompts.clean, prompts.answer, prompts.wrong, strict=True)
    ]
    assert found.dataset["clean"].values == pytest.approx(expected, abs=1e-9)
    assert found.record.settings["direction"] == "noise" and "Zero" in found.record.settings["by"]


def test_what_zeros_mean_depends_on_the_processing_which_is_recorded(tmp_path):
    """A value of zero keeps b_V where it is folded into b_O, and takes it away where it is not."""
    model_of("gpt2").save_pretrained(tmp_path / "model")
    found = []
    for folded in (True, False):
        model = HookedTransformer.from_pretrained(tmp_path / "model", fold_value_biases=folded)
        found.append(patching.ablate(model, [[0, 5, 9, 7]], site="v", over="layer", by=Zero(), progress=False))
    assert ["fold_value_biases" in each.record.processing for each in found] == [True, False]
    assert found[0].dataset["clean"].values == pytest.approx(found[1].dataset["clean"].values, abs=1e-5)
    assert (abs(found[0].values - found[1].values) > 1e-3).all()


@pytest.mark.parametrize("by", [Zero("z"), Zero(Site("z", layer=0)), "zero", None, Zero])
def test_the_edit_must_be_one_without_a_site(by):
    with pytest.raises(ArgumentError, match="by must be an edit without a site"):
        patching.ablate(double(), [[1, 2, 3]], site="z", over="layer", by=by, progress=False)


def test_the_metric_is_recorded_with_where_it_looks():
    found = patching.ablate(
        double(), prompts_of().pairs, site="z", over="layer", by=Zero(), metric=LogitDiff(at="early"), progress=False
    )
    assert found.record.settings["metric"] == repr(LogitDiff(at="early"))
