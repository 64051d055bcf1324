import json
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pellucid import HookedTransformer
from pellucid.base.errors import (
    ArgumentError,
    CheckpointError,
    ConfigError,
    MissingExtraError,
    OutputError,
    TrainingError,
)
from pellucid.measurement import Measurement
from pellucid.model.encoder_decoder import EncoderDecoder
from pellucid.pretrained.load import load
from pellucid.text.vocabulary import character_vocabulary
from pellucid.train import read_recipe, train
from pellucid.train import run as running
from tests.train.recipes import tiny


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run in one go, with its folder."""
    return train(tiny(log=["tensorboard"]), out=tmp_path_factory.mktemp("whole") / "run", device="cpu")


def same(ours, theirs):
    return all(torch.equal(ours[name], x) for name, x in theirs.items()) and ours.keys() == theirs.keys()


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_leaves_a_model_and_how_it_came_about(whole):
    folder = whole.folder
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "recipe.toml", "metrics.jsonl", "report.html", "checkpoints"} <= names
    assert read_recipe(folder / "recipe.toml") == whole.recipe
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 21))
    assert [line["loss"] for line in lines] == whole.history.values.tolist()
    assert {line["tokens"] for line in lines} == {8 * 16} and all(line["tokens_per_second"] > 0 for line in lines)
    assert whole.history.dims == ("step",) and whole.history.unit == "nats"
    assert whole.history.dataset["lr"].values.max() == pytest.approx(5e-3)
    assert len(list((folder / "tensorboard").iterdir())) == 1
    assert "Training: 20 steps" in (folder / "report.html").read_text()
    for name, measured in whole.probes.items():
        held = Measurement.load(folder / "probes" / f"{name}.nc")
        assert np.array_equal(held.values, measured.values, equal_nan=True) and held.dims == measured.dims
        assert measured.dataset["step"].values.tolist() == [0, 10, 20]
    record = HookedTransformer.from_pretrained(folder).record
    assert record.settings["recipe"] == whole.recipe.to_dict() and record.seed == 0


def test_without_a_folder_nothing_is_written_and_the_same_is_learned(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = train(tiny(), device="cpu")
    assert not list(tmp_path.iterdir()) and run.checkpoints == {} and run.folder is None
    assert same(run.model.state_dict(), whole.model.state_dict())
    assert run.history.values.tolist() == whole.history.values.tolist()


def test_the_end_and_each_checkpoint_can_be_loaded(whole):
    folder, tokens = whole.folder, torch.tensor([[0, 3, 4, 5, 3, 4]])
    end = HookedTransformer.from_pretrained_no_processing(folder)
    assert same(end.state_dict(), whole.model.state_dict())
    assert list(whole.checkpoints) == [0, 5, 10, 15, 20]
    fresh = HookedTransformer(whole.model.config, seed=0)
    by_index = [HookedTransformer.from_pretrained_no_processing(folder, checkpoint_index=i) for i in (0, -1)]
    assert same(by_index[0].state_dict(), fresh.state_dict()) and same(by_index[1].state_dict(), end.state_dict())
    by_value = HookedTransformer.from_pretrained(folder, checkpoint_value=10)
    held = load_file(whole.checkpoints[10] / "model.safetensors")
    again = HookedTransformer(whole.model.config)
    again.load_state_dict(held)
    probabilities = [model(tokens).log_softmax(-1) for model in (by_value, again)]  # loading folds and centres
    torch.testing.assert_close(*probabilities, rtol=0, atol=1e-5)
    assert by_value.record.settings["step"] == 10


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"checkpoint_index": 5}, r"checkpoint_index must lie in 0\.\.4, got 5"),
        ({"checkpoint_value": 7}, "checkpoint_value must be one of the steps 0, 5, 10, 15, 20, got 7"),
        ({"checkpoint_value": 5, "checkpoint_index": 1}, "one of checkpoint_index and checkpoint_value"),
    ],
)
def test_a_checkpoint_that_is_not_there_is_told(whole, options, said):
    with pytest.raises(ArgumentError, match=said):
        HookedTransformer.from_pretrained(whole.folder, **options)
    with pytest.raises((CheckpointError, ArgumentError), match="training run|one of checkpoint_index"):
        HookedTransformer.from_pretrained(whole.checkpoints[5], **options)


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("at", [1, 5, 12, 20])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(whole, tmp_path, monkeypatch, at):
    advance = running.Training.advance

    def stopping(self):
        if self.step == at:
            raise StoppedError
        advance(self)

    def writing(*anything, **more):
        raise StoppedError

    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        if at == 20:
            patch.setattr(running, "training_page", writing)
        patch.setattr(running.Training, "advance", stopping)
        train(tiny(), out=tmp_path / "run", device="cpu")
    run = train(tiny(), out=tmp_path / "run", resume=True, device="cpu")
    assert same(run.model.state_dict(), whole.model.state_dict())
    assert run.history.values.tolist() == whole.history.values.tolist()
    assert run.probes.keys() == whole.probes.keys()
    for name, measured in whole.probes.items():
        assert np.array_equal(run.probes[name].values, measured.values, equal_nan=True), name
    for step, folder in whole.checkpoints.items():
        files = [load_file(path / "model.safetensors") for path in (run.checkpoints[step], folder)]
        assert same(*files)


def test_going_on_with_a_run_that_has_ended_reads_it(whole, tmp_path):
    folder = shutil.copytree(whole.folder, tmp_path / "run")
    run = train(whole.recipe, out=folder, resume=True, device="cpu")
    assert same(run.model.state_dict(), whole.model.state_dict())
    assert run.history.values.tolist() == whole.history.values.tolist()
    assert (folder / "metrics.jsonl").read_bytes() == (whole.folder / "metrics.jsonl").read_bytes()


def test_results_are_neither_lost_nor_mixed(whole, tmp_path):
    folder = shutil.copytree(whole.folder, tmp_path / "run")
    before = contents(folder)
    refused = [
        ({}, "must not hold results already, it has recipe.toml; add --resume .* or --overwrite"),
        ({"resume": True, "overwrite": True}, "one of --resume and --overwrite must be chosen"),
    ]
    for options, said in refused:
        with pytest.raises(OutputError, match=said):
            train(whole.recipe, out=folder, device="cpu", **options)
    with pytest.raises(OutputError, match="a run of this recipe, but optimiser.lr is 0.005 there and 0.01 here"):
        train(tiny(log=["tensorboard"], optimiser={"lr": 0.01}), out=folder, resume=True, device="cpu")
    assert contents(folder) == before
    with pytest.raises(OutputError, match=r"must hold a run to go on with, it has no recipe\.toml"):
        train(tiny(), out=tmp_path / "nothing", resume=True, device="cpu")
    with pytest.raises(ConfigError, match="resume needs the folder"):
        train(tiny(), resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="must be a folder for the results, it is a file"):
        train(tiny(), out=tmp_path / "file", device="cpu")
    (folder / "mine.txt").write_text("kept")
    run = train(tiny(steps=5), out=folder, overwrite=True, device="cpu")
    assert list(run.checkpoints) == [0, 5] and (folder / "mine.txt").read_text() == "kept"
    assert not (folder / "tensorboard").exists()


@pytest.mark.parametrize("step", [1, 12])
def test_a_loss_that_is_no_number_stops_the_run_and_keeps_what_was_good(tmp_path, monkeypatch, step):
    advance = running.Training.advance

    def poisoned(self):
        if self.step == step - 1:
            with torch.no_grad():
                self.model.W_E.fill_(torch.nan)
        advance(self)

    monkeypatch.setattr(running.Training, "advance", poisoned)
    last = (step - 1) // 5 * 5
    said = (
        f"the loss must be a finite number, got nan at step {step} of 20, .*; the last good checkpoint is .*{last:08}$"
    )
    with pytest.raises(TrainingError, match=said):
        train(tiny(), out=tmp_path / "run", device="cpu")
    kept = running.checkpoints(tmp_path / "run")
    assert max(kept) == last
    for folder in kept.values():
        assert all(x.isfinite().all() for x in load_file(folder / "model.safetensors").values())
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_what_is_not_installed_is_told_before_anything_is_lost(whole, tmp_path, monkeypatch):
    folder = shutil.copytree(whole.folder, tmp_path / "run")
    before = contents(folder)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtraError, match=r"wandb must be installed .* pip install 'pellucid\[wandb\]'"):
        train(tiny(log=["wandb"]), out=folder, overwrite=True, device="cpu")
    assert contents(folder) == before


def test_frozen_parts_stay_and_parts_of_others_are_taken(whole):
    other = str(whole.folder)
    recipe = tiny(seed=5, model={"take": {"embed": other, "blocks.1": other}, "frozen": ["embed", "blocks.1.attn.W_Q"]})
    fresh, theirs = HookedTransformer(recipe.model.config, seed=5), whole.model.state_dict()
    run = train(recipe, device="cpu")
    ours = run.model.state_dict()
    for name in ("embed.W_E", "blocks.1.attn.W_Q"):
        assert torch.equal(ours[name], theirs[name])
    assert not torch.equal(ours["blocks.1.attn.W_K"], theirs["blocks.1.attn.W_K"]), "what is not frozen is trained"
    begun = recipe.model.made(seed=5).state_dict()
    for name, x in begun.items():
        assert torch.equal(x, theirs[name] if name.startswith(("embed", "blocks.1.")) else fresh.state_dict()[name])


def test_a_model_that_loads_is_gone_on_from(whole):
    values = tiny(seed=5).to_dict() | {"model": {"pretrained": str(whole.folder)}}
    run = train(values, device="cpu")
    assert run.history.values[0] < whole.history.values[:3].mean()
    assert run.model.config == whole.model.config


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"frozen": ["blocks.7"]}, "model.frozen must name a part of the model, got 'blocks.7'"),
        ({"take": {"embed": "toy-induction"}}, r"embed\.W_E is \[12, 16\] here and \[64, 64\] in toy-induction"),
        ({"take": {"embod": "toy-induction"}}, "model.take must name a part of the model, got 'embod'; nearest: embed"),
        ({"frozen": ["embed", "pos_embed", "blocks", "ln_final", "unembed"]}, "all of them are frozen"),
        ({"tokenizer": "/nowhere"}, "/nowhere"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_written(tmp_path, model, said):
    with pytest.raises((ConfigError, CheckpointError), match=said):
        train(tiny(model=model), out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("changes", [{"parts": 2}, {"parts": 8}])
def test_a_batch_in_parts_is_the_same_batch(whole, changes):
    run = train(tiny(**changes), device="cpu")
    torch.testing.assert_close(run.history.values, whole.history.values, rtol=0, atol=1e-5)


def test_without_residual_connections_nothing_is_added():
    run = train(tiny(steps=3, model={"residual": False, "norm": "none"}), device="cpu")
    cache = run.model.run_with_cache(torch.tensor([[0, 3, 4]]))[1]
    assert torch.equal(cache["resid_post", 0], cache["attn_out", 0])


def test_an_encoder_decoder_is_trained_kept_and_loaded(tmp_path):
    recipe = tiny(
        steps=80,
        model={"architecture": "encoder-decoder"},
        data={"kind": "TranslatedSequences", "d_vocab": 12, "length": 6, "blanks": 2},
        optimiser={"lr": 1e-2},
        checkpoints={"every": 40},
    )
    run = train(recipe, out=tmp_path / "run", device="cpu")
    losses = run.history.values
    assert losses[-10:].mean() < 0.8 * losses[:10].mean()
    assert run.probes["loss"].dims == ("step", "pos") and "head_roles" not in run.probes
    loaded = load(tmp_path / "run", make=EncoderDecoder).model
    assert same(loaded.state_dict(), run.model.state_dict())


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A folder with text and a tokenizer of its characters, in which the recipe of text is."""
    monkeypatch.chdir(tmp_path)
    text = "".join(f"the {i}th line, of {i * i} or so\n" for i in range(60))
    (tmp_path / "text").mkdir()
    for i in range(12):
        (tmp_path / "text" / f"{i}.txt").write_text(text[i * 40 :])
    tokenizer = character_vocabulary("\n" + "".join(sorted(set(text) - {"\n"})))
    (tmp_path / "tokenizer").mkdir()
    tokenizer.save(tmp_path / "tokenizer")
    data = {"kind": "Text", "source": "text", "length": 16, "held_out": 0.3}
    return tiny, {"data": data, "model": {"tokenizer": "tokenizer", "d_vocab": len(tokenizer)}}


