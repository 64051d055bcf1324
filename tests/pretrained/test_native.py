import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from pellucid.base.errors import ArgumentError, CheckpointError
from pellucid.base.record import Record
from pellucid.model.attention import AttentionConfig, as_matrix
from pellucid.model.config import Config
from pellucid.model.mlp import MLPConfig
from pellucid.model.norms import LayerNorm, RMSNorm
from pellucid.model.positional import Learned, Rotary
from pellucid.pretrained.export import save_pretrained
from pellucid.pretrained.load import Options, load
from pellucid.pretrained.native import weights_hash
from pellucid.pretrained.processing import Processing
from tests.pretrained.checkpoints import scrambled

PLAIN = Processing.none()
ATTENTION = AttentionConfig(n_heads=4, d_head=6)
BASE = Config(n_layers=2, d_model=16, d_vocab=11, n_ctx=12, attention=ATTENTION, mlp=MLPConfig(d_mlp=20))
CONFIGS = {
    "plain": BASE,
    "tied, residual off": BASE.change(tied=True, residual=False),
    "attention only, no positions, no norm": BASE.change(mlp=None, positions=None, norm=None, d_vocab_out=5),
    "no layers": BASE.change(n_layers=0, unembed_bias=True),
    "rotary, gated, grouped": BASE.change(
        attention=AttentionConfig(n_heads=4, d_head=6, n_kv_heads=2, scale=0.3, qkv_bias=False, out_bias=False),
        mlp=MLPConfig(d_mlp=20, gated=True, bias=False, act="silu"),
        norm=RMSNorm(eps=1e-4),
        positions=Rotary(base=50.0, dim=4),
    ),
    "folded": BASE.change(norm=LayerNorm(affine=False), positions=Learned(), unembed_bias=True, init_range=0.1),
}

every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=[name.replace(" ", "-") for name in CONFIGS])


@every_config
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_any_model_goes_there_and_back_bit_by_bit(config, dtype, tmp_path):
    model = scrambled(config, dtype)
    save_pretrained(model, tmp_path, record=Record(model="mine", seed=3, settings={"steps": 5}))
    loaded = load(tmp_path, processing=PLAIN, options=Options(dtype=dtype))
    assert loaded.model.config == config
    before, after = model.state_dict(), loaded.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.requires_grad for parameter in loaded.model.parameters())
    assert (loaded.record.model, loaded.record.seed, loaded.record.settings) == (str(tmp_path), 3, {"steps": 5})
    assert loaded.record.weights_hash == weights_hash(model)


@every_config
def test_the_file_holds_the_state_dict_as_everybody_reads_it(config, tmp_path):
    model = scrambled(config)
    save_pretrained(model, tmp_path)
    read = load_file(tmp_path / "model.safetensors")
    state = model.state_dict()
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], state[name]) for name in state)
    assert ("unembed.W_U" in read) is not config.tied


@pytest.mark.parametrize("mmap", [False, True])
def test_matrices_lie_so_that_products_need_no_copy(mmap, tmp_path):
    save_pretrained(scrambled(BASE), tmp_path)
    model = load(tmp_path, processing=PLAIN, options=Options(mmap=mmap)).model
    for block in model.blocks:
        for W in (block.attn.W_Q, block.attn.W_K, block.attn.W_V):
            assert as_matrix(W).data_ptr() == W.data_ptr()
        assert block.attn.W_O.flatten(0, 1).data_ptr() == block.attn.W_O.data_ptr()
    assert model.unembed.W_U.T.is_contiguous()


