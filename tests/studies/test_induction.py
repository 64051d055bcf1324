import json
import math
from importlib.resources import files

import numpy as np
import pytest
import torch

from pellucid import HookedTransformer
from pellucid.analysis.repeated import repeated_tokens, unrepeated_tokens
from pellucid.studies.induction import CUT, HEADS, induction
from tests.reference.heads import attention_on

NAMES = {f"{what}_{half}_half" for what in ("logprob", "loss", "accuracy") for half in ("first", "second")}
SCORED = {*HEADS, "prefix_matching_head"}
NAMES |= SCORED | {f"{name}_control" for name in SCORED} | {CUT}
NAMES |= {
    "mlp_shift_max_delta_loss",
    "two_head_circuit_top1_key_per_query",
    "two_head_circuit_top1_query_per_key",
}


@pytest.fixture(scope="module")
def found(toy):
    return induction(toy)


def test_the_bundled_model_is_found_to_have_its_heads(found):
    value = {name: figure.value for name, figure in found.figures.items()}
    assert value["induction_head"] >= 0.8 and value["induction_head_control"] <= 0.1
    assert value["previous_token_head"] >= 0.8 and value["previous_token_head_control"] <= 0.1
    assert value[CUT] < 0.5 * value["induction_head"]
    assert value["duplicate_token_head"] < 0.1
    assert value["accuracy_second_half"] >= 0.95
    assert value["logprob_second_half"] > -0.1
    assert found.figures["induction_head"].label[0] == "1"
    assert found.figures["previous_token_head"].label[0] == "0"


@pytest.mark.parametrize("seq_len", [8, 23, 63])
def test_its_heads_work_at_other_periods_too(toy, seq_len):
    value = {
        name: figure.value
        for name, figure in induction(toy, repeated_tokens(toy, seq_len=seq_len, batch=16, seed=5)).figures.items()
    }
    assert value["induction_head"] >= 0.8 and value["induction_head_control"] <= 0.1
    assert value["previous_token_head"] >= 0.8
    assert value[CUT] < 0.5 * value["induction_head"]


def test_the_card_beside_the_bundled_model_is_true(toy):
    card = json.loads((files("pellucid") / "bundled" / "toy-induction" / "card.json").read_text(encoding="utf-8"))
    figures = induction(toy, repeated_tokens(toy, seq_len=31, batch=64, seed=card["seed"] + 1)).figures
    for name, told in card["figures_by_period"]["31"].items():
        assert figures[name].label == told["label"]
        assert figures[name].value == pytest.approx(told["value"], abs=2e-3)


def test_every_figure_has_value_interval_and_unit(found):
    assert set(found.figures) == NAMES
    for name, figure in found.figures.items():
        kinds = {"log": "nats", "los": "nats", "mlp": "nats", "acc": "fraction", "two": "fraction"}
        assert figure.unit == kinds.get(name[:3], "attention mass")
        assert figure.published is None
        if name == "mlp_shift_max_delta_loss":
            assert (figure.value, figure.reason) == (None, "the model has no MLPs")
        elif name.startswith("two_head_circuit"):  # of weights, not of prompts: there is nothing to be unsure of
            assert (figure.value, figure.low, figure.label) == (pytest.approx(1, abs=0.05), None, "0.1 → 1.2")
        else:
            assert figure.low <= figure.value <= figure.high, name
            assert figure.reason is None


def test_the_record_tells_how_to_do_it_again(found):
    assert (found.study, found.model, found.record.task, found.record.seed) == (
        "induction",
        "toy-induction",
        "induction",
        0,
    )
    assert found.record.settings["seq_len"] == 50 and found.record.settings["batch"] == 30
    assert len(found.record.weights_hash) == 64


