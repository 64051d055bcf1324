"""The attention lens: what one head would say of each place that it may look at.

In: a model, prompts, a head. Out: for each source position what the head's OV makes of the stream there, through the
final norm and `W_U`: its most probable tokens, and what it leaves to the source token itself or to an answer; beside it
how much a query attends there. What the head says at a place in all, the logit lens tells (site ``"head"``).
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.analysis import reading
from pellucid.analysis.lens_cells import COPIES, Cells, said
from pellucid.analysis.lens_prompts import LensPrompts
from pellucid.analysis.reading import chunks
from pellucid.analysis.token_circuits import attention_of
from pellucid.analysis.token_tables import words_of
from pellucid.base.record import Record
from pellucid.base.shown import Showing, Shown
from pellucid.hooked_transformer import HookedTransformer, record_of
from pellucid.hooks.index import at_least
from pellucid.measurement import Measurement
from pellucid.model.attention import pattern_of
from pellucid.model.decompose import value_bias


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class AttentionLens(Showing):
    """What a head says of each source position; the Measurements are ``[prompt k_pos]``, NaN at padding."""

    label: str
    """Of the head: ``1.0``."""
    ids: Int[Tensor, "prompt k_pos k"]
    """The most probable tokens, best first; -1 at padding."""
    shares: Float[Tensor, "prompt k_pos k"]
    """Their probabilities."""
    probability: Measurement
    """Of the source token itself, or of the answer; fraction."""
    rank: Measurement
    """How many tokens are more probable than that: 0 where it, or an equal one, is on top; tokens."""
    attention: Measurement
    """How much the query attends to the source; attention mass."""
    tokens: list[list[str]]
    """Of each prompt as text."""
    words: list[list[list[str]]]
    """`ids` as text, without padding."""

    @property
    def record(self) -> Record:
        """How all of it was made."""
        return self.probability.record

    def _shown(self, *, brief: bool) -> Shown:
        mass = self.attention.values[0]
        rows = [
            [
                f"{token!r} {at}",
                f"{mass[at]:.2f}",
                *(f"{word!r} {share:.0%}" for word, share in zip(*cell, strict=True)),
            ]
            for at, (token, *cell) in enumerate(
                zip(self.tokens[0], self.words[0], self.shares[0, : len(self.tokens[0])].tolist(), strict=True)
            )
        ]
        columns = ["source", "attention", *map(str, range(1, 1 + self.ids.shape[-1]))]
        title = (
            f"Attention lens of head {self.label}: what it says of each place in the first of {len(self.ids)} prompts"
        )
        return Shown(title=title, columns=columns, rows=rows[:40], rest=max(0, len(rows) - 40))


@torch.no_grad()
def attention_lens(
    model: HookedTransformer,
    prompts: Any,
    layer: int,
    head: int,
    *,
    answer: Any = None,
    query: int = -1,
    k: int = 5,
) -> AttentionLens:
    """What a head's OV makes of the stream at each source position, through the final norm and `W_U`.

    That is the head's value there, without its bias, times `W_O`: what the head would write if it attended to this
    place alone. Both biases are left out: it writes them wherever it attends, and processing makes them one. The norm
    is recomputed for each.

    Args:
        model: Model to read.
        prompts: A text, several, token ids, or pairs, as for `logit_lens`.
        layer: Of the head.
        head: Which head of the layer.
        answer: The token whose rank and probability are told, or one for each prompt; None: that of the pairs, else
            each source token itself, which tells whether the head copies.
        query: From which position attention is told; negative ones count from each prompt's end.
        k: How many tokens are told of each position.

    Returns:
        Tokens, and ``[prompt k_pos]``: probability (fraction), rank (tokens) and attention (attention mass).

    Raises:
        ArgumentError: There is no such head or query; no prompts; `k` not positive.
        TokenError: An answer is not one token of the vocabulary.

    Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits", the OV circuit.

    Example:
        >>> model = HookedTransformer.from_pretrained("toy-induction", device="cpu")
        >>> found = attention_lens(model, [0, 11, 12, 13, 14, 11, 12, 13], 1, 0)
        >>> found.words[0][4][0], found.attention.top(1).label
        ('14', 'prompt 0 k_pos 4')
    """
    k = at_least("k", k, 1)
    attn, at = attention_of(model, layer, head)
    read = LensPrompts.of(model, prompts)
    queries = read.at(query, "query")
    read, target = read.with_targets(model, answer, None)
    targets = read.tokens.masked_fill(~read.mask, -1) if read.targets is None else read.targets
    found = _Found(model, (layer, at), read.tokens.shape, k)
    for rows in chunks(read.tokens, widest=3 * attn.config.n_heads * attn.config.d_head + model.config.d_model):
        found.read(rows, read, targets, queries)
    target = "answer" if target == "answer" else "source"
    settings = {"layer": layer, "head": at, "norm": "recomputed", "target": target, "query": query}
    settings["k"] = found.cells.k
    record = record_of(model, task="attention lens", settings=settings)
    return found.lens(read, record)


class _Found:
    """What was found so far, position by position."""

    def __init__(self, model: HookedTransformer, head: tuple[int, int], shape: torch.Size, k: int) -> None:
        self.model, self.layer, self.head = model, *head
        self.cells = Cells(model, tuple(shape), k, "attention")
        self.turned = "rot_" if f"blocks.{self.layer}.attn.hook_rot_k" in model.hook_names else ""

    def read(
        self, rows: slice, read: LensPrompts, targets: Int[Tensor, "prompt k_pos"], queries: Int[Tensor, " prompt"]
    ) -> None:
        """Runs some prompts up to the head's layer; of its pattern one row is made of each."""
        model = self.model
        mask, tokens = (x[rows].to(model.device) for x in (read.mask, read.tokens))
        names = [f"blocks.{self.layer}.attn.hook_{name}" for name in ("v", f"{self.turned}q", f"{self.turned}k")]
        stop = self.layer + 1
        done = model.run(tokens, reads=names, attention_mask=mask, padding_side="right", stop_at_layer=stop)
        v, q, k = (done.cache[name] for name in names)
        seen, written = self._seen(q, k, mask, queries[rows].to(mask.device)), self._written(v)
        prompt, pos = mask.nonzero(as_tuple=True)
        for part in torch.arange(len(prompt)).split(max(1, reading.NUMBERS // (COPIES * model.config.vocab_out))):
            here = (prompt[part], pos[part])
            place = (here[0].cpu() + rows.start, here[1].cpu())
            log_p = said(model, written[here])
            asked = targets[place[0].to(targets.device), place[1].to(targets.device)].to(log_p.device)
            self.cells.keep(place, log_p, asked, attention=seen[here])

    def _seen(
        self, q: Tensor, k: Tensor, mask: Tensor, queries: Int[Tensor, " prompt"]
    ) -> Float[Tensor, "prompt k_pos"]:
        """How each prompt's query attends; the other queries' rows are never made."""
        attn = self.model.blocks[self.layer].attn
        asking = q[torch.arange(len(q), device=q.device), queries][:, None]
        earlier = torch.arange(mask.shape[1], device=mask.device) <= queries[:, None]
        return pattern_of(attn.scores(asking, k, (mask & earlier)[:, None, None]))[:, self.head, 0]

    def _written(self, v: Tensor) -> Float[Tensor, "prompt k_pos d_model"]:
        """What the head writes of each place, without the values' bias."""
        attn = self.model.blocks[self.layer].attn
        of = self.head * attn.config.kv_heads // attn.config.n_heads
        return (v[:, :, of] - value_bias(self.model, self.layer)[self.head].to(v)) @ attn.W_O[self.head]

    def lens(self, read: LensPrompts, record: Record) -> AttentionLens:
        """All of it, with names."""
        self.cells.done()
        model, ids = self.model, self.cells.ids
        label = f"{record.settings['layer']}.{record.settings['head']}"
        tokens = [words_of(model, row[real].tolist()) for row, real in zip(read.tokens, read.mask, strict=True)]
        words = [
            [words_of(model, cell) for cell in row[: len(own)].tolist()] for row, own in zip(ids, tokens, strict=True)
        ]
        coords = {**read.coords, **({"token": ("k_pos", tokens[0])} if len(tokens) == 1 else {})}
        told = {
            "probability": ("fraction", f"head {label}, probability of {record.settings['target']}"),
            "rank": ("tokens", f"head {label}, rank of {record.settings['target']}"),
            "attention": ("attention mass", f"head {label}, attention"),
        }
        measured = {
            key: Measurement(
                self.cells.values[key], ("prompt", "k_pos"), unit=unit, record=record, name=name, coords=coords
            )
            for key, (unit, name) in told.items()
        }
        return AttentionLens(label=label, ids=ids, shares=self.cells.shares, tokens=tokens, words=words, **measured)
