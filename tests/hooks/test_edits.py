"""Each kind of edit equals the same edit made in a transformer written out in plain torch."""

from hashlib import sha256

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pellucid import Add, Edit, Mean, Noise, Replace, Resample, Scale, Shift, Site, Zero
from pellucid.base.errors import ArgumentError, UnknownNameError
from pellucid.hooks.names import axes, layer_of, short_name
from pellucid.text.vocabulary import integer_vocabulary
from tests.models import CONFIGS, N_CTX, assert_agree, model_of, tokens_of
from tests.reference.literal import literal

MODELS = {kind: model_of(kind, dtype=torch.float64) for kind in CONFIGS}
POINTS = {kind: [name for name in model.hook_names if "ln" not in name] for kind, model in MODELS.items()}
AXES_OF = {name: axes(name) for points in POINTS.values() for name in points}
BATCH, POS = 2, 5
SIZES = {"batch": BATCH, "pos": POS, "q_pos": POS, "k_pos": POS, "head": 4, "d_head": 6, "d_model": 10, "neuron": 14}


def every_axis(model):
    return {**SIZES, "kv_head": model.config.attention.kv_heads, "scale": 1}


def indices(size):
    numbers = st.integers(-size, size - 1)
    lists = st.lists(numbers, min_size=1, max_size=size, unique_by=lambda i: i % size)
    slices = st.builds(slice, st.none() | numbers, st.none() | st.integers(-size, size), st.sampled_from([None, 1, 2]))
    return st.none() | numbers | lists | slices.filter(lambda index: range(size)[index])


def picked(index, size):
    """The plain list of what an index means."""
    if isinstance(index, int):
        index = [index]
    return [i % size for i in index] if isinstance(index, list) else list(range(size))[index or slice(None)]


@st.composite
def sites(draw):
    """A model, a site of it, the points that it lies at, and the numbers it picks on each axis."""
    kind = draw(st.sampled_from(sorted(CONFIGS)))
    model = MODELS[kind]
    full = draw(st.sampled_from(POINTS[kind]))
    sizes = every_axis(model)
    where = {axis: draw(indices(sizes[axis])) for axis in AXES_OF[full] if axis in Site.__dataclass_fields__}
    layer = layer_of(full)
    if layer is not None:
        where["layer"] = draw(st.sampled_from([None, layer, [layer], layer - 2, [1, 0]]))
    points = [full] if layer is None else [full.replace(f"blocks.{layer}.", f"blocks.{i}.") for i in range(2)]
    if layer is not None and where["layer"] not in (None, [1, 0]):
        points = [full]
    cells = [picked(where.get(axis), sizes[axis]) for axis in AXES_OF[full]]
    return model, short_name(full), where, points, cells


def edited(model, tokens, points, cells, change):
    """The literal transformer, whose cells are changed by `change(part, name, x)`."""

    def at(name):
        def edit(x):
            out = x.detach().clone()
            out.numpy()[np.ix_(*cells)] = change(x[np.ix_(*cells)].detach(), name, x.detach())
            return out

        return edit

    return literal(model, tokens, edit={name: at(name) for name in points})


def assert_same(model, tokens, edit, points, cells, change):
    logits, values = edited(model, tokens, points, cells, change)
    run = model.run(tokens, edits=[edit], reads=model.hook_names)
    assert_agree({"logits": run.logits, **run.cache}, {"logits": logits, **values}, within=1e-10)


@settings(max_examples=60)
@given(sites(), st.sampled_from(["Zero", "Scale", "Add", "Replace", "Noise"]))
def test_an_edit_of_any_part_equals_the_same_edit_made_by_hand(site, kind):
    model, name, where, points, cells = site
    tokens = tokens_of(model.config, batch=BATCH, pos=POS)
    shape = [len(cell) for cell in cells]
    given = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def noise(name):
        seed = int.from_bytes(sha256(f"5 {name}".encode()).digest()[:8], "big", signed=True)
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()

    edit, change = {
        "Zero": (Zero(name, **where), lambda part, *_: 0 * part.nan_to_num(0, 0, 0)),
        "Scale": (Scale(1.5, name, **where), lambda part, *_: 1.5 * part),
        "Add": (Add(given, name, **where), lambda part, *_: part + given),
        "Replace": (Replace(given, name, **where), lambda part, *_: given),
        "Noise": (Noise(name, std=0.3, seed=5, **where), lambda part, name, _: part + 0.3 * noise(name)),
    }[kind]
    assert_same(model, tokens, edit, points, cells, change)


