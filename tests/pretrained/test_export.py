import json

import pytest
import torch
from safetensors.torch import save_file

from pellucid.base.errors import ArgumentError, CheckpointError, MisreadWarning, OutputError
from pellucid.base.record import Record
from pellucid.model.norms import RMSNorm
from pellucid.pretrained.export import save_pretrained
from pellucid.pretrained.load import load
from pellucid.pretrained.processing import Processing
from pellucid.text.vocabulary import character_vocabulary, integer_vocabulary
from tests.pretrained.checkpoints import scrambled
from tests.pretrained.test_native import BASE, CONFIGS

PLAIN = Processing.none()
GPT2_LIKE = BASE.change(attention=BASE.attention.__class__(n_heads=4, d_head=4))
LLAMA_LIKE = CONFIGS["rotary, gated, grouped"].change(positions=None)


def kind(folder):
    values = json.loads((folder / "config.json").read_text())
    return values.get("model_type", values.get("format"))


def test_the_format_is_the_familys_that_the_record_names_while_it_can_express_the_model(tmp_path):
    model, record = scrambled(GPT2_LIKE), Record(settings={"family": "gpt2"})
    save_pretrained(model, tmp_path / "none")
    assert kind(tmp_path / "none") == "pellucid"
    save_pretrained(model, tmp_path / "family", record=record)
    assert kind(tmp_path / "family") == "gpt2"
    save_pretrained(model, tmp_path / "native", record=record, family="pellucid")
    assert kind(tmp_path / "native") == "pellucid"
    loaded = load(tmp_path / "family")
    save_pretrained(loaded.model, tmp_path / "processed", record=loaded.record)
    assert kind(tmp_path / "processed") == "pellucid"
    assert load(tmp_path / "processed").record.processing == loaded.record.processing


def test_a_model_made_here_can_be_written_for_transformers(tmp_path):
    model = scrambled(GPT2_LIKE)
    save_pretrained(model, tmp_path, family="gpt2")
    from tests.parity.reference import read_back

    tokens = torch.arange(11)[None]
    with torch.no_grad():
        assert torch.allclose(read_back(tmp_path)(tokens).logits, model(tokens), atol=1e-5)


def test_what_a_family_lacks_is_said_when_it_is_asked_for(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be saved as llama: .*positions"):
        save_pretrained(scrambled(GPT2_LIKE), tmp_path, family="llama")
    save_pretrained(scrambled(GPT2_LIKE), tmp_path / "a", family="gpt2")
    loaded = load(tmp_path / "a")
    with pytest.raises(CheckpointError) as caught:
        save_pretrained(loaded.model, tmp_path / "b", family="gpt2", record=loaded.record)
    assert "this model (it was processed: fold_ln, center_writing_weights, " in str(caught.value)
    assert "gpt2 models cannot have norm.affine = False, unembed_bias = True" in str(caught.value)
    assert not (tmp_path / "b").exists()


def test_a_processed_model_whose_biases_the_family_lacks_is_refused(tmp_path):
    model = scrambled(CONFIGS["rotary, gated, grouped"].change(norm=RMSNorm(), unembed_bias=True))
    with pytest.raises(CheckpointError, match="unembed_bias = True"):
        save_pretrained(model, tmp_path, family="llama")


def test_an_unknown_family_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(ArgumentError, match="family must be one of pellucid, gpt2, llama, got 'gpt-2'"):
        save_pretrained(scrambled(BASE), tmp_path, family="gpt-2")


def test_an_unembedding_that_was_given_its_own_matrix_is_saved_untied(tmp_path):
    model = scrambled(GPT2_LIKE.change(tied=True))
    with pytest.warns(MisreadWarning, match="a matrix of its own"):
        model.unembed.W_U = torch.nn.Parameter(torch.randn(16, 11))
    for family in ("gpt2", "pellucid"):
        save_pretrained(model, tmp_path / family, family=family)
        loaded = load(tmp_path / family, processing=PLAIN)
        assert not loaded.model.config.tied
        assert torch.equal(loaded.model.W_U, model.W_U)


def test_a_tokenizer_is_written_beside_and_its_ids_into_the_config(tmp_path):
    vocabulary = integer_vocabulary(11)
    save_pretrained(scrambled(GPT2_LIKE), tmp_path / "with", family="gpt2", tokenizer=vocabulary)
    values = json.loads((tmp_path / "with" / "config.json").read_text())
    assert values["bos_token_id"] == vocabulary.bos_token_id == 0
    read = load(tmp_path / "with").tokenizer()
    assert read.tokens(["5 7"]).tokens.tolist() == [[0, 5, 7]]
    save_pretrained(scrambled(GPT2_LIKE), tmp_path / "without", family="gpt2")
    assert json.loads((tmp_path / "without" / "config.json").read_text())["bos_token_id"] is None
    assert load(tmp_path / "without").tokenizer() is None


def test_a_tokenizer_is_read_only_when_it_is_asked_for(tmp_path):
    save_pretrained(scrambled(BASE), tmp_path, tokenizer=character_vocabulary("abcdefghijk"))
    (tmp_path / "tokenizer.json").write_text("broken")
    loaded = load(tmp_path)
    with pytest.raises(CheckpointError):
        loaded.tokenizer()


def test_saving_again_replaces_and_a_failure_leaves_what_was_there(tmp_path, monkeypatch):
    save_pretrained(scrambled(BASE), tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "card.json").write_text("kept")
    import pellucid.pretrained.export as export

    def fails(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(export, "write_tensors", fails)
        with pytest.raises(KeyboardInterrupt):
            save_pretrained(scrambled(BASE.change(n_layers=1)), tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert load(tmp_path).model.config.n_layers == 2
    save_pretrained(scrambled(BASE.change(n_layers=1)), tmp_path)
    assert load(tmp_path).model.config.n_layers == 1
    assert (tmp_path / "card.json").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card.json", "config.json", "model.safetensors"]


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="must be writable"):
        save_pretrained(scrambled(BASE), tmp_path / "file" / "folder")


def test_a_model_with_a_foreign_piece_is_refused_with_its_name(tmp_path):
    model = scrambled(BASE)
    model.blocks[0].hook_resid_post = torch.nn.Linear(16, 16)
    model.setup()
    with pytest.raises(CheckpointError, match="'blocks.0.hook_resid_post.bias' has none"):
        save_pretrained(model, tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_model_that_is_mapped_can_be_saved_over_its_own_file(tmp_path):
    from pellucid.pretrained.load import Options

    save_pretrained(scrambled(GPT2_LIKE), tmp_path, family="gpt2")
    loaded = load(tmp_path, processing=PLAIN, options=Options(mmap=True))
    with torch.no_grad():
        loaded.model.embed.W_E.mul_(2)
    kept = loaded.model.embed.W_E.clone()
    save_pretrained(loaded.model, tmp_path, record=loaded.record)
    assert torch.equal(load(tmp_path, processing=PLAIN).model.embed.W_E, kept)


def test_half_precision_is_written_as_it_is_held(tmp_path):
    model = scrambled(GPT2_LIKE, torch.bfloat16)
    save_pretrained(model, tmp_path, family="gpt2")
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "bfloat16"
    from tests.parity.reference import read_back

    assert read_back(tmp_path).dtype == torch.bfloat16


def test_the_reference_writes_the_same_bytes(tmp_path):
    save_pretrained(scrambled(BASE), tmp_path)
    from safetensors.torch import load_file

    save_file(load_file(tmp_path / "model.safetensors"), tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    assert (tmp_path / "theirs.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()
