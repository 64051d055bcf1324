"""What holds for every family, those to come included."""

import ast
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import pellucid.pretrained.families as families
from pellucid.base.errors import CheckpointError
from pellucid.model.norms import LayerNorm
from pellucid.pretrained.export import save_pretrained
from pellucid.pretrained.families import FAMILIES, family_of
from pellucid.pretrained.family import FIXED, IGNORED
from pellucid.pretrained.files import find_weights
from pellucid.pretrained.load import Options, load
from pellucid.pretrained.processing import Processing
from tests.parity.reference import ALL, VARIANTS, differences, random_tokens, read_back, reference, saved

FILES = sorted(path for path in Path(families.__file__).parent.glob("*.py") if path.name != "__init__.py")

every_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
every_variant = pytest.mark.parametrize(("family", "variant"), ALL, ids=lambda name: name.replace(" ", "-"))


@every_file
def test_a_family_is_registered_and_has_variants_to_compare(file):
    assert file.stem in FAMILIES
    assert len(VARIANTS[file.stem]) > 1
    assert (Path(__file__).parent / f"test_{file.stem}.py").is_file()


@every_file
def test_a_family_is_documented(file):
    body = ast.parse(file.read_text(encoding="utf-8")).body
    assert ast.get_docstring(ast.Module(body, []))
    last = body[-1].value.value
    assert "Source:" in last
    assert (FILES and len(FILES)) == len(FAMILIES)


@every_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_everything_that_the_reference_shows_is_equal(family, variant, dtype, tmp_path):
    theirs = reference(family, variant)
    options = Options(dtype=dtype)
    ours = load(saved(theirs, tmp_path), processing=Processing.none(), options=options).model
    found = differences(ours, theirs.to(dtype), random_tokens(19))
    exact = {"gpt2": 1e-10, "llama": 1e-5}  # their RMSNorm and rotary tables stay in float32
    assert max(found.values()) < (1e-4 if dtype == torch.float32 else exact[family]), found


@every_variant
def test_a_processed_model_has_the_references_log_probabilities(family, variant, tmp_path):
    theirs = reference(family, variant)
    loaded = load(saved(theirs, tmp_path))
    assert "fold_ln" in loaded.record.processing
    tokens = random_tokens(19)
    with torch.no_grad():
        ours, other = loaded.model(tokens).log_softmax(-1), theirs(tokens).logits.log_softmax(-1)
    assert torch.allclose(ours, other, atol=1e-4)


@every_variant
def test_weights_go_there_and_back_bit_by_bit(family, variant, tmp_path):
    theirs = reference(family, variant)
    loaded = load(saved(theirs, tmp_path / "theirs"), processing=Processing.none())
    save_pretrained(loaded.model, tmp_path / "ours", record=loaded.record)
    before, after = find_weights(tmp_path / "theirs"), find_weights(tmp_path / "ours")
    assert before.keys() == after.keys()
    for name in before:
        pieces = [torch.empty(stored[name].shape) for stored in (before, after)]
        for stored, piece in zip((before, after), pieces, strict=True):
            stored[name].read(piece)
        assert torch.equal(*pieces), name
    tokens = random_tokens(19)
    with torch.no_grad():
        assert torch.equal(read_back(tmp_path / "ours")(tokens).logits, theirs(tokens).logits)


@every_variant
def test_every_field_of_a_configuration_goes_there_and_back(family, variant, tmp_path):
    theirs = reference(family, variant)
    values = json.loads((saved(theirs, tmp_path) / "config.json").read_text())
    config = FAMILIES[family].config(values, "config.json")
    written = FAMILIES[family].fields(config)
    assert FAMILIES[family].config(written, "ours") == config
    ids = {"bos_token_id": None, "eos_token_id": None}
    back = type(theirs.config)(**{name: value for name, value in written.items() if name != "model_type"}, **ids)
    known = set(written) - {"architectures", "rope_theta"}
    assert {name: getattr(back, name) for name in known} == {name: getattr(theirs.config, name) for name in known}
    assert back.to_dict().get("rope_parameters") == theirs.config.to_dict().get("rope_parameters")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_field_that_transformers_has_is_read_ignored_or_fixed(family):
    config = reference(family).config
    made = FAMILIES[family].config(config.to_dict(), "config")
    assert made.n_layers == 3
    assert not (FAMILIES[family].ignored.keys() | FAMILIES[family].fixed.keys()) & (IGNORED.keys() | FIXED.keys())
    assert all(FAMILIES[family].ignored.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_an_unknown_field_is_refused_by_name(family):
    values = reference(family).config.to_dict() | {"sink_tokens": 4}
    with pytest.raises(CheckpointError, match="config: every field must be understood.*sink_tokens = 4"):
        FAMILIES[family].config(values, "config")


@pytest.mark.parametrize("family", FAMILIES)
def test_fields_that_change_the_model_are_refused_by_name_and_value(family):
    values = reference(family).config.to_dict()
    for name, only in {**FIXED, **FAMILIES[family].fixed}.items():
        with pytest.raises(CheckpointError, match=f"config: {name} must be .*, got 'something else'"):
            FAMILIES[family].config({**values, name: "something else"}, "config")
        FAMILIES[family].config({**values, name: only}, "config")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_configuration_that_the_family_lacks_is_refused_with_what_it_lacks(family):
    config = FAMILIES[family].config(reference(family).config.to_dict(), "config")
    for changed, said in (
        (config.change(mlp=None), "mlp"),
        (config.change(residual=False), "residual = False"),
        (config.change(norm=None), "norm = None"),
        (config.change(positions=None), "positions"),
        (config.change(norm=LayerNorm(affine=False)), "norm.affine = False"),
        (config.change(unembed_bias=True), "unembed_bias = True"),
        (config.change(attention=replace(config.attention, scale=3.0)), "attention.scale = 3.0"),
    ):
        with pytest.raises(ValueError, match=f"{family} models cannot have .*{said}.*own format"):
            FAMILIES[family].fields(changed)


def test_an_unknown_family_is_refused_with_those_there_are():
    with pytest.raises(CheckpointError, match="x.json: model_type must be one of gpt2, llama.*got 'gpt3'"):
        family_of("gpt3", "x.json")
    with pytest.raises(CheckpointError, match="got None"):
        family_of(None, "x.json")
