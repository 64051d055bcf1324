"""The encoder–decoder's side of the study of emergence: where does it attend, and what does it need?

In: a trained model and the kind of its sequences. Out: tensors by name.
"""

from typing import Any

import torch
from torch import Tensor

from pellucid.base.seeds import generator
from pellucid.hooks.edits import Edit, Zero
from pellucid.train.sequences import MARK, Batch, TranslatedSequences

WITHOUT = {
    "without_decoder_attention": "decoder.{layer}.attn.hook_z",
    "without_encoder_attention": "encoder.{layer}.attn.hook_z",
    "without_cross_attention": "decoder.{layer}.cross_attn.hook_z",
}
"""What is silenced, in every layer."""


@torch.no_grad()
def questioned(model: Any, sequences: TranslatedSequences, *, seed: int, batch: int) -> dict[str, Tensor]:
    """What a finished encoder–decoder is asked, on sequences that it was not trained on.

    Returns:
        ``accuracy``; the same ``without_decoder_attention``, ``without_encoder_attention``,
        ``without_cross_attention``, where these write nothing in any layer; ``answer_mass [layer head]``, the cross
        attention from each token of the decoder to the place in the source of the one that it has to write;
        ``last_mass [layer head]``, that to the place of the one that it wrote last; ``uniform``, what uniform
        attention gives; ``cross_patterns [layer head q_pos k_pos]``, ``source`` and ``tokens``, of the first sequence.
    """
    drawn = sequences.draw(batch, generator(seed))
    if drawn.source is None:
        raise AssertionError("translated sequences have a source")
    layers = range(model.config.n_layers)
    names = [f"decoder.{layer}.cross_attn.hook_pattern" for layer in layers]
    ran = model.run(drawn.source, drawn.tokens, reads=names)
    found = {"accuracy": _accuracy(ran.logits, drawn)}
    for name, point in WITHOUT.items():
        edits: list[Edit] = [Zero(point.format(layer=layer)) for layer in layers]
        found[name] = _accuracy(model.run(drawn.source, drawn.tokens, edits=edits).logits, drawn)
    patterns = torch.stack([ran.cache[name] for name in names], dim=1)
    places = _places(drawn.source)
    found["answer_mass"] = _mass(patterns, places)
    found["last_mass"] = _mass(patterns[..., 1:, :], places[:, :-1])
    found["uniform"] = torch.tensor(1 / drawn.source.shape[1])
    found["cross_patterns"], found["source"], found["tokens"] = patterns[0], drawn.source[0], drawn.tokens[0]
    return found


def _accuracy(logits: Tensor, drawn: Batch) -> Tensor:
    return (logits.argmax(-1) == drawn.targets).double().mean()


def _places(source: Tensor) -> Tensor:
    """`[batch pos]`: where in the source each token of the answer stands."""
    n = int((source[0] != MARK).sum())
    return (source != MARK).long().sort(dim=1, descending=True, stable=True).indices[:, :n]


def _mass(patterns: Tensor, keys: Tensor) -> Tensor:
    """`[layer head]`: the mean attention from each query to its key."""
    index = keys[:, None, None, :, None].expand(-1, *patterns.shape[1:3], -1, 1)
    return patterns.gather(-1, index)[..., 0].double().mean((0, 3))
