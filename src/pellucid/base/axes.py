"""The one vocabulary of axes, and how a cell is called that labels on such axes single out."""

from collections.abc import Iterable, Mapping

AXES = (
    *("prompt", "layer", "pos", "q_pos", "k_pos", "head", "kv_head", "neuron", "component"),
    *("d_model", "d_head", "d_mlp", "d_vocab", "sender", "receiver", "input", "position"),
    *("group", "role", "run", "step", "token"),
)
"""Every axis of a result bears one of these names, or that of a setting."""
SETTINGS = (
    *("seed", "steps", "batch_size", "parts", "precision", "model", "data", "optimiser", "schedule", "probes"),
    *("checkpoints", "log"),
)
"""What a recipe of a training run consists of. An axis of runs that differ in a setting bears the setting's name:
one of these, or a place within one, such as ``model.attention.n_heads``."""


def is_axis(name: str) -> bool:
    """Whether an axis may be called so.

    Example:
        >>> is_axis("head"), is_axis("optimiser.lr"), is_axis("heads")
        (True, True, False)
    """
    return name in AXES or name.split(".")[0] in SETTINGS


def in_order(names: Iterable[str]) -> list[str]:
    """Axes in the order in which people name them: those of `AXES`, then settings, each as they come."""
    found = list(names)
    return [axis for axis in AXES if axis in found] + [name for name in found if name not in AXES and is_axis(name)]


def cell_name(labels: Mapping[str, int | str]) -> str:
    """What people call a cell: heads by layer and head, neurons by layer and neuron, a layer by its number.

    Key/value heads are told from heads: ``5.kv0``.

    Strings stand for themselves, but for values of settings, which follow the setting's name, as whole numbers follow
    that of their axis; parts come in the order of `in_order`.

    Example:
        >>> cell_name({"layer": 5, "head": 1}), cell_name({"layer": 8, "neuron": 2744})
        ('5.1', 'L8N2744')
        >>> cell_name({"layer": 5, "kv_head": 1})
        '5.kv1'
        >>> cell_name({"layer": 5, "head": 1, "pos": 3}), cell_name({"layer": 3, "position": "subject 2"})
        ('5.1 pos 3', 'layer 3 subject 2')
        >>> cell_name({"sender": "4.11", "receiver": "5.5", "input": "k"})
        '4.11 → 5.5 k'
        >>> cell_name({"sender": "4.11", "receiver": "mlp6", "input": "mlp"})
        '4.11 → mlp6'
        >>> cell_name({"seed": 2, "optimiser.lr": "0.003"})
        'seed 2 optimiser.lr 0.003'
    """
    words = {axis: labels[axis] for axis in in_order(labels)}
    if words.keys() == {"layer"}:
        return str(words["layer"])
    if {"layer", "head"} <= words.keys():
        words["layer"] = f"{words['layer']}.{words.pop('head')}"
    elif {"layer", "kv_head"} <= words.keys():
        words["layer"] = f"{words['layer']}.kv{words.pop('kv_head')}"
    elif {"layer", "neuron"} <= words.keys():
        words["layer"] = f"L{words['layer']}N{words.pop('neuron')}"
    if {"sender", "receiver"} <= words.keys():
        if str(words["receiver"]).startswith(str(words.get("input"))):  # an MLP and the logits have one input
            del words["input"]
        words["sender"] = f"{words['sender']} → {words.pop('receiver')}"
    bare = {axis for axis, word in words.items() if isinstance(word, str) and axis in AXES}
    return " ".join(str(word) if axis in bare else f"{axis} {word}" for axis, word in words.items())
