"""Translators that are trained say more of what the model says than none, and load for their own model alone."""

import numpy as np
import pytest
import torch

from pellucid.analysis import reading
from pellucid.analysis.lens import Translator, logit_lens
from pellucid.analysis.tuned_lens import TunedLens, lens_kl, train_tuned_lens
from pellucid.base.errors import ArgumentError, CheckpointError, OutputError, TokenError, TrainingError
from pellucid.text.packing import pack
from tests.models import CONFIGS, config_of, model_of, tokens_of

SOME = {"steps": 30, "batch": 8}


def rows_of(kind="gpt2", n=40):
    return tokens_of(kind, batch=n, pos=8)


@pytest.fixture(scope="module")
def model():
    return model_of("gpt2", dtype=torch.float64)


@pytest.fixture(scope="module")
def lens(model):
    return train_tuned_lens(model, rows_of(), **SOME)


@pytest.mark.parametrize("kind", CONFIGS)
def test_it_comes_nearer_to_what_the_model_says(kind):
    model = model_of(kind)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    lens = train_tuned_lens(model, rows_of(kind), **SOME)
    tuned, logit = (kl.mean("prompt") for kl in lens.held_out)
    assert (tuned.values < logit.values).all() and tuned.n == logit.n == 4
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_its_kl_is_that_of_the_table(model, lens):
    rows = rows_of(n=3)
    for through, name in ((None, "logit lens"), (lens, "tuned lens")):
        kl = lens_kl(model, rows, through)
        table = logit_lens(model, rows, lens=through)
        assert kl.dims == ("prompt", "layer") and kl.unit == "nats" and table.record.task == kl.record.task == name
        np.testing.assert_allclose(kl.values, table.kl.values[:, :-1].mean(-1), atol=1e-12)
    assert isinstance(lens, Translator) and table.kl.values[:, -1].max() == 0


def test_a_layers_translator_is_affine_and_its_gradient_that_of_the_mean_kl(model, monkeypatch):
    """One step of plain gradients, by autograd over the whole batch at once."""
    from pellucid.analysis import tuned_lens

    rows = rows_of(n=4)
    weight, bias = (0.1 * torch.randn(shape, dtype=torch.float64) for shape in ((2, 10, 10), (2, 10)))
    _, cache = model.run_with_cache(rows)
    own = model(rows).detach().log_softmax(-1)
    W, b = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    losses = []
    for layer in range(2):
        x = cache["resid_pre", layer]
        log_p = model.unembed(model.ln_final(x + x @ W[layer] + b[layer])).log_softmax(-1)
        losses.append((own.exp() * (own - log_p)).sum(-1).mean())
    expected = torch.autograd.grad(sum(losses), (W, b))
    norms = (expected[0].square().sum((1, 2)) + expected[1].square().sum(1)).sqrt().clamp(min=1)
    for bound in (reading.NUMBERS, 1):
        monkeypatch.setattr(reading, "NUMBERS", bound)
        found = tuned_lens._gradients(model, rows, weight, bias)
        torch.testing.assert_close(found, torch.stack(losses).detach(), rtol=0, atol=1e-10)
        torch.testing.assert_close(weight.grad, expected[0] / norms[:, None, None], rtol=0, atol=1e-10)
        torch.testing.assert_close(bias.grad, expected[1] / norms[:, None], rtol=0, atol=1e-10)
    x = torch.randn(3, 10, dtype=torch.float64)
    made = TunedLens(weight=weight, bias=bias, record=model.record, d_vocab=17)
    torch.testing.assert_close(made(x, 1), x + x @ weight[1] + bias[1])


def test_the_same_arguments_give_the_same_lens_and_another_seed_another(model, lens):
    again, other = (train_tuned_lens(model, rows_of(), seed=seed, **SOME) for seed in (0, 1))
    assert torch.equal(again.weight, lens.weight) and torch.equal(again.bias, lens.bias)
    assert not torch.equal(other.weight, lens.weight)
    assert lens.record.settings["rows"] == 36 and lens.record.settings["held_out_rows"] == 4


def test_documents_are_packed_and_some_held_out(toy):
    texts = [" ".join(str(1 + (i * j) % 40) for j in range(1, 30)) for i in range(1, 60)]
    lens = train_tuned_lens(toy, texts, steps=5, batch=4, length=16, held_out=0.3)
    packed = pack(texts, toy.tokenizer, length=16, held_out=0.3)
    assert lens.record.settings["corpus"] == packed.hash and lens.record.settings["length"] == 16
    assert lens.held_out.tuned.shape == (len(packed.held_out), 2)
    same = train_tuned_lens(toy, packed, steps=5, batch=4)
    assert torch.equal(same.weight, lens.weight)
    assert "held-out KL over" in repr(lens) and repr(lens).count("\n") == 2


def test_what_was_saved_loads_as_it_was(model, lens, tmp_path):
    lens.save(tmp_path / "lens")
    found = TunedLens.load(tmp_path / "lens", model)
    assert torch.equal(found.weight, lens.weight) and torch.equal(found.bias, lens.bias)
    assert found.record == lens.record and repr(found) == repr(lens)
    assert [kl.record for kl in found.held_out] == [kl.record for kl in lens.held_out]
    assert [kl.record.task for kl in found.held_out] == ["tuned lens", "logit lens"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lens"]
    with pytest.raises(OutputError, match="holds a tuned lens already; choose another folder, or overwrite=True"):
        lens.save(tmp_path / "lens")
    lens.save(tmp_path / "lens", overwrite=True)
    assert [path.name for path in (tmp_path / "lens").iterdir()] == ["tuned_lens.safetensors"]
    bare = train_tuned_lens(model, rows_of(), held_out=0, steps=1, batch=2)
    bare.save(tmp_path / "bare")
    assert TunedLens.load(tmp_path / "bare", model).held_out is None


def test_one_that_cannot_be_replaced_stays(model, lens, tmp_path, monkeypatch):
    lens.save(tmp_path)
    other = train_tuned_lens(model, rows_of(), steps=1, batch=2)

    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OutputError, match="the disk is full"):
        other.save(tmp_path, overwrite=True)
    monkeypatch.undo()
    assert torch.equal(TunedLens.load(tmp_path, model).weight, lens.weight)


