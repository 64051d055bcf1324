"""Hooks given to a run: what they see, what they may give, when they end."""

import threading
from functools import partial

import pytest
import torch

from pellucid import HookPoint, Zero
from pellucid.base.errors import ArgumentError, HookError, MisreadWarning, UnknownNameError
from tests.models import CONFIGS, model_of, tokens_of, unchecked
from tests.reference.literal import literal

TOKENS = tokens_of()
Z0 = "blocks.0.attn.hook_z"


@pytest.fixture
def model():
    return model_of("gpt2")


@pytest.fixture
def plain(model):
    return model.run_with_cache(TOKENS)[0]


def zeroed(x):
    out = x.clone()
    out[:, :, 1] = 0
    return out


def edits_in_place(z, hook):
    z[:, :, 1] = 0


def edits_in_place_and_returns(z, hook):
    z[:, :, 1] = 0
    return z


def returns_another(z, hook):
    return zeroed(z)


@pytest.mark.parametrize("hook", [edits_in_place, edits_in_place_and_returns, returns_another])
def test_a_hook_edits_in_place_or_returns_what_takes_the_place(model, hook):
    expected, _ = literal(model, TOKENS, edit={Z0: zeroed})
    found = model.run_with_hooks(TOKENS, fwd_hooks=[(Z0, hook)])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_hook_that_only_reads_changes_not_one_bit(model, plain):
    seen = []
    found = model.run_with_hooks(TOKENS, fwd_hooks=[(None, lambda x, hook: seen.append(hook.name))])
    assert torch.equal(found, plain)
    assert seen == list(model.run_with_cache(TOKENS)[1])


def test_hooks_are_called_with_the_point_as_hook_so_that_partial_binds_the_rest(model):
    def patch(resid_pre, hook: HookPoint, position: int):
        assert isinstance(hook, HookPoint)
        resid_pre[:, position] = clean[hook.name][:, position]
        return resid_pre

    _, clean = model.run_with_cache(tokens_of(seed=1))
    name = "blocks.1.hook_resid_pre"
    found = model.run_with_hooks(TOKENS, fwd_hooks=[(name, partial(patch, position=2))])

    def same(x):
        return torch.cat([x[:, :2], clean[name][:, 2:3], x[:, 3:]], dim=1)

    torch.testing.assert_close(found, literal(model, TOKENS, edit={name: same})[0], rtol=0, atol=1e-5)


def test_a_hook_tells_its_point_s_name_layer_and_context(model):
    def remember(x, hook):
        hook.ctx["mean"] = x.mean()
        seen.append((hook.name, hook.layer()))

    seen = []
    model.run_with_hooks(TOKENS, fwd_hooks=[("pattern", remember)])
    assert seen == [("blocks.0.attn.hook_pattern", 0), ("blocks.1.attn.hook_pattern", 1)]
    assert model.blocks[1].attn.hook_pattern.ctx["mean"] > 0
    with pytest.raises(ArgumentError, match="hook.layer.. needs a point inside a block, got 'hook_embed'"):
        model.run_with_hooks(TOKENS, fwd_hooks=[("hook_embed", lambda x, hook: hook.layer() and None)])


def test_contexts_are_forgotten_when_the_run_ends_if_asked(model):
    def remember(x, hook):
        hook.ctx["here"] = True

    model.run_with_hooks(TOKENS, fwd_hooks=[(Z0, remember)])
    assert model.hook_dict[Z0].ctx == {"here": True}
    model.run_with_hooks(TOKENS, fwd_hooks=[(Z0, remember)], clear_contexts=True)
    assert model.hook_dict[Z0].ctx == {}


def test_hooks_at_one_point_act_in_the_order_given(model):
    order = []

    def hook(x, hook, number):
        order.append((number, float(x.detach()[0, 0, 0, 0])))
        return torch.full_like(x, number)

    model.run_with_hooks(TOKENS, fwd_hooks=[(Z0, partial(hook, number=n)) for n in (3, 1, 2)])
    assert [number for number, _ in order] == [3, 1, 2]
    assert [seen for _, seen in order[1:]] == [3, 1]


