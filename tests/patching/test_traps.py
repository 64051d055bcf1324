"""What a fast sweep gets wrong if it is careless: one test for each trap."""

import copy
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pellucid import Shift, Site, Zero, patching
from pellucid.base.errors import TooLargeError
from pellucid.patching import Logit, LogitDiff, Loss
from tests.models import CONFIGS, model_of
from tests.patching.comparing import Asked, assert_equals_the_loop, double, prompts_of
from tests.reference import sweep as loop

pytestmark = pytest.mark.usefixtures("without_shape_checks")

STREAM = [("resid_pre", ("layer", "pos")), ("mlp_out", ("layer", "pos")), ("z", ("layer", "pos", "head"))]
MORE = [
    *[("k", ("layer", "pos")), ("v", ("layer", "pos", "kv_head")), ("post", ("layer", "pos", "neuron"))],
    *[("pattern", ("layer", "q_pos", "k_pos")), ("attn_scores", ("layer", "q_pos")), ("embed", ("pos",))],
]


def swept(model, prompts, site, over, **more):
    return patching.sweep(model, prompts.pairs, site=site, over=over, progress=False, **more)


def base_of(found):
    """The metric of the run that is patched, with as many axes as the cells have."""
    base = "corrupted" if found.record.settings["direction"] == "denoise" else "clean"
    return found.dataset[base].values.reshape(-1, *[1] * (found.values.ndim - 1))


@pytest.mark.parametrize("site, over", STREAM + MORE)
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_cells_before_the_first_difference_are_exactly_the_base_run_s_metric(site, over, direction):
    prompts = prompts_of((7, 7), same=4)
    found = swept(model_of("gpt2"), prompts, site, over, direction=direction)
    row = next(axis for axis in over if axis in ("pos", "q_pos"))
    before = found.sel(**{row: range(4)})
    assert (before.values == base_of(found)).all()
    assert (found.sel(**{row: 4}).values != base_of(found)[..., 0]).any()


@pytest.mark.parametrize("site, over", STREAM + MORE[:4])
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_cells_behind_the_metric_are_exactly_the_base_run_s_metric(site, over, direction):
    prompts = prompts_of((7, 7), same=0)
    middle = [2, 3]
    prompts = replace(prompts, positions={"middle": middle})
    asked = Asked(site, over, metric=LogitDiff(at="middle"), direction=direction)
    found = assert_equals_the_loop(double(), prompts, asked, limit=20)
    row = next(axis for axis in over if axis in ("pos", "q_pos"))
    for i, end in enumerate(middle):
        behind = found.sel(prompt=i, **{row: range(end + 1, 7)}).values
        assert behind.size and (behind == base_of(found).ravel()[i]).all()


@pytest.mark.parametrize("site, over", STREAM + MORE)
def test_pairs_of_the_same_prompt_twice_are_known_beforehand(site, over):
    prompts = prompts_of((6, 6), same=6)
    assert prompts.clean == prompts.corrupted
    found = swept(double(), prompts, site, over)
    assert (found.values == base_of(found)).all()
    assert (found.dataset["clean"].values == found.dataset["corrupted"].values).all()


def test_equal_tokens_behind_the_first_difference_are_not_equal_runs():
    """What decides is whether everything up to a position is equal, not whether its own token is."""
    prompts = prompts_of((6,), same=1)
    same = [[a, b, *prompts.clean[0][2:]] for a, b in [prompts.clean[0][:2], prompts.corrupted[0][:2]]]
    prompts = replace(prompts, clean=same[:1], corrupted=same[1:], positions={})
    found = assert_equals_the_loop(double(), prompts, Asked("resid_pre", ("layer", "pos")))
    assert (found.values[0, 1, 2:] != base_of(found).ravel()[0]).all(), "a layer up, later positions have seen it"
    assert found.values[0, 0, 2:] == pytest.approx(base_of(found).ravel()[0], abs=1e-12)


