"""Llama as its own files have it: real weights, older configurations, shards."""

import pytest
import torch

from pellucid.base.errors import CheckpointError
from pellucid.model.positional import Rotary
from pellucid.pretrained.families.llama import LLAMA
from pellucid.pretrained.load import Options, load
from pellucid.pretrained.processing import Processing
from tests.parity.reference import differences, random_tokens, read_back, reference, saved

PLAIN = Processing.none()

PUBLISHED = {
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.31.0.dev0",
    "use_cache": True,
    "vocab_size": 32000,
}
"""That of Llama 2 with 7 billion parameters."""


def test_a_real_model_is_equal(shared):
    folder = shared / "data" / "stories260k"
    theirs, tokens = read_back(folder), random_tokens(512, (2, 40))
    found = differences(load(folder, processing=PLAIN).model, theirs, tokens)
    assert max(found.values()) < 1e-4, found
    processed = load(folder)
    assert processed.record.processing == ("untie", "fold_ln", "center_unembed")
    with torch.no_grad():
        ours, other = processed.model(tokens).log_softmax(-1), theirs(tokens).logits.log_softmax(-1)
    assert torch.allclose(ours, other, atol=1e-4)


def test_the_published_configuration_is_read():
    config = LLAMA.config(PUBLISHED, "config.json")
    assert (config.attention.d_head, config.attention.n_kv_heads, config.tied) == (128, None, False)
    assert config.positions == Rotary(base=10000.0)


@pytest.mark.parametrize(
    ("changes", "base"),
    [
        ({"rope_theta": 500000.0}, 500000.0),
        ({"rope_theta": 1e6, "rope_scaling": {"rope_type": "default"}}, 1e6),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}, 7.0),
        ({"rope_parameters": {"rope_theta": 7.0}, "rope_theta": 7}, 7.0),
    ],
)
def test_the_base_of_the_angles_is_read_from_either_field(changes, base):
    assert LLAMA.config(PUBLISHED | changes, "config").positions == Rotary(base=base)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling must be that of unscaled rotary positions"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "got {'rope_type': 'llama3', 'factor': 8.0}"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_parameters must be that of unscaled"),
        ({"rope_parameters": {"rope_theta": 5.0}, "rope_theta": 6.0}, "rope_parameters must be"),
        ({"pretraining_tp": 2}, "pretraining_tp must be 1, got 2"),
        ({"rope_interleaved": True}, "rope_interleaved must be False, got True"),
        ({"num_attention_heads": 33}, "num_attention_heads must be a divisor of hidden_size = 4096, got 33"),
        ({"num_key_value_heads": 5}, "config: n_heads must be a multiple of n_kv_heads"),
        ({"head_dim": 7}, "config: Rotary dim must be even"),
        ({"rope_scaling": "linear"}, "rope_scaling must be dict, got 'linear'"),
    ],
)
def test_a_value_that_cannot_be_is_refused(changes, said):
    with pytest.raises(CheckpointError) as caught:
        LLAMA.config(PUBLISHED | changes, "config")
    assert said in str(caught.value)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_are_read(tmp_path, suffix):
    theirs = reference("llama", "biases")
    saved(theirs, tmp_path)
    theirs.save_pretrained(tmp_path, max_shard_size="8KB")
    (tmp_path / "model.safetensors").unlink()
    if suffix == "bin":
        from tests.pretrained.checkpoints import as_pickles

        as_pickles(tmp_path)
    assert len(list(tmp_path.glob(f"*-of-*.{suffix}"))) > 2
    for mmap in (False, None):
        ours = load(tmp_path, processing=PLAIN, options=Options(mmap=mmap)).model
        assert differences(ours, theirs, random_tokens(19))["logits"] < 1e-4


def test_stored_frequencies_are_passed_over(tmp_path):
    theirs = reference("llama")
    state = dict(theirs.state_dict()) | {
        f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(3) for i in range(3)
    }
    saved(theirs, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert differences(load(tmp_path, processing=PLAIN).model, theirs, random_tokens(19))["logits"] < 1e-4
