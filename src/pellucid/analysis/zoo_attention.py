"""The attention roles of all heads, each with its control, from one batched pass.

In: a model, repeated tokens, roles; or texts. Out: for each role scores and their control. The tokens that repeat and
those that do not go through the model together (`heads.scored`).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from pellucid.analysis.attention import masses, on_bos
from pellucid.analysis.heads import Role, cells_of, scored
from pellucid.analysis.repeated import RepeatedTokens
from pellucid.analysis.texts import Texts, rows_of
from pellucid.base.errors import ArgumentError
from pellucid.base.record import Record
from pellucid.base.seeds import generator
from pellucid.hooked_transformer import HookedTransformer, record_of
from pellucid.measurement import Measurement

AXES = ("prompt", "layer", "head")


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
        ArgumentError: A role needs BOS where there is none; prompts too short for an offset; an offset below 1; two
            roles of one name.

    Source: Olsson et al. 2022, "In-context Learning and Induction Heads"; stripes as in `head_scores`.

    Example:
        >>> from pellucid.analysis.heads import INDUCTION
        >>> from pellucid.analysis.repeated import repeated_tokens
        >>> model = HookedTransformer.from_pretrained("toy-induction", device="cpu")
        >>> score, control = attention_roles(model, repeated_tokens(model, batch=4), [INDUCTION])["induction"]
        >>> bool(((score - control).mean("prompt").sel(layer=1).values > 0.9).all())
        True
    """
    positional = [_positional(k) for k in offsets]
    found = scored(model, tokens, roles, positional)
    made: dict[str, tuple[Measurement, Measurement]] = {}
    for i, role in enumerate([*roles, *positional]):
        elsewhere = found.others if found.others is not None and i >= len(roles) else tokens
        beside = found.others if found.others is not None and role.repeated else elsewhere
        score, control = (
            _measured(_record(model, on, role.name), values[:, i], role.name)
            for on, values in ((elsewhere, found.scores), (beside, found.controls))
        )
        made[role.name] = (score, control)
    return made


@torch.no_grad()
def positional_on_texts(
    model: HookedTransformer, texts: Texts, offsets: Sequence[int], *, length: int, rows: int = 30, seed: int = 0
) -> dict[str, tuple[Measurement, Measurement]]:
    """Positional roles on shuffled text: the tokens of each row in random order, so that only the position tells a key.

    Args:
        model: Model to read.
        texts: A `Corpus`, texts, or rows of token ids without padding.
        offsets: Each `k`: attention from p to p − k, BOS never the key.
        length: Tokens of a row, BOS included; shorter rows are passed over.
        rows: How many are read at most.
        seed: Of the order.

    Returns:
        By name (``"positional k"``) score and control, ``[prompt layer head]``, attention mass; the control is uniform
        attention over the visible keys.

    Raises:
        ArgumentError: No row is as long; an offset that no row has room for.
        TokenError: A text cannot be encoded; rows of ids lack the BOS that the tokenizer's policy asks for.
    """
    tokens, bos = shuffled(model, texts, length=length, rows=rows, seed=seed)
    roles = [_positional(k) for k in offsets]
    cells = [cells_of(role, tokens, bos=bos) for role in roles]
    found, made = masses(model, tokens, cells), {}
    settings = {"texts": "shuffled", "batch": len(tokens), "length": length, "bos": bos}
    for i, (role, cell) in enumerate(zip(roles, cells, strict=True)):
        record = record_of(model, task=role.name, seed=seed, settings=settings)
        both = (found[:, i], torch.full_like(found[:, i], cell.uniform()))
        score, control = (_measured(record, values, role.name) for values in both)
        made[role.name] = (score, control)
    return made


def shuffled(
    model: HookedTransformer, texts: Texts, *, length: int, rows: int, seed: int
) -> tuple[Int[Tensor, "row pos"], bool]:
    """The first rows of texts of this length, each in an order of its own behind BOS; and whether BOS stands there.

    Raises:
        ArgumentError: There is none.
    """
    kept: list[Tensor] = []
    for batch in rows_of(model, texts, widest=model.config.d_model, length=length):
        kept += [ids for ids, n in zip(batch.tokens, batch.lengths, strict=True) if n == length]
        if len(kept) >= rows:
            break
    if not kept:
        raise ArgumentError(f"texts must hold a row of {length} tokens, BOS included, got none; give longer ones")
    tokens = torch.stack(kept[:rows])
    bos, draws = on_bos(model, tokens), generator(seed)
    for ids in tokens:
        ids[int(bos) :] = ids[int(bos) + torch.randperm(length - int(bos), generator=draws)]
    return tokens, bos


def _positional(k: int) -> Role:
    if k < 1:
        raise ArgumentError(f"the offset of a positional role must be 1 or more, got {k}")
    return Role(name=f"positional {k}", back=k)


def _record(model: HookedTransformer, tokens: RepeatedTokens, name: str) -> Record:
    return record_of(model, task=name, seed=tokens.seed, settings=tokens.settings)


def _measured(record: Record, values: Tensor, name: str) -> Measurement:
    return Measurement(values, AXES, unit="attention mass", record=record, name=name)
