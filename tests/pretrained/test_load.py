import json
import pickle
from copy import deepcopy

import pytest
import torch
from safetensors.torch import load_file, save_file

from pellucid.base.errors import ArgumentError, CheckpointError
from pellucid.model.decoder import Decoder
from pellucid.pretrained.export import save_pretrained
from pellucid.pretrained.load import Options, load
from pellucid.pretrained.names import find
from pellucid.pretrained.processing import Processing
from tests.pretrained.checkpoints import scrambled
from tests.pretrained.test_export import GPT2_LIKE
from tests.pretrained.test_native import BASE

PLAIN = Processing.none()


@pytest.fixture
def folder(tmp_path):
    save_pretrained(scrambled(GPT2_LIKE.change(tied=True)), tmp_path / "m", family="gpt2")
    return tmp_path / "m"


def test_the_model_is_what_make_makes_without_drawing_weights(folder):
    seen = []

    class Mine(Decoder):
        def draw_weights(self, seed=None):
            pytest.fail("weights were drawn")

    def make(config):
        seen.append(config)
        return Mine(config)

    loaded = load(folder, make=make)
    assert type(loaded.model) is Mine
    assert seen[0].tied and not loaded.model.config.tied
    assert torch.empty(1).device.type == "cpu"


def test_the_record_says_where_the_weights_came_from(folder):
    record = load(str(folder)).record
    assert (record.model, record.revision, record.dtype, record.device) == (str(folder), None, "float32", "cpu")
    assert record.processing[:2] == ("untie", "fold_ln")
    assert record.settings == {"family": "gpt2"}


@pytest.mark.parametrize("dtype", ["float64", torch.bfloat16, "torch.float16"])
@pytest.mark.parametrize("mmap", [False, None])
def test_weights_are_converted_on_the_way(folder, dtype, mmap):
    loaded = load(folder, processing=PLAIN, options=Options(dtype=dtype, mmap=mmap))
    held = {parameter.dtype for parameter in loaded.model.parameters()}
    assert [str(d).removeprefix("torch.") for d in held] == [str(dtype).removeprefix("torch.")] == [loaded.record.dtype]
    expected = scrambled(GPT2_LIKE.change(tied=True)).to(next(iter(held)))
    assert torch.equal(loaded.model.blocks[1].attn.W_K, expected.blocks[1].attn.W_K)


def test_only_the_first_layers_are_read(folder):
    loaded = load(folder, processing=PLAIN, options=Options(first_n_layers=1))
    assert loaded.model.config.n_layers == 1
    assert loaded.record.settings["first_n_layers"] == 1
    whole = load(folder, processing=PLAIN).model
    tokens = torch.arange(10)[None]
    with torch.no_grad():
        stream = whole(tokens, stop_at_layer=1)
        assert torch.equal(loaded.model(tokens, stop_at_layer=1), stream)
        assert torch.equal(loaded.model(tokens), whole.unembed(whole.ln_final(stream)))


def test_mapped_and_read_models_are_equal(folder):
    models = [load(folder, options=Options(mmap=mmap)).model for mmap in (False, True)]
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one, other)


def test_a_mapped_model_is_the_file_and_processing_leaves_the_file_alone(folder):
    before = (folder / "model.safetensors").read_bytes()
    model = load(folder, processing=PLAIN, options=Options(mmap=True)).model
    begin = min(parameter.data_ptr() for parameter in model.parameters())
    end = max(p.untyped_storage().data_ptr() + p.untyped_storage().nbytes() for p in model.parameters())
    assert end - begin == len(before) - 8 - int.from_bytes(before[:8], "little")
    load(folder, options=Options(mmap=True))
    assert (folder / "model.safetensors").read_bytes() == before


def test_a_mapped_model_is_pickled_and_copied_like_any(folder):
    read, mapped = (load(folder, processing=PLAIN, options=Options(mmap=mmap)).model for mmap in (False, True))
    pickled = pickle.dumps(mapped)
    assert len(pickled) < 1.5 * len(pickle.dumps(read))  # each tensor brings its own bytes, not the whole file
    for other in (pickle.loads(pickled), deepcopy(mapped)):
        assert torch.equal(other(torch.arange(9)[None]), mapped(torch.arange(9)[None]))


def test_mapping_where_it_cannot_be_is_refused(folder):
    with pytest.raises(
        ArgumentError, match=r"mmap=True needs tensors .*float32 where torch.float64 on cpu is asked for"
    ):
        load(folder, options=Options(mmap=True, dtype="float64"))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ArgumentError, match="in safetensors"):
        load(folder, options=Options(mmap=True))
    load(folder, options=Options(mmap=None))


def test_a_loaded_model_may_be_overwritten_on_disk(folder):
    model = load(folder, processing=PLAIN).model
    before = model.W_E.clone()
    (folder / "model.safetensors").write_bytes(b"\0" * (folder / "model.safetensors").stat().st_size)
    assert torch.equal(model.W_E, before)