def test_positions_of_the_last_layer_that_the_metric_does_not_see_change_nothing():
    found = swept(double(), prompts_of((6, 6), same=0), "z", ("layer", "pos", "head"))
    last = found.values[:, -1, :-1]
    assert (last == base_of(found)[..., 0]).all() and (found.values[:, -1, -1] != base_of(found)[:, 0, 0]).all()


@pytest.mark.parametrize("metric", [LogitDiff(at=("early", "end")), Loss()])
def test_in_the_last_layer_every_position_of_the_metric_counts(metric):
    for site, over in [("z", ("layer", "pos")), ("mlp_out", ("layer", "pos")), ("pattern", ("layer", "q_pos"))]:
        assert_equals_the_loop(double(), prompts_of((6, 6), same=1), Asked(site, over, metric=metric))


@pytest.mark.parametrize("site", ["k", "v", "k_input", "v_input"])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_keys_and_values_reach_every_later_query_and_their_own_from_their_layer_on(site, kind):
    model = model_of(CONFIGS[kind].change(n_layers=1), dtype=torch.float64)
    prompts = prompts_of((6, 6), same=0)
    prompts = replace(prompts, positions={"middle": [3, 3]})
    places = {"end": 5, "middle": 3}
    for at in places:
        asked = Asked(site, ("layer", "pos"), metric=LogitDiff(at=at))
        found = assert_equals_the_loop(model, prompts, asked)
        reached = (np.abs(found.values - base_of(found)) > 1e-9)[:, 0]
        differs = torch.tensor(prompts.clean) != torch.tensor(prompts.corrupted)
        for pos in range(6):
            assert (reached[:, pos] == (differs[:, pos].numpy() & (pos <= places[at]))).all(), (at, pos)


def test_a_query_reaches_its_own_row_alone():
    model = model_of(CONFIGS["gpt2"].change(n_layers=1), dtype=torch.float64)
    found = swept(model, prompts_of((6, 6), same=0), "q", ("layer", "pos"))
    assert (found.values[:, 0, :-1] == base_of(found)[..., 0]).all()


@pytest.mark.parametrize("site", ["pattern", "attn_scores"])
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_scores_of_minus_infinity_never_become_nan(site, direction):
    for over in [("layer", "q_pos", "k_pos"), ("layer", "k_pos"), ("layer", "head")]:
        found = assert_equals_the_loop(
            double("attention only"), prompts_of((5, 5), same=0), Asked(site, over, direction=direction)
        )
        assert np.isfinite(found.values).all()
        if over == ("layer", "q_pos", "k_pos"):
            ahead = np.triu(np.ones((5, 5), bool), 1)
            assert (found.values[:, :, ahead] == base_of(found)[..., 0]).all(), "keys that no query sees"


def test_a_pattern_that_does_not_sum_to_one_is_told():
    prompts, over = prompts_of((4, 4)), ("layer", "head", "q_pos", "k_pos")
    note = swept(double(), prompts, "pattern", over).record.settings["note"]
    assert "does not sum to 1" in note
    for site, axes in [("pattern", over[:3]), ("attn_scores", over), ("pattern", over[:2])]:
        assert "note" not in swept(double(), prompts, site, axes).record.settings
    by_key = patching.ablate(
        double(), prompts.pairs, site="pattern", over=("layer", "k_pos"), by=Zero(), progress=False
    )
    assert "does not sum to 1" in by_key.record.settings["note"]


def test_a_group_with_one_weight_of_a_pattern_is_told_too():
    prompts = prompts_of((4, 4))
    single = {"one weight": Site("pattern", layer=0, head=0, q_pos=3, k_pos=1)}
    grouped = patching.sweep(double(), prompts.pairs, over="group", groups=single, progress=False)
    assert "does not sum to 1" in grouped.record.settings["note"]
    found = swept(double(), prompts, Site("pattern", q_pos=3, k_pos=1), ("layer", "head"))
    assert "does not sum to 1" in found.record.settings["note"]


