"""One token after the other: how a continuation is drawn from logits."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.base.errors import ArgumentError
from pellucid.model.past import KeyValueCache


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen.

    Args:
        do_sample: False takes the most probable token always.
        top_k: Only the k most probable ones may be drawn.
        top_p: Only the smallest set of most probable ones with this much probability may be drawn.
        temperature: Divides the logits; 0 is the same as `do_sample=False`.
        freq_penalty: Subtracted from a token's logit each time that it stands in the text already.
        repetition_penalty: Divides the positive logits of tokens in the text already, multiplies the negative ones
            (Keskar et al. 2019); 1 is none.

    Raises:
        ArgumentError: A value cannot be.
    """

    do_sample: bool = True
    top_k: int | None = None
    top_p: float | None = None
    temperature: float = 1.0
    freq_penalty: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.top_k is not None and self.top_k < 1:
            raise ArgumentError(f"top_k must be 1 or more, got {self.top_k}; None switches it off")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ArgumentError(f"top_p must lie above 0 and at most at 1, got {self.top_p}; None switches it off")
        if self.temperature < 0:
            raise ArgumentError(f"temperature must be 0 or more, got {self.temperature}")
        if self.repetition_penalty <= 0:
            raise ArgumentError(f"repetition_penalty must be above 0, got {self.repetition_penalty}; 1 is none")

    def choose(
        self,
        logits: Float[Tensor, "batch d_vocab"],
        said: Int[Tensor, "batch pos"],
        *,
        real: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, " batch"]:
        """The next token of each row.

        Args:
            logits: For the next token.
            said: The text so far, which the penalties look at.
            real: True where `said` is no padding; None: everywhere.
            generator: Draws; None takes torch's own random state.
        """
        logits = logits.float()
        if self.freq_penalty or self.repetition_penalty != 1:
            logits = self._penalised(logits, said, real)
        if not self.do_sample or self.temperature == 0:
            return logits.argmax(-1)
        logits = logits / self.temperature
        if self.top_k is not None:
            least = logits.topk(min(self.top_k, logits.shape[-1])).values[:, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        if self.top_p is not None:
            logits = _nucleus(logits, self.top_p)
        return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]

    def _penalised(self, logits: Tensor, said: Tensor, real: Tensor | None) -> Tensor:
        ones = torch.ones_like(said, dtype=logits.dtype) if real is None else real.to(logits.dtype)
        counts = torch.zeros_like(logits).scatter_add_(1, said, ones)
        logits = logits - self.freq_penalty * counts
        harsher = torch.where(logits > 0, logits / self.repetition_penalty, logits * self.repetition_penalty)
        return torch.where(counts > 0, harsher, logits)


def _nucleus(logits: Tensor, top_p: float) -> Tensor:
    ordered, order = logits.sort(descending=True)
    before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
    outside = torch.zeros_like(logits, dtype=torch.bool).scatter(1, order, before >= top_p)
    return logits.masked_fill(outside, -torch.inf)


@torch.no_grad()
def continued(
    model: Callable[..., Tensor],
    tokens: Int[Tensor, "batch pos"],
    *,
    steps: Iterable[int],
    sampling: Sampling,
    mask: Bool[Tensor, "batch pos"] | None = None,
    past: KeyValueCache | None = None,
    stop: int | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"]]:
    """Prompts and what the model says after them.

    Args:
        model: Called as `model(tokens, attention_mask=, past_kv_cache=, logits_at=)`.
        tokens: The prompts, padded on the left.
        steps: One new token each.
        sampling: How each is chosen.
        mask: True at real tokens of the prompts; None: all are.
        past: An empty cache of keys and values that saves running the prompt again for each token; None does without.
        stop: The id that ends a row (which is then filled up with it); None never ends one.
        generator: Draws; None takes torch's own random state.

    Returns:
        ``[batch pos+new]`` ids, and which of them are neither padding nor filled up.
    """
    padded = mask is not None
    real = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
    going = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
    n_held = 0
    for _ in steps:
        logits = model(
            tokens[:, n_held:],
            attention_mask=real[:, n_held:] if padded else None,
            past_kv_cache=past,
            logits_at=-1,
        )[:, -1]
        n_held = 0 if past is None else tokens.shape[1]
        chosen = sampling.choose(logits, tokens, real=real, generator=generator)
        if stop is not None:
            chosen = torch.where(going, chosen, stop)
        tokens = torch.cat([tokens, chosen[:, None]], dim=1)
        real = torch.cat([real, going[:, None]], dim=1)
        if stop is not None:
            going = going & (chosen != stop)
            if not going.any():
                break
    return tokens, real
