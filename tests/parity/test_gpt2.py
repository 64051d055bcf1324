"""GPT-2 as its own files have it: names, old files, real weights, real size."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pellucid.base.errors import CheckpointError
from pellucid.pretrained.families.gpt2 import GPT2
from pellucid.pretrained.files import write_tensors
from pellucid.pretrained.load import Options, load
from pellucid.pretrained.processing import Processing
from tests.parity.reference import differences, random_tokens, read_back, reference, saved, scramble

PLAIN = Processing.none()


def test_the_size_of_gpt2_small_is_equal_everywhere(tmp_path):
    import transformers

    config = transformers.GPT2Config(attn_implementation="eager")
    with torch.device("meta"):
        theirs = transformers.GPT2LMHeadModel(config)
    theirs = theirs.to_empty(device="cpu").eval()
    theirs.tie_weights()
    for name, parameter in theirs.named_parameters():
        nn.init.normal_(parameter, mean=float(name.endswith(("ln_1.weight", "ln_2.weight", "ln_f.weight"))), std=0.02)
    tokens = random_tokens(50257, (1, 6))
    ours = load(saved(theirs, tmp_path), processing=PLAIN).model
    found = differences(ours, theirs, tokens)
    assert max(found.values()) < 1e-4, found
    del ours
    theirs = theirs.double()
    ours = load("gpt2", processing=PLAIN, options=Options(hf_model=theirs, dtype="float64")).model
    found = differences(ours, theirs, tokens)
    assert max(found.values()) < 1e-10, found


def test_a_real_model_is_equal_and_its_loss_is_the_published_one(shared):
    folder = shared / "data" / "shakespeare-char-gpt"
    theirs = read_back(folder)
    ours = load(folder, processing=PLAIN)
    found = differences(ours.model, theirs, random_tokens(65, (2, 64)))
    assert max(found.values()) < 1e-4, found
    processed = load(folder)
    assert processed.record.processing == ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
    ids = torch.tensor(ours.tokenizer().encode((shared / "data" / "tinyshakespeare" / "input.txt").read_text()))
    for part, published in ((ids[:13_000], 1.275), (ids[-13_000:], 1.294)):
        inputs, targets = part[:-8].view(-1, 64), part[1:-7].view(-1, 64)
        with torch.no_grad():
            plain = ours.model(inputs).log_softmax(-1)
            logs = processed.model(inputs).log_softmax(-1)
        assert torch.allclose(plain, logs, atol=1e-4)
        assert F.nll_loss(logs.flatten(0, 1), targets.flatten()).item() == pytest.approx(published, abs=0.005)


def state_without_head(model):
    """As the oldest files have it: no prefix, no head, and the mask stored in each layer."""
    state = {name.removeprefix("transformer."): tensor for name, tensor in model.transformer.state_dict().items()}
    for layer in range(3):
        state[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 16, 16, dtype=torch.bool).tril()
        state[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    return state


def test_old_files_without_prefix_and_with_masks_are_read(tmp_path):
    theirs = reference("gpt2")
    saved(theirs, tmp_path)
    state = state_without_head(theirs)
    write_tensors(
        tmp_path / "model.safetensors",
        {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in state.items()},
        state.__getitem__,
    )
    for mmap in (False, True):
        ours = load(tmp_path, processing=PLAIN, options=Options(mmap=mmap)).model
        assert differences(ours, theirs, random_tokens(19))["logits"] < 1e-4


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_weights_are_read(tmp_path, zipped):
    theirs = reference("gpt2")
    saved(theirs, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    assert "lm_head.weight" in theirs.state_dict()  # the second name of a tied matrix
    ours = load(tmp_path, processing=PLAIN).model
    assert differences(ours, theirs, random_tokens(19))["logits"] < 1e-4


def test_a_tied_head_that_differs_is_refused(tmp_path):
    theirs = reference("gpt2", "untied, relu, narrow MLP")
    saved(theirs, tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"tie_word_embeddings": false', '"tie_word_embeddings": true'))
    with pytest.raises(CheckpointError, match="'lm_head.weight' must equal 'transformer.wte.weight'.*set tie_word"):
        load(tmp_path)


def test_original_configurations_are_read():
    """That of GPT-2 as it was published, and that of DistilGPT2, whose fields are the oldest."""
    published = {
        "activation_function": "gelu_new",
        "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": 0.1,
        "bos_token_id": 50256,
        "embd_pdrop": 0.1,
        "eos_token_id": 50256,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "model_type": "gpt2",
        "n_ctx": 1024,
        "n_embd": 1024,
        "n_head": 16,
        "n_layer": 24,
        "n_positions": 1024,
        "n_special": 0,
        "predict_special_tokens": True,
        "resid_pdrop": 0.1,
        "summary_activation": None,
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True,
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        "vocab_size": 50257,
        "_num_labels": 1,
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
    }
    config = GPT2.config(published, "config.json")
    assert (config.tied, config.attention.d_head, config.mlp and config.mlp.d_mlp) == (True, 64, 4096)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n_head": 5}, "n_head must be a divisor of n_embd = 24, got 5"),
        ({"n_ctx": 99}, "n_ctx must be n_positions = 16, of which it is the older name, got 99"),
        ({"n_layer": None}, "n_layer must be int, got None"),
        ({"n_layer": "3"}, "n_layer must be int, got '3'"),
        ({"scale_attn_weights": 1}, "scale_attn_weights must be bool, got 1"),
        ({"layer_norm_epsilon": "small"}, "layer_norm_epsilon must be int or float, got 'small'"),
        ({"activation_function": "swishy"}, "config: act must be a known activation, got 'swishy'"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx must be False, got True"),
        ({"add_cross_attention": True}, "add_cross_attention must be False, got True"),
        ({"quantization_config": {"bits": 4}}, "quantization_config must be None, got {'bits': 4}"),
    ],
)
def test_a_value_that_cannot_be_is_refused(changes, said):
    with pytest.raises(CheckpointError) as caught:
        GPT2.config({**reference("gpt2").config.to_dict(), **changes}, "config")
    assert said in str(caught.value)


def test_a_model_of_transformers_that_is_held_is_copied():
    theirs = reference("gpt2")
    loaded = load("gpt2", processing=PLAIN, options=Options(hf_model=theirs))
    tokens = random_tokens(19)
    with torch.no_grad():
        before = theirs(tokens).logits
        assert torch.allclose(loaded.model(tokens), before, atol=1e-4)
        for parameter in loaded.model.parameters():
            parameter.zero_()
        assert torch.equal(theirs(tokens).logits, before)
    assert loaded.record.settings == {"family": "gpt2", "hf_model": "GPT2LMHeadModel"}


def test_scrambling_leaves_no_weight_at_its_initial_value():
    model = reference("gpt2")
    assert all(not (p == p.flatten()[0]).all() for p in model.parameters())
    before = model.lm_head.weight.clone()
    scramble(model)
    assert torch.equal(model.lm_head.weight, before)
