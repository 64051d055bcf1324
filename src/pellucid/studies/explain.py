"""One prompt of one's own: can the model do it, what does it say instead, and which parts matter?

In: a model, a prompt and its answer; if there is one, a wrong answer and a corrupted prompt. Out: what a page needs.
With a corrupted prompt parts are patched, which keeps the run natural; without one they are set to zero, a cruder
question, whose answer depends on how the weights were processed.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.analysis.attribution import logit_attribution
from pellucid.base.errors import ArgumentError, TokenError
from pellucid.hooked_transformer import HookedTransformer
from pellucid.hooks.edits import Zero
from pellucid.measurement import Measurement
from pellucid.model.norms import widened
from pellucid.patching.ablation import ablate
from pellucid.patching.sites import point
from pellucid.patching.sweep import sweep
from pellucid.report.page import Page
from pellucid.tasks.pairs import Pairs
from pellucid.tasks.task import word_token
from pellucid.viz.attention import attention_patterns
from pellucid.viz.plots import plot
from pellucid.viz.showing import unshown

HEADS = 6
"""Whose patterns are shown."""
SAID = 8
"""Tokens that the model would say, told."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Explanation:
    """What was found about one prompt."""

    model: str
    prompt: str
    corrupted: str | None
    answer: str
    wrong: str
    chosen: bool
    """Whether the wrong answer is the model's own: what it says to the corrupted prompt, else its best other one."""
    difference: float
    """Logit of the answer minus that of the wrong one."""
    rank: int
    """Tokens that are more probable than the answer."""
    probability: float
    said: list[tuple[str, float]]
    """The most probable next tokens."""
    tokens: list[str]
    components: Measurement
    """Direct logit attribution, ``[prompt component]``."""
    heads: Measurement
    """Effect of each head's output, ``[prompt layer head]``, logits."""
    places: Measurement
    """Effect of the stream (patched) or of attention (set to zero), ``[prompt layer pos]``, logits."""
    patterns: dict[str, Float[Tensor, "q_pos k_pos"]]
    """Of the heads that matter most, by name."""

    @property
    def can(self) -> bool:
        """Whether the right answer is preferred to the wrong one."""
        return self.difference > 0

    @property
    def verdict(self) -> str:
        """In words: whether the answer comes first, or is only preferred to the wrong one, or not even that."""
        if self.rank == 0:
            return "It can"
        return f"It prefers {self.answer!r} to {self.wrong!r}, but says neither" if self.can else "It cannot"

    def top_heads(self) -> list[tuple[str, float]]:
        """The heads that matter most, and their effects."""
        means = self.heads.mean("prompt")
        order = sorted(range(means.values.size), key=lambda at: -abs(float(means.values.ravel()[at])))[:HEADS]
        return [(means.labels[at], float(means.values.ravel()[at])) for at in order]

    def page(self) -> Page:
        """One page."""
        how = "patched from the clean prompt into the corrupted one" if self.corrupted else "set to zero"
        verdict = self.verdict
        page = Page(
            f"{self.prompt!r}",
            lead=f"{verdict}: {self.answer!r} has {self.probability:.1%}, rank {self.rank} (0 is on top); its logit "
            f"minus that of {self.wrong!r}{', the most probable other token,' if self.chosen else ''} is "
            f"{self.difference:+.2f}.",
        )
        with unshown():
            rows = [[repr(token), f"{share:.1%}"] for token, share in self.said]
            page.section("What does it say?").table(["next token", "probability"], rows, "The most probable ones.")
            page.section("Which parts write the answer?").figure(
                plot(self.components.mean("prompt"), title="Direct logit attribution"),
                f"What each part writes for {self.answer!r} and against {self.wrong!r} at the end, the final norm's "
                "scale frozen. The parts and a constant add up to the logit difference.",
            )
            page.section("Which parts matter?").text(
                f"Each part alone is {how}; the number is how much the logit difference changes."
                + ("" if self.corrupted else " Zeros are a crude question: give a corrupted prompt for a better one.")
            )
            what = "stream before each layer" if self.corrupted else "output of attention"
            page.figure(
                plot(self.places.mean("prompt"), title=f"Effect, {what}"), f"The {what}, by layer and position."
            )
            page.figure(plot(self.heads.mean("prompt"), title="Effect, heads"), "Each head's output, at all positions.")
            if self.patterns:
                stacked = torch.stack(list(self.patterns.values())).numpy()
                page.section("Where do the heads look that matter most?").figure(
                    attention_patterns(self.tokens, stacked, list(self.patterns)),
                    "Rows attend to columns; the heads of the largest effect. The mouse tells each weight.",
                )
        return page


