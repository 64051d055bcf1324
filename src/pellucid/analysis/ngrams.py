"""Attention-only models as tables: bigrams by the direct path, skip-trigrams "s … d → o" by the heads of layer 0.

In: a model without MLPs, and a text to compare with. Out: the strongest entries, and beside each how often the text has
it. Matrices between all tokens and all tokens are formed some rows at a time; the text is read once.

A token's direct path is exact: embedding, final norm with its scale recomputed for that token alone, unembedding. So a
model without layers *is* its bigram table. In a skip-trigram, d's query and s's key go through the first norm, each
with its own scale, and what s then writes goes through the final norm with its scale left out, which is the run's.
Positions are left out of both.

Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits".
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.analysis.texts import Texts
from pellucid.analysis.token_circuits import attention_of, linear, shared, token_ids
from pellucid.analysis.token_counts import bigram_counts, id_rows, lift, occurrences, trigram_counts
from pellucid.analysis.token_tables import TokenTable, words_of
from pellucid.analysis.weights import PART
from pellucid.base.errors import ArgumentError
from pellucid.base.record import Record
from pellucid.base.shown import Showing, Shown
from pellucid.hooked_transformer import HookedTransformer, record_of
from pellucid.hooks.index import at_least
from pellucid.model.norms import widened
from pellucid.model.positional import Rotary

SEEN = 50
"""A token must stand so often in the text to be part of a skip-trigram that is read off."""
CANDIDATES = 20
"""Destinations, and outputs, that are looked at for each source."""
EACH = 2
"""Skip-trigrams of one head that may have the same source, or the same destination and output."""


@dataclass(frozen=True, eq=False)
class Bigrams:
    """For each of some tokens the most probable next ones, by a model's direct path, and what the text says of each."""

    table: TokenTable
    """Scores are log-probabilities, nats."""
    counts: Int[Tensor, "row k"] | None
    """How often the text has the entry; None: no text was given."""
    occurs: Int[Tensor, " row"] | None
    """How often any token follows the row's token in the text."""

    @property
    def rates(self) -> Float[Tensor, "row k"] | None:
        """The share of the occurrences of the row's token that the entry follows; NaN where it does not occur."""
        if self.counts is None or self.occurs is None:
            return None
        return self.counts.double() / self.occurs[:, None].double()

    def __repr__(self) -> str:
        return repr(self.table)