@settings(max_examples=20)
@given(sites(), st.booleans())
def test_a_mean_over_prompts_is_what_the_mean_of_their_literal_runs_is(site, per_position):
    model, name, where, points, cells = site
    per_position = per_position or "pos" not in AXES_OF[points[0]]
    over = tokens_of(model.config, batch=3, pos=POS if per_position else POS + 2, seed=9)
    _, others = literal(model, over)
    means = {n: others[n].detach().mean([0] if per_position else [0, 1], keepdim=True) for n in points}

    def change(part, name, x):
        return means[name].expand_as(x)[np.ix_(*cells)]

    edit = Mean(name, over=over, per_position=per_position, **where)
    assert_same(model, tokens_of(model.config, batch=BATCH, pos=POS), edit, points, cells, change)


@settings(max_examples=20)
@given(sites(), st.integers(1, 3))
def test_a_shift_gives_each_position_what_stood_before_it(site, by):
    model, name, where, points, cells = site
    assume("pos" in AXES_OF[points[0]])
    cells[1] = [p for p in cells[1] if p >= by]
    assume(cells[1])
    sources = [cells[0], [p - by for p in cells[1]], *cells[2:]]
    where["pos"] = cells[1] if where.get("pos") is not None else None

    def change(part, name, x):
        return x[np.ix_(*sources)]

    edit = Shift(by, name, **where)
    assert_same(model, tokens_of(model.config, batch=BATCH, pos=POS), edit, points, cells, change)


@pytest.mark.parametrize("name", ["z", "resid_post", "pattern"])
def test_resampling_gives_each_prompt_a_donor_s_value_the_same_donor_at_every_layer(name):
    model = MODELS["gpt2"]
    tokens, source = tokens_of(batch=6, pos=POS), tokens_of(batch=3, pos=POS, seed=9)
    donors = model.run(source, reads=name).cache
    head = {} if name == "resid_post" else {"head": 2}
    cache = model.run(tokens, edits=[Resample(name, source=source, seed=1, **head)], reads=name).cache
    chosen = []
    for full, values in cache.items():
        site = Site(full, **head)
        matches = [[torch.equal(value, donor) for donor in site.of(donors[full])] for value in site.of(values)]
        assert all(sum(row) == 1 for row in matches)
        chosen.append([row.index(True) for row in matches])
    assert chosen[0] == chosen[1]
    assert len(set(chosen[0])) > 1
    again = model.run(tokens, edits=[Resample(name, source=source, seed=1, **head)], reads=name).cache
    other = model.run(tokens, edits=[Resample(name, source=source, seed=3, **head)], reads=name).cache
    assert all(torch.equal(again[full], cache[full]) for full in cache)
    assert not all(torch.equal(other[full], cache[full]) for full in cache)


def test_an_edit_is_seen_by_all_that_comes_after_and_by_nothing_before():
    model, tokens = MODELS["gpt2"], tokens_of(pos=POS)
    before = model.run(tokens, reads=None).cache
    after = model.run(tokens, edits=[Zero("z", layer=1, head=0)], reads=None).cache
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed[0] == "blocks.1.attn.hook_z"
    assert changed == list(before)[list(before).index("blocks.1.attn.hook_z") :]


def test_edits_act_in_their_order():
    model, tokens = MODELS["gpt2"], tokens_of(pos=POS)
    site = Site("resid_post", layer=0, pos=1)
    doubled = model.run(tokens, edits=[Replace(torch.ones(10), site), Scale(2.0, site)], reads="resid_post").cache
    replaced = model.run(tokens, edits=[Scale(2.0, site), Replace(torch.ones(10), site)], reads="resid_post").cache
    assert doubled["resid_post", 0][:, 1].eq(2).all()
    assert replaced["resid_post", 0][:, 1].eq(1).all()


def test_edits_come_after_standing_hooks():
    model, tokens = model_of("gpt2"), tokens_of(pos=POS)
    model.add_hook("blocks.0.hook_resid_post", lambda x, hook: x * 0 + 1)
    run = model.run(tokens, edits=[Scale(3.0, "resid_post", layer=0)], reads="resid_post")
    assert run.cache["resid_post", 0].eq(3).all()


def test_values_of_low_precision_are_taken_in_the_activation_s_dtype():
    model = model_of("gpt2", dtype=torch.bfloat16)
    value = torch.full((10,), 0.1, dtype=torch.float64)
    cache = model.run(tokens_of(), edits=[Replace(value, "resid_post", layer=0)], reads="resid_post").cache
    assert cache["resid_post", 0].dtype == torch.bfloat16
    assert cache["resid_post", 0].eq(value.bfloat16()).all()