def test_a_config_is_readable_and_a_folder_is_whole(tmp_path):
    save_pretrained(scrambled(BASE), tmp_path / "new" / "folder", record=Record(model="mine"))
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == ["config.json", "model.safetensors"]
    values = json.loads((tmp_path / "new" / "folder" / "config.json").read_text())
    assert (values["format"], values["version"], values["config"]["mlp"]["d_mlp"]) == ("pellucid", 1, 20)
    assert values["record"]["model"] == "mine" and len(values["record"]["weights_hash"]) == 64
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["folder"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "must be of version 1 of Pellucid's format, got version 2; a newer Pellucid may read it"),
        ({"compression": "zip"}, "with the unknown field 'compression'"),
        ({"config": {}}, "config.json: attention must be a table"),
        ({"config": None}, "config.json: config and record must be tables"),
        ({"config": {**BASE.to_dict(), "n_layer": 2}}, "configuration has no field 'n_layer'"),
        ({"config": {**BASE.to_dict(), "d_model": 0}}, "config.json: d_model must be 1 or more, got 0"),
        ({"record": {"modell": "x", "processing": []}}, "config.json: fields of a record must be known, got 'modell'"),
        ({"record": 5}, "config.json: config and record must be tables"),
    ],
)
def test_a_config_that_cannot_be_is_refused(change, said, tmp_path):
    save_pretrained(scrambled(BASE), tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | change))
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path)
    assert said in str(caught.value)


def test_a_config_without_a_record_loads(tmp_path):
    save_pretrained(scrambled(BASE), tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    del values["record"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert load(tmp_path, processing=PLAIN).record == Record(model=str(tmp_path), device="cpu", dtype="float32")


def test_steps_that_were_made_are_not_made_again(tmp_path):
    model = scrambled(BASE)
    save_pretrained(model, tmp_path / "a")
    first = load(tmp_path / "a", processing=Processing(center_unembed=False))
    assert first.record.processing == ("fold_ln", "center_writing_weights", "fold_value_biases")
    save_pretrained(first.model, tmp_path / "b", record=first.record)
    second = load(tmp_path / "b")
    assert second.record.processing == (*first.record.processing, "center_unembed")
    assert torch.equal(second.model.blocks[0].attn.W_Q, first.model.blocks[0].attn.W_Q)
    assert second.record.weights_hash is None


def test_another_dtype_has_another_hash_to_be_made(tmp_path):
    save_pretrained(scrambled(BASE), tmp_path, record=Record())
    assert load(tmp_path, processing=PLAIN).record.weights_hash is not None
    assert load(tmp_path, processing=PLAIN, options=Options(dtype="float64")).record.weights_hash is None
    assert load(tmp_path, processing=PLAIN, options=Options(first_n_layers=1)).record.weights_hash is None


def test_a_hash_depends_on_values_alone_not_on_memory(monkeypatch):
    import pellucid.pretrained.native as native

    model = scrambled(BASE)
    before = weights_hash(model)
    monkeypatch.setattr(native, "BUFFER", 100)
    assert weights_hash(model) == before
    model.unembed.W_U = torch.nn.Parameter(model.unembed.W_U.detach().contiguous())
    assert weights_hash(model) == before
    with torch.no_grad():
        model.blocks[1].mlp.b_in[3] += 1e-3
    assert weights_hash(model) != before


def test_a_file_of_another_shape_or_with_other_names_is_refused(tmp_path):
    save_pretrained(scrambled(BASE), tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    save_file(state | {"blocks.0.mlp.hook_sae": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"'blocks.0.mlp.hook_sae' \[2\] is unexpected"):
        load(tmp_path)
    save_file(state | {"embed.W_E": torch.ones(11, 15)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"'embed.W_E' must have shape \[11, 16\].*got \[11, 15\]"):
        load(tmp_path)


def test_an_option_that_cannot_be_is_refused(tmp_path):
    save_pretrained(scrambled(BASE), tmp_path)
    with pytest.raises(ArgumentError, match="first_n_layers must be at most 2, all that .* has, got 3"):
        load(tmp_path, options=Options(first_n_layers=3))
    with pytest.raises(ArgumentError, match="first_n_layers must be 1 or more, got 0; leave it out for all"):
        Options(first_n_layers=0)
    with pytest.raises(ArgumentError, match="dtype must be one of float64, .* got 'float23'; nearest: float"):
        Options(dtype="float23")
    with pytest.raises(ArgumentError, match=r"dtype must be one of .*, got torch.int8"):
        Options(dtype=torch.int8)
    with pytest.raises(ArgumentError, match="device must be one that torch knows, got 'gpu'"):
        Options(device="gpu")
