"""Layers, positions and neurons: noise lies on the contraction, every token is patched, one choice of neurons."""

import numpy as np
import pytest
import torch

from pellucid.hooks.edits import Noise, Replace
from pellucid.studies.contractions import contractions
from pellucid.studies.contractions_page import contractions_page
from pellucid.studies.contractions_parts import NOISE, between, contexts, layers, top_neurons, with_texts
from pellucid.tasks.pairs import Pairs
from tests.studies.test_contractions import RIGHT, WRONG, prompts_of, wired, with_neurons

PAIRS = prompts_of(4).pairs


@pytest.fixture(scope="module")
def found():
    return contractions(with_neurons(), prompts_of(6))


class TestNoise:
    def test_it_lies_on_the_contraction_by_layer_and_by_position(self):
        model, measured = wired(), layers(wired(), PAIRS).measurements
        std = NOISE * float(model.W_E.detach().float().std())
        noised = model.run(PAIRS.clean[:1], edits=[Noise("embed", std=std)], reads=["hook_embed"]).cache["hook_embed"]
        logits = model.run(PAIRS.clean[:1], edits=[Replace(noised[:, 2:3], "embed", pos=2)]).logits[0, -1]
        expected = (logits[RIGHT] - logits[WRONG]).item()
        for name in ("attn_out_from_noise", "attn_out_by_position_from_noise"):
            corrupted = measured[name].dataset["corrupted"].values
            assert corrupted[0] == pytest.approx(expected, abs=1e-6), name
            assert not np.allclose(corrupted, measured["attn_out"].dataset["corrupted"].values)

    def test_both_are_measured_by_layer_and_position(self):
        measured = layers(wired(), PAIRS).measurements
        assert measured["attn_out_from_noise"].dims == ("prompt", "layer")
        swept = measured["attn_out_by_position_from_noise"].effect().mean("prompt")
        names = swept.dataset["position"].values.tolist()
        assert names == ["subject", "contraction", "contraction+1", "contraction+2", "contraction+3", "end"]
        assert np.abs(swept.values[0, :-1]).max() < 1e-9


class TestBetween:
    def test_every_token_has_a_name_in_prompts_of_one_length(self):
        places = between(PAIRS).positions
        assert [int(places[name][0]) for name in list(places)[1:]] == [2, 3, 4, 5, 6]

    def test_longer_prompts_count_the_rest_from_their_end(self):
        rows = [[0, 5, 1, 1, 7], [0, 5, 1, 1, 1, 7]]
        places = between(Pairs.from_tokens(rows, rows, positions={"contraction": 1})).positions
        assert {name: place.tolist() for name, place in places.items()} == {
            "contraction": [1, 1],
            "contraction+1": [2, 2],
            "contraction+2": [3, 3],
            "end-1": [3, 4],
            "end": [4, 5],
        }

    def test_nothing_between_has_no_names(self):
        rows = [[0, 5, 7], [0, 5, 7]]
        assert list(between(Pairs.from_tokens(rows, rows, positions={"contraction": 1})).positions) == [
            "contraction",
            "end",
        ]


class TestNeurons:
    def test_the_figure_is_the_one_that_matters_most_in_either_direction(self, found):
        """Neuron 1 writes WRONG, and so works against it."""
        figure = found.figures["neuron"]
        assert (figure.label, figure.value) == ("L0N1", pytest.approx(-17.82, abs=0.01))
        effect = found.measurements["neurons"].effect().mean("prompt").values[0]
        np.testing.assert_allclose(effect, [12.77, -17.82, 0], atol=0.02)

    def test_figure_table_tokens_and_texts_are_of_the_same_ones(self, found):
        labels = top_neurons(found.measurements)
        assert labels == ["L0N1", "L0N0"]  # neuron 2 changes nothing
        assert list(found.record.settings["written"]) == labels
        assert contexts(with_neurons(), found.measurements, [[0, 5, 9, 7]]).labels == labels
        page = contractions_page(found).html()
        assert page.index(">L0N1<") < page.index(">L0N0<")
        assert "neuron L0N1 brings back -17.82" in page

    def test_tokens_written_for_are_no_tokens_written_against(self, found):
        written = found.record.settings["written"]
        assert written["L0N1"][0].split()[0] == written["L0N0"][1].split()[0] == repr(str(WRONG))

    def test_none_is_a_headline_whose_interval_holds_nothing(self):
        model = with_neurons()
        model.blocks[0].mlp.W_out.data[:] = 0
        none = contractions(model, prompts_of(6))
        assert none.figures["neuron"].reason == "no neuron changes anything"
        assert "neuron" not in contractions_page(none).html().split("</div>")[0].split('class="lead"')[-1]

    def test_they_can_be_left_out(self):
        assert contractions(with_neurons(), prompts_of(2), neurons=False).figures["neuron"].reason == (
            "neurons were left out"
        )
        assert contractions(wired(), prompts_of(2)).figures["neuron"].reason == "the model has no MLPs"


class TestTexts:
    def test_without_any_there_is_a_reason(self, found):
        assert "--corpus PATH" in found.figures["texts"].reason
        assert "Where in texts they are most active is missing: no texts were given" in contractions_page(found).html()

    def test_with_some_the_best_place_of_the_neuron_is_told(self, found):
        seen = contexts(with_neurons(), found.measurements, [[0, 12, RIGHT, 13], [0, 13, 14, 12]])
        told = with_texts(found, seen)
        assert told.figures["texts"].label == f"L0N1 at '{RIGHT}'"
        assert told.figures["texts"].value == pytest.approx(1, abs=0.01)
        assert told.measurements["texts"].dataset["component"].values.tolist() == seen.labels
        page = contractions_page(told, seen).html()
        assert f"Where they are most active, in {seen.tally.n} tokens of 2 documents" in page
        assert with_texts(found, None) is found

    def test_where_there_are_no_neurons_that_is_the_reason_and_not_a_lack_of_texts(self):
        for model, options, reason in (
            (wired(), {}, "the model has no MLPs"),
            (with_neurons(), {"neurons": False}, "neurons were left out"),
        ):
            bare = contractions(model, prompts_of(2), **options)
            assert contexts(model, bare.measurements, [[0, 12, RIGHT, 13]]) is None
            assert bare.figures["texts"].reason == reason


def test_every_layer_is_measured_in_four_ways(found):
    for site in ("attn_out", "mlp_out"):
        for place in ("", "_by_position"):
            for how in ("", "_from_noise"):
                assert torch.isfinite(torch.tensor(found.measurements[f"{site}{place}{how}"].values)).all()