def test_an_edit_changes_neither_its_own_value_nor_a_weight():
    model, tokens = MODELS["gpt2"], tokens_of(pos=POS)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    value = torch.ones(10, dtype=torch.float64)
    run = model.run(tokens, edits=[Replace(value, "pos_embed"), Scale(0.0, "pos_embed")], reads="pos_embed")
    assert run.cache["hook_pos_embed"].eq(0).all()
    assert value.eq(1).all()
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())


def test_an_edit_is_placed_anew_by_at_and_stays_as_it_was():
    edit = Zero("z", layer=0)
    placed = edit.at(Site("z", layer=1))
    assert edit.site == Site("z", layer=0)
    assert placed.site == Site("z", layer=1)
    assert isinstance(placed, Zero)


def test_resolving_runs_the_model_once_at_most():
    model = model_of("gpt2")
    runs = []
    model.add_perma_hook("hook_embed", lambda x, hook: runs.append(len(x)))
    Zero("z").resolve(model)
    assert runs == []
    found = Mean("z", over=tokens_of(batch=3)).resolve(model)
    assert runs == [3]
    assert list(found) == ["blocks.0.attn.hook_z", "blocks.1.attn.hook_z"]
    assert all(isinstance(edit, Edit) for edit in found.values())


def test_a_mean_does_not_keep_a_graph():
    model = model_of("gpt2")
    (edit,) = Mean("z", layer=0, over=tokens_of()).resolve(model).values()
    x = torch.zeros(2, 7, 4, 6)
    assert not edit.apply(x).requires_grad


def test_gradients_flow_through_what_an_edit_leaves_and_through_its_value():
    value = torch.ones(10, requires_grad=True)
    x = torch.zeros(2, 4, 10, requires_grad=True)
    Add(value, "resid_post", pos=1).apply(x).sum().backward()
    assert value.grad is not None and value.grad.eq(2).all()
    assert x.grad is not None and x.grad.eq(1).all()


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: Zero("pattern", pos=1), "pos must be an axis of 'pattern', .* leave it out or give q_pos"),
        (lambda: Zero("k", head=1), "head must be an axis of 'k', .* or give kv_head"),
        (
            lambda: Zero("z", neuron=1),
            "neuron must be an axis of 'z', whose axes are batch pos head d_head, got neuron=1",
        ),
        (lambda: Zero(Site("z"), head=1), "head must go with a site's name"),
        (lambda: Zero(None, head=1), "head must go with a site's name, got None"),
        (lambda: Shift(0, "z"), "by must be 1 or more positions, got 0"),
        (lambda: Noise("z", std=-1.0), "std must be 0 or more, got -1.0"),
        (lambda: Zero("z", head=True), "head must be given by number, got the boolean True"),
        (lambda: Zero("zz"), "no hook point is named 'zz'"),
        (lambda: Zero("blocks.1.attn.hook_z", layer=0), "layer must be the one in 'blocks.1.attn.hook_z', got layer=0"),
    ],
)
def test_an_edit_that_cannot_be_is_refused_when_it_is_made(make, said):
    with pytest.raises((ArgumentError, UnknownNameError), match=said):
        make()


@pytest.mark.parametrize(
    "edit, said",
    [
        (Zero(), r"Zero\(site=None\) must have a site; name one"),
        (Zero("z", head=4), r"head must lie in 0\.\.3, got 4"),
        (Zero("z", head=[0, -5]), r"head must lie in 0\.\.3, got -5"),
        (Zero("z", pos="subject"), "pos must be a number here, got the name 'subject'"),
        (
            Replace(torch.ones(3), "z"),
            r"must give values that fit \[2, 7, 4, 6\] \(axes batch pos head d_head\), got: .*3",
        ),
        (Add(torch.zeros(5), "z"), r"must give values that fit \[2, 7, 4, 6\].*, got: .*5.*; give each axis its size"),
        (Zero("z", pos=slice(99, 100)), r"pos must mean at least one of 0\.\.6, got slice\(99, 100, None\)"),
        (Shift(2, "z", pos=[1, 3]), r"Shift\(by=2\) needs positions from 2 to 6, got \[1, 3\]"),
        (Shift(7, "z"), r"Shift\(by=7\) needs positions from 7 to 6"),
        (Shift(1, "pattern"), "Shift needs an activation with a pos axis, got 'pattern'"),
        (Mean("pattern", over=tokens_of()), "Mean of 'pattern' must be per position.*per_position=True"),
        (Mean("z", over=tokens_of(pos=3), per_position=True), "must have pos 7 as the run.*, got 3"),
        (Resample("z", source=tokens_of(pos=3)), "must have pos 7 as the run.*, got 3"),
        (Zero("mlp_out", layer=2), "no hook point is named 'blocks.2.hook_mlp_out'"),
        (Zero("pre_linear"), "no hook point is named 'pre_linear'; there is: .*mlp_out, .*pos_embed, post, pre, q"),
    ],
)
def test_an_edit_that_does_not_fit_the_run_is_refused(edit, said):
    with pytest.raises((ArgumentError, UnknownNameError), match=said):
        MODELS["gpt2"].run(tokens_of(), edits=[edit])
    assert MODELS["gpt2"].board == []


