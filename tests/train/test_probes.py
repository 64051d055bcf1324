from dataclasses import replace

import numpy as np
import pytest
import torch

from pellucid.analysis.heads import role_scores
from pellucid.analysis.repeated import repeated_tokens
from pellucid.base.seeds import generator
from pellucid.model.encoder_decoder import EncoderDecoder
from pellucid.train import MostFrequentToken, PeriodicSequences, Probes, TranslatedSequences, train
from pellucid.train import probes as probing
from pellucid.train.probes import SEED, in_context, loss_by_position, probe
from pellucid.train.sequences import IGNORED
from pellucid.train.stream import next_tokens
from tests.models import config_of, encoder_decoder_of, model_of
from tests.train.recipes import tiny

SEQUENCES = PeriodicSequences(d_vocab=17, length=16, shortest=3, longest=5)


def test_a_probe_has_the_scores_of_heads_on_tokens_that_are_not_trained_on():
    model, settings = model_of("attention only"), Probes(seq_len=6, batch=5)
    found = probe(model, None, settings, seed=3)
    scores = role_scores(model, repeated_tokens(model, seq_len=6, batch=5, seed=3))
    assert found["head_roles"].dims == ("prompt", "role", "layer", "head")
    assert np.array_equal(found["head_roles"].values, scores.score.values)
    assert np.array_equal(found["head_roles_control"].values, scores.control.values)
    assert set(found) == {"head_roles", "head_roles_control"}


@pytest.mark.parametrize("logits", [2**23, 1, 17 * 16 * 3])
@pytest.mark.parametrize("kind", ["decoder", "most frequent", "encoder-decoder"])
def test_the_loss_by_position_is_the_mean_over_its_targets(monkeypatch, kind, logits):
    monkeypatch.setattr(probing, "LOGITS", logits)
    if kind == "encoder-decoder":
        model = encoder_decoder_of("attention only")
        batch = TranslatedSequences(d_vocab=17, length=5, blanks=3).draw(7, generator(1))
    else:
        model = model_of("attention only")
        data = SEQUENCES if kind == "decoder" else MostFrequentToken(d_vocab=17, length=9, distinct=3)
        batch = data.draw(7, generator(1))
    losses = {}
    for row, (tokens, targets) in enumerate(zip(batch.tokens, batch.targets, strict=True)):
        inputs = [tokens[None]] if batch.source is None else [batch.source[row][None], tokens[None]]
        log_probs = model(*inputs)[0].double().log_softmax(-1)
        for pos, target in enumerate(targets.tolist()):
            if target != IGNORED:
                losses.setdefault(pos, []).append(-log_probs[pos, target].item())
    found = loss_by_position(model, batch)
    assert found.shape == (batch.tokens.shape[1],)
    for pos, value in enumerate(found.tolist()):
        assert np.isnan(value) if pos not in losses else value == pytest.approx(np.mean(losses[pos]), abs=1e-5)
    assert losses


def test_the_in_context_score_is_the_late_loss_minus_the_early_one():
    losses = torch.arange(100.0, 0, -1, dtype=torch.float64)
    assert in_context(losses) == pytest.approx(losses[90:100].mean() - losses[10:20].mean())
    losses[90:95] = torch.nan
    assert in_context(losses) == pytest.approx(losses[95:].mean() - losses[10:20].mean())
    losses[10:20] = torch.nan
    assert in_context(losses) is None


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bare"])
def test_learned_positions_have_an_effective_rank(kind):
    model = model_of(kind)
    found = probe(model, SEQUENCES.draw(3, generator(0)), Probes(batch=0), seed=0)
    assert ("position_rank" in found) == (kind == "gpt2") and "head_roles" not in found
    if kind == "gpt2":
        values = np.linalg.svd(model.W_pos.detach().double().numpy(), compute_uv=False)
        shares = values / values.sum()
        assert found["position_rank"].item() == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-5)


def test_a_model_without_layers_or_with_no_room_has_no_scores_of_heads():
    batch = SEQUENCES.draw(3, generator(0))
    assert "head_roles" not in probe(model_of(config_of(n_layers=0)), batch, Probes(), seed=0)
    assert isinstance(encoder_decoder_of(), EncoderDecoder)
    assert set(probe(encoder_decoder_of(), None, Probes(), seed=0)) == set()


def test_looking_changes_nothing_and_what_is_held_out_is_not_trained_on():
    seen, blind = (train(tiny(probes=probes), device="cpu") for probes in ({}, {"batch": 0, "held_out": 0}))
    for name, x in blind.model.state_dict().items():
        assert torch.equal(seen.model.state_dict()[name], x)
    assert blind.probes.keys() == {"position_rank"}
    recipe = tiny()
    held_out = recipe.data.draw(8, generator(recipe.seed + SEED)).tokens
    trained = recipe.data.draw(8, generator(recipe.seed)).tokens
    assert not torch.equal(held_out, trained)
    last = seen.probes["loss"].sel(step=20).values
    expected = loss_by_position(seen.model, recipe.data.draw(8, generator(recipe.seed + SEED)))
    assert np.array_equal(last, expected.numpy(), equal_nan=True)


def test_they_come_at_the_chosen_steps():
    run = train(tiny(probes=Probes(every=8, log_spaced=True, batch=0, held_out=2).__dict__), device="cpu")
    assert run.probes["loss"].dataset["step"].values.tolist() == [0, 1, 2, 4, 8, 16, 20]
    assert replace(run.recipe.probes, every=None).of(4000) >= set(range(0, 4001, 100))


def test_bits_per_byte_are_nats_in_a_unit_that_no_tokenizer_changes():
    model, batch = model_of("gpt2"), next_tokens(torch.randint(17, (5, 16), generator=generator(0)))
    found = probe(model, batch, Probes(batch=0), seed=0, bytes_per_token=3.5)
    losses = loss_by_position(model, batch)
    for name, nats in (("bits_per_byte", losses.nanmean().item()), ("in_context_bits_per_byte", in_context(losses))):
        assert found[name].item() == pytest.approx(nats / np.log(2) / 3.5, rel=1e-12)
        assert found[name].unit == "bits per byte"
    assert not {"bits_per_byte", "in_context_bits_per_byte"} & set(probe(model, batch, Probes(batch=0), seed=0))
    assert "bits_per_byte" not in probe(model, None, Probes(batch=0), seed=0, bytes_per_token=3.5)
