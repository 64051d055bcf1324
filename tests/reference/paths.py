"""Path patching as its definition says it: three passes with hooks for each edge. What `patching.paths` must equal.

One prompt at a time, ``[1 pos]``. Both runs are read; then the sender is put in, all else that lies between is held as
`through` says, and what the receiver makes of what it reads is kept; then that alone is put into the unpatched run.
"""

from collections.abc import Callable

from torch import Tensor

from pellucid import HookedTransformer

Measure = Callable[[Tensor], float]
HELD = {"edge": ("hook_z", "mlp.hook_post"), "mlps": ("hook_z",), "all": ()}


def edge(
    model: HookedTransformer,
    base: Tensor,
    donor: Tensor,
    measure: Measure,
    sender: str,
    receiver: str,
    name: str,
    *,
    through: str = "edge",
    frozen: bool = False,
    pos: int | None = None,
    share: float = 1.0,
) -> float:
    """The metric with one edge patched, from ``"embed"``, ``"0.1"``, ``"mlp0"`` or ``"L0N3"``; `name` is the input.

    The sender goes a share of the way to the other run.
    """
    _, old = model.run_with_cache(base)
    _, new = model.run_with_cache(donor)
    new = {point: old[point] + share * (new[point] - old[point]) for point in old if "attn_scores" not in point}
    rows = slice(None) if pos is None else pos
    at, part = _sender(sender)
    held = [point for point in old if point.endswith(HELD[through]) and "hook_" in point]
    layer, head = _receiver(receiver)
    kept: dict[str, Tensor] = {}

    def hold(x: Tensor, hook) -> Tensor:
        x[:] = old[hook.name]
        return x

    def put_in(x: Tensor, hook) -> Tensor:
        x[:, rows][..., *part] = new[hook.name][:, rows][..., *part]
        return x

    def keep(x: Tensor, hook) -> None:
        kept[hook.name] = x.clone()

    hooks = [(point, hold) for point in held if not (name == "mlp" and point == f"blocks.{layer}.mlp.hook_post")]
    if sender.startswith("mlp") and (at in old):
        hooks = [hook for hook in hooks if hook[0] != at.replace("hook_mlp_out", "mlp.hook_post")]
    hooks += [(at, put_in)]
    if frozen:
        norm = {"mlp": f"blocks.{layer}.ln2", "logits": "ln_final"}.get(name, f"blocks.{layer}.ln1")
        hooks += [(f"{norm}.hook_scale", hold)]
    if name == "logits":
        return measure(model.run_with_hooks(base, fwd_hooks=hooks))
    point = f"blocks.{layer}.hook_mlp_out" if name == "mlp" else f"blocks.{layer}.attn.hook_{name}"
    model.run_with_hooks(base, fwd_hooks=[*hooks, (point, keep)])

    def receive(x: Tensor, hook) -> Tensor:
        if name == "mlp":
            return kept[point]
        x[:, :, head] = kept[point][:, :, head]
        return x

    return measure(model.run_with_hooks(base, fwd_hooks=[(point, receive)]))


def _sender(label: str) -> tuple[str, tuple]:
    if label == "embed":
        return "hook_embed", (slice(None),)
    if label.startswith("mlp"):
        return f"blocks.{label[3:]}.hook_mlp_out", (slice(None),)
    if label.startswith("L"):
        layer, neuron = label[1:].split("N")
        return f"blocks.{layer}.mlp.hook_post", (int(neuron),)
    layer, head = label.split(".")
    return f"blocks.{layer}.attn.hook_z", (int(head), slice(None))


def _receiver(label: str) -> tuple[int | None, int | None]:
    if label == "logits":
        return None, None
    if label.startswith("mlp"):
        return int(label[3:]), None
    layer, head = label.replace("kv", "").split(".")
    return int(layer), int(head)
