"""What there is to say of a run that has ended, in numbers."""

import numpy as np

from pellucid.train.run import Run


def best_heads(run: Run) -> list[dict[str, float | int | str]]:
    """The best head of each role at the end, chosen on half of the prompts and measured on the others.

    Returns:
        Rows ``role head score low high control prompts``: attention mass with its 95 % interval; none without scores.
    """
    if "head_roles" not in run.probes:
        return []
    score, control = (run.probes[name] for name in ("head_roles", "head_roles_control"))
    last = score.dataset["step"].values[-1]
    found: list[dict[str, float | int | str]] = []
    for role in score.dataset["role"].values:
        ours, beside = (part.sel(step=last, role=role) for part in (score, control))
        best = ours.best(by=ours - beside)
        layer, head = (int(best.dataset[axis].values[0]) for axis in ("layer", "head"))
        low, high = (float(best.dataset[side].values[0]) for side in ("low", "high"))
        row = {"role": str(role), "head": f"{layer}.{head}", "score": float(best.values[0]), "low": low, "high": high}
        row["control"] = beside.sel(layer=layer, head=head).mean("prompt").item()
        found.append(row | {"prompts": ours.shape[0] // 2})
    return found


def figures(run: Run) -> dict[str, float]:
    """The numbers that runs are compared by, at the end; see `pellucid.train.probes.probe`.

    Returns:
        ``training_loss`` (nats, the mean of the last twentieth of the steps), ``loss`` (nats, held out),
        ``bits_per_byte``, ``in_context_score`` (nats), ``in_context_bits_per_byte``, ``induction`` and
        ``previous_token`` (attention mass minus control of the best head), ``tokens`` (read), ``parameters``; those
        that the run has.
    """
    losses = run.history.values
    found = {"training_loss": float(losses[-max(1, len(losses) // 20) :].mean())}
    if "loss" in run.probes:
        found["loss"] = float(np.nanmean(run.probes["loss"].values[-1]))
    for name in ("bits_per_byte", "in_context_score", "in_context_bits_per_byte"):
        if name in run.probes:
            found[name] = float(run.probes[name].values[-1])
    names = {"induction": "induction", "previous token": "previous_token"}
    for row in best_heads(run):
        if row["role"] in names:
            found[names[str(row["role"])]] = float(row["score"]) - float(row["control"])
    found["tokens"] = float(run.history.dataset["tokens"].values.sum())
    return found | {"parameters": float(sum(p.numel() for p in run.model.parameters()))}
