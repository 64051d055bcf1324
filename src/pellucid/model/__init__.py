"""The one uniform transformer: token ids in, logits out. Knows no text and no file.

Axes, in every annotation and einops pattern: `batch pos q_pos k_pos head kv_head d_model d_head d_mlp d_vocab`.
A prompt flows `embed` → `block` × n_layers (`norms`, `attention`, `mlp`) → final norm → unembed; `decoder` holds it
together.
"""
