"""Groups side by side: studies of nothing seldom find something, one odd group blames no other, classes come out."""

import warnings

import numpy as np
import pytest

from pellucid.base.errors import MisreadWarning
from pellucid.hooked_transformer import record_of
from pellucid.maths.groups import compare_groups
from pellucid.measurement import Measurement
from pellucid.studies.contractions_frames import (
    Table,
    by_frame,
    chosen,
    common_frames,
    judged,
    not_comparable,
    would_decide,
)
from pellucid.studies.contractions_groups import MORE, contrasts, of_parts, side_by_side
from pellucid.tasks.contractions import CONTRACTION, GROUPS
from pellucid.tasks.pairs import Pairs
from tests.studies.test_contractions import wired

FRAMES = 10
IDS = {"'re": 5, "'s": 6, "'m": 7, "they": 9, "he": 10, "she": 11, "we": 12}
MODEL = wired()


def pairs_of(groups=GROUPS, frames=FRAMES) -> Pairs:
    """What the task makes, as bare ids: the contraction, the last pronoun, and its contraction as the answer."""
    kinds = [tuple(group.split()) for group in groups] * frames
    clean = [[0, IDS[seen], 3, IDS[last]] for seen, last in kinds]
    return Pairs.from_tokens(
        clean,
        [[0, 8, 3, row[3]] for row in clean],
        answer=[IDS[CONTRACTION[last]] for _, last in kinds],
        wrong=4,
        positions={"contraction": 1},
        group=list(groups) * frames,
        frame=[f"frame {at // len(groups)}" for at in range(len(kinds))],
    )


def effects_of(x: np.ndarray) -> dict[str, Measurement]:
    """``[frame group part]`` as the effect of as many layers."""
    record = record_of(MODEL, task="patching", settings={"direction": "denoise"})
    flat = x.reshape(-1, x.shape[2])
    zeros = {name: ("prompt", np.zeros(len(flat))) for name in ("clean", "corrupted")}
    return {"attn_out": Measurement(flat, ("prompt", "layer"), unit="logits", record=record, variables=zeros)}


def compared_of(x: np.ndarray, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MisreadWarning)
        return side_by_side(MODEL, effects_of(x), pairs_of(), **options)


def drawn(parts: int, seed: int, spread: float = 1.0) -> np.ndarray:
    """``[frame group part]`` with frames of their own, and no difference between groups."""
    draw = np.random.default_rng(seed)
    return draw.normal(size=(FRAMES, 1, parts)) + spread * draw.normal(size=(FRAMES, len(GROUPS), parts))


def test_where_nothing_differs_few_studies_find_a_part_that_does():
    """With a family for each group 42 of 100 studies did; of 50, more than 7 do once in 300 times if 5 % do."""
    studies = [compared_of(drawn(12, seed)).figures for seed in range(50)]
    assert sum(figures["parts_different"].value > 0 for figures in studies) <= 7


def test_nothing_sure_is_undecided_with_the_frames_that_would_decide():
    found = compared_of(drawn(3, 0)).figures
    assert found["parts_undecided"].value == 3
    for part in range(3):
        figure = found[f"groups attn {part}"]
        assert figure.label == "undecided" and figure.low < figure.value < figure.high
        assert figure.reason.startswith("about ") and figure.reason.endswith(" frames would decide")


def test_what_all_share_is_shared_and_one_undecided_group_is_enough_not_to_be():
    x = drawn(2, 0, spread=0.01)
    x[:, 3, 1] += np.random.default_rng(1).normal(size=FRAMES)
    found = compared_of(x)
    assert found.figures["groups attn 0"].label == "shared"
    assert found.figures["groups attn 1"].label == "undecided"
    verdicts = [found.figures[f"parts_{word}"].value for word in ("shared", "different", "undecided")]
    assert verdicts == [1, 0, 1]


def test_one_odd_group_makes_a_part_different_and_shows_by_its_own_effect():
    x = drawn(4, 0, spread=0.3)
    x[:, 0, 0] += 5
    found = compared_of(x)
    farthest = found.figures["groups attn 0"]
    assert (farthest.label, farthest.value) == ("different", pytest.approx(5, abs=0.5))
    means = x.mean(0)[:, 1]
    others = (means.sum() - means) / (len(GROUPS) - 1)
    apart = found.measurements["groups_compared"].dataset.sel(component="attn 1")
    np.testing.assert_allclose(apart["value"], means - others, atol=1e-6)
    own = found.measurements["parts_by_group"].dataset.sel(component="attn 0")
    apart = own["value"].values - own["value"].values[1:].mean()
    assert own["group"].values.tolist() == list(GROUPS)
    assert apart[0] == pytest.approx(5, abs=0.5) and (np.abs(apart[1:]) < 0.4).all()
    assert ((own["low"] < own["value"]) & (own["value"] < own["high"])).all()


def test_groups_that_fall_into_two_by_what_they_predict_come_out_so():
    x = drawn(3, 0, spread=0.1)
    x[:, [at for at, group in enumerate(GROUPS) if CONTRACTION[group.split()[1]] == "'s"], 0] += 1
    x[:, [at for at, group in enumerate(GROUPS) if group.startswith("'re")], 1] += 1
    x[:, [at for at, group in enumerate(GROUPS) if CONTRACTION[group.split()[1]] == group.split()[0]], 2] += 1
    found = compared_of(x).figures
    values = [[found[f"{name} attn {part}"].value for part in range(3)] for name in ("predicted", "seen", "copied")]
    np.testing.assert_allclose(values, np.diag([-1, 1, 1]), atol=0.15)
    for row, name in enumerate(("predicted", "seen", "copied")):
        for part in range(3):
            assert found[f"{name} attn {part}"].label == ("different" if part == row else "shared")