def test_of_several_sites_a_later_value_replaces_what_was_made_anew():
    prompts = prompts_of((6, 6), same=1)
    for sites in [("resid_pre", "resid_post"), ("q", "attn_out"), ("pre", "post")]:
        both, alone = (assert_equals_the_loop(double(), prompts, Asked(s, ("layer",))) for s in (sites, sites[-1]))
        assert both.values == pytest.approx(alone.values, abs=1e-9)
    both, alone = (swept(double(), prompts, sites, "layer") for sites in [("resid_post", "resid_pre"), "resid_post"])
    assert both.values == pytest.approx(alone.values, abs=1e-9), "the order in which they are named does not matter"


def test_a_prompt_gives_the_same_beside_a_longer_one():
    prompts, model = prompts_of((3, 12, 7), same=(1, 2, 0), answers=2), double("llama")
    asks = [
        ("resid_pre", ("layer", "position")),
        ("k", ("layer", "kv_head")),
        ("pattern", ("layer", "head")),
        ("post", "layer"),
    ]
    for site, over in asks:
        for metric in (LogitDiff(at=("end", "early")), Loss()):
            together = swept(model, prompts, site, over, metric=metric)
            for i in range(3):
                alone = swept(model, prompts.alone(i), site, over, metric=metric)
                assert together.values[i] == pytest.approx(alone.values[0], abs=1e-9)
                assert together.dataset["clean"].values[i] == pytest.approx(alone.dataset["clean"].values[0], abs=1e-9)


def test_what_stands_in_the_padding_does_not_matter():
    prompts, model = prompts_of((4, 7)), double()
    pairs = prompts.pairs
    other = copy.copy(pairs)
    for name in ("clean", "corrupted"):
        tokens = getattr(pairs, name)
        object.__setattr__(other, name, torch.where(pairs.mask, tokens, 11))
    for metric in (LogitDiff(), Loss()):
        ask = {"site": "v", "over": ("layer", "position"), "metric": metric, "progress": False}
        found = [patching.sweep(model, given, **ask).values for given in (pairs, other)]
        assert (found[0] == found[1]).all()


def test_the_end_is_each_prompt_s_own_last_token():
    prompts, model = prompts_of((3, 7), same=0), double()
    found = swept(model, prompts, "resid_post", ("layer", "position"))
    at_end = found.sel(position="end", layer=1).values
    assert at_end == pytest.approx(found.dataset["clean"].values, abs=1e-9)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_key_value_heads_are_patched_by_their_own_axis(kind):
    found = swept(double(kind), prompts_of((6, 6)), "v", ("layer", "kv_head"))
    assert found.shape == (2, 2, {"gpt2": 4, "llama": 2}[kind])


def test_turned_keys_bring_their_place_with_them_and_others_do_not():
    """An edit that moves keys by a position: with rot_k the distance that a query sees moves too."""
    model, prompts = double("llama"), prompts_of((6,))
    ask = {"over": ("layer",), "by": Shift(1), "progress": False}
    found = {site: patching.ablate(model, prompts.pairs, site=site, **ask).values for site in ("k", "rot_k")}
    assert not np.allclose(found["k"], found["rot_k"])


def test_the_metric_s_own_norm_is_computed_anew():
    """The final norm's scale belongs to each patched run, unless it is held."""
    found, held = (
        swept(double(), prompts_of((6, 6)), "mlp_out", ("layer", "pos"), freeze=f) for f in ((), ("ln_scale",))
    )
    assert not np.allclose(found.values, held.values)


