"""Sweeps of models whose circuits were wired find exactly what was wired, and nothing else."""

import numpy as np
import pytest
import torch

from pellucid import HookedTransformer, Measurement, Zero, patching
from pellucid.model.wired import Wired, indirect_object, induction_pair, skip_trigram


def model_of(wired: Wired) -> HookedTransformer:
    model = HookedTransformer(wired.config, device="cpu")
    model.load_state_dict(wired.weights)
    return model.double()


def found(effect: Measurement, *, above: float = 0.2) -> set[str]:
    """The cells that move the metric by more than a share of the way; all others by next to nothing."""
    shares = effect.normalised().mean("prompt")
    moved = (
        np.nan_to_num(shares.values)
        if effect.record.settings["direction"] == "denoise"
        else 1 - np.nan_to_num(shares.values, nan=1.0)
    )
    assert ((np.abs(moved) > above) | (np.abs(moved) < 0.02)).all()
    return {label for label, share in zip(shares.labels, moved.ravel(), strict=True) if abs(share) > above}


class TestInductionPair:
    """BOS … 7 9 … 7: after 7 came 9 in the clean run, 3 in the corrupted one."""

    @pytest.fixture
    def model(self) -> HookedTransformer:
        return model_of(induction_pair(4, 3, previous=(0, 2), induction=(2, 1), d_head=8))

    @pytest.fixture
    def pairs(self) -> patching.Pairs:
        clean = [[0, 4, 7, 9, 2, 5, 7], [0, 7, 9, 2, 6, 1, 7]]
        corrupted = [[0, 4, 7, 3, 2, 5, 7], [0, 7, 3, 2, 6, 1, 7]]
        return patching.pairs(clean, corrupted, answer=9, wrong=3, positions={"next": [3, 2]})

    @pytest.mark.parametrize("direction", ["denoise", "noise"])
    def test_the_answer_goes_through_the_value_of_the_induction_head_alone(self, model, pairs, direction):
        asked = {"over": ("layer", "head"), "direction": direction}
        assert found(patching.sweep(model, pairs, site="z", **asked)) == {"2.1"}
        assert found(patching.sweep(model, pairs, site="v", **asked)) == {"2.1"}
        for site in ("q", "k", "pattern"):
            assert found(patching.sweep(model, pairs, site=site, **asked)) == set()

    def test_it_stands_at_its_token_until_the_head_moves_it_to_the_end(self, model, pairs):
        assert found(patching.sweep(model, pairs, site="resid_pre", over=("layer", "position"))) == {
            *(f"layer {layer} next" for layer in (0, 1, 2)),
            "layer 3 end",
        }

    def test_which_token_comes_next_is_found_through_the_previous_token_head_and_the_keys(self, model):
        clean, corrupted = [[0, 4, 7, 9, 5, 3, 7]], [[0, 4, 5, 9, 7, 3, 7]]  # 7 9 … 5 3, or 5 9 … 7 3
        pairs = patching.pairs(clean, corrupted, answer=9, wrong=3)
        heads = {"over": ("layer", "head")}
        assert found(patching.sweep(model, pairs, site="k", **heads)) == {"2.1"}
        assert found(patching.sweep(model, pairs, site="pattern", **heads)) == {"2.1"}
        assert found(patching.sweep(model, pairs, site="z", **heads)) == {"0.2", "2.1"}
        assert found(patching.sweep(model, pairs, site="q", **heads)) == set()
        edges = {"senders": "heads", "receivers": "heads + logits"}
        for through in ("edge", "mlps", "all"):
            for direction in ("denoise", "noise"):
                moved = found(patching.paths(model, pairs, **edges, through=through, direction=direction))
                assert moved - {"0.2 → logits"} == {"0.2 → 2.1 k", "2.1 → logits"}
                assert ("0.2 → logits" in moved) == (through == "all")

    def test_ablations_hit_the_pair_alone(self, model, pairs):
        effect = patching.ablate(model, pairs, site="z", over=("layer", "head"), by=Zero()).effect().mean("prompt")
        assert {label for label, value in effect.items() if value < -5} == {"0.2", "2.1"}
        assert all(abs(value) < 0.1 for label, value in effect.items() if label not in ("0.2", "2.1"))


class TestIndirectObject:
    """BOS … A … B … A … END in the clean run, B the second time in the corrupted one."""

    @pytest.fixture
    def model(self) -> HookedTransformer:
        return model_of(indirect_object(4, 3, duplicate=(0, 2), inhibition=(1, 0), mover=(3, 1)))

    @pytest.fixture
    def pairs(self) -> patching.Pairs:
        clean = [[0, 4, 11, 7, 12, 4, 13, 1], [0, 12, 3, 5, 3, 13, 11, 1]]
        corrupted = [[0, 4, 11, 7, 12, 7, 13, 1], [0, 12, 3, 5, 5, 13, 11, 1]]
        return patching.pairs(clean, corrupted, answer=[7, 5], wrong=[4, 3], positions={"S2": [5, 4]})

    @pytest.mark.parametrize("direction", ["denoise", "noise"])
    def test_what_changes_goes_through_inhibition_into_the_query_of_the_mover(self, model, pairs, direction):
        asked = {"over": ("layer", "head"), "direction": direction}
        assert found(patching.sweep(model, pairs, site="z", **asked)) == {"1.0", "3.1"}
        assert found(patching.sweep(model, pairs, site="v", **asked)) == {"1.0"}
        assert found(patching.sweep(model, pairs, site="q", **asked)) == {"3.1"}
        assert found(patching.sweep(model, pairs, site="pattern", **asked)) == {"3.1"}

    def test_it_stands_at_the_second_subject_until_it_is_brought_to_the_end(self, model, pairs):
        assert found(patching.sweep(model, pairs, site="resid_pre", over=("layer", "position"))) == {
            *("layer 0 S2", "layer 1 S2", "layer 2 end", "layer 3 end")
        }

    def test_ablations_hit_the_three_heads_alone(self, model, pairs):
        effect = patching.ablate(model, pairs, site="z", over=("layer", "head"), by=Zero()).effect().mean("prompt")
        assert {label for label, value in effect.items() if value < -2} == {"0.2", "1.0", "3.1"}
        assert all(abs(v) < 1e-9 for label, v in effect.items() if label not in ("0.2", "1.0", "3.1"))


def test_the_reader_of_skip_trigrams_reads_at_its_token():
    model = model_of(skip_trigram({(5, 9): 3, (6, 9): 4}, 2, 3, head=(1, 2)))
    clean, corrupted = [[0, 14, 5, 13, 9], [0, 5, 15, 16, 9]], [[0, 14, 6, 13, 9], [0, 6, 15, 16, 9]]
    pairs = patching.pairs(clean, corrupted, answer=3, wrong=4)
    heads = {"over": ("layer", "head")}
    assert found(patching.sweep(model, pairs, site="z", **heads)) == {"1.2"}
    places = patching.sweep(model, pairs, site="v", over=("head", "pos")).normalised()
    torch.testing.assert_close(torch.tensor(places.sel(prompt=0, head=2).values), torch.eye(5)[2].double())
    torch.testing.assert_close(torch.tensor(places.sel(prompt=1, head=2).values), torch.eye(5)[1].double())
