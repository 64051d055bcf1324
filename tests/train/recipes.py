"""A tiny recipe that the tests of training share."""

from typing import Any

from pellucid.train import Recipe, recipe_of

TINY: dict[str, Any] = {
    "steps": 20,
    "batch_size": 8,
    "model": {"n_layers": 2, "d_model": 16, "d_vocab": 12, "n_ctx": 16, "attention": {"n_heads": 2, "d_head": 8}},
    "data": {"kind": "PeriodicSequences", "d_vocab": 12, "length": 16, "shortest": 3, "longest": 7},
    "optimiser": {"lr": 5e-3},
    "schedule": {"warmup": 2},
    "probes": {"every": 10, "batch": 4, "held_out": 8, "log_spaced": False},
    "checkpoints": {"every": 5, "log_spaced": False},
    "log": [],
}


def tiny(**changes: Any) -> Recipe:
    """It, with some sections' fields changed: ``tiny(steps=5, model={"n_layers": 1})``."""
    values = dict(TINY)
    for name, change in changes.items():
        merge = isinstance(change, dict) and isinstance(values.get(name), dict) and "kind" not in change
        values[name] = values[name] | change if merge else change
    return recipe_of(values)