@torch.no_grad()
def bigrams(model: HookedTransformer, tokens: Any = None, k: int = 10, *, texts: Texts | None = None) -> Bigrams:
    """The next tokens that a model's direct path finds most probable: `W_E`, final norm, `W_U` (and its bias).

    The norm's scale is recomputed for each token alone, so that for a model without layers these are its own answers.
    Positions are left out.

    Args:
        model: Attention-only model of any depth, with residual connections.
        tokens: Rows: ids, or texts that are one token each; None: all.
        k: How many next tokens are told for each.
        texts: A text to count in: each entry's occurrences, in the same pass for all. Documents are counted whole, each
            once with BOS in front where the tokenizer's policy puts it there.

    Returns:
        The table, and counts beside it if a text was given.

    Raises:
        ArgumentError: The model has MLPs, which act on a token alone too; or no residual connections; or `k` below 1.
        TokenError: A text is not one token; an id of `texts` is not in the vocabulary.

    Example:
        >>> model = HookedTransformer.from_pretrained("prose-2l-mixed", device="cpu")
        >>> found = bigrams(model, [11, 12], k=3, texts=["The lamp was lost.", "The lamp was glad."])
        >>> found.table.ids.shape, found.counts.shape
        (torch.Size([2, 3]), torch.Size([2, 3]))
    """
    _check_direct(model, "bigrams")
    ids, n_out = token_ids(model, tokens), model.W_U.shape[1]
    k, best = min(at_least("k", k, 1), n_out), []
    for part in ids.split(max(1, PART // n_out)):
        logits = model.unembed(model.ln_final(model.W_E[part][None]))[0]
        best.append(widened(logits).log_softmax(-1).topk(k))
    scores, found = (torch.cat([part[i] for part in best]).cpu() for i in (0, 1))
    words = words_of(model, found.flatten().tolist())
    settings = {"which": "direct path", "norm": "recomputed", "largest": True}
    table = TokenTable(
        "Most probable next tokens by the direct path, for each token",
        list(map(repr, words_of(model, ids.tolist()))),
        found,
        scores,
        [words[row * k : (row + 1) * k] for row in range(len(found))],
        record_of(model, task="bigrams", settings=settings),
    )
    if texts is None:
        return Bigrams(table, None, None)
    counts, occurs = bigram_counts(id_rows(model, texts), ids.cpu(), found, model.config.d_vocab)
    return Bigrams(table, counts, occurs)


class Trigrams(NamedTuple):
    """Triples s … d → o, strongest first, and how strong each is."""

    triples: Int[Tensor, "triple part"]
    """Head, s, d, o."""
    attends: Float[Tensor, " triple"]
    """ln of how many times more than the average token s gets of d's attention, nats."""
    raises: Float[Tensor, " triple"]
    """By how much s raises the logit of o, above all tokens and above what the average token does."""


@dataclass(frozen=True, eq=False, repr=False)
class SkipTrigrams(Showing):
    """Skip-trigrams of the heads of layer 0, and how often a text has each."""

    triples: Int[Tensor, "triple part"]
    """Head, s, d, o."""
    words: list[tuple[str, str, str]]
    attends: Float[Tensor, " triple"]
    """ln of how many times more than the average token s gets of d's attention, nats."""
    raises: Float[Tensor, " triple"]
    """By how much s raises o, logits but for the final norm's scale."""
    counts: Int[Tensor, "triple part"] | None
    """How often d stands behind s; and o follows then; how often d stands without s; and o follows then."""
    record: Record

    @property
    def rates(self) -> Float[Tensor, " triple"] | None:
        """The share of the d behind s that o follows; NaN where there is none."""
        return None if self.counts is None else self.counts[:, 1].double() / self.counts[:, 0].double()

    @property
    def bigram_rates(self) -> Float[Tensor, " triple"] | None:
        """The share of all d that o follows, whatever stands before."""
        if self.counts is None:
            return None
        n, k, n_without, k_without = self.counts.double().unbind(1)
        return (k + k_without) / (n + n_without)

    @property
    def lifts(self) -> Float[Tensor, " triple"] | None:
        """How many times likelier o follows d where s stands before than where it does not; see `lift`."""
        return None if self.counts is None else lift(self.counts)

    def __len__(self) -> int:
        """Number of triples."""
        return len(self.triples)

    def _shown(self, *, brief: bool) -> Shown:
        n, rates, plain, rows = 10 if brief else 20, self.rates, self.bigram_rates, []
        for i, (s, d, o) in enumerate(self.words[:n]):
            cells = [f"0.{int(self.triples[i, 0])}: {s!r} … {d!r} → {o!r}", f"{float(self.raises[i]):.3g}"]
            if rates is not None and plain is not None and self.counts is not None:
                count, seen = self.counts[i, :2].tolist()
                cells += [f"{seen} of {count}", f"{float(rates[i]):.3g}", f"{float(plain[i]):.3g}"]
            rows.append(cells)
        columns = ["skip-trigram", "raised by", *(["in the text", "rate", "bigram rate"] if rates is not None else [])]
        return Shown(title="Skip-trigrams by the weights", columns=columns, rows=rows, rest=max(0, len(self) - n))


@torch.no_grad()
def skip_trigrams(
    model: HookedTransformer,
    head: int | None = None,
    *,
    texts: Texts | None = None,
    tokens: Any = None,
    n: int = 10,
    before: int | None = None,
    seen: int = SEEN,
    each: int = EACH,
) -> SkipTrigrams:
    """The strongest skip-trigrams s … d → o of heads of layer 0, and how often a text has them.

    d attends to s where `q_d · k_s` is above what d gives other tokens, as often as these occur; then s raises the
    logit of o by `W_V W_O`, final norm and `W_U`. Only triples of which both hold are told, ranked by the product of
    how many times more attention it is and of how much the logit is raised. Positions are left out, and so is the final
    norm's scale. Special tokens are no part of a triple. Nor is s = d ever told: what a token says after itself belongs
    to the bigram. In models of more layers these are layer 0's direct ones.

    Args:
        model: Attention-only model with residual connections.
        head: Of layer 0; None: all.
        texts: A text: what the average token is, which tokens occur, and the counts, in two passes. None: all tokens
            are alike. Documents are counted whole, each once with BOS in front where the tokenizer's policy puts it.
        tokens: Tokens that triples may be made of: ids, or texts that are one token each; None: all.
        n: Triples of each head, if there are as many.
        before: s must stand so many tokens before d at most, in the counts and in the document of d; None: as many as
            the model's context lets a head see, `n_ctx` − 1.
        seen: With a text: a token must stand in it so often to be part of a triple.
        each: Triples of one head that may have the same source, or the same destination and output.

    Returns:
        The triples, and beside them the counts.

    Raises:
        ArgumentError: The model has MLPs, rotary positions, no layer or no residual connections; an argument that
            cannot be.
        TokenError: A text cannot be encoded; an id of `texts` is not in the vocabulary.

    Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits".

    Example:
        >>> model = HookedTransformer.from_pretrained("prose-2l-mixed", device="cpu")
        >>> found = skip_trigrams(model, 0, tokens=list(range(20, 40)), n=3)
        >>> found.triples.shape[1], bool((found.raises > 0).all())
        (4, True)
    """
    _check_skipping(model)
    n, seen, each = at_least("n", n, 1), at_least("seen", seen, 1), at_least("each", each, 1)
    before = max(1, model.config.n_ctx - 1) if before is None else at_least("before", before, 1)
    if isinstance(texts, Iterator):
        raise ArgumentError("texts are read twice, got an iterator, which can be read once; give a list or a Corpus")
    heads = range(model.config.attention.n_heads) if head is None else [attention_of(model, 0, head)[1]]
    d_vocab, allowed = model.config.d_vocab, torch.zeros(model.config.d_vocab, dtype=torch.bool)
    allowed[token_ids(model, tokens).cpu()] = True
    if model.policy is not None:
        allowed[[i for i in model.policy.special_ids if i < d_vocab]] = False
    share = torch.full((d_vocab,), 1 / d_vocab, dtype=torch.float64)
    if texts is not None:
        occurs = occurrences(id_rows(model, texts), d_vocab)
        allowed, share = allowed & (occurs >= seen), occurs / occurs.sum()
    if not bool(allowed.any()):
        raise ArgumentError(
            "no token is left to make skip-trigrams of; give more text, a smaller seen, or other tokens"
        )
    found = strongest_trigrams(model, share, allowed, heads=heads, n=n, each=each)
    counts = None
    if texts is not None:
        counts = trigram_counts(found.triples, id_rows(model, texts), before=before)
    flat = words_of(model, found.triples[:, 1:].flatten().tolist())
    words = list(zip(flat[::3], flat[1::3], flat[2::3], strict=True))
    settings = {"heads": list(heads), "before": before, "seen": seen if texts is not None else None, "each": each}
    record = record_of(model, task="skip-trigrams", settings=settings)
    return SkipTrigrams(found.triples, words, found.attends, found.raises, counts, record)


@torch.no_grad()
def strongest_trigrams(
    model: HookedTransformer,
    share: Float[Tensor, " d_vocab"],
    allowed: Bool[Tensor, " d_vocab"],
    *,
    heads: Sequence[int],
    n: int,
    candidates: int = CANDIDATES,
    each: int = EACH,
) -> Trigrams:
    """The strongest skip-trigrams of heads of layer 0, from the weights: see `skip_trigrams`.

    Args:
        model: Model to read.
        share: How often each token occurs, which is what "on average" means; sums to 1.
        allowed: Tokens that triples are made of.
        heads: Which heads.
        n: Triples of each head.
        candidates: Destinations, and outputs, that are looked at for each source.
        each: Triples of one head that may have the same source, or the same destination and output.
    """
    block, parts = model.blocks[0], []
    read = widened(block.ln1(model.W_E[None])[0])
    share, allowed = share.to(read), allowed.to(read.device)
    sources = allowed.nonzero()[:, 0]
    for head in heads:
        attends, raises = _attention(model, head, read, share), _output(model, head, read, share)
        k, found = min(candidates, len(sources)), []
        for s in sources.split(max(1, PART // max(len(read), k * k))):
            more, up = attends(s).masked_fill(~allowed, -torch.inf), raises(s).masked_fill(~allowed, -torch.inf)
            more[torch.arange(len(s)), s] = -torch.inf  # what a token says after itself is a bigram
            found.append((s, *more.topk(k), *up.topk(k)))
        parts.append(_chosen(head, [torch.cat(x) for x in zip(*found, strict=True)], n, each))
    return Trigrams(*(torch.cat(x).cpu() for x in zip(*parts, strict=True)))


def _attention(
    model: HookedTransformer, head: int, read: Float[Tensor, "d_vocab d_model"], share: Float[Tensor, " d_vocab"]
) -> Callable[[Int[Tensor, " s"]], Float[Tensor, "s d_vocab"]]:
    """For some sources, ln of how many times more than the average token each gets of every destination's attention."""
    attn = model.blocks[0].attn
    queries = read @ widened(attn.W_Q[head]) + (0 if attn.b_Q is None else widened(attn.b_Q[head]))
    queries = queries * attn.config.factor
    keys = read @ widened(shared(attn.W_K, head, attn.config.n_heads))
    rows = queries.split(max(1, PART // len(read)))
    average = torch.cat([(row @ keys.T + share.log()).logsumexp(1) for row in rows])
    return lambda s: keys[s] @ queries.T - average


def _output(
    model: HookedTransformer, head: int, read: Float[Tensor, "d_vocab d_model"], share: Float[Tensor, " d_vocab"]
) -> Callable[[Int[Tensor, " s"]], Float[Tensor, "s d_vocab"]]:
    """For some sources, by how much each raises every logit, above all tokens and above what the average token does."""
    attn = model.blocks[0].attn
    values = read @ widened(shared(attn.W_V, head, attn.config.n_heads))
    writes = linear(model.ln_final, values @ widened(attn.W_O[head]))
    writes, W_U = writes - share @ writes, widened(model.W_U)
    W_U = W_U - W_U.mean(1, keepdim=True)
    return lambda s: writes[s] @ W_U


def _chosen(head: int, found: list[Tensor], n: int, each: int) -> Trigrams:
    """The strongest, of which none are too much alike: taken one by one, strongest first, unless `each` forbids."""
    sources, by, d, up, o = found
    k = by.shape[1]
    strength = by[:, :, None] + up[:, None].clamp(min=1e-30).log()
    strength[(by <= 0)[:, :, None] | (up <= 0)[:, None]] = -torch.inf
    # Before the n-th is taken, at most (n - 1) // each pairs (d, o) are full: a source needs no more of its own.
    most = min(each + (n - 1) // each, k * k)
    own = strength.flatten(1).sort(dim=1, descending=True, stable=True)
    values, pairs = own.values[:, :most].flatten(), own.indices[:, :most].flatten()
    order = values.argsort(descending=True, stable=True)
    order = order[values[order] > -torch.inf]
    chosen, alike = [], Counter()
    for part in order.split(1000):
        i, pair = part // most, pairs[part]
        first, second = pair // k, pair % k
        rows = zip(
            *(x.tolist() for x in (sources[i], d[i, first], o[i, second], by[i, first], up[i, second])), strict=True
        )
        for s, to, out, attends, raises in rows:
            if len(chosen) < n and alike[s] < each and alike[to, out] < each:
                alike.update([s, (to, out)])
                chosen.append((s, to, out, attends, raises))
        if len(chosen) == n:
            break
    triples = torch.tensor([(head, *one[:3]) for one in chosen], dtype=torch.int64).view(-1, 4)
    attends, raises = torch.tensor([one[3:] for one in chosen], dtype=torch.float64).view(-1, 2).unbind(1)
    return Trigrams(triples, attends, raises)


def _check_direct(model: HookedTransformer, what: str) -> None:
    """Whether a token reaches the logits by itself, and through heads alone."""
    if model.config.mlp is not None:
        raise ArgumentError(
            f"{what} are read off attention-only models, and this one has MLPs, which change what a token says by "
            "itself and what heads write; look at logit_attribution on prompts"
        )
    if model.config.n_layers and not model.config.residual:
        raise ArgumentError(
            f"{what} need residual connections, and this model has none: no direct path leads from its tokens or from "
            "layer 0 to the logits"
        )


def _check_skipping(model: HookedTransformer) -> None:
    """Whether heads of layer 0 read and write tokens."""
    _check_direct(model, "skip-trigrams")
    if not model.config.n_layers:
        raise ArgumentError("skip-trigrams need a head, and this model has no layers; read its bigrams")
    if isinstance(model.config.positions, Rotary):
        raise ArgumentError(
            "skip-trigrams leave positions out, and with rotary positions scores depend on the distance from s to d; "
            "read ov_tokens, and qk_tokens with distance=…"
        )
    if model.config.vocab_out != model.config.d_vocab:
        raise ArgumentError(
            f"skip-trigrams need tokens that go out by the vocabulary they come in by, got {model.config.d_vocab} and "
            f"{model.config.vocab_out}"
        )
