"""The study of emergence: its arms, the questions put to a run, and what is said over runs."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.analysis.heads import INDUCTION, role_scores
from pellucid.analysis.repeated import repeated_tokens
from pellucid.studies.emergence import break_off, emergence, jobs_of, phase
from pellucid.studies.emergence_arms import ARMS, FIXED, LONGEST, NEVER_TRAINED, ONE_HEAD, SHORTEST, Sizes
from pellucid.studies.emergence_page import emergence_page, needs, verdicts
from pellucid.studies.emergence_runs import HELD_OUT, PERIODS, run, stripe
from pellucid.studies.emergence_translation import questioned
from pellucid.studies.result import Figure
from pellucid.train import TranslatedSequences, train
from tests.models import model_of
from tests.studies.known import Known

STEPS = 60


def flat(values, where=""):
    """A nested table's values by their places."""
    if not isinstance(values, dict):
        return {where: values}
    return {place: x for name, part in values.items() for place, x in flat(part, f"{where}.{name}").items()}


def changed(arm):
    """The fields of an arm's recipe that differ from the first arm's."""
    ours, first = (flat(one.recipe(0, Sizes()).to_dict()) for one in (arm, ONE_HEAD))
    return {place.removeprefix(".") for place in ours.keys() & first.keys() if ours[place] != first[place]}


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("four_heads", {"model.attention.n_heads", "model.attention.d_head"}),
        ("fixed_one_layer", {"model.n_layers", "data.shortest", "data.longest"}),
        ("fixed_two_layers", {"data.shortest", "data.longest"}),
        ("short_periods", {"data.longest"}),
        ("random_offset", {"data.offset"}),
        ("rotary", {"model.positions.kind"}),
        ("decay_weak", {"optimiser.weight_decay", "optimiser.decayed"}),
        ("decay_strong", {"optimiser.weight_decay", "optimiser.decayed"}),
    ],
)
def test_an_arm_differs_from_the_first_as_its_words_say(name, fields):
    assert changed(ARMS[name]) == fields


def test_periods_that_are_asked_were_never_trained():
    assert not any(SHORTEST <= period <= LONGEST for period in NEVER_TRAINED)
    assert all(arm.recipe(0, Sizes()).steps == Sizes().steps for arm in ARMS.values())


@pytest.mark.parametrize("quick", [True, False])
def test_every_arm_has_its_seeds_and_no_job_comes_twice(quick):
    jobs = jobs_of(Sizes(quick=quick))
    told = {(job["arm"], job["seed"]) for job in jobs}
    assert len(told) == len(jobs) and json.loads(json.dumps(jobs)) == jobs
    for arm in ARMS.values():
        seeds = sorted(seed for name, seed in told if name == arm.name)
        assert seeds == list(range(Sizes(quick=quick).seeds(arm)))
    assert quick or all(len([job for job in jobs if job["arm"] == name]) >= 8 for name in ("one_head", "four_heads"))


@given(st.lists(st.floats(-0.1, 1), min_size=4, max_size=30))
def test_a_score_breaks_off_where_the_best_step_down_is(values):
    score = np.array(values)
    fits = {}
    for at in range(1, len(score)):
        before, after = score[:at].mean(), score[at:].mean()
        if before > after:
            fits[at] = ((score[:at] - before) ** 2).sum() + ((score[at:] - after) ** 2).sum()
    found = break_off(score)
    if np.isnan(found):
        at = min(fits, key=fits.get, default=1)
        assert not fits or score[at:].mean() >= score[:at].mean() / 2 - 1e-9 or score[:at].mean() < 1e-9
    else:
        at = int(found) - 2
        assert fits[at] <= min(fits.values()) + 1e-9 and score[at:].mean() < score[:at].mean() / 2


def test_the_phase_change_is_where_half_is_reached_and_as_wide_as_its_steepest_part():
    steps = torch.arange(0, 1001, 25)
    rise = ((steps - 200) / 100).clamp(0, 1) * 0.8
    other = torch.zeros_like(rise)
    one = {"found": torch.tensor(1.0), "steps": steps, "induction": torch.stack([other, rise], 1)[:, :, None]}
    assert phase(one) == pytest.approx((250, 100))
    assert all(map(np.isnan, phase(one | {"found": torch.tensor(0.0)})))


def test_a_stripe_is_the_attention_so_many_tokens_back_at_each_position():
    model = model_of("attention only")
    tokens = repeated_tokens(model, seq_len=5, batch=3)
    cache = model.run_with_cache(tokens.tokens)[1]
    found = stripe(model, tokens, back=2, first=4)
    for (layer, head), values in found.items():
        pattern = cache["pattern", layer][:, head].mean(0)
        expected = [pattern[position, position - 2].item() for position in range(4, tokens.tokens.shape[1])]
        assert values.tolist() == pytest.approx(expected, abs=1e-6)
    assert set(found) == {(layer, head) for layer in range(2) for head in range(4)}


