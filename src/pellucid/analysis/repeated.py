"""Random tokens that repeat once, their control that does not, and how well a model predicts them.

In: a model, and how many tokens. Out: tokens `[batch pos]` as a value that knows where its halves lie, and what the
model said about each token. Nothing in random tokens can be predicted but by finding what was seen before.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from pellucid.analysis.reading import chunks
from pellucid.base.errors import ArgumentError, TokenError, nearest
from pellucid.base.seeds import generator
from pellucid.hooked_transformer import HookedTransformer, record_of
from pellucid.measurement import Measurement

RULES = ("article", "introduction")
"""Named rules of publications; None is ours."""
INTRODUCTION = (1000, 10_000)
"""The token ids that the introduction draws from: the first one, and the first that it does not."""


@dataclass(frozen=True)
class RepeatedTokens:
    """BOS where the model has one, S random tokens, then S more: the same ones, or in a control others.

    Raises:
        ArgumentError: The tokens are not of this form.
    """

    tokens: Int[Tensor, "batch pos"]
    seq_len: int
    """S, the tokens of a half."""
    bos: bool
    """Whether the tokens begin with BOS."""
    rule: str | None = None
    """Drawn and scored as a publication did; None: as we do."""
    seed: int = 0
    repeated: bool = True
    """False in a control, whose second half was drawn anew."""
    bos_left_out: bool = False
    """Whether BOS was left out on purpose, where the policy of the tokenizer asks for it."""

    def __post_init__(self) -> None:
        if self.rule is not None and self.rule not in RULES:
            raise ArgumentError(f"rule must be None or a known one, got {self.rule!r}{nearest(self.rule, RULES)}")
        expected = self.start + 2 * self.seq_len
        if self.seq_len < 2 or self.tokens.shape[1] != expected:
            raise ArgumentError(
                f"tokens must be {'BOS and ' if self.bos else ''}two halves of seq_len tokens, 2 or more each; got "
                f"{self.tokens.shape[1]} tokens and seq_len={self.seq_len}"
            )
        if self.repeated and not self.matches.all():
            raise ArgumentError(
                "the second half must be the first one again, got other tokens; a control says repeated=False"
            )

    @property
    def start(self) -> int:
        """Position of the first half's first token."""
        return int(self.bos)

    @property
    def middle(self) -> int:
        """Position of the second half's first token."""
        return self.start + self.seq_len

    @property
    def matches(self) -> Bool[Tensor, "batch seq_len"]:
        """Where a token of the second half is the same as that of the first: in a control, by accident."""
        return self.tokens[:, self.start : self.middle] == self.tokens[:, self.middle :]

    @property
    def settings(self) -> dict[str, object]:
        """What a record must tell about the tokens, beside the seed."""
        return {
            "seq_len": self.seq_len,
            "batch": len(self.tokens),
            "bos": self.bos,
            "rule": self.rule,
            "repeated": self.repeated,
        }


