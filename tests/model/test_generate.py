"""How the next token is chosen, checked by counting."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid import KeyValueCache
from pellucid.base.errors import ArgumentError
from pellucid.base.seeds import generator
from pellucid.model.generate import Sampling, continued
from tests.models import CONFIGS, model_of, tokens_of

DRAWS = 20_000
PROBABILITIES = [0.4, 0.3, 0.15, 0.1, 0.05]
LOGITS = torch.tensor(PROBABILITIES).log() + 3
NOTHING_SAID = torch.zeros(DRAWS, 0, dtype=torch.long)


def frequencies(sampling, logits=LOGITS):
    chosen = sampling.choose(logits.expand(DRAWS, -1), NOTHING_SAID, generator=generator(0))
    return (torch.bincount(chosen, minlength=len(logits)) / DRAWS).tolist()


def normalised(weights):
    return [weight / sum(weights) for weight in weights]


@pytest.mark.parametrize(
    "sampling, expected",
    [
        (Sampling(), PROBABILITIES),
        (Sampling(top_k=2), normalised([0.4, 0.3, 0, 0, 0])),
        (Sampling(top_k=1), [1, 0, 0, 0, 0]),
        (Sampling(top_k=99), PROBABILITIES),
        (Sampling(top_p=0.69), normalised([0.4, 0.3, 0, 0, 0])),
        (Sampling(top_p=0.71), normalised([0.4, 0.3, 0.15, 0, 0])),
        (Sampling(top_p=0.01), [1, 0, 0, 0, 0]),
        (Sampling(top_p=1.0), PROBABILITIES),
        (Sampling(temperature=0.5), normalised([p**2 for p in PROBABILITIES])),
        (Sampling(temperature=2.0), normalised([math.sqrt(p) for p in PROBABILITIES])),
        (Sampling(temperature=0.0), [1, 0, 0, 0, 0]),
        (Sampling(do_sample=False), [1, 0, 0, 0, 0]),
        (Sampling(top_k=3, top_p=0.8), normalised([0.4, 0.3, 0, 0, 0])),
        (Sampling(top_k=3, temperature=0.5), normalised([0.16, 0.09, 0.0225, 0, 0])),
    ],
)
def test_tokens_are_drawn_as_often_as_they_should_be(sampling, expected):
    assert frequencies(sampling) == pytest.approx(expected, abs=0.015)


def test_only_the_shape_of_logits_counts_not_their_order_or_offset():
    order = torch.tensor([3, 0, 4, 1, 2])
    found = frequencies(Sampling(top_p=0.69), LOGITS[order] - 100)
    assert found == pytest.approx([0, 4 / 7, 0, 3 / 7, 0], abs=0.015)


@given(st.floats(0.1, 3), st.floats(-2, 2), st.integers(0, 4))
def test_penalties_are_what_their_formulas_say(repetition, frequency, times):
    sampling = Sampling(do_sample=False, repetition_penalty=repetition, freq_penalty=frequency)
    logits = torch.tensor([[2.0, -1.0, 0.5]])
    said = torch.tensor([[0] * times + [1]])
    found = sampling._penalised(logits, said, None)[0].tolist()

    def penalised(logit, count):
        logit -= frequency * count
        if count == 0:
            return logit
        return logit / repetition if logit > 0 else logit * repetition

    expected = [penalised(logit, count) for logit, count in zip([2.0, -1.0, 0.5], [times, 1, 0], strict=True)]
    assert found == pytest.approx(expected, abs=1e-5)


def test_padding_is_not_penalised():
    sampling = Sampling(do_sample=False, repetition_penalty=100.0)
    logits, said = torch.tensor([[2.0, 1.0]]), torch.tensor([[0, 1]])
    assert sampling.choose(logits, said, real=torch.tensor([[False, True]])).tolist() == [0]
    assert sampling.choose(logits, said, real=torch.tensor([[True, False]])).tolist() == [1]


def test_a_seed_draws_the_same_and_leaves_torch_s_own_state_alone():
    state = torch.get_rng_state()
    draws = [
        Sampling().choose(LOGITS.expand(50, -1), NOTHING_SAID[:50], generator=generator(seed)) for seed in (1, 1, 2)
    ]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.get_rng_state(), state)
    Sampling().choose(LOGITS.expand(50, -1), NOTHING_SAID[:50])
    assert not torch.equal(torch.get_rng_state(), state)


def test_half_precision_logits_are_drawn_in_float32():
    assert frequencies(Sampling(top_p=0.71), LOGITS.bfloat16()) == pytest.approx(
        normalised([0.4, 0.3, 0.15, 0, 0]), abs=0.02
    )


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"top_k": 0}, "top_k must be 1 or more, got 0; None switches it off"),
        ({"top_p": 0.0}, "top_p must lie above 0 and at most at 1, got 0.0; None switches it off"),
        ({"top_p": 1.5}, "top_p must lie above 0 and at most at 1, got 1.5"),
        ({"temperature": -0.1}, "temperature must be 0 or more, got -0.1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be above 0, got 0.0; 1 is none"),
    ],
)
def test_a_way_of_drawing_that_cannot_be_is_refused(fields, said):
    with pytest.raises(ArgumentError, match=said):
        Sampling(**fields)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("cached", [True, False])
def test_greedy_continuation_is_argmax_token_by_token(kind, cached):
    model, tokens = model_of(kind), tokens_of(kind)
    expected = tokens
    for _ in range(5):
        expected = torch.cat([expected, model(expected)[:, -1:].argmax(-1)], dim=1)
    past = KeyValueCache.init_cache(model.cfg) if cached else None
    found, real = continued(model, tokens, steps=range(5), sampling=Sampling(do_sample=False), past=past)
    assert torch.equal(found, expected)
    assert real.all()


@pytest.mark.parametrize("cached", [True, False])
def test_a_row_ends_at_its_stop_and_is_filled_up_with_it(cached):
    model, tokens = model_of("gpt2"), tokens_of(batch=4)
    free, _ = continued(model, tokens, steps=range(6), sampling=Sampling(do_sample=False))
    stop = int(free[0, 9])
    past = KeyValueCache.init_cache(model.cfg) if cached else None
    found, real = continued(model, tokens, steps=range(6), sampling=Sampling(do_sample=False), stop=stop, past=past)
    for row in range(4):
        said = free[row, 7:].tolist()
        end = said.index(stop) + 1 if stop in said else len(said)
        assert found[row, 7:].tolist() == [*said[:end], *[stop] * (len(found[0]) - 7 - end)][: len(found[0]) - 7]
        assert real[row].tolist() == [i < 7 + end for i in range(len(found[0]))]


def test_it_ends_when_every_row_has():
    model, tokens = model_of("gpt2"), tokens_of(batch=1)
    first = int(model(tokens)[0, -1].argmax())
    found, _ = continued(model, tokens, steps=range(6), sampling=Sampling(do_sample=False), stop=first)
    assert found.shape == (1, 8)


def test_no_steps_leave_the_prompt_as_it_is():
    tokens = tokens_of()
    found, real = continued(model_of("gpt2"), tokens, steps=range(0), sampling=Sampling())
    assert torch.equal(found, tokens) and real.all()


def test_it_keeps_no_graph():
    calls = []

    def model(tokens, **more):
        calls.append(torch.is_grad_enabled())
        return torch.zeros(1, 1, 3, requires_grad=True)

    continued(model, torch.zeros(1, 1, dtype=torch.long), steps=range(2), sampling=Sampling())
    assert calls == [False, False]
