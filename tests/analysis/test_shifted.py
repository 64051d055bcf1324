"""Shifted MLPs, against one run for each cell."""

import numpy as np
import pytest
import torch

from pellucid import HookedTransformer
from pellucid.analysis import shifted
from pellucid.analysis.repeated import repeated_tokens, unrepeated_tokens
from pellucid.analysis.shifted import shifted_mlp
from pellucid.base.errors import ArgumentError
from pellucid.model.wired import induction_pair
from pellucid.text.vocabulary import integer_vocabulary
from tests.models import CONFIGS, model_of
from tests.reference import shifted as literal

S = 5


def model_with(bos: int | None, name: str = "gpt2") -> HookedTransformer:
    model = model_of(CONFIGS[name].change(init_range=1.0), dtype=torch.float64)
    model.tokenizer = integer_vocabulary(model.cfg.d_vocab, bos=bos)
    return model


def check(model, tokens, *, positions: range, targets: range):
    found = shifted_mlp(model, tokens)
    layers = range(model.cfg.n_layers)
    for prompt in range(len(tokens.tokens)):
        ids = tokens.tokens[prompt : prompt + 1]

        def grows(patches, ids=ids):
            return literal.shifted(model, ids, patches, tokens.seq_len, targets)

        single = [[grows([(layer, p)]) for p in positions] for layer in layers]
        together = [grows([(layer, p) for p in positions]) for layer in layers]
        np.testing.assert_allclose(found.single.values[prompt], single, atol=1e-9)
        np.testing.assert_allclose(found.summed.values[prompt], np.sum(single, axis=1), atol=1e-9)
        np.testing.assert_allclose(found.layer.values[prompt], together, atol=1e-9)
        whole = grows([(layer, p) for layer in layers for p in positions])
        np.testing.assert_allclose(found.whole.values[prompt], whole, atol=1e-9)
    assert found.single.dataset["pos"].values.tolist() == list(positions)
    return found


@pytest.mark.parametrize("together", [1, 3, 8])
@pytest.mark.parametrize("name", ["gpt2", "llama", "bare"])
def test_each_cell_is_a_run_with_one_hook(monkeypatch, name, together):
    monkeypatch.setattr(shifted, "TOGETHER", together)
    model = model_with(0, name)
    found = check(
        model,
        repeated_tokens(model, seq_len=S, batch=2),
        positions=range(S + 1, 2 * S + 1),
        targets=range(S + 2, 2 * S + 1),
    )
    assert abs(found.single.values[..., :-1]).mean() > 1e-3
    assert (found.single.values[..., -1] == 0).all()  # nothing comes after the last token
    assert (found.single.dims, found.layer.dims, found.whole.dims) == (
        ("prompt", "layer", "pos"),
        ("prompt", "layer"),
        ("prompt",),
    )
    assert {part.unit for part in found} == {"nats"}
    assert found.single.record.settings["seq_len"] == S


def test_without_bos_everything_lies_one_position_earlier():
    model = model_with(None)
    tokens = repeated_tokens(model, seq_len=S, batch=2)
    check(model, tokens, positions=range(S, 2 * S), targets=range(S + 1, 2 * S))


def test_the_article_starts_at_the_end_of_the_first_copy_and_takes_it_from_bos():
    model = model_with(0)
    tokens = repeated_tokens(model, seq_len=S, batch=2, rule="article")
    found = check(model, tokens, positions=range(S, 2 * S), targets=range(S + 1, 2 * S))
    for prompt in range(2):
        expected = literal.article(model, tokens.tokens[prompt : prompt + 1], S)
        np.testing.assert_allclose(found.single.values[prompt], expected.detach(), atol=1e-9)


def test_tokens_that_do_not_repeat_can_be_shifted_as_a_control():
    model = model_with(0)
    tokens = unrepeated_tokens(model, seq_len=S, batch=1)
    check(model, tokens, positions=range(S + 1, 2 * S + 1), targets=range(S + 2, 2 * S + 1))


def test_standing_hooks_take_part_once():
    model = model_with(0)
    tokens = repeated_tokens(model, seq_len=S, batch=1)
    plain = shifted_mlp(model, tokens)
    with model.hooks(fwd_hooks=[(("resid_pre", 1), lambda x, hook: x.mul_(3))]):
        hooked = check(model, tokens, positions=range(S + 1, 2 * S + 1), targets=range(S + 2, 2 * S + 1))
    assert abs(hooked.whole.values - plain.whole.values).max() > 1e-3


def test_mlps_that_write_nothing_do_not_matter():
    wired = induction_pair(2, 3, previous=(0, 2), induction=(1, 1), d_head=8)
    model = HookedTransformer(wired.config, integer_vocabulary(wired.config.d_vocab), device="cpu")
    model.load_state_dict(wired.weights)
    for part in shifted_mlp(model, repeated_tokens(model, batch=2)):
        assert abs(part.values).max() < 1e-5


def test_a_model_of_attention_only_is_refused(toy):
    with pytest.raises(ArgumentError, match="needs a model that has some, this one has attention only"):
        shifted_mlp(toy, repeated_tokens(toy, batch=1))
