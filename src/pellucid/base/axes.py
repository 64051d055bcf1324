"""The one vocabulary of axes, and how a cell is called that labels on such axes single out."""

from collections.abc import Mapping

AXES = (
    *("prompt", "layer", "pos", "q_pos", "k_pos", "head", "kv_head", "neuron", "component"),
    *("d_model", "d_head", "d_mlp", "d_vocab", "sender", "receiver", "input", "position"),
    *("group", "role", "run", "step", "token"),
)
"""Every axis of a result bears one of these names."""


def cell_name(labels: Mapping[str, int | str]) -> str:
    """What people call a cell: heads by layer and head, neurons by layer and neuron, a layer by its number.

    Strings stand for themselves, other whole numbers follow the name of their axis, and parts come in the
    order of `AXES`.

    Example:
        >>> cell_name({"layer": 5, "head": 1}), cell_name({"layer": 8, "neuron": 2744})
        ('5.1', 'L8N2744')
        >>> cell_name({"layer": 5, "head": 1, "pos": 3}), cell_name({"layer": 3, "position": "subject 2"})
        ('5.1 pos 3', 'layer 3 subject 2')
        >>> cell_name({"sender": "4.11", "receiver": "5.5", "input": "k"})
        '4.11 → 5.5 k'
    """
    words = {axis: labels[axis] for axis in AXES if axis in labels}
    if words.keys() == {"layer"}:
        return str(words["layer"])
    if {"layer", "head"} <= words.keys():
        words["layer"] = f"{words['layer']}.{words.pop('head')}"
    elif {"layer", "neuron"} <= words.keys():
        words["layer"] = f"L{words['layer']}N{words.pop('neuron')}"
    if {"sender", "receiver"} <= words.keys():
        words["sender"] = f"{words['sender']} → {words.pop('receiver')}"
    return " ".join(word if isinstance(word, str) else f"{axis} {word}" for axis, word in words.items())