@pytest.mark.parametrize(
    "where, points",
    [
        (Z0, [Z0]),
        (("z", 0), [Z0]),
        (("z", -1, "attn"), ["blocks.1.attn.hook_z"]),
        ("z", [Z0, "blocks.1.attn.hook_z"]),
        (["hook_embed", ("z", 0)], ["hook_embed", Z0]),
        (lambda name: name.endswith("hook_z"), [Z0, "blocks.1.attn.hook_z"]),
        ("result", ["blocks.0.attn.hook_result", "blocks.1.attn.hook_result"]),
        (lambda name: name.endswith("attn_in"), ["blocks.0.hook_attn_in", "blocks.1.hook_attn_in"]),
    ],
)
def test_where_a_hook_goes_is_said_by_name_shorthand_list_or_callable(model, where, points):
    seen = []
    model.run_with_hooks(TOKENS, fwd_hooks=[(where, lambda x, hook: seen.append(hook.name))])
    assert seen == points
    with model.hooks(fwd_hooks=[(where, lambda x, hook: seen.append(hook.name))]):
        model(TOKENS)
    model.add_hook(where, lambda x, hook: seen.append(hook.name))
    model(TOKENS)
    assert seen == points * 3


@pytest.mark.parametrize("way", ["run_with_hooks", "hooks", "add_hook", "add_perma_hook"])
def test_a_name_that_means_nothing_is_an_error_before_anything_runs(model, way):
    ran = []
    model.add_perma_hook("hook_embed", lambda x, hook: ran.append(1))
    with pytest.raises(UnknownNameError, match="'blocks.0.hook_v'; nearest: .*attn.hook_v"):
        if way == "run_with_hooks":
            model.run_with_hooks(TOKENS, fwd_hooks=[("blocks.0.hook_v", print)])
        elif way == "hooks":
            with model.hooks(bwd_hooks=[("blocks.0.hook_v", print)]):
                pass
        else:
            getattr(model, way)("blocks.0.hook_v", print)
    assert ran == []
    assert len(model.board) == 1


def test_a_hook_that_takes_points_on_demand_among_others_leaves_them_out_and_warns(model):
    seen = []
    with pytest.warns(MisreadWarning, match="attn_in, k_input, mlp_in, q_input, result, v_input"):
        model.run_with_hooks(TOKENS, fwd_hooks=[(lambda name: True, lambda x, hook: seen.append(hook.name))])
    assert seen and not [name for name in seen if "_in" in name or "result" in name]


@pytest.mark.parametrize("pair", [("hook_embed",), ("hook_embed", 3), "hook_embed", ("hook_embed", print, 3)])
def test_a_hook_that_is_no_pair_of_place_and_function_is_refused(model, pair):
    with unchecked(), pytest.raises(ArgumentError, match="a hook must be a pair .where, function., got"):
        model.run_with_hooks(TOKENS, fwd_hooks=[pair])


def wrong_shape(x, hook):
    return x[:, :1]


@pytest.mark.parametrize(
    "hook, said",
    [
        (wrong_shape, r"shape at blocks.0.attn.hook_z must stay \[2, 7, 4, 6\], got \[2, 1, 4, 6\] from wrong_shape"),
        (
            lambda x, hook: x.double(),
            r"dtype at blocks.0.attn.hook_z must stay torch.float32, got torch.float64 from .*lambda",
        ),
        (lambda x, hook: x.to("meta"), "device at blocks.0.attn.hook_z must stay cpu, got meta"),
        (lambda x, hook: x.numpy(force=True), "gives at blocks.0.attn.hook_z must be a tensor or None, got ndarray"),
        (lambda x, hook: (x,), "must be a tensor or None, got tuple"),
        (partial(lambda x, hook, by: x.sum(), by=1), r"shape at .* must stay .*, got \[\] from partial"),
    ],
)
def test_what_cannot_take_the_place_is_refused_with_point_expected_and_found(model, plain, hook, said):
    with pytest.raises(HookError, match=said):
        model.run_with_hooks(TOKENS, fwd_hooks=[(Z0, hook)])
    assert torch.equal(model.run_with_cache(TOKENS)[0], plain)


