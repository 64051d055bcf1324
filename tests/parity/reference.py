"""Tiny random models made by `transformers`, in every form that their families take here."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "gpt2": {
        "as it is": {},
        "untied, relu, narrow MLP": {"tie_word_embeddings": False, "activation_function": "relu", "n_inner": 20},
        "unscaled attention, exact gelu": {"scale_attn_weights": False, "activation_function": "gelu"},
        "one head, other eps": {"n_head": 1, "layer_norm_epsilon": 1e-3, "activation_function": "quick_gelu"},
    },
    "llama": {
        "as it is": {},
        "grouped queries": {"num_key_value_heads": 2},
        "one kv head, tied": {"num_key_value_heads": 1, "tie_word_embeddings": True},
        "biases": {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 2},
        "wide heads": {"head_dim": 10, "hidden_act": "gelu", "rms_norm_eps": 1e-3},
        "other base": {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    },
}
"""Configuration fields of each variant, beside `SMALL`."""

SMALL: dict[str, dict[str, Any]] = {
    "gpt2": {"vocab_size": 19, "n_positions": 16, "n_embd": 24, "n_layer": 3, "n_head": 4},
    "llama": {
        "vocab_size": 19,
        "max_position_embeddings": 16,
        "hidden_size": 24,
        "intermediate_size": 20,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "pad_token_id": None,
    },
}

ALL = [(family, name) for family, variants in VARIANTS.items() for name in variants]


def reference(family: str, variant: str = "as it is", **changes: Any) -> Any:
    """A random model of `transformers` whose every weight, norms and biases too, is far from its initial value."""
    import transformers

    values = SMALL[family] | {"bos_token_id": 1, "eos_token_id": 2} | VARIANTS[family][variant] | changes
    config = transformers.AutoConfig.for_model(family, **values)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    scramble(model)
    return model.eval()


def scramble(model: torch.nn.Module) -> None:
    """Draws every weight, so that none keeps a value (0 or 1) which would hide a mistake."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3, generator=generator)
            if parameter.ndim == 1:
                parameter.add_(0.7)


def saved(model: Any, folder: Path) -> Path:
    """The folder, with the model in it as `transformers` writes it."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model.save_pretrained(folder)
    return folder


def read_back(folder: Path) -> Any:
    """What `transformers` makes of a folder."""
    import transformers
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    return transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


def random_tokens(d_vocab: int, shape: tuple[int, int] = (2, 16)) -> Tensor:
    """Token ids."""
    return torch.randint(d_vocab, shape, generator=torch.Generator().manual_seed(0))


def differences(ours: Any, theirs: Any, tokens: Tensor) -> dict[str, float]:
    """The largest difference at each place that `transformers` shows: logits, hidden states, attention patterns."""
    with torch.no_grad():
        shown = theirs(tokens, output_hidden_states=True, output_attentions=True)
        logits, cache = ours.run(tokens, reads=None)
    n = ours.config.n_layers
    mine = {"logits": logits} | {f"pattern {layer}": cache[f"blocks.{layer}.attn.hook_pattern"] for layer in range(n)}
    mine |= {f"stream {layer}": cache[f"blocks.{layer}.hook_resid_pre"] for layer in range(n)}
    other = {"logits": shown.logits} | {f"pattern {layer}": shown.attentions[layer] for layer in range(n)}
    other |= {f"stream {layer}": shown.hidden_states[layer] for layer in range(n)}
    with torch.no_grad():
        mine["final"] = ours.ln_final(cache[f"blocks.{n - 1}.hook_resid_post"])
    other["final"] = shown.hidden_states[n]
    assert len(shown.hidden_states) == n + 1 and len(shown.attentions) == n
    return {name: (mine[name] - other[name]).abs().max().item() for name in mine}
