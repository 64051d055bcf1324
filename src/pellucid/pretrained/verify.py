"""The same model in the reference implementation: how far apart the answers are."""

from dataclasses import dataclass
from pathlib import Path

import torch

from pellucid.base.optional import optional
from pellucid.base.seeds import generator
from pellucid.pretrained.load import DTYPES, Options, load
from pellucid.pretrained.names import find
from pellucid.pretrained.processing import Processing


@dataclass(frozen=True, kw_only=True)
class Verified:
    """How far a model's answers lie from the reference's, on random tokens.

    Args:
        logits: Largest difference, in logits; a processed model's may move by a constant.
        log_probs: Largest difference of log-probabilities, in nats.
        n_tokens: Tokens compared.
        processing: Steps that the model had gone through.
    """

    logits: float
    log_probs: float
    n_tokens: int
    processing: tuple[str, ...]

    def agrees(self, tolerance: float = 1e-4) -> bool:
        """Whether no log-probability differs by more, nor, in a model as it is in its file, any logit."""
        return self.log_probs <= tolerance and (bool(self.processing) or self.logits <= tolerance)


def verify(
    name: str | Path,
    *,
    processing: Processing = Processing.none(),  # noqa: B008
    options: Options = Options(),  # noqa: B008
    shape: tuple[int, int] = (2, 32),
    seed: int = 0,
) -> Verified:
    """Compares a model of a family with `transformers`, which must be installed.

    Args:
        name: As for `load`.
        processing: As for `load`; none by default, so that logits can be compared.
        options: As for `load`.
        shape: Prompts and tokens each; no more than the context are taken.
        seed: Of the tokens.

    Raises:
        CheckpointError: The model cannot be loaded.
        MissingExtraError: `transformers` is not installed.
    """
    transformers = optional("transformers", extra="hf")
    loaded = load(name, processing=processing, options=options)
    model = loaded.model
    folder = find(name, revision=options.revision).folder
    dtype = DTYPES[loaded.record.dtype or "float32"]
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(model.device).eval()
    prompts, length = shape[0], min(shape[1], model.config.n_ctx)
    tokens = torch.randint(model.config.d_vocab, (prompts, length), generator=generator(seed)).to(model.device)
    with torch.no_grad():
        ours, theirs = model(tokens), reference(tokens).logits
        probs = (ours.log_softmax(-1) - theirs.log_softmax(-1)).abs().max().item()
        logits = (ours - theirs).abs().max().item()
    return Verified(logits=logits, log_probs=probs, n_tokens=tokens.numel(), processing=loaded.record.processing)