def test_the_same_seed_gives_the_same_figures(make_model):
    first, again, other = (
        induction(make_model(), repeated_tokens(make_model(), batch=6, seed=seed)).figures for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_a_head_is_chosen_on_some_prompts_and_reported_on_the_others(make_model):
    model = make_model()
    figures = induction(model, repeated_tokens(model, seq_len=6, batch=9, seed=3)).figures
    queries, key = range(7, 13), lambda p: p - 5
    score, control = (
        attention_on(model, make(model, seq_len=6, batch=9, seed=3).tokens, queries, key)
        for make in (repeated_tokens, unrepeated_tokens)
    )
    best = int((score - control)[:4].mean(0).argmax())
    figure, beside = figures["induction_head"], figures["induction_head_control"]
    assert figure.label == beside.label == f"{best // 3}.{best % 3}"
    assert figure.value == pytest.approx(score[4:].mean(0).flatten()[best].item(), abs=1e-6)
    assert beside.value == pytest.approx(control[4:].mean(0).flatten()[best].item(), abs=1e-6)


def test_the_cut_zeroes_what_the_previous_token_head_writes(toy):
    result = induction(toy, repeated_tokens(toy, seq_len=10, batch=6))
    figures = result.figures
    tokens = repeated_tokens(toy, seq_len=10, batch=6)
    silenced = result.record.settings["silenced"].split(", ")
    assert figures["previous_token_head"].label in silenced
    assert {head.split(".")[0] for head in silenced} == {"0"}

    def zero(z, hook):
        z[:, :, [int(head.split(".")[1]) for head in silenced]] = 0

    with toy.hooks(fwd_hooks=[("blocks.0.attn.hook_z", zero)]):
        scores = attention_on(toy, tokens.tokens, range(11, 21), lambda p: p - 9)
    layer, head = map(int, figures["induction_head"].label.split("."))
    assert figures[CUT].value == pytest.approx(scores[3:, layer, head].mean().item(), abs=1e-6)


def test_the_halves_are_those_of_the_definitions(make_model):
    model = make_model()
    figures = induction(model, repeated_tokens(model, seq_len=6, batch=9)).figures
    tokens = repeated_tokens(model, seq_len=6, batch=9).tokens
    logits = model(tokens)[:, :-1]
    right = logits.log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
    hits = (logits.argmax(-1) == tokens[:, 1:]).float()
    assert figures["logprob_first_half"].value == pytest.approx(right[:, :6].mean().item(), abs=1e-5)
    assert figures["logprob_second_half"].value == pytest.approx(right[:, 7:].mean().item(), abs=1e-5)
    assert figures["accuracy_first_half"].value == pytest.approx(hits[:, :6].mean().item())
    assert figures["accuracy_second_half"].value == pytest.approx(hits[:, 7:].mean().item())


def test_a_loss_is_the_log_probability_with_the_other_sign(found):
    for half in ("first", "second"):
        loss, logprob = (found.figures[f"{name}_{half}_half"] for name in ("loss", "logprob"))
        assert (loss.value, loss.low, loss.high) == pytest.approx((-logprob.value, -logprob.high, -logprob.low))


def test_the_article_keeps_the_first_token_of_the_second_half(toy):
    ours, theirs = (
        induction(toy, repeated_tokens(toy, batch=8, rule=rule)).figures["logprob_second_half"].value
        for rule in (None, "article")
    )
    assert theirs < ours - 0.05


def test_one_prompt_gives_figures_without_intervals(make_model):
    figures = induction(make_model(), repeated_tokens(make_model(), batch=1)).figures
    for name, figure in figures.items():
        assert figure.value is not None or name in (CUT, "mlp_shift_max_delta_loss")
        assert (figure.low, figure.high) == (None, None)
        assert figure.reason is not None or name.startswith("two_head_circuit")


def test_a_model_without_heads_has_null_figures_with_their_reason(make_model):
    figures = induction(make_model(n_layers=0), repeated_tokens(make_model(n_layers=0), batch=4)).figures
    assert set(figures) == NAMES
    for name in [*HEADS, *(f"{name}_control" for name in HEADS), CUT]:
        assert figures[name].value is None
        assert figures[name].reason == "the model has no attention heads"
    assert figures["loss_first_half"].value > 0


def test_a_previous_token_head_that_is_not_below_is_said(make_model):
    figure = induction(make_model(n_layers=1), repeated_tokens(make_model(n_layers=1), batch=4)).figures[CUT]
    assert figure.value is None
    assert "no previous-token head can lie below head 0." in figure.reason


def test_a_broken_model_has_null_figures_with_their_reason(make_model, tmp_path):
    model = make_model()
    with torch.no_grad():
        model.W_E.fill_(math.nan)
    result = induction(model, repeated_tokens(model, batch=4))
    figures = json.loads(result.save(tmp_path).read_text(encoding="utf-8"))["figures"]
    of_answers = {name: figure for name, figure in figures.items() if not name.startswith("two_head")}
    assert all(figure["value"] is None and figure["reason"] for figure in of_answers.values())
    assert figures["induction_head"]["reason"] == "the model's patterns are not numbers"


def test_the_measurements_keep_every_prompt(found):
    of_prompts = {name: m for name, m in found.measurements.items() if "prompt" in m.dims}
    assert {name: m.dims for name, m in of_prompts.items()} == {
        "logprob": ("prompt", "pos"),
        "loss": ("prompt", "pos"),
        "accuracy": ("prompt", "pos"),
        "head_roles": ("prompt", "role", "layer", "head"),
        "head_roles_control": ("prompt", "role", "layer", "head"),
        "prefix_matching": ("prompt", "layer", "head"),
        "prefix_matching_control": ("prompt", "layer", "head"),
        "rest_on_bos": ("prompt", "group", "layer", "head"),
        "induction_by_period": ("prompt", "group", "layer", "head"),
    }
    assert {m.shape[0] for name, m in of_prompts.items() if name != "induction_by_period"} == {30}
    assert not any(np.isnan(m.values).any() for m in found.measurements.values())


def test_what_comes_next_is_told(make_model):
    told = []
    induction(make_model(), repeated_tokens(make_model(), batch=2), progress=told.append)
    assert told[0] == "predictions" and told[-1] == "the circuit in the weights"


def test_a_character_model_of_short_context_and_no_bos_has_right_defaults(shared):
    model = HookedTransformer.from_pretrained(shared / "data" / "shakespeare-char-gpt", device="cpu")
    result = induction(model)
    assert result.record.settings == result.record.settings | {"seq_len": 31, "bos": False, "batch": 30}
    assert result.measurements["loss"].shape == (30, 61)
    assert all(figure.value is not None or "can lie below" in figure.reason for figure in result.figures.values())


def test_a_llama_of_grouped_queries_is_read(shared):
    model = HookedTransformer.from_pretrained(shared / "data" / "stories260k", device="cpu")
    result = induction(model, repeated_tokens(model, batch=8))
    assert result.record.settings == result.record.settings | {"seq_len": 50, "bos": True}
    assert result.measurements["head_roles"].shape == (8, 5, 5, 8)
    assert all(figure.value is not None or "does not lie below" in figure.reason for figure in result.figures.values())