GLUE = " \n([{\"'“‘-_/#@$"
"""Behind these a word follows without a space."""


def _token(tokenizer: Any, prompt: str, answer: str) -> int:
    exact = answer[:1].isspace() or prompt[-1:] in GLUE
    return tokenizer.single(answer) if exact else word_token(tokenizer, answer)


@torch.no_grad()
def explain(
    model: HookedTransformer, prompt: str, *, answer: str, wrong: str | None = None, corrupted: str | None = None
) -> Explanation:
    """Looks at one prompt.

    Args:
        model: Any model with a tokenizer.
        prompt: What it reads.
        answer: What should come next, one token; a space in front is added, unless it has one or the prompt ends with a
            space, a bracket, a quotation mark or the like.
        wrong: What should not, likewise; None: what the model says to the corrupted prompt, else its most probable
            token, the answer left out.
        corrupted: A prompt of as many tokens, where the answer is not right; None: parts are set to zero instead.

    Raises:
        TokenError: There is no tokenizer; an answer is not one token; the prompts cannot be aligned.

    Example:
        >>> model = HookedTransformer.from_pretrained("toy-induction")
        >>> explain(model, "5 9 7 3 5 9", answer="7").verdict
        'It can'
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise TokenError("a prompt needs a tokenizer, and this model came without one; set model.tokenizer")
    right = _token(tokenizer, prompt, answer)
    pairs = Pairs.from_text(tokenizer, prompt, prompt if corrupted is None else corrupted)
    logits = widened(model.run(pairs.clean.to(model.device), logits_at=[-1]).logits[0, 0])
    shares, order = logits.softmax(0), logits.argsort(descending=True).tolist()
    theirs = order
    if corrupted is not None:
        theirs = (
            model.run(pairs.corrupted.to(model.device), logits_at=[-1]).logits[0, 0].argsort(descending=True).tolist()
        )
    left = next(i for i in theirs if i != right) if wrong is None else _token(tokenizer, prompt, wrong)
    if left == right:
        raise ArgumentError(f"answer and wrong must be two tokens, got {answer!r} for both")
    pairs = pairs.with_answers(answer=right, wrong=left)
    if corrupted is None:
        places = ablate(model, pairs, site="attn_out", over=("layer", "pos"), by=Zero(), progress=False)
        heads = ablate(model, pairs, site="z", over=("layer", "head"), by=Zero(), progress=False)
    else:
        places = sweep(model, pairs, site="resid_pre", over=("layer", "pos"), progress=False)
        heads = sweep(model, pairs, site="z", over=("layer", "head"), progress=False)
    texts = None if pairs.text is None else pairs.text[0]
    found = Explanation(
        model=model.record.model or "a model of no name",
        prompt=prompt if texts is None else texts[0],
        corrupted=None if corrupted is None or texts is None else texts[1],
        answer=tokenizer.strings([right])[0],
        wrong=tokenizer.strings([left])[0],
        chosen=wrong is None,
        difference=float(logits[right] - logits[left]),
        rank=order.index(right),
        probability=float(shares[right]),
        said=[(tokenizer.strings([i])[0], float(shares[i])) for i in order[:SAID]],
        tokens=tokenizer.strings(pairs.clean[0]),
        components=logit_attribution(model, pairs, by="component"),
        heads=heads.effect(),
        places=places.effect(),
        patterns={},
    )
    for label, _ in found.top_heads():
        layer, head = map(int, label.split("."))
        pattern = model.run(pairs.clean.to(model.device), reads=[point("pattern", layer)]).cache[
            point("pattern", layer)
        ]
        found.patterns[label] = widened(pattern[0, head]).cpu()
    return found
