"""What runs, what is known, and where each cell joins: without a model or a tensor."""

from itertools import product

import numpy as np
import pytest

from pellucid import Site
from pellucid.patching.grid import Question, Scene
from pellucid.patching.plan import BEHIND, BLIND, SAME, UNSEEN, Plan, make_plan

POINTS = ("resid_pre", "attn.hook_q", "attn.hook_k", "attn.hook_pattern", "attn.hook_z", "mlp.hook_post", "mlp_out")


def scene(*, n_layers: int = 3, lengths=(6,), first=(2,), wanted=((5,),), **more) -> Scene:
    names = [
        f"blocks.{layer}.{name if 'hook' in name else f'hook_{name}'}"
        for layer, name in product(range(n_layers), POINTS)
    ]
    sizes = {"head": 4, "kv_head": 4, "neuron": 7}
    return Scene(n_layers, ("hook_embed", *names), sizes, lengths, first, wanted, **more)


def plan(site="z", over=("layer",), given=None, **question) -> Plan:
    sites = (site,) if isinstance(site, str) else site
    return make_plan(Question(sites, over, **question), given or scene())


def cells(plan: Plan) -> list[int]:
    return sorted(cell for item in plan.items for cell in item.cells.tolist())


@pytest.mark.parametrize(
    ("site", "over"),
    [
        ("resid_pre", ("layer", "pos")),
        ("z", ("pos", "head", "layer")),
        ("k", ("layer", "kv_head", "pos")),
        ("pattern", ("layer", "head", "q_pos", "k_pos")),
        ("pattern", ("k_pos", "layer", "head")),
        ("post", ("neuron", "layer")),
        ("embed", ("pos",)),
        ("mlp_out", ()),
    ],
)
@pytest.mark.parametrize("causal", [True, False])
def test_every_cell_is_run_once_or_known(site, over, causal):
    found = plan(site, over, scene(lengths=(6, 6), first=(2, 4), wanted=((5,), (3, 5))), causal=causal)
    assert len(set(cells(found))) == len(cells(found))
    assert len(cells(found)) + sum(found.known.values()) == int(np.prod(found.grid.shape))


def test_cells_before_the_first_difference_are_known():
    found = plan("resid_pre", ("layer", "pos"))
    assert found.known == {SAME: 3 * 2}
    assert {entry.pos for entry in found.entries} == {2, 3, 4, 5}


def test_nothing_is_known_of_values_that_are_not_another_runs():
    assert plan("resid_pre", ("layer", "pos"), causal=False).known == {}


def test_cells_behind_the_metric_are_known_whatever_is_put_in():
    found = plan("resid_pre", ("layer", "pos"), scene(wanted=((3,),)), causal=False)
    assert found.known == {BEHIND: 3 * 2}


def test_in_the_last_layer_only_the_position_of_the_metric_counts_for_what_reaches_no_other():
    assert plan("z", ("layer", "pos")).known == {SAME: 6, UNSEEN: 3}
    assert plan("k", ("layer", "pos")).known == {SAME: 6}


def test_a_key_behind_its_query_is_known_only_where_neither_run_sees_it():
    over = ("layer", "q_pos", "k_pos")
    assert plan("pattern", over).known[BLIND] == 3 * sum(5 - q for q in range(6))
    assert BLIND not in plan("pattern", over, causal=False).known


@pytest.mark.parametrize(
    ("site", "rows", "carried"),
    [("resid_pre", [3], 3), ("z", [3], 3), ("k", [3, 4, 5], 3), ("q", [3], 3), ("mlp_out", [3], 3)],
)
def test_a_patch_of_a_position_joins_with_the_rows_that_it_changes(site, rows, carried):
    (entry,) = [e for e in plan(site, ("layer", "pos")).entries if (e.layer, e.pos) == (1, 3)]
    assert (list(entry.rows), entry.carried) == (rows, carried)


def test_a_patch_of_all_positions_joins_with_those_that_differ_up_to_the_metric():
    (entry,) = [e for e in plan("z", ("layer",), scene(wanted=((4,),))).entries if e.layer == 1]
    assert entry.rows == (2, 3, 4)


def test_a_patch_of_one_key_joins_at_the_first_query_that_sees_it():
    found = {e.keys[0]: e.rows for e in plan("pattern", ("layer", "k_pos")).entries if e.layer == 0}
    assert found == {0: (2, 3, 4, 5), 1: (2, 3, 4, 5), 2: (2, 3, 4, 5), 3: (3, 4, 5), 4: (4, 5), 5: (5,)}


def test_an_edit_of_one_key_joins_at_the_first_query_since_it_may_let_it_see_what_it_did_not():
    entries = plan("pattern", ("layer", "k_pos"), causal=False).entries
    assert {entry.rows for entry in entries if entry.layer == 0} == {(0, 1, 2, 3, 4, 5)}


def test_heads_of_a_row_join_together_and_a_group_as_one_cell():
    (entry,) = [e for e in plan("z", ("layer", "head", "pos")).entries if (e.layer, e.pos) == (1, 3)]
    assert entry.ids.tolist() == [0, 1, 2, 3] and not entry.together
    movers = {"movers": (Site("z", layer=1, head=[0, 3]),)}
    (entry,) = plan("z", ("group",), groups=movers).entries
    assert entry.ids.tolist() == [0, 3] and entry.together and len(entry.cells) == 1


def test_a_named_position_is_each_prompts_own():
    given = scene(lengths=(6, 4), first=(1, 1), wanted=((5,), (3,)), positions={"subject": (2, 1), "end": (5, 3)})
    found = plan("resid_pre", ("layer", "position"), given)
    assert {(e.prompt, e.pos) for e in found.entries} == {(0, 2), (0, 5), (1, 1), (1, 3)}


@pytest.mark.parametrize(
    ("question", "lowest"),
    [
        ({"site": ("z", "mlp_out"), "over": ("layer",)}, {0, 1, 2}),
        ({"site": "z", "over": ("head",)}, {0}),
        ({"site": "embed", "over": ("pos",), "plainly": "it is held"}, {None}),
        ({"over": ("group",), "groups": {"two": (Site("z", layer=1), Site("q", layer=2))}}, {1}),
    ],
)
def test_what_touches_several_points_is_run_plainly_from_the_lowest_layer_on(question, lowest):
    found = plan(**question)
    assert not found.entries
    assert {cells.layer for cells in found.plain} == lowest


def test_plain_cells_of_one_prompt_and_lowest_layer_share_their_runs():
    found = plan("z", ("layer", "head", "pos"), plainly="the metric is a function")
    assert [len(item.cells) for item in found.plain] == [4 * 6] * 3


def test_pieces_of_an_entry_hold_its_cells_in_order():
    (entry,) = [e for e in plan("post", ("layer", "neuron")).entries if e.layer == 0]
    pieces = list(entry.pieces(3))
    assert [piece.ids.tolist() for piece in pieces] == [[0, 1, 2], [3, 4, 5], [6]]
    assert np.concatenate([piece.cells for piece in pieces]).tolist() == entry.cells.tolist()


def test_a_plan_says_what_runs_and_what_is_known():
    said = plan("z", ("layer", "head", "pos")).explain()
    assert "z: prompt 1 × layer 3 × head 4 × pos 6 = 72 cells" in said
    assert f"24 {SAME}" in said and f"12 {UNSEEN}" in said
    assert "in one walk through the layers: 36" in said
    said = plan("z", ("head",), plainly="pattern is held").explain()
    assert "run plainly, each as a row of a batch from layer 0 on: 4\n  pattern is held" in said