def test_a_shorter_name_of_a_site_counts_too():
    assert Site("attn", layer=0, head=1).points(MODELS["gpt2"].hook_names) == ["blocks.0.attn.hook_pattern"]
    assert Site("hook_z", layer=0).points(MODELS["gpt2"].hook_names) == ["blocks.0.attn.hook_z"]
    assert Site("blocks.0.ln2.hook_scale").points(MODELS["gpt2"].hook_names) == ["blocks.0.ln2.hook_scale"]


def test_the_context_is_longer_than_these_prompts():
    assert N_CTX > POS + 2


def test_noise_is_another_at_each_point_and_the_same_for_the_same_seed():
    def noise(**more):
        edit = Noise("resid_pre", std=0.5, **more)
        placed = edit.resolve(MODELS["gpt2"])
        return [placed[f"blocks.{layer}.hook_resid_pre"].apply(torch.zeros(2, 7, 10)) for layer in range(2)]

    first, second = noise(seed=3)
    assert not torch.equal(first, second)
    assert abs(float((first * second).mean())) < 0.1
    assert all(torch.equal(a, b) for a, b in zip(noise(seed=3), (first, second), strict=True))
    assert not torch.equal(noise(seed=4)[0], first)


def test_numbers_are_taken_as_a_tensor():
    x = torch.randn(1, 2, 3)
    assert torch.equal(Replace(2.0, "resid_pre").apply(x), torch.full_like(x, 2.0))
    assert torch.equal(Add([1.0, 2.0, 3.0], "resid_pre").apply(x), x + torch.tensor([1.0, 2.0, 3.0]))
    assert torch.equal(Replace(0, "resid_pre", pos=1).apply(x)[:, 1], torch.zeros(1, 3))


def test_one_edit_needs_no_list():
    model, tokens = MODELS["gpt2"], tokens_of()
    assert torch.equal(model.run(tokens, edits=Zero("z")).logits, model.run(tokens, edits=[Zero("z")]).logits)


@pytest.mark.parametrize("per_position", [False, True])
@pytest.mark.parametrize("name", ["z", "pattern"])
def test_a_mean_over_many_prompts_is_that_of_one_run(monkeypatch, name, per_position):
    if name == "pattern" and not per_position:
        pytest.skip("a pattern has no mean over positions")
    model, over = model_of(dtype=torch.float64), tokens_of(batch=8)
    edit = Mean(name, over=over, per_position=per_position)
    whole = {point: placed.tensor for point, placed in edit.resolve(model).items()}
    monkeypatch.setattr("pellucid.hooks.edits.PROMPTS", 3)
    parts = {point: placed.tensor for point, placed in edit.resolve(model).items()}
    assert_agree(parts, whole, within=1e-12)


def test_a_mean_over_texts_counts_what_is_real_whatever_stands_beside_it(monkeypatch):
    model = model_of(dtype=torch.float64, tokenizer=integer_vocabulary(17))
    edit = Mean("z", over=["3 4 5 6", "7", "8 9", "1 2 3 4 5"])
    whole = {point: placed.tensor for point, placed in edit.resolve(model).items()}
    monkeypatch.setattr("pellucid.hooks.edits.PROMPTS", 2)
    parts = {point: placed.tensor for point, placed in edit.resolve(model).items()}
    assert_agree(parts, whole, within=1e-12)


def test_means_by_position_of_prompts_of_other_lengths_are_refused(monkeypatch):
    monkeypatch.setattr("pellucid.hooks.edits.PROMPTS", 1)
    model = model_of(tokenizer=integer_vocabulary(17))
    with pytest.raises(ArgumentError, match="per position needs prompts of one length, got"):
        Mean("z", over=["3 4 5", "7"], per_position=True).resolve(model)