@pytest.mark.parametrize("where", ["embed", "resid_mid", "z", "ln_final.hook_normalized"])
def test_standing_hooks_meet_every_run(where):
    prompts, model = prompts_of((6, 6)), double()
    plain = swept(model, prompts, "z", ("layer", "head"))
    model.add_hook(where if "." in where else f"{where}", lambda x, hook: 1.5 * x)
    found = assert_equals_the_loop(model, prompts, Asked("z", ("layer", "head")))
    assert not np.allclose(plain.values, found.values)
    assert_equals_the_loop(model, prompts, Asked("resid_pre", ("layer", "pos"), direction="noise"))
    model.reset_hooks()
    assert (swept(model, prompts, "z", ("layer", "head")).values == plain.values).all()


def test_hooks_of_a_with_block_join_a_sweep_inside_it():
    prompts, model = prompts_of((6, 6)), double()
    with model.hooks(fwd_hooks=[("blocks.1.hook_mlp_out", lambda x, hook: 0 * x)]):
        inside = assert_equals_the_loop(model, prompts, Asked("resid_pre", ("layer", "pos")))
    outside = assert_equals_the_loop(model, prompts, Asked("resid_pre", ("layer", "pos")))
    assert not np.allclose(inside.values, outside.values)


class Half(nn.Module):
    """A module of somebody else."""

    def forward(self, x):
        return x / 2


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(10, 10, dtype=torch.float64)

    def forward(self, x, *more, **others):
        return self.inner(x)


FOREIGN = ["hook_embed", "blocks.0.hook_mlp_out", "blocks.1.attn.hook_z", "blocks.1.mlp", "blocks.0.ln2", "ln_final"]


@pytest.mark.parametrize("path", FOREIGN)
def test_a_model_with_a_foreign_module_in_it_is_patched_plainly_and_right(path):
    torch.manual_seed(0)
    model = double()
    plain = swept(model, prompts_of((6, 6)), "resid_mid", ("layer", "pos"))
    place, _, name = path.rpartition(".")
    setattr(model.get_submodule(place), name, Half() if "hook" in name else Linear())
    model.setup()
    for site, over in [("resid_mid", ("layer", "pos")), ("k", ("layer", "head")), ("attn_out", "layer")]:
        for direction in ("denoise", "noise"):
            found = assert_equals_the_loop(model, prompts_of((6, 6)), Asked(site, over, direction=direction), limit=5)
        if site == "resid_mid":
            assert not np.allclose(found.values, plain.values)


def test_a_foreign_block_is_run_plainly_too():
    model = double(CONFIGS["gpt2"].change(n_layers=3))
    model.blocks[1] = Linear()
    model.setup()
    assert_equals_the_loop(model, prompts_of((6, 6)), Asked("resid_pre", ("layer", "pos")))


