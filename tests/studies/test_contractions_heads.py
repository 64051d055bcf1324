"""Heads taken apart: each part by the same prompts; where they look, beside a control; what a contraction changes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pellucid.studies import contractions_heads
from pellucid.studies.contractions import Prompts
from pellucid.studies.contractions_heads import _ov_cosine, _way, alike, attention, heads_apart
from tests.models import model_of
from tests.studies.test_contractions import RIGHT, prompts_of, speaking, wired

PAIRS = prompts_of(6).pairs


@pytest.fixture(scope="module")
def apart():
    return heads_apart(wired(), PAIRS, delta=0.2)


@pytest.fixture(scope="module")
def spoken(shared):
    model = speaking(shared)
    return model, Prompts.of(model, n=60).pairs


def test_the_values_alone_bring_back_what_the_pattern_does_not(spoken):
    """A corrupted sentence has nothing to find; values found by an even pattern are worth their share."""
    model, pairs = spoken
    found = heads_apart(model, pairs, delta=0.2)
    figures = found.figures
    assert [figures[name].label for name in ("head", "head_by_pattern", "head_by_v")] == ["0.0"] * 3
    assert figures["head"].value == pytest.approx(4.4, abs=0.1)
    assert figures["head_by_pattern"].value == pytest.approx(0, abs=1e-6)
    assert 0.3 < figures["head_by_v"].value < 0.8
    way = figures["head_v_minus_pattern"]
    assert (way.value, way.label) == (pytest.approx(figures["head_by_v"].value, abs=1e-6), "what it finds there")


def test_what_needs_both_is_by_neither_alone(apart):
    assert apart.figures["head"].label == "0.0" and apart.figures["head_v_minus_pattern"].label == "neither alone"


SURE, NONE = np.array([3.0, 3.1, 2.9, 3.0]), np.array([0.0, 0.01, -0.01, 0.0])


@pytest.mark.parametrize(
    ("z", "v", "pattern", "label"),
    [
        (SURE, SURE, NONE, "what it finds there"),
        (SURE, NONE, SURE, "where it looks"),
        (SURE, SURE, SURE, "both alike"),
        (SURE, NONE, NONE, "neither alone"),
        (SURE, -SURE, NONE, "neither alone"),
        (NONE, NONE, NONE, "nothing beyond δ"),
        (SURE, SURE * [1, 0, 1, 0], SURE * [0, 0.5, 1, 0], "undecided"),
    ],
)
def test_what_matters_of_a_head_is_tested(z, v, pattern, label):
    figure = _way({"z": z, "v": v, "pattern": pattern}, 0.2)
    assert figure.label == label
    assert (figure.reason is not None) == (label == "undecided")


def test_the_head_and_its_parts_are_measured_on_the_same_prompts(apart):
    reporting = list(range(6, 12))
    for site, name in (("z", "head"), ("pattern", "head_by_pattern"), ("v", "head_by_v")):
        mean = apart.measurements[f"heads_{site}"].effect().sel(prompt=reporting, layer=0, head=0).mean("prompt")
        assert apart.figures[name].value == mean.item()


def test_a_head_that_works_against_it_is_found_as_well():
    model = wired()
    model.blocks[0].attn.W_O.data[1] *= -0.5
    flipped = prompts_of(6).pairs.with_answers(answer=[RIGHT + 1] * 12, wrong=[RIGHT] * 12)
    assert heads_apart(model, flipped, delta=0.2).figures["head"].value < -1


def test_values_of_grouped_queries_bear_the_name_of_their_head():
    model = model_of("llama")
    draw = torch.Generator().manual_seed(1)
    clean = torch.randint(17, (6, 7), generator=draw)
    corrupted = clean.clone()
    corrupted[:, 2] = (clean[:, 2] + 1) % 17
    pairs = replace(PAIRS[:6], clean=clean, corrupted=corrupted)
    pairs = pairs.with_answers(answer=[1] * 6, wrong=[2] * 6)
    figures = heads_apart(model, pairs, delta=0.2).figures
    layer, head = map(int, figures["head"].label.split("."))
    assert figures["head_by_v"].label == f"{layer}.kv{head // 2}"
    assert figures["head_by_pattern"].label == figures["head"].label


class TestAttention:
    def test_it_goes_to_the_contraction_and_not_to_the_verb(self):
        found = attention(wired(), PAIRS, "0.1")
        mass = found.measurements["attention_to_contraction"].values
        second = [at for at, group in enumerate(PAIRS.group) if group == "second"]
        np.testing.assert_allclose(mass[:, 0, 0], 1, atol=1e-6)
        np.testing.assert_allclose(mass[second, 0, 1], 0, atol=1e-6)
        np.testing.assert_allclose(found.measurements["attention_to_verb"].values, 0, atol=1e-6)
        np.testing.assert_allclose(found.measurements["attention_to_verb"].dataset["uniform"].values, 1 / 7)
        assert found.figures["attends_most"].label == "0.0"
        assert found.figures["head_attends"].value == pytest.approx(0.5, abs=1e-6)
        assert found.figures["head_attends_to_verb"].value == pytest.approx(0, abs=1e-6)

    def test_it_is_that_of_the_run(self):
        model = model_of("gpt2")
        pairs = replace(PAIRS, clean=PAIRS.clean % 17, corrupted=PAIRS.corrupted % 17)
        values = attention(model, pairs, None).measurements["attention_to_verb"].values
        _, cache = model.run_with_cache(pairs.corrupted)
        for layer in range(2):
            expected = cache["pattern", layer][:, :, 6, 2]
            np.testing.assert_allclose(values[:, layer], expected.detach().numpy(), atol=1e-6)


class TestAlike:
    def test_two_heads_write_the_same_where_both_write(self, apart):
        found = alike(wired(), PAIRS, apart.measurements).figures
        assert found["heads_write_alike"].label == "0.0 and 0.1"
        assert found["heads_write_alike first"].value == pytest.approx(1)
        assert found["heads_write_alike"].value == pytest.approx(2**-0.5, abs=1e-6)
        assert found["heads_ov_alike"].value == pytest.approx(1)

    def test_a_silent_head_writes_nothing_that_could_be_compared(self, apart):
        silent = alike(wired(), PAIRS, apart.measurements).figures["heads_write_alike second"]
        assert silent.value is None
        assert silent.reason == "0.1 writes nothing at the end that a contraction changes"

    def test_what_is_written_is_what_a_contraction_changes(self, apart):
        """A constant that both heads write besides is no likeness."""
        model = wired()
        attn = model.blocks[0].attn
        attn.W_O.data[1] *= -1
        attn.W_O.data[:, 1], attn.b_V.data[:, 1] = model.W_E.data[15], 50
        found = alike(model, PAIRS, apart.measurements).figures
        assert found["heads_write_alike first"].value == pytest.approx(-1)

    def test_the_interval_is_that_of_cosines_over_frames(self):
        draw = torch.Generator().manual_seed(0)
        wrote = [torch.randn(12, 5, generator=draw, dtype=torch.float64) for _ in range(2)]
        wrote[1] += wrote[0]
        figure = contractions_heads._cosines(PAIRS, wrote, "a and b")["heads_write_alike"]
        whole = torch.nn.functional.cosine_similarity(*(x.flatten() for x in wrote), dim=0)
        assert figure.value == pytest.approx(float(whole))
        assert figure.low < figure.value < figure.high <= 1

    def test_matrices_are_compared_without_being_formed(self):
        model = model_of("llama")
        heads = [(0, 3), (1, 1)]
        attn = [(model.blocks[layer].attn, head) for layer, head in heads]
        one, other = ((of.W_V[head // 2] @ of.W_O[head]).detach().flatten() for of, head in attn)
        expected = torch.nn.functional.cosine_similarity(one, other, dim=0)
        assert _ov_cosine(model, heads) == pytest.approx(float(expected), abs=1e-5)
