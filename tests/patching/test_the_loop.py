"""The literal loop itself, held to what is known beforehand."""

import pytest
import torch

from tests.models import CONFIGS, tokens_of
from tests.patching.comparing import double
from tests.reference import sweep as loop

pytestmark = pytest.mark.usefixtures("without_shape_checks")

CLEAN, CORRUPTED = tokens_of(batch=1, seed=1), tokens_of(batch=1, seed=2)
PARTS = [
    ("z", ("layer", "head", "pos")),
    ("k", ("layer", "kv_head")),
    ("pattern", ("layer", "head", "q_pos", "k_pos")),
    ("q_input", ("layer", "head")),
    ("post", ("layer", "neuron")),
    ("ln1.normalized", ("layer", "pos")),
]


def diff(logits):
    return logits[0, -1, 3] - logits[0, -1, 5]


def found(model, site, over, base, other, **more):
    cells = loop.cells(model, [site], over, base.shape[1])
    return loop.sweep(model, base, cells, loop.donor(model, other, cells), diff, **more) if cells else {}


@pytest.mark.parametrize("kind", CONFIGS)
def test_all_of_the_stream_at_a_layer_gives_the_other_run(kind):
    model = double(kind)
    values = found(model, "resid_pre", ("layer",), CORRUPTED, CLEAN)
    assert list(values) == [(0,), (1,)]
    assert list(values.values()) == pytest.approx([loop.measured(model, CLEAN, diff)] * 2, abs=1e-12)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("site, over", PARTS)
def test_values_of_the_same_run_change_nothing(kind, site, over):
    model = double(kind)
    values = found(model, site, over, CORRUPTED, CORRUPTED, limit=10)
    assert list(values.values()) == pytest.approx([loop.measured(model, CORRUPTED, diff)] * len(values), abs=1e-12)


def test_a_cell_is_what_its_labels_say():
    cells = loop.cells(double("llama"), ["k", "mlp_out"], ("layer", "pos"), 3)
    assert list(cells) == [(layer, pos) for layer in (0, 1) for pos in (0, 1, 2)]
    assert cells[1, 2] == [("blocks.1.attn.hook_k", {"pos": 2}), ("blocks.1.hook_mlp_out", {"pos": 2})]
    cells = loop.cells(double("gpt2"), ["v"], ("head", "position"), 3, {"end": 2})
    assert cells[3, "end"] == [(f"blocks.{layer}.attn.hook_v", {"pos": 2, "kv_head": 3}) for layer in (0, 1)]
    assert loop.cells(double("llama"), ["attn_in"], ("layer",), 3) == {}


def test_of_many_cells_a_sample_is_run_that_is_the_same_each_time():
    model = double()
    some, others = (found(model, "z", ("layer", "head", "pos"), CORRUPTED, CLEAN, limit=5, seed=i) for i in (0, 1))
    assert len(some) == len(others) == 5 and set(some) != set(others)
    assert some == found(model, "z", ("layer", "head", "pos"), CORRUPTED, CLEAN, limit=5, seed=0)


def test_only_the_part_is_put_in():
    x = torch.zeros(1, 4, 3, 2)
    mask = loop.chosen("blocks.0.attn.hook_z", x, {"pos": [1, -1], "head": 2})
    assert mask.nonzero().tolist() == [[0, pos, 2, i] for pos in (1, 3) for i in (0, 1)]
    assert loop.chosen("hook_embed", x[0], {}).all()


def test_what_is_held_stays_that_of_the_run_that_is_patched():
    model = double()
    held = loop.held(model, CORRUPTED, ["pattern", "ln_scale"])
    with model.hooks(fwd_hooks=list(held)):
        _, cache = model.run_with_cache(CLEAN)
    _, expected = model.run_with_cache(CORRUPTED)
    for name in cache:
        kept = name.endswith(("hook_scale", "hook_pattern", "hook_pos_embed"))
        assert torch.equal(cache[name], expected[name]) == kept, name
    assert len(held) == 2 + 5


def test_hooks_belong_to_every_run():
    model = double()
    doubled = ("hook_embed", lambda x, hook: 2 * x)
    plain, hooked = loop.measured(model, CLEAN, diff), loop.measured(model, CLEAN, diff, [doubled])
    assert plain != hooked
    cells = loop.cells(model, ["resid_pre"], ("layer",), 7)
    give = loop.donor(model, CLEAN, cells, [doubled])
    assert list(loop.sweep(model, CORRUPTED, cells, give, diff).values()) == pytest.approx([hooked] * 2, abs=1e-12)
    give = loop.donor(model, CORRUPTED, {(): [("blocks.0.attn.hook_z", {})]})
    unchanged = loop.patched(model, CORRUPTED, [("blocks.0.attn.hook_z", {})], give, diff, [doubled])
    assert unchanged not in (loop.measured(model, CORRUPTED, diff), loop.measured(model, CORRUPTED, diff, [doubled]))