def test_text_is_learned_and_its_hash_recorded(written, tmp_path):
    make, changes = written
    recipe = make(steps=40, optimiser={"lr": 2e-2}, **changes)
    run = train(recipe, out=tmp_path / "run", device="cpu")
    assert run.history.values[-5:].mean() < 0.8 * run.history.values[:3].mean()
    told = run.model.record.settings["data"]
    packed = recipe.data.packed(run.model.tokenizer)
    assert told["hash"] == packed.hash and told["rows"] == len(packed.train) > 0
    assert (told["documents"], told["held_out_documents"]) == (packed.n_documents, packed.n_held_out_documents)
    loaded = HookedTransformer.from_pretrained(tmp_path / "run")
    assert loaded.tokenizer.encode("the 3th") == run.model.tokenizer.encode("the 3th")
    (tmp_path / "text" / "0.txt").write_text("the 1th line")
    with pytest.raises(OutputError, match="on the data that it began with, but hash is .* there and .* here"):
        train(recipe, out=tmp_path / "run", resume=True, device="cpu")


@pytest.mark.parametrize(
    ("data", "model", "said"),
    [
        ({"source": "nowhere"}, {}, "nowhere"),
        ({"column": "words"}, {}, "column"),
        (
            {},
            {"d_vocab": 12},
            r"model.d_vocab must be as many as the tokenizer has, \d+, or more, got 12; set model.d_vo",
        ),
        ({}, {"d_vocab_out": 12}, r"the tokenizer's ids must lie in the model's vocabulary, 0\.\.11, got \d+"),
        ({}, {"tokenizer": "text"}, "text must be .*|.*text has none"),
        ({"length": 17}, {}, "rows of 17 tokens"),
    ],
)
def test_text_that_cannot_be_read_is_one_error_with_nothing_written(written, tmp_path, data, model, said):
    make, changes = written
    with pytest.raises((ConfigError, CheckpointError, ArgumentError), match=said) as caught:
        recipe = make(data=changes["data"] | data, model=changes["model"] | model)
        train(recipe, out=tmp_path / "run", device="cpu")
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_text_that_is_not_utf_8_is_told_with_its_file(written, tmp_path):
    make, changes = written
    (tmp_path / "text" / "5.txt").write_bytes(b"caf\xe9")
    with pytest.raises(Exception, match=r"5\.txt"):
        train(make(**changes), out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()