def test_what_the_interval_leaves_open_and_permutations_do_not_decide_is_told_as_such():
    """Five frames have 32 choices of signs, of which two are as far as what is quite sure by t."""
    x = drawn(1, 0, spread=0.01)[:5]
    x[:, [at for at, group in enumerate(GROUPS) if group.startswith("'re")]] += 1
    found = side_by_side(MODEL, effects_of(x), pairs_of(frames=5))
    figure = found.figures["seen attn 0"]
    assert figure.low > 0 and (figure.label, figure.reason) == ("undecided", MORE)
    assert found.measurements["contrasts"].dataset["p_value"].values[1, 0] == pytest.approx(2 / 32)
    assert found.figures["groups attn 0"].label == "different"


def test_that_intervals_are_too_narrow_is_kept_beside_them():
    found = compared_of(np.random.default_rng(0).exponential(size=(FRAMES, len(GROUPS), 12)) ** 4)
    assert "so skewed that on 10" in found.measurements["groups_compared"].record.settings["skewed"]
    assert compared_of(drawn(3, 0)).measurements["groups_compared"].record.settings["skewed"] is None


def test_contrasts_are_over_the_same_last_words():
    asked = {one.name: one for one in contrasts(MODEL, pairs_of())}
    weights = {name: dict(zip(GROUPS, one.weights, strict=True)) for name, one in asked.items()}
    for name, of_group in weights.items():
        assert of_group["'m they"] == of_group["'m she"] == 0
        assert sum(x for x in of_group.values() if x > 0) == pytest.approx(1), name
        assert sum(of_group.values()) == pytest.approx(0)
    assert all(weights["seen"][f"'re {last}"] == -weights["seen"][f"'s {last}"] for last in ("they", "we", "he", "she"))
    assert weights["predicted"]["'re they"] == weights["predicted"]["'s we"] == 0.25
    assert weights["copied"]["'re they"] == weights["copied"]["'s she"] == -weights["copied"]["'re she"] == 0.25
    assert asked["predicted"].words == "5 minus 6 predicted"
    assert contrasts(MODEL, pairs_of(("'re they", "'re he"))) == []
    assert contrasts(MODEL, pairs_of(("'re they", "'s he"))) == []  # no pronoun behind both


def test_the_frames_of_a_part_are_the_fewest_that_make_one_group_differ_or_all_of_them_shared():
    a = np.array([[0.5, 0.0], [-0.5, 0.0]]) + np.random.default_rng(0).normal(size=(6, 2, 2))
    found = compare_groups(a, np.zeros_like(a), frames=(list(range(6)),) * 2, delta=1)
    verdicts, needed = of_parts(found)
    for part, verdict in enumerate(verdicts):
        cells = found.n_to_differ[:, part], found.n_to_share[:, part]
        if verdict == "undecided":
            assert needed[part] == min(np.nanmin(cells[0]), np.nanmax(cells[1]))
        else:
            assert np.isnan(needed[part])
    assert "undecided" in verdicts


class TestFrames:
    def test_only_those_that_all_groups_have_are_compared(self):
        pairs = pairs_of()[:57]
        assert common_frames(pairs) == tuple(f"frame {at}" for at in range(5))
        x = Measurement(np.arange(57.0), ("prompt",), unit="logits", record=record_of(MODEL, task="x", settings={}))
        table = Table.of(x, pairs)
        assert table.values[:, 3].tolist() == [3, 13, 23, 33, 43] and table.groups == GROUPS

    def test_what_cannot_be_compared_has_its_reason(self):
        assert not_comparable(pairs_of(GROUPS[:1])) == "there are no two groups to compare"
        pairs = pairs_of()
        bare = Pairs.from_tokens(pairs.clean, pairs.corrupted, group=list(pairs.group))
        assert "the prompts name none" in str(not_comparable(bare))
        apart = Pairs.from_tokens([[1], [1]], [[2], [2]], group=["a", "b"], frame=["x", "y"])
        assert "no frame is in every group" in str(not_comparable(apart))
        found = side_by_side(MODEL, effects_of(drawn(2, 0)), bare)
        assert found.figures["parts_shared"].reason == not_comparable(bare) and not found.measurements

    def test_a_verdict_is_a_label_and_what_would_decide_a_reason(self):
        x = np.array([0.9, 1.1, 1.0, 1.2])
        assert judged(x, delta=0.2).label == "different" and judged(x, delta=2).label == "shared"
        assert judged(x * [1, 0, -1, 1], delta=0.2).reason == "about 104 frames would decide"
        assert would_decide(np.inf).startswith("no number of frames")
        assert judged(np.array([np.nan, 1.0]), delta=0.2).reason == "the model's answers make it nan"

    def test_what_matters_is_chosen_in_either_direction_on_the_first_half(self):
        x = np.array([[0.0, -3.0, 1.0], [0.0, -3.0, 1.0], [9.0, 0.0, 1.0], [9.0, 0.0, 1.0]])
        told = Measurement(x, ("prompt", "head"), unit="logits", record=record_of(MODEL, task="x", settings={}))
        assert chosen(told, 3) == [1, 2]
        assert by_frame(told).tolist() == x.tolist()