def test_an_encoder_decoder_is_asked_where_it_attends_and_what_it_needs():
    arm, sequences = ARMS["encoder_decoder_blanks"], TranslatedSequences(d_vocab=64, length=16, blanks=16)
    model = arm.recipe(0, Sizes()).model.made(seed=0, device="cpu")
    found = questioned(model, sequences, seed=3, batch=1)
    source, tokens = found["source"], found["tokens"]
    (places,) = (source != 1).nonzero(as_tuple=True)
    assert source[places].tolist()[: len(tokens) - 1] == tokens[1:].tolist(), "the answer is what was read"
    assert found["uniform"] == 1 / len(source)
    patterns = found["cross_patterns"]
    assert torch.allclose(patterns.sum(-1), torch.ones(()))
    for layer in range(2):
        here = patterns[layer, 0]
        answer = sum(here[i, place].item() for i, place in enumerate(places)) / len(places)
        last = sum(here[i + 1, place].item() for i, place in enumerate(places[:-1])) / (len(places) - 1)
        assert found["answer_mass"][layer, 0].item() == pytest.approx(answer, abs=1e-6)
        assert found["last_mass"][layer, 0].item() == pytest.approx(last, abs=1e-6)
    assert 0 <= found["without_cross_attention"] < 0.2


@pytest.fixture(scope="module")
def tiny():
    """Runs of a few steps, of each kind: a function of a job."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sizes, "steps", STEPS)
        jobs = [("one_head", 0), ("one_head", 1), ("fixed_one_layer", 0), ("rotary", 0), ("four_heads", 0)]
        jobs += [("encoder_decoder", 0), ("encoder_decoder_blanks", 0)]
        runs = {job: run({"arm": job[0], "seed": job[1], "quick": True}) for job in jobs}
    runs["one_head", 0]["found"] = torch.tensor(1.0)

    def of(job):
        kind = (job["arm"], job["seed"])
        if kind not in runs:
            kind = (job["arm"], 0) if (job["arm"], 0) in runs and job["arm"] != "one_head" else ("one_head", 1)
        moved = {"previous_found": torch.tensor(1.0)} if "previous_by_pos" in runs[kind] else {}
        for name in ("previous_by_pos", "W_pos"):
            if name in runs[kind]:
                moved[name] = runs[kind][name] * (1 + 0.01 * job["seed"])
        return runs[kind] | moved

    of.runs = runs
    return of


def test_a_run_says_what_its_probes_and_its_finished_model_say(tiny):
    found = tiny.runs["one_head", 1]
    steps = [0, 25, 50, 60]
    assert found["steps"].tolist() == steps and found["induction"].shape == found["previous"].shape == (4, 2, 1)
    recipe = replace(
        ONE_HEAD.recipe(1, Sizes()), steps=STEPS, optimiser=ONE_HEAD.recipe(1, Sizes(quick=True)).optimiser
    )
    trained = train(recipe, device="cpu")
    losses = trained.history.values
    means = [losses[0], *(losses[a:b].mean() for a, b in pairwise(steps))]
    assert found["loss"].tolist() == pytest.approx(means)
    model = trained.model
    tokens = repeated_tokens(model, seq_len=NEVER_TRAINED[0], batch=24, seed=HELD_OUT + 2)
    scores = role_scores(model, tokens, [INDUCTION])
    head = scores.score.values - scores.control.values
    assert any(
        found["induction_by_period"][0].item() == pytest.approx(head[:, 0, layer, 0].mean(), abs=1e-6)
        for layer in range(2)
    )
    assert torch.equal(found["W_pos"], model.W_pos)
    assert len(found["accuracy_by_period"]) == len(PERIODS) == 4 and PERIODS[-1] == FIXED
    assert "patterns" not in found and "W_pos" not in tiny.runs["rotary", 0]


def test_the_first_run_has_pictures_of_its_attention_while_it_forms(tiny):
    found = tiny.runs["one_head", 0]
    assert found["moments"].tolist()[0] == 0 and found["moments"].tolist()[-1] == STEPS
    assert found["patterns"].shape == (len(found["moments"]), 2, 1, 64, 64)
    assert torch.allclose(found["patterns"].sum(-1), torch.ones(()), atol=1e-5)
    tokens = found["pattern_tokens"]
    assert torch.equal(tokens[1:17], tokens[17:33]), "they repeat with period 16"


@pytest.fixture(scope="module")
def result(tiny):
    return emergence(executor=Known(tiny))


def test_figures_are_over_the_runs_of_their_arm(result, tiny):
    figures = result.figures
    assert figures["share_with_induction"].label == "1 of 8" and figures["share_with_induction"].value == 1 / 8
    of_one = phase(tiny.runs["one_head", 0])
    assert (figures["phase_step_median"].value, figures["phase_width_median"].value) == of_one
    ends = [tiny({"arm": "one_head", "seed": seed})["loss"][-1].item() for seed in range(8)]
    assert figures["loss_at_end"].value == pytest.approx(np.mean(ends))
    scores = [tiny({"arm": "one_head", "seed": seed})["previous_by_pos"].numpy() for seed in range(8)]
    thirds = [np.array_split(score, 3) for score in scores]
    assert figures["score_first_third"].value == pytest.approx(np.mean([third[0].mean() for third in thirds]))
    assert figures["score_last_third"].value == pytest.approx(np.mean([third[-1].mean() for third in thirds]))
    ranks = []
    for seed in range(8):
        values = np.linalg.svd(tiny({"arm": "one_head", "seed": seed})["W_pos"][:-1].double().numpy(), compute_uv=False)
        shares = values / values.sum()
        ranks.append(np.exp(-(shares * np.log(shares)).sum()))
    assert figures["effective_rank_position"].value == pytest.approx(np.mean(ranks))
    plain = tiny.runs["encoder_decoder", 0]
    assert figures["encoder_decoder_accuracy"].value == pytest.approx(plain["accuracy"].item())
    assert figures["encoder_decoder_answer_mass"].value == pytest.approx(plain["answer_mass"].max().item())


def test_which_seeds_have_the_heads_is_told(result, tiny):
    found = result.measurements["found_one_head"]
    assert found.values.tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    ends = [tiny({"arm": "one_head", "seed": seed}) for seed in range(8)]
    assert found.dataset["score"].values.tolist() == [one["score"].item() for one in ends]
    steps = found.dataset["phase_step"].values
    assert steps[0] == phase(ends[0])[0] and np.isnan(steps[1:]).all()
    html = emergence_page(result).html()
    assert html.count('<th scope="row">seed 7</th>') == 2, "both kinds of runs have their table"


def test_all_that_the_story_tells_is_in_the_numbers(result):
    told = result.to_dict()
    wanted = "share_with_induction share_with_previous_token phase_step_median score_first_third score_last_third"
    assert set(wanted.split()) | {"effective_rank_position"} <= set(told["figures"])
    assert set(told["record"]["settings"]["recipes"]) == set(ARMS)
    dims = {name: measured.dims for name, measured in result.measurements.items()}
    assert dims["induction_one_head"] == dims["loss_four_heads"] == ("run", "step")
    assert dims["previous_by_pos_rotary"] == ("run", "pos")
    assert dims["patterns"] == ("step", "layer", "head", "q_pos", "k_pos")
    assert dims["gram_decay_strong"] == ("q_pos", "k_pos")
    W = result.measurements["singular_values_one_head"]
    assert (np.diff(W.values, axis=1) <= 1e-9).all()


def test_the_page_tells_the_story_with_its_pictures(result):
    html = emergence_page(result).html()
    for heading in (
        "Do they appear, and when?",
        "What does it look like?",
        "Why not one fixed period?",
        "Do the diagonals break off after a third?",
        "What does the position embedding look like?",
        "Does an encoder–decoder need an induction head?",
        "How it was made",
    ):
        assert heading in html
    assert "<b>1 of 8</b>" in html or "<strong>1 of 8</strong>" in html
    assert html.count("<figure ") >= 20
    for question, answer in verdicts(result).items():
        assert question in html and answer in html


@pytest.mark.parametrize(
    ("low", "high", "said"), [(1, 3, "Yes"), (-3, -1, "No"), (-1, 2, "Undecided"), (None, None, "Undecided")]
)
def test_the_guess_is_confirmed_refuted_or_left_undecided(result, low, high, said):
    figure = Figure(unit="tokens", value=1.0, low=low, high=high)
    changed = replace(result, figures=result.figures | {"break_off_moved_by_random_offset": figure})
    assert verdicts(changed)["Is it since late positions need no coding?"].startswith(said)


@pytest.mark.parametrize(
    ("whole", "without", "said"),
    [(1.0, 0.98, "no induction head is needed"), (1.0, 0.1, "falls from 1.00 to 0.10"), (0.2, 0.2, "does not solve")],
)
def test_what_the_encoder_decoder_needs_is_shown_by_ablation(result, whole, without, said):
    name = "encoder_decoder_accuracy"
    figures = {name: whole, f"{name}_without_decoder_attention": without}
    changed = result.figures | {name: Figure(unit="fraction", value=value) for name, value in figures.items()}
    assert said in needs(replace(result, figures=changed))[0]


@pytest.mark.slow
def test_the_heads_form_and_one_fixed_period_is_no_induction(tmp_path):
    one, fixed = (run({"arm": arm, "seed": 1, "quick": True}) for arm in ("one_head", "fixed_one_layer"))
    assert one["found"] == one["previous_found"] == 1
    assert one["score"] - one["control"] > 0.4 and one["accuracy_by_period"].min() > 0.7
    step, width = phase(one)
    assert 50 < step < 500 and 0 < width < 500
    assert fixed["found"] == 0 and fixed["accuracy_by_period"][-1] > 0.9
    assert fixed["accuracy_by_period"][:-1].max() < 0.2 and fixed["control"] > 0.8 * fixed["score"]