def test_another_model_is_refused(model, lens, tmp_path):
    lens.save(tmp_path)
    for other, message in (
        (model_of(config_of(n_layers=1), dtype=torch.float64), r"n_layers=2\), got n_layers=1; train one"),
        (model_of(config_of(d_model=8), dtype=torch.float64), r"d_model=10\), got d_model=8"),
        (
            model_of("gpt2", dtype=torch.float64, seed=1),
            r"float64; processing: none\)\), got weights .*; load the model",
        ),
        (model_of("gpt2"), r"got weights .* \(float32; processing: none"),
    ):
        with pytest.raises(CheckpointError, match=message):
            TunedLens.load(tmp_path, other)
        with pytest.raises(ArgumentError, match=f"a tuned lens must be used on the model that .*{message}"):
            logit_lens(other, rows_of(), lens=lens)
        with pytest.raises(ArgumentError, match=message):
            lens_kl(other, rows_of(), lens)
    with pytest.raises(
        ArgumentError, match="a lens translates states of the stream, got site='attn_out'; leave the lens"
    ):
        logit_lens(model, rows_of(), site="attn_out", lens=lens)


def test_weights_that_were_written_since_are_noticed():
    model = model_of("gpt2")
    lens = train_tuned_lens(model, rows_of(), steps=1, batch=2)
    lens.check(model)
    with torch.no_grad():
        before = model.blocks[0].attn.b_O.clone()
        model.blocks[0].attn.b_O.add_(1)
    with pytest.raises(ArgumentError, match="a tuned lens must be used on the model that it was trained on"):
        lens.check(model)
    with torch.no_grad():
        model.blocks[0].attn.b_O.copy_(before)
    lens.check(model)
    model.blocks[0].attn.W_O.data.mul_(3)
    with pytest.raises(ArgumentError, match="a tuned lens must be used on the model that it was trained on"):
        lens.check(model)


def test_damaged_files_are_refused(model, lens, tmp_path):
    from safetensors.torch import load_file, save_file

    with pytest.raises(CheckpointError, match="must be a folder with a tuned lens, got none"):
        TunedLens.load(tmp_path, model)
    lens.save(tmp_path)
    file = tmp_path / "tuned_lens.safetensors"
    whole, tensors = file.read_bytes(), load_file(file)
    file.write_bytes(whole[:-8])
    with pytest.raises(CheckpointError, match=r"tuned_lens.safetensors must be what save wrote"):
        TunedLens.load(tmp_path, model)
    file.write_bytes(whole[:-8] + bytes(8))
    with pytest.raises(CheckpointError, match=r"tuned_lens.safetensors is damaged: its tensors are not those"):
        TunedLens.load(tmp_path, model)
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match="must be a pellucid tuned lens, version 2, got None"):
        TunedLens.load(tmp_path, model)
    for broken in ("{", "[]", "{}"):
        save_file(tensors, file, {"format": "pellucid tuned lens, version 2", "pellucid": broken})
        with pytest.raises(CheckpointError, match=r"tuned_lens.safetensors must be what save wrote"):
            TunedLens.load(tmp_path, model)


def test_what_cannot_be_trained_is_refused(model):
    for changes, message in (
        ({"steps": 0}, "steps must be 1 or more, a whole number, got 0"),
        ({"batch": 0}, "batch must be 1 or more, a whole number, got 0"),
        ({"lr": 0.0}, "lr must be above 0, got 0.0"),
        ({"held_out": 1.0}, "the share that is held out must be at least 0 and below 1, got 1.0"),
        ({"length": 4}, "length is that of rows made of documents, got length=4"),
    ):
        with pytest.raises(ArgumentError, match=message):
            train_tuned_lens(model, rows_of(), **changes)
    with pytest.raises(ArgumentError, match="a tuned lens needs a model with layers"):
        train_tuned_lens(model_of(config_of(n_layers=0)), rows_of())
    with pytest.raises(ArgumentError, match="corpus must be documents or token ids"):
        train_tuned_lens(model, torch.zeros(3, dtype=torch.long))
    with pytest.raises(ArgumentError, match="rows must fit n_ctx=16, got 20 tokens"):
        train_tuned_lens(model, tokens_of(pos=20))
    with pytest.raises(TokenError):
        train_tuned_lens(model, ["1 2 3"])
    for rows in ([], [[]]):
        with pytest.raises(ArgumentError, match=r"rows must be token ids \[row pos\], one row or more, got"):
            lens_kl(model, rows)
    assert lens_kl(model, [1, 2, 3]).shape == (1, 2)
    broken = model_of("gpt2")
    with torch.no_grad():
        broken.blocks[0].attn.b_O.fill_(torch.nan)
    with pytest.raises(TrainingError, match="the loss must stay a number"):
        train_tuned_lens(broken, rows_of())
