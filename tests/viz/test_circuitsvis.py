"""The field's older pictures take what we give: our tensors and our strings."""

import circuitsvis
import torch

from pellucid import HookedTransformer


def test_circuitsvis_takes_our_patterns_and_strings():
    model = HookedTransformer.from_pretrained("toy-induction", device="cpu")
    prompt = "5 9 3 5 9"
    _, cache = model.run_with_cache(prompt, remove_batch_dim=True)
    tokens = model.to_str_tokens(prompt)
    shown = str(circuitsvis.attention.attention_patterns(tokens=tokens, attention=cache["pattern", 0]))
    assert '"<bos>", "5", "9"' in shown and "AttentionPatterns" in shown
    colours = str(circuitsvis.tokens.colored_tokens(tokens, torch.ones(len(tokens))))
    assert "ColoredTokens" in colours
