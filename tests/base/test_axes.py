"""How cells are called."""

from dataclasses import fields

import pytest

from pellucid.base.axes import AXES, SETTINGS, cell_name, in_order, is_axis
from pellucid.train import Recipe


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        ({"layer": 5, "head": 1}, "5.1"),
        ({"head": 1, "layer": 5}, "5.1"),
        ({"layer": 8, "neuron": 2744}, "L8N2744"),
        ({"layer": 3}, "3"),
        ({"head": 3}, "head 3"),
        ({"layer": 3, "pos": 7}, "layer 3 pos 7"),
        ({"prompt": 2, "layer": 5, "pos": 3, "head": 1}, "prompt 2 5.1 pos 3"),
        ({"layer": 5, "kv_head": 1}, "5.kv1"),
        ({"component": "mlp3"}, "mlp3"),
        ({"layer": 3, "position": "subject 2"}, "layer 3 subject 2"),
        ({"sender": "4.11", "receiver": "5.5", "input": "k"}, "4.11 → 5.5 k"),
        ({"layer": 0, "q_pos": 4, "k_pos": 2, "head": 1}, "0.1 q_pos 4 k_pos 2"),
        ({}, ""),
    ],
)
def test_a_cell_is_called_as_in_the_field(labels, name):
    assert cell_name(labels) == name


def test_naming_leaves_the_labels_alone():
    labels = {"layer": 5, "head": 1}
    cell_name(labels)
    assert labels == {"layer": 5, "head": 1}


def test_no_axis_is_there_twice():
    assert len(set(AXES)) == len(AXES)


def test_an_axis_may_bear_the_name_of_a_setting_or_of_a_place_within_one():
    assert all(map(is_axis, ("layer", "seed", "data", "optimiser.lr", "model.attention.n_heads")))
    assert not any(map(is_axis, ("heads", "optimizer.lr", "attention.n_heads", "seeds", "", "layer.head")))
    assert not set(SETTINGS) & set(AXES)


def test_settings_are_what_a_recipe_consists_of():
    assert sorted(SETTINGS) == sorted(field.name for field in fields(Recipe))


def test_settings_stand_after_the_axes_of_a_model_in_the_order_in_which_they_come():
    assert in_order(["seed", "head", "optimiser.lr", "layer", "nonsense"]) == ["layer", "head", "seed", "optimiser.lr"]
    labels = {"optimiser.lr": "0.003", "head": 1, "model.tokenizer": "BPE size=512", "layer": 5, "seed": 2}
    assert cell_name(labels) == "5.1 optimiser.lr 0.003 model.tokenizer BPE size=512 seed 2"
