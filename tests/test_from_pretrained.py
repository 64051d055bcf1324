"""`HookedTransformer.from_pretrained`: the facade's side of loading and saving."""

import copy
import pickle

import pytest
import torch

from pellucid import HookedTransformer
from pellucid.base.errors import ArgumentError, CheckpointError
from pellucid.text.vocabulary import integer_vocabulary
from tests.models import CONFIGS, model_of, tokens_of


@pytest.fixture
def folder(tmp_path):
    """A model in Pellucid's own format, with its tokenizer."""
    model_of("gpt2", tokenizer=integer_vocabulary(17)).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_bundled_model_loads_by_its_name_with_tokenizer_and_record():
    model = HookedTransformer.from_pretrained("toy-induction", device="cpu")
    assert isinstance(model, HookedTransformer)
    assert model.record.model == model.cfg.model_name == "toy-induction"
    assert model("5 12 7").shape == (1, 4, model.cfg.d_vocab)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_is_saved_is_what_is_loaded(tmp_path, kind):
    model, tokens = model_of(kind, tokenizer=integer_vocabulary(17)), tokens_of(kind)
    model.save_pretrained(tmp_path)
    found = HookedTransformer.from_pretrained_no_processing(tmp_path, device="cpu")
    assert found.config == model.config
    assert torch.equal(found(tokens), model(tokens))
    assert found.to_tokens("3 5").tolist() == [[0, 3, 5]]
    processed = HookedTransformer.from_pretrained(tmp_path, device="cpu")
    torch.testing.assert_close(processed(tokens).log_softmax(-1), model(tokens).log_softmax(-1), rtol=0, atol=1e-4)


def test_each_step_of_processing_is_an_argument_and_recorded(folder):
    none = HookedTransformer.from_pretrained_no_processing(folder, device="cpu")
    assert none.record.processing == ()
    assert none.cfg.normalization_type == "LN"
    folded = HookedTransformer.from_pretrained_no_processing(folder, fold_ln=True, device="cpu")
    assert folded.cfg.normalization_type == "LNPre"
    assert folded.record.processing == ("untie", "fold_ln")
    whole = HookedTransformer.from_pretrained(folder, device="cpu")
    assert len(whole.record.processing) > 2
    assert len(HookedTransformer.from_pretrained(folder, fold_ln=False, device="cpu").record.processing) < len(
        whole.record.processing
    )


def test_dtype_device_and_depth_are_as_asked(folder):
    model = HookedTransformer.from_pretrained(folder, dtype="float64", device="cpu", first_n_layers=1)
    assert model.cfg.dtype == torch.float64
    assert model.cfg.n_layers == 1
    assert model.cfg.device == torch.device("cpu")
    assert HookedTransformer.from_pretrained(folder, dtype=torch.bfloat16, move_to_device=False).dtype == torch.bfloat16


def test_the_policy_of_text_is_as_asked(folder):
    def policy(**asked):
        return HookedTransformer.from_pretrained(folder, device="cpu", **asked).policy

    assert policy().prepend_bos and policy().padding_side == "right"
    asked = policy(default_prepend_bos=False, default_padding_side="left")
    assert not asked.prepend_bos and asked.padding_side == "left"
    given = integer_vocabulary(17)
    given.padding_side = "left"
    assert policy(tokenizer=given) == given.policy
    assert policy(tokenizer=given, default_padding_side="right").padding_side == "right"
    assert not policy(tokenizer=given, default_prepend_bos=False).prepend_bos
    assert given.policy.prepend_bos and given.padding_side == "left"


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"refactor_factored_attn_matrices": True}, "refactor_factored_attn_matrices must be False, which is all"),
        ({"n_devices": 2}, "n_devices must be 1, which is all that is offered, got 2"),
    ],
)
def test_what_is_not_offered_is_refused(folder, arguments, said):
    with pytest.raises(ArgumentError, match=said):
        HookedTransformer.from_pretrained(folder, **arguments)


def test_a_name_that_is_nowhere_is_refused(tmp_path):
    with pytest.raises(CheckpointError):
        HookedTransformer.from_pretrained(tmp_path / "nowhere")


def test_a_folder_without_tokenizer_loads_and_says_so_when_text_is_given(tmp_path):
    model_of("gpt2").save_pretrained(tmp_path)
    model = HookedTransformer.from_pretrained(tmp_path, device="cpu")
    assert model(tokens_of()).shape == (2, 7, 17)
    with pytest.raises(ValueError, match="text needs a tokenizer, and this model came without one"):
        model("3 5")


@pytest.mark.parametrize("read", [True, False])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_loaded_model_can_be_copied_before_and_after_its_tokenizer_was_read(folder, copied, read):
    model = HookedTransformer.from_pretrained(folder, device="cpu")
    if read:
        model.to_tokens("3 5")
    other = copied(model)
    assert torch.equal(other("3 5"), model("3 5"))
    assert other.record == model.record


def test_hooks_caches_and_gradients_work_on_what_was_mapped_into_memory(folder):
    model = HookedTransformer.from_pretrained_no_processing(folder, device="cpu", mmap=True)
    plain = HookedTransformer.from_pretrained_no_processing(folder, device="cpu")
    assert torch.equal(model(tokens_of()), plain(tokens_of()))
    _, cache = model.run_with_cache(tokens_of(), return_type="loss", incl_bwd=True)
    assert cache["blocks.0.attn.hook_z_grad"].isfinite().all()
    model(tokens_of(), return_type="loss").backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= parameter.grad
    assert torch.equal(
        HookedTransformer.from_pretrained_no_processing(folder, device="cpu")(tokens_of()), plain(tokens_of())
    )
