"""The study of contractions: what is wired is found, to the number; what is not sure is said to be undecided."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pellucid import AttentionConfig, Config, HookedTransformer, MLPConfig
from pellucid.base.errors import ArgumentError, MisreadWarning
from pellucid.model.wired import skip_trigram
from pellucid.studies.contractions import FIGURES, Prompts, _habit, contractions
from pellucid.studies.contractions_page import contractions_page
from pellucid.tasks.pairs import Pairs
from pellucid.text.read import read_tokenizer

SEEN, WRITTEN, FIRST, SECOND, RIGHT, WRONG = 5, 6, 7, 8, 9, 10


def wired() -> HookedTransformer:
    """Head 0.0 reads SEEN … FIRST → RIGHT and SEEN … SECOND → RIGHT; head 0.1 only the first of the two."""
    both = skip_trigram({(SEEN, FIRST): RIGHT, (SEEN, SECOND): RIGHT}, head=(0, 0))
    one = skip_trigram({(SEEN, FIRST): RIGHT}, head=(0, 1))
    model = HookedTransformer(both.config, device="cpu")
    weights = {name: x.clone() for name, x in both.weights.items()}
    for name, x in one.weights.items():
        if name.startswith("blocks.0.attn.") and x.shape[:1] == (2,):
            weights[name][1] = x[1]
    model.load_state_dict(weights)
    return model.double()


def with_neurons() -> HookedTransformer:
    """The same, and at RIGHT in the stream neuron 1 writes WRONG, neuron 0 a little against it, neuron 2 nothing."""
    bare = wired()
    model = HookedTransformer(replace(bare.config, mlp=MLPConfig(d_mlp=3, act="relu")), device="cpu").double()
    weights = {name: x.double() for name, x in bare.state_dict().items()}
    rest = {name: torch.zeros_like(x) for name, x in model.state_dict().items() if name not in weights}
    tokens = weights["embed.W_E"]
    rest["blocks.0.ln2.w"] = torch.ones_like(rest["blocks.0.ln2.w"])
    rest["blocks.0.mlp.W_in"] = tokens[RIGHT][:, None].expand(-1, 3) / tokens.shape[1] ** 0.5
    rest["blocks.0.mlp.W_out"] = torch.stack([-tokens[WRONG], 6 * tokens[WRONG], 0 * tokens[WRONG]])
    model.load_state_dict(weights | rest)
    return model


def prompts_of(frames=12, seed=0, seen=lambda frame: SEEN) -> Prompts:
    draw = torch.Generator().manual_seed(seed)
    rows: dict[str, list] = {"clean": [], "corrupted": [], "group": [], "frame": []}
    for frame in range(frames):
        fill = (torch.randint(5, (4,), generator=draw) + 12).tolist()
        for group, last in (("first", FIRST), ("second", SECOND)):
            for side, token in (("clean", seen(frame)), ("corrupted", WRITTEN)):
                rows[side].append([0, fill[0], token, *fill[1:], last])
            rows["group"].append(group)
            rows["frame"].append(f"frame {frame}")
    told = {"answer": RIGHT, "wrong": WRONG, "group": rows["group"], "frame": rows["frame"]}
    pairs = Pairs.from_tokens(rows["clean"], rows["corrupted"], positions={"contraction": 2, "subject": 1}, **told)
    nouns = [[*row[:-1], 18] for row in rows["clean"]], [[*row[:-1], 18] for row in rows["corrupted"]]
    return Prompts(pairs, Pairs.from_tokens(*nouns, positions={"contraction": 2, "subject": 1}, **told))


def speaking(shared) -> HookedTransformer:
    """A model of English that contracts: at a pronoun its head finds a contraction, and says that one a bit more.

    The metric is 0.2 by the pronoun alone; a contraction that the head attends to adds 4, and 1 more if it is the same.
    At a noun the head attends to all tokens alike.
    """
    tokenizer = read_tokenizer(shared / "data" / "gpt2-tokenizer")
    attention = AttentionConfig(n_heads=2, d_head=8)
    config = Config(
        n_layers=1, d_model=8, d_vocab=50257, n_ctx=32, attention=attention, norm=None, positions=None, tied=False
    )
    model = HookedTransformer(config, tokenizer, device="cpu").double()
    weights = {name: torch.zeros_like(x) for name, x in model.state_dict().items()}
    E, U, attn = weights["embed.W_E"], weights["unembed.W_U"], "blocks.0.attn."
    for place, word in enumerate(("'re", "'s", "'m")):
        token = tokenizer.single(word)
        E[token, 0], U[2, token], U[5, token] = 1, 1, 0.3
        if word != "'m":
            E[token, 6 + place], U[3 + place, token] = 1, 1
    for word in (" are", " is", " am"):
        U[2, tokenizer.single(word)], U[5, tokenizer.single(word)] = -1, 0.1
    for word in (" they", " we", " he", " she"):
        E[tokenizer.single(word), 1] = E[tokenizer.single(word), 5] = 1
    weights[f"{attn}W_Q"][0, 1, 0], weights[f"{attn}W_K"][0, 0, 0] = 60, 1
    for read, inside, write, size in ((0, 1, 2, 2), (6, 2, 3, 1), (7, 3, 4, 1)):
        weights[f"{attn}W_V"][0, read, inside], weights[f"{attn}W_O"][0, inside, write] = 1, size
    model.load_state_dict(weights)
    return model


@pytest.fixture(scope="module")
def found():
    return contractions(wired(), prompts_of())


@pytest.fixture(scope="module")
def spoken(shared):
    return contractions(speaking(shared))


class TestHabit:
    def test_it_is_a_skip_trigram_and_no_bigram(self, found):
        """Nothing is brought by the last token alone, nor by the first one without it: all of it is both together."""
        habit = found.figures["habit"]
        assert (habit.value, habit.label) == (pytest.approx(18.0234, abs=1e-3), "shown")
        assert found.figures["metric_corrupted"].value == pytest.approx(0, abs=1e-3)
        assert found.figures["habit first"].value > found.figures["habit second"].value > 1
        for name in ("pronoun_alone", "contraction_alone"):
            assert found.figures[name].value == pytest.approx(0, abs=1e-3)
        assert found.figures["interaction"].value == pytest.approx(habit.value, abs=1e-3)
        for name in ("interaction", "interaction first", "interaction second"):
            assert found.figures[name].label == "does not add up"

    def test_that_of_english_is_found_to_the_number(self, spoken):
        expected = {
            **{"metric_clean": 4.6, "metric_corrupted": 0.2, "habit": 4.4, "pronoun_alone": 0.2, "copied_minus_not": 1},
            **{"pronoun_on_contractions": 0.3, "pronoun_on_verbs": 0.1, "habit 're they": 5, "habit 's they": 4},
        }
        for name, value in expected.items():
            assert spoken.figures[name].value == pytest.approx(value, abs=1e-5), name
        assert spoken.figures["copied_minus_not"].label == "matters"
        assert spoken.figures["habit"].label == "shown"

    @pytest.mark.parametrize(
        ("x", "label", "reason"),
        [
            ([0.9, 1.1, 1.0, 1.2], "shown", None),
            ([-0.9, -1.1, -1.0, -1.2], "cannot", None),
            ([0.02, -0.01, 0.0, 0.01], "cannot", None),
            ([2.0, -0.5, 1.0, 0.0], "not shown", "about 27 frames would decide"),
            ([1.0], "not shown", "one frame has no interval; two or more are needed to say what would decide"),
        ],
    )
    def test_what_is_not_shown_is_not_denied(self, x, label, reason):
        figure = _habit(np.array(x), delta=0.2)
        assert (figure.label, figure.reason) == (label, reason)

    def test_a_habit_that_is_not_shown_is_explored(self):
        few = contractions(wired(), prompts_of(3, seen=lambda frame: 13 if frame else SEEN))
        habit = few.figures["habit"]
        assert habit.label == "not shown" and habit.low < 0 < habit.value
        number = f"{habit.value:.2f} [{habit.low:.2f}, {habit.high:.2f}] logits"
        told = f"the habit is not shown with these 3 frames: {number}; {habit.reason}"
        assert few.record.settings["exploratory"] == told
        assert habit.reason.endswith("frames would decide") and few.figures["head"].value is not None
        page = contractions_page(few).html()
        assert "All that follows is exploratory" in page and "That is a habit <em>not shown</em>" in page

    def test_the_opposite_of_a_habit_is_none(self):
        prompts = prompts_of(4)
        pairs = prompts.pairs.with_answers(answer=[WRONG] * 8, wrong=[RIGHT] * 8)
        other = contractions(wired(), pairs)
        reason = (
            "the model cannot do it: a contraction before does not make it contract, by -18.02 [-18.02, -18.02] logits"
        )
        assert other.figures["habit"].label == "cannot"
        assert other.figures["head"].reason == other.figures["parts_shared"].reason == reason
        assert "attribution_component" in other.measurements and "attn_out" not in other.measurements
        assert other.figures["interaction"].reason == "there are no prompts without pronoun"
        assert f"The study ends there: {reason}." in contractions_page(other).html()

    def test_one_frame_says_nothing_for_sure(self):
        one = contractions(wired(), prompts_of(frames=1))
        assert one.figures["habit"].low is None and one.figures["habit"].label == "not shown"
        assert one.figures["parts_undecided"].value == len(one.measurements["parts"].dataset["component"])

    def test_a_habit_smaller_than_told_does_not_count(self):
        assert _habit(np.array([0.02, -0.01, 0.0, 0.01]), delta=0.001).label == "not shown"


class TestAddsUp:
    def test_what_adds_up_is_said_to(self, shared):
        """Without queries the head attends to all alike, pronoun or not."""
        model = speaking(shared)
        model.blocks[0].attn.W_Q.data.zero_()
        figures = contractions(model, n=40).figures
        assert figures["interaction"].value == pytest.approx(0, abs=1e-9)
        assert {figures[name].label for name in figures if name.startswith("interaction")} == {"adds up"}

    def test_what_is_beyond_differs_between_groups(self, spoken):
        """Of each frame it is (4 + same) (1 - 1 / tokens)."""
        same, other = spoken.figures["interaction 're they"], spoken.figures["interaction 's they"]
        assert same.value / other.value == pytest.approx(5 / 4, abs=1e-6)
        assert same.label == "does not add up"


class TestRefused:
    @pytest.mark.parametrize("delta", [0, -1.0, np.inf, np.nan])
    def test_a_delta_that_is_no_difference(self, delta):
        with pytest.raises(ArgumentError, match="delta must be a difference above 0, got .*; give the smallest one"):
            contractions(wired(), prompts_of(2), delta=delta)

    def test_nouns_of_other_sentences(self):
        with pytest.raises(ArgumentError, match="must be the same up to the last token, .*; prompt 0 is another"):
            Prompts(prompts_of(2).pairs, prompts_of(2, seed=3).nouns)
        pairs, nouns = prompts_of(2).pairs, prompts_of(2).nouns
        with pytest.raises(ArgumentError, match="prompt 1 is another"):
            Prompts(pairs, replace(nouns, group=("first", "first", "first", "second")))
        with pytest.raises(ArgumentError, match="as many prompts are needed with nouns, got 2 and 4"):
            Prompts(pairs, nouns[:2])

    def test_prompts_without_the_position(self):
        with pytest.raises(ArgumentError, match="answers, wrong ones, and the position contraction"):
            Prompts(Pairs.from_tokens([[0, 5, 7]], [[0, 6, 7]], answer=9, wrong=10))


def test_delta_is_declared_for_every_verdict(shared):
    """Where 10 logits do not matter, nothing but the habit itself is there."""
    figures = contractions(speaking(shared), n=40, delta=10).figures
    assert {x.label for name, x in figures.items() if name.startswith("interaction")} == {"adds up"}
    assert (figures["copied_minus_not"].label, figures["head_v_minus_pattern"].label) == (
        "no matter",
        "nothing beyond δ",
    )
    assert figures["parts_shared"].value == 3 and figures["copied attn 0"].label == "shared"
    assert figures["habit"].label == "shown"


def test_what_is_no_number_is_told_as_such():
    model = wired()
    model.blocks[0].attn.W_O.data[:] = np.nan
    figures = contractions(model, prompts_of(2)).figures
    assert set(FIGURES) <= set(figures)
    assert {figures[name].reason for name in ("habit", "head", "interaction")} == {"the model's answers make it nan"}


def test_pairs_alone_are_prompts_without_nouns():
    assert contractions(wired(), prompts_of(2).pairs).figures["interaction"].reason == (
        "there are no prompts without pronoun"
    )


def test_frames_that_only_some_groups_have_are_left_out_of_the_comparison(shared):
    with pytest.warns(MisreadWarning, match="so skewed"):  # and nothing of frames
        some = contractions(speaking(shared), n=57)
    assert (some.record.settings["prompts"], some.record.settings["frames_compared"]) == (57, 5)
    assert some.figures["copied_minus_not"].value == pytest.approx(1, abs=1e-5)


def test_every_figure_is_there(found, spoken):
    assert set(FIGURES) <= set(found.figures) and set(FIGURES) <= set(spoken.figures)
    assert spoken.record.settings["groups"].startswith("'re they, 're he, ")


def test_a_tokenizer_that_splits_contractions_is_the_finding():
    found = contractions(HookedTransformer.from_pretrained("prose-2l-mixed"))
    assert all(found.figures[name].value is None for name in FIGURES)
    assert "['We', \"'\", 're']" in found.figures["habit"].reason
