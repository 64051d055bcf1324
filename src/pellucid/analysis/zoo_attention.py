"""The attention roles of all heads from one batched pass, which ends where the last layer's pattern is made.

In: a model, repeated tokens, roles. Out: for each role scores and their control. The tokens that repeat and those that
do not go through the model together; each pattern is reduced inside the pass, and what lies behind the last one (its
MLP, the logits) is never computed.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.analysis.attention import Cells, on_bos, warn_of_rest
from pellucid.analysis.heads import Role, cells_of
from pellucid.analysis.reading import chunks, starts_with_bos
from pellucid.analysis.repeated import RepeatedTokens, unrepeated_tokens
from pellucid.base.errors import ArgumentError
from pellucid.hooked_transformer import HookedTransformer, record_of
from pellucid.measurement import Measurement
from pellucid.patching.sites import point

AXES = ("prompt", "layer", "head")


class _AllSeenError(Exception):
    """The last pattern was read: what else the pass would compute, nobody asked for."""


@torch.no_grad()
def attention_roles(
    model: HookedTransformer,
    tokens: RepeatedTokens,
    roles: Sequence[Role] = (),
    *,
    offsets: Sequence[int] = (),
) -> dict[str, tuple[Measurement, Measurement]]:
    """Score and control of attention roles, for every head and prompt, from one batched pass.

    As `role_scores` has them: the control of a role that needs a repetition is its stripe on tokens that do not repeat;
    that of the others is uniform attention over the visible keys. Positional roles are measured on those unrepeated
    tokens, where nothing but the position tells a key that lies `k` back.

    Args:
        model: Model to read.
        tokens: Repeated tokens; the unrepeated ones are drawn with the same seed.
        roles: Roles read off the repeated tokens.
        offsets: Each `k` of a positional role: attention from p to p − k, BOS never the key.

    Returns:
        By name (``"positional k"`` for offsets) score and control, ``[prompt layer head]``, attention mass.

    Raises:
        TokenError: `tokens` lacks BOS and the tokenizer's policy asks for it.
        ArgumentError: A role needs BOS where there is none; prompts too short for an offset; an offset below 1.

    Source: Olsson et al. 2022, "In-context Learning and Induction Heads"; stripes as in `head_scores`.

    Example:
        >>> from pellucid.analysis.heads import INDUCTION
        >>> from pellucid.analysis.repeated import repeated_tokens
        >>> model = HookedTransformer.from_pretrained("toy-induction", device="cpu")
        >>> score, control = attention_roles(model, repeated_tokens(model, batch=4), [INDUCTION])["induction"]
        >>> bool(((score - control).mean("prompt").sel(layer=1).values > 0.9).all())
        True
    """
    starts_with_bos(model, tokens.tokens, may_lack=tokens.bos_left_out)
    for k in offsets:
        if k < 1:
            raise ArgumentError(f"the offset of a positional role must be 1 or more, got {k}")
    positional = [Role(name=f"positional {k}", back=k) for k in offsets]
    n, with_others = len(tokens.tokens), bool(positional) or any(role.repeated for role in roles)
    others = _unrepeated(model, tokens) if with_others else None
    both = tokens.tokens if others is None else torch.cat([tokens.tokens, others.tokens])
    cells = [_both(role, tokens, others) for role in roles]
    cells += [cells_of(role, others or tokens, bos=tokens.bos) for role in positional]
    found = patterns_reduced(model, both, cells)
    made: dict[str, tuple[Measurement, Measurement]] = {}
    for i, (role, cell) in enumerate(zip([*roles, *positional], cells, strict=True)):
        score = found[n:, i] if role in positional else found[:n, i]
        control = found[n:, i] if role.repeated else torch.full_like(score, cell.uniform())
        on = others if role in positional and others is not None else tokens
        made[role.name] = (_measured(model, on, score, role.name), _measured(model, tokens, control, role.name))
    return made


def patterns_reduced(
    model: HookedTransformer, tokens: Int[Tensor, "batch pos"], cells: Sequence[Cells]
) -> Float[Tensor, "batch score layer head"]:
    """The mean attention on some cells, for every head: `attention.masses`, without what no pattern depends on.

    Args:
        model: Model to read.
        tokens: Prompts of one length, without padding.
        cells: What each score is the mean of.

    Returns:
        Attention mass, float64.

    Warns:
        MisreadWarning: Most heads rest on BOS.
    """
    n_layers, n_heads = model.config.n_layers, model.config.attention.n_heads
    resting = on_bos(model, tokens) if cells and n_layers else None
    cells = [*cells, *([] if resting is None else [resting])]
    out = torch.empty(len(tokens), len(cells), n_layers, n_heads, dtype=torch.float64)
    if not n_layers or not cells:
        return out
    cells = [Cells(cell.queries.to(model.device), cell.keys.to(model.device), cell.counted) for cell in cells]
    for rows in chunks(tokens, widest=n_heads * tokens.shape[1]):
        run = model.live_run()
        for layer in range(n_layers):

            def read(pattern: Tensor, _: object, rows: slice = rows, layer: int = layer) -> None:
                out[rows, :, layer] = torch.stack([cell.mean(pattern, rows) for cell in cells], 1).to(out)
                if layer == n_layers - 1:
                    raise _AllSeenError

            run.add_reader(point("pattern", layer), read)
        try:
            model(tokens[rows].to(model.device), return_type=None, run=run)
        except _AllSeenError:
            continue
    if resting is None:
        return out
    warn_of_rest(out[:, -1].mean(0), stacklevel=4)
    return out[:, :-1]


def _unrepeated(model: HookedTransformer, tokens: RepeatedTokens) -> RepeatedTokens:
    told: Mapping[str, int] = {"seq_len": tokens.seq_len, "batch": len(tokens.tokens), "seed": tokens.seed}
    return unrepeated_tokens(model, **told, rule=tokens.rule, bos=tokens.bos)


def _both(role: Role, tokens: RepeatedTokens, others: RepeatedTokens | None) -> Cells:
    """A role's cells for the prompts that repeat and, behind them, those that do not."""
    cell = cells_of(role, tokens, bos=tokens.bos)
    if others is None or not role.repeated:
        return cell
    beside = cells_of(role, others, bos=others.bos).counted
    if beside is None:
        return cell
    return Cells(cell.queries, cell.keys, torch.cat([torch.ones_like(beside), beside]))


def _measured(model: HookedTransformer, tokens: RepeatedTokens, values: Tensor, name: str) -> Measurement:
    record = record_of(model, task=name, seed=tokens.seed, settings=tokens.settings)
    return Measurement(values, AXES, unit="attention mass", record=record, name=name)