def default_seq_len(model: HookedTransformer) -> int:
    """S where none is asked for: `min(50, (n_ctx − 1) // 2)`, with BOS or without."""
    return min(50, (model.config.n_ctx - 1) // 2)


def repeated_tokens(
    model: HookedTransformer,
    *,
    seq_len: int | None = None,
    batch: int = 30,
    seed: int = 0,
    rule: str | None = None,
    bos: bool | None = None,
) -> RepeatedTokens:
    """BOS, S random tokens, and the same S again.

    Args:
        model: Its vocabulary is drawn from; special tokens never are. BOS stands in front if the policy of its
            tokenizer puts one before every text, and only then.
        seq_len: S; None for `default_seq_len`.
        batch: Prompts.
        seed: Of the draw.
        rule: None: tokens of a prompt are all different, where the vocabulary allows. ``"article"``: drawn with
            replacement, as "How one can interpret GPT2-small" did. ``"introduction"``: ids 1000–9999, with replacement
            and without BOS, as the introduction to HookedTransformer did (10 prompts, S = 50).
        bos: False leaves BOS out where the model has one: heads that rest there then rest elsewhere.

    Returns:
        ``[batch pos]``, `pos` being 2S, or 1 + 2S with BOS.

    Raises:
        ArgumentError: S does not fit the context, or an argument cannot be.
        TokenError: The vocabulary has less than two ordinary tokens.

    Example:
        >>> from pellucid import HookedTransformer
        >>> model = HookedTransformer.from_pretrained("toy-induction")
        >>> repeated_tokens(model, seq_len=3, batch=1).tokens.tolist()
        [[0, 54, 63, 34, 54, 63, 34]]
    """
    return _drawn(model, seq_len, batch, seed, rule, bos, repeated=True)


def unrepeated_tokens(
    model: HookedTransformer,
    *,
    seq_len: int | None = None,
    batch: int = 30,
    seed: int = 0,
    rule: str | None = None,
    bos: bool | None = None,
) -> RepeatedTokens:
    """The control of `repeated_tokens` with the same arguments: the same first half, and another second one.

    All 2S tokens are different where the vocabulary allows. Below 2S ordinary tokens the halves are drawn independently
    of each other, and accidental matches are for the scores to leave out.

    Raises:
        ArgumentError: As for `repeated_tokens`.
        TokenError: As for `repeated_tokens`.
    """
    return _drawn(model, seq_len, batch, seed, rule, bos, repeated=False)


class Predictions(NamedTuple):
    """What a model said about each token of some prompts, by the position where that token stands."""

    logprob: Measurement
    """Of the right token, in nats; ``[prompt pos]``."""
    loss: Measurement
    """The same with the other sign."""
    accuracy: Measurement
    """1 where the right token was the most probable one, else 0; ``[prompt pos]``."""


@torch.no_grad()
def predictions(model: HookedTransformer, repeated: RepeatedTokens) -> Predictions:
    """How well each token is predicted from those before it.

    Returns:
        Three Measurements ``[prompt pos]``; the first position, which nothing comes before, is not among them.
    """
    logprob, hits = [], []
    for rows in chunks(repeated.tokens, widest=model.config.vocab_out):
        tokens = repeated.tokens[rows].to(model.device)
        logits, target = model(tokens)[:, :-1], tokens[:, 1:, None]
        wide = logits if logits.dtype == torch.float64 else logits.float()
        said = wide.gather(-1, target)[..., 0] - wide.logsumexp(-1)
        right = (logits.argmax(-1) == target[..., 0]).to(said)
        logprob.append(said.cpu())
        hits.append(torch.where(said.isnan(), said, right).cpu())  # what is no number is not wrong either
    positions = range(1, repeated.tokens.shape[1])

    def measured(values: Tensor, name: str, unit: str) -> Measurement:
        record = record_of(model, task=name, seed=repeated.seed, settings=repeated.settings)
        return Measurement(
            values, ("prompt", "pos"), unit=unit, record=record, name=name, coords={"pos": list(positions)}
        )

    return Predictions(
        measured(torch.cat(logprob), "log-probability", "nats"),
        measured(-torch.cat(logprob), "loss", "nats"),
        measured(torch.cat(hits), "accuracy", "fraction"),
    )


def halves(measured: Measurement, repeated: RepeatedTokens) -> tuple[Measurement, Measurement]:
    """Means over the first half and over the second, by prompt.

    The second half leaves out its first token, which is one of S and cannot be predicted; ``rule="article"`` keeps it.

    Args:
        measured: ``[prompt pos]``, such as the parts of `Predictions`.
        repeated: The tokens.

    Returns:
        Two Measurements ``[prompt]``.
    """
    first = list(range(1, repeated.middle))
    second = list(range(repeated.middle + (repeated.rule != "article"), repeated.tokens.shape[1]))
    return measured.sel(pos=first).mean("pos"), measured.sel(pos=second).mean("pos")


def _drawn(
    model: HookedTransformer,
    seq_len: int | None,
    batch: int,
    seed: int,
    rule: str | None,
    bos: bool | None,
    *,
    repeated: bool,
) -> RepeatedTokens:
    front = front_of(model, False if rule == "introduction" and bos is None else bos)
    length = default_seq_len(model) if seq_len is None else seq_len
    room = (model.config.n_ctx - len(front)) // 2
    if not 2 <= length <= room:
        raise ArgumentError(
            f"seq_len must lie in 2..{room}, so that {'BOS and ' if front else ''}two halves fit n_ctx="
            f"{model.config.n_ctx}, got {length}"
        )
    if batch < 1:
        raise ArgumentError(f"batch must be 1 or more prompts, got {batch}")
    ordinary = ordinary_tokens(model)
    if rule == "introduction":
        ordinary = ordinary[(ordinary >= INTRODUCTION[0]) & (ordinary < INTRODUCTION[1])]
        if len(ordinary) < 2:
            raise TokenError(
                f"rule='introduction' draws token ids from {INTRODUCTION[0]} to {INTRODUCTION[1] - 1}, and this "
                f"vocabulary has {model.config.d_vocab}; leave the rule out"
            )
    draws = generator(seed)
    pairs = [_pair(len(ordinary), length, draws, replacement=rule is not None) for _ in range(batch)]
    first, other = (ordinary[torch.stack(side)] for side in zip(*pairs, strict=True))
    tokens = torch.cat(
        [torch.tensor([front] * batch, dtype=torch.int64), first, first if repeated else other], dim=1
    ).to(model.device)
    left_out = not front and bool(front_of(model))
    return RepeatedTokens(tokens, length, bool(front), rule, seed, repeated, left_out)


def front_of(model: HookedTransformer, bos: bool | None = None) -> list[int]:
    """What stands before random tokens: BOS where the policy of the tokenizer puts one before every text, else nothing.

    Args:
        model: Of which.
        bos: False leaves it out all the same; True insists on it.

    Raises:
        TokenError: BOS is insisted on, and the model has none.
    """
    policy = model.policy
    bos_id = None if policy is None else policy.bos_id
    if bos and bos_id is None:
        raise TokenError("bos=True needs a model with a BOS token, and this one has none; leave it out")
    wanted = policy is not None and policy.prepend_bos if bos is None else bos
    return [bos_id] if wanted and bos_id is not None else []


def ordinary_tokens(model: HookedTransformer) -> Int[Tensor, " token"]:
    """Ids that text can hold, and that the model can both read and predict.

    Raises:
        TokenError: There are less than two.
    """
    config, policy = model.config, model.policy
    n = min(config.d_vocab, config.vocab_out, config.d_vocab if model.tokenizer is None else len(model.tokenizer))
    special = frozenset() if policy is None else policy.special_ids
    ordinary = torch.tensor([i for i in range(n) if i not in special], dtype=torch.int64)
    if len(ordinary) < 2:
        raise TokenError(
            f"the vocabulary must have 2 or more ordinary tokens for random ones, got {len(ordinary)} of {n}; "
            "the others are special: see model.tokenizer.policy"
        )
    return ordinary


def _pair(n: int, length: int, draws: torch.Generator, *, replacement: bool) -> tuple[Tensor, Tensor]:
    """A prompt's half, and another one for its control; never the same twice, since no stripe would be left."""

    def draw(count: int) -> Tensor:
        if replacement or count > n:
            return torch.randint(n, (count,), generator=draws)
        return torch.randperm(n, generator=draws)[:count]

    if not replacement and 2 * length <= n:
        first, other = draw(2 * length).split(length)
        return first, other
    first, other = draw(length), draw(length)
    while bool((first == other).all()):
        other = draw(length)
    return first, other