def test_a_damaged_folder_is_refused_with_file_and_tensor(folder):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    state = load_file(path)
    path.write_bytes(data[:-5])
    with pytest.raises(CheckpointError, match=r"model.safetensors: tensor '.*' ends at byte"):
        load(folder)
    name = "transformer.h.1.mlp.c_fc.weight"
    save_file({k: v for k, v in state.items() if k != name}, path)
    with pytest.raises(CheckpointError, match=rf"m must hold tensor '{name}' \[16, 20\], for blocks.1.mlp.W_in; it is"):
        load(folder)
    save_file(state | {name: state[name].T.contiguous()}, path)
    with pytest.raises(
        CheckpointError, match=rf"safetensors: tensor '{name}' must have shape \[16, 20\].*got \[20, 16\]"
    ):
        load(folder)
    save_file(state | {"score.weight": torch.ones(2)}, path)
    with pytest.raises(
        CheckpointError, match=r"model.safetensors must hold nothing but.*'score.weight' \[2\] is unexp"
    ):
        load(folder)
    save_file(state | {name: state[name].to(torch.int8)}, path)
    with pytest.raises(
        CheckpointError, match=f"tensor '{name}' must be float64, .*got torch.int8; get a checkpoint that"
    ):
        load(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"m/config.json: model_type must be one of"):
        load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match="must hold a model: a config.json and its weights"):
        load(folder)


def test_something_else_than_a_model_of_transformers_is_refused(folder):
    with pytest.raises(ArgumentError, match="must be a model of transformers, with config and state_dict, got str"):
        load(folder, options=Options(hf_model="gpt2"))
    with pytest.raises(CheckpointError, match="hf_model Decoder: model_type must be one of .* got None"):
        load(folder, options=Options(hf_model=scrambled(BASE)))


def test_a_held_model_takes_its_tokenizer_from_the_name(folder):
    from pellucid.text.vocabulary import integer_vocabulary
    from tests.parity.reference import reference

    integer_vocabulary(11).save(folder)
    loaded = load(folder, options=Options(hf_model=reference("gpt2")))
    assert len(loaded.tokenizer()) == 11
    lost = load("./nowhere", options=Options(hf_model=reference("gpt2")))
    said = r"reading the tokenizer of './nowhere': ./nowhere must be a folder.*; or set model.tokenizer \(None if ids"
    with pytest.raises(CheckpointError, match=said):
        lost.tokenizer()


def test_a_held_model_takes_its_tokenizer_from_a_folder_of_nothing_else(tmp_path, shared):
    from pellucid.text.vocabulary import integer_vocabulary
    from tests.parity.reference import reference

    integer_vocabulary(11).save(tmp_path)
    assert not (tmp_path / "config.json").exists()
    assert len(load(str(tmp_path), options=Options(hf_model=reference("gpt2"))).tokenizer()) == 11
    real = reference("gpt2", vocab_size=50257, bos_token_id=50256, eos_token_id=50256)
    loaded = load(shared / "data" / "gpt2-tokenizer", options=Options(hf_model=real))
    assert loaded.tokenizer().encode(" the") == [262]


def test_a_held_model_is_pickled_before_its_tokenizer_was_read(tmp_path):
    from pellucid.text.vocabulary import integer_vocabulary
    from tests.parity.reference import reference

    integer_vocabulary(11).save(tmp_path)
    loaded = load(tmp_path, options=Options(hf_model=reference("gpt2")))
    assert len(pickle.loads(pickle.dumps(loaded.tokenizer))()) == 11


@pytest.mark.parametrize(("ids", "expected"), [(3, 3), ([4, 5], 4), (None, None), ([], None)])
def test_the_tokens_that_the_config_names_reach_the_tokenizer(folder, ids, expected, monkeypatch):
    import pellucid.pretrained.load as module

    given = []
    monkeypatch.setattr(module, "read_tokenizer", lambda folder, **options: given.append(options))
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"eos_token_id": ids, "bos_token_id": 7}))
    load(folder).tokenizer()
    assert given == [{"bos_id": 7, "eos_id": expected, "pad_id": None}]


def test_a_tokenizer_is_found_after_one_went_elsewhere(folder, monkeypatch):
    from pellucid.text.vocabulary import integer_vocabulary

    integer_vocabulary(11).save(folder)
    monkeypatch.chdir(folder.parent)
    loaded = load("m")
    monkeypatch.chdir("/")
    assert len(loaded.tokenizer()) == 11


def test_a_native_folder_is_found_like_any(tmp_path):
    save_pretrained(scrambled(BASE), tmp_path / "n")
    assert find(tmp_path / "n").folder == tmp_path / "n"
    assert isinstance(load(tmp_path / "n").model, Decoder)


def test_weights_may_go_to_another_device(folder):
    if not torch.cuda.is_available():
        pytest.skip("needs a second device")
    loaded = load(folder, options=Options(device="cuda"))
    assert {parameter.device.type for parameter in loaded.model.parameters()} == {"cuda"}