def test_hooks_of_a_run_end_with_it(model, plain):
    model.run_with_hooks(TOKENS, fwd_hooks=[(Z0, edits_in_place)])
    assert torch.equal(model.run_with_cache(TOKENS)[0], plain)
    assert model.board == []


def test_hooks_of_a_run_stay_if_asked_until_they_are_reset(model, plain):
    hooked = model.run_with_hooks(TOKENS, fwd_hooks=[(Z0, edits_in_place)], reset_hooks_end=False)
    assert torch.equal(model(TOKENS), hooked)
    assert not torch.equal(hooked, plain)
    model.reset_hooks()
    assert torch.equal(model.run_with_cache(TOKENS)[0], plain)


def test_hooks_of_a_block_act_in_every_call_inside_and_never_after(model, plain):
    hooked = model.run_with_hooks(TOKENS, fwd_hooks=[(Z0, edits_in_place)])
    with model.hooks(fwd_hooks=[(Z0, edits_in_place)]) as inside:
        assert inside is model
        assert torch.equal(model(TOKENS), hooked)
        assert torch.equal(model.run_with_cache(TOKENS)[0], hooked)
        assert torch.equal(model.run(TOKENS, attention="explicit").logits, hooked)
    assert torch.equal(model.run_with_cache(TOKENS)[0], plain)
    assert torch.equal(model(TOKENS), model_of("gpt2")(TOKENS))


def test_blocks_may_lie_in_each_other_and_the_inner_acts_later(model):
    order = []
    with model.hooks(fwd_hooks=[(Z0, lambda x, hook: order.append("outer"))]):
        with model.hooks(fwd_hooks=[(Z0, lambda x, hook: order.append("inner"))]):
            model.run_with_hooks(TOKENS, fwd_hooks=[(Z0, lambda x, hook: order.append("run"))])
        model(TOKENS)
    model(TOKENS)
    assert order == ["outer", "inner", "run", "outer"]


def test_a_block_that_keeps_its_hooks_leaves_them_standing(model):
    seen = []
    with model.hooks(fwd_hooks=[(Z0, lambda x, hook: seen.append(1))], reset_hooks_end=False):
        pass
    model(TOKENS)
    assert seen == [1]
    model.reset_hooks()
    assert model.board == []


def test_a_block_forgets_contexts_if_asked(model):
    point = model.hook_dict[Z0]
    for clear, left in ((False, {"x": 1}), (True, {})):
        with model.hooks(fwd_hooks=[(Z0, lambda x, hook: hook.ctx.update(x=1))], clear_contexts=clear):
            model(TOKENS)
        assert point.ctx == left


def test_a_reset_inside_a_block_takes_its_hooks_and_the_block_still_ends_well(model, plain):
    with model.hooks(fwd_hooks=[(Z0, edits_in_place)]):
        model.reset_hooks()
        assert torch.equal(model.run_with_cache(TOKENS)[0], plain)
    assert model.board == []


def test_the_same_hook_may_be_given_twice(model):
    count = []

    def hook(x, hook):
        count.append(1)

    with model.hooks(fwd_hooks=[(Z0, hook)]):
        with model.hooks(fwd_hooks=[(Z0, hook)]):
            model(TOKENS)
        model(TOKENS)
    assert len(count) == 3


def test_hooks_of_one_thread_s_block_join_no_run_of_another(model, plain):
    found = {}

    def elsewhere():
        found["logits"] = model(TOKENS)
        with model.hooks(fwd_hooks=[("hook_embed", lambda x, hook: found.setdefault("own", True) and None)]):
            model(TOKENS)

    seen = []
    fused = model(TOKENS)
    with model.hooks(fwd_hooks=[("hook_embed", lambda x, hook: seen.append(1))]):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert seen == []
        model(TOKENS)
    assert seen == [1]
    assert found["own"]
    assert torch.equal(found["logits"], fused)
    assert model.board == []