def traces(model):
    """Everything that a sweep could leave on a model."""
    return {
        "weights": {name: x.clone() for name, x in model.state_dict().items()},
        "grad": {name: (x.requires_grad, x.grad is None, x.data_ptr()) for name, x in model.named_parameters()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "hooks": list(model.board),
        "names": list(model.hook_names),
        "enabled": torch.is_grad_enabled(),
    }


def assert_untouched(model, before):
    after = traces(model)
    assert all(torch.equal(x, after["weights"][name]) for name, x in before.pop("weights").items())
    assert before == {name: part for name, part in after.items() if name != "weights"}


ASKS = [
    {"site": "resid_pre", "over": ("layer", "pos")},
    {"site": ("q", "z"), "over": ("layer", "head"), "freeze": ("pattern",)},
    {"site": "pattern", "over": ("layer", "head", "q_pos", "k_pos")},
    {"site": "post", "over": ("layer", "neuron")},
]


@pytest.mark.parametrize("ask", ASKS, ids=lambda ask: str(ask["site"]))
@pytest.mark.parametrize("training", [True, False])
def test_a_sweep_leaves_the_model_as_it_was(ask, training):
    model = model_of("gpt2").train(training)
    model.blocks[0].attn.W_Q.requires_grad_(False)
    before = traces(model)
    patching.sweep(model, prompts_of((6, 6)).pairs, **ask, progress=False)
    patching.ablate(model, prompts_of((6, 6)).pairs, **ask, by=Zero(), progress=False)
    assert_untouched(model, before)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("after", [0, 3])
def test_a_sweep_that_is_interrupted_leaves_the_model_as_it_was(error, after):
    model, calls = model_of("gpt2"), []

    def failing(logits, pairs):
        calls.append(1)
        if len(calls) > after:
            raise error("stop")
        return logits[:, -1, 0]

    before = traces(model)
    with pytest.raises(error, match="stop"):
        swept(model, prompts_of((6, 6)), "z", ("layer", "head"), metric=failing)
    assert_untouched(model, before)
    assert len(calls) == after + 1


@pytest.mark.parametrize("grad", [True, False])
def test_a_sweep_asks_for_no_gradients_and_gives_none(grad):
    seen = []

    def looking(logits, pairs):
        seen.append((logits.requires_grad, torch.is_grad_enabled()))
        return logits[:, -1, 0]

    with torch.set_grad_enabled(grad):
        swept(model_of("gpt2"), prompts_of((6, 6)), "z", "layer", metric=looking)
    assert set(seen) == {(False, False)}


def test_what_is_given_to_a_sweep_stays_as_it_is():
    prompts = prompts_of((6, 6))
    pairs, model = prompts.pairs, double()
    before = [pairs.clean.clone(), pairs.corrupted.clone(), pairs.mask.clone(), pairs.answer.clone()]
    groups = {"one": [Site("z", layer=0, head=1)]}
    patching.sweep(model, pairs, over="group", groups=groups, progress=False)
    assert groups == {"one": [Site("z", layer=0, head=1)]}
    after = [pairs.clean, pairs.corrupted, pairs.mask, pairs.answer]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_same_sweep_gives_the_same_numbers_again():
    model, prompts = model_of("gpt2"), prompts_of((6, 6))
    for ask in ASKS:
        found = [patching.sweep(model, prompts.pairs, **ask, progress=False) for _ in range(2)]
        assert (found[0].values == found[1].values).all() and found[0].record == found[1].record


def test_answers_at_positions_of_one_prompt_are_not_those_of_another():
    prompts = prompts_of((6, 6, 6), same=(0, 2, 4), answers=3)
    asked = Asked("resid_pre", ("pos", "layer"), metric=Logit(at="early"))
    found = assert_equals_the_loop(double(), prompts, asked)
    assert found.dims == ("prompt", "pos", "layer")


def test_a_cell_s_value_is_the_same_whatever_the_split():
    model, prompts = double(), prompts_of((6, 6, 6), same=(0, 1, 2))
    for site, over in [
        ("post", ("layer", "pos", "neuron")),
        ("v", ("layer", "pos", "kv_head")),
        (("z", "k"), ("layer", "pos")),
    ]:
        whole = swept(model, prompts, site, over)
        small = swept(model, prompts, site, over, max_memory=smallest(model, prompts, site=site, over=over))
        assert small.values == pytest.approx(whole.values, abs=1e-9)


def smallest(model, prompts, **ask) -> int:
    """The bound that an error tells is needed."""
    with pytest.raises(TooLargeError) as caught:
        patching.sweep(model, prompts.pairs, **ask, max_memory=1, progress=False)
    told = re.search(r"([\d.]+) MB", str(caught.value))
    assert told is not None
    return int(1e6 * (float(told[1]) + 0.1))


def test_the_loop_and_a_sweep_see_one_more_token_alike():
    """A prompt of one token, and one as long as the context."""
    for lengths in ((1, 1), (16, 16), (1, 16)):
        over = ("layer", "position") if len(set(lengths)) > 1 else ("layer", "pos")
        for site in ("resid_pre", "v", "post"):
            assert_equals_the_loop(double("llama"), prompts_of(lengths, same=0), Asked(site, over), limit=10)
    assert loop.points(double("llama"), "attn_in") == []