def test_runs_with_hooks_overlap_in_threads(model):
    inputs = [tokens_of(seed=seed) for seed in range(6)]
    factors = [1.0 + seed for seed in range(6)]

    def scaled(tokens, factor):
        return model.run_with_hooks(tokens, fwd_hooks=[("z", lambda x, hook: x * factor)])

    def in_block(tokens, factor):
        with model.hooks(fwd_hooks=[("z", lambda x, hook: x * factor)]):
            return model(tokens)

    expected = [scaled(*pair) for pair in zip(inputs, factors, strict=True)]
    found = [[] for _ in inputs]

    def work(i):
        for _ in range(10):
            found[i] += [scaled(inputs[i], factors[i]), in_block(inputs[i], factors[i])]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(len(runs) == 20 for runs in found)
    assert all(torch.equal(run, expected[i]) for i, runs in enumerate(found) for run in runs)
    assert model.board == []


def test_a_hook_may_run_the_model_itself(model, plain):
    inner = []

    def hook(x, hook):
        inner.append(model.run_with_cache(TOKENS, names_filter="hook_embed")[0])

    found = model.run_with_hooks(TOKENS, fwd_hooks=[("hook_embed", hook)])
    assert torch.equal(found, plain)
    assert torch.equal(inner[0], plain)


@pytest.mark.parametrize("kind", CONFIGS)
def test_hooks_that_edit_in_place_everywhere_touch_no_weight_and_no_input(kind):
    model, tokens = model_of(kind), tokens_of(kind)
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    given = tokens.clone()
    with torch.no_grad():
        for name in model.hook_names:
            model.run_with_hooks(tokens, fwd_hooks=[(name, lambda x, hook: x.fill_(7.0))])
    assert all(torch.equal(parameter, weights[name]) for name, parameter in model.named_parameters())
    assert torch.equal(tokens, given)


def test_editing_in_place_reaches_no_value_that_was_cached_before_or_beside(model):
    _, before = model.run_with_cache(TOKENS)
    hooks = [("blocks.1.hook_resid_pre", lambda x, hook: x.zero_())]
    with model.hooks(fwd_hooks=hooks):
        _, cache = model.run_with_cache(TOKENS)
    assert torch.equal(cache["resid_post", 0], before["resid_post", 0])
    assert cache["resid_pre", 1].eq(0).all()


def test_a_tensor_that_a_hook_gave_or_kept_can_be_changed_later_without_reaching_the_cache(model):
    buffer, kept = torch.ones(2, 7, 10), []

    def keep(x, hook):
        kept.append(x)

    def change_what_was_kept(x, hook):
        kept[0].zero_()

    hooks = [
        ("blocks.0.hook_resid_post", lambda x, hook: buffer),
        ("blocks.1.hook_attn_out", keep),
        ("blocks.1.hook_mlp_out", change_what_was_kept),
    ]
    with torch.no_grad(), model.hooks(fwd_hooks=hooks):
        logits, cache = model.run_with_cache(TOKENS)
    buffer.zero_()
    assert cache["resid_post", 0].eq(1).all()
    assert cache["resid_pre", 1].eq(1).all()
    assert cache["attn_out", 1].ne(0).all()
    expected, _ = literal(model, TOKENS, edit={"blocks.0.hook_resid_post": torch.ones_like})
    torch.testing.assert_close(logits, expected.detach(), rtol=0, atol=1e-5)


def test_a_hook_gets_contiguous_memory_of_its_own(model):
    def clear(x, hook):
        x.view(-1).zero_()
        cleared.append(hook.name)

    cleared = []
    model.run_with_hooks(TOKENS, fwd_hooks=[("q", clear), ("attn_in", clear), ("hook_pos_embed", clear)])
    assert len(cleared) == 5


def test_hooks_and_edits_work_together(model):
    order = []

    def see(x, hook):
        order.append(float(x.abs().sum()))

    with torch.no_grad(), model.hooks(fwd_hooks=[(Z0, see)]):
        run = model.run(TOKENS, edits=[Zero("z", layer=0)], reads="z")
    assert order[0] > 0
    assert run.cache["z", 0].eq(0).all()
