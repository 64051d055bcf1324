"""The report: complete for every model, honest about heads that only look like induction heads, whole or not at all."""

import json
import re

import pytest
import torch

from pellucid import AttentionConfig, Config, HookedTransformer
from pellucid.analysis.repeated import repeated_tokens
from pellucid.base.errors import ArgumentError
from pellucid.model.wired import induction_pair
from pellucid.studies.induction import CUT, induction, objections
from pellucid.studies.induction_page import induction_page
from pellucid.studies.published import FIGURES
from pellucid.text.vocabulary import integer_vocabulary
from pellucid.train import Optimiser, PeriodicSequences, Probes, Recipe, Schedule, Start, train

SECTIONS = [
    "Can the model do it?",
    "Where is the cliff?",
    "Which heads, against which control?",
    "Does an MLP matter?",
    "Is the circuit in the weights?",
    "What would fool us?",
    "How was this made?",
]


def headings(html):
    return re.findall(r"<h2[^>]*>(.*?)</h2>", html)


@pytest.fixture(scope="module")
def wired():
    made = induction_pair(noise=0.002)
    model = HookedTransformer(made.config, integer_vocabulary(made.config.d_vocab), device="cpu")
    model.load_state_dict(made.weights)
    return model


def test_the_report_tells_the_story_in_order(toy):
    result = induction(toy, repeated_tokens(toy, batch=6))
    html = induction_page(result).html()
    assert [h for h in headings(html) if h in SECTIONS] == SECTIONS
    assert objections(result) == []
    assert f"Head <strong>{result.figures['induction_head'].label}</strong> is an induction head" in html
    assert "the model has no MLPs" in html


def test_the_planted_pair_is_found_in_every_table_and_stands_beside_what_was_published(wired, monkeypatch):
    monkeypatch.setattr("pellucid.studies.published.is_gpt2_small", lambda model: True)
    result = induction(wired, repeated_tokens(wired, batch=6, rule="article"))
    figures = result.figures
    assert (figures["induction_head"].label, figures["previous_token_head"].label) == ("5.5", "4.11")
    assert figures["prefix_matching_head"].label == "5.5"
    assert figures[CUT].value < 0.5 * figures["induction_head"].value
    assert figures["two_head_circuit_top1_key_per_query"].value > 0.95
    assert figures["two_head_circuit_top1_query_per_key"].label == "4.11 → 5.5"
    assert abs(figures["mlp_shift_max_delta_loss"].value) < 0.1
    assert result.measurements["composition"].top(1).label == "4.11 → 5.5 k"
    for name, published in FIGURES["induction"].items():
        assert figures[name].published == published.value
    html = induction_page(result).html()
    assert "0.2283" in html and "-13.9" in html and "<td>5.5</td>" in html
    assert "How one can interpret GPT2-small: the whole diagonal, S = 50" in html


def test_what_a_publication_measured_otherwise_is_not_set_beside_ours(wired, monkeypatch):
    monkeypatch.setattr("pellucid.studies.published.is_gpt2_small", lambda model: True)
    figures = induction(wired, repeated_tokens(wired, seq_len=10, batch=4)).figures
    assert figures["induction_head"].published is None  # the whole diagonal, where ours is the second copy
    assert figures["logprob_second_half"].published is None
    assert figures["logprob_first_half"].published == -13.898
    assert figures["two_head_circuit_top1_key_per_query"].published == 0.2283


def test_a_published_figure_of_another_pair_of_heads_is_not_set_beside_this_one(toy, monkeypatch):
    monkeypatch.setattr("pellucid.studies.published.is_gpt2_small", lambda model: True)
    figures = induction(toy, repeated_tokens(toy, batch=4, rule="article")).figures
    assert figures["induction_head"].published is None
    assert figures["two_head_circuit_top1_key_per_query"].published is None


def test_a_previous_token_head_above_hides_none_below():
    made = induction_pair(4, 3, previous=(0, 2), induction=(1, 1), d_head=16)
    above = induction_pair(4, 3, previous=(2, 0), induction=(3, 1), d_head=16).weights
    weights = dict(made.weights)
    for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V"):
        place = f"blocks.2.attn.{name}"
        weights[place] = weights[place].clone()
        weights[place][0] = above[place][0] * (0 if name in ("W_V", "W_O", "b_V") else 1.2)
    model = HookedTransformer(made.config, integer_vocabulary(made.config.d_vocab), device="cpu")
    model.load_state_dict(weights)
    result = induction(model, repeated_tokens(model, batch=6))
    scores = result.measurements["head_roles"].mean("prompt").sel(role="previous token")
    assert scores.sel(layer=2, head=0).item() > 0.9
    assert result.record.settings["silenced"] == "0.2"
    assert objections(result) == []
    assert result.figures["two_head_circuit_top1_key_per_query"].label == "0.2 → 1.1"


def test_two_previous_token_heads_that_stand_in_for_each_other_are_silenced_together():
    made = induction_pair(2, 4, previous=(0, 2), induction=(1, 1), d_head=16)
    weights = dict(made.weights)
    for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V"):
        place = f"blocks.0.attn.{name}"
        weights[place] = weights[place].clone()
        weights[place][3] = weights[place][2]
    model = HookedTransformer(made.config, integer_vocabulary(made.config.d_vocab), device="cpu")
    model.load_state_dict(weights)
    result = induction(model, repeated_tokens(model, batch=6))
    assert set(result.record.settings["silenced"].split(", ")) == {"0.2", "0.3"}
    assert objections(result) == []


def test_no_head_is_called_one_where_no_other_period_could_be_tried(toy):
    result = induction(toy, repeated_tokens(toy, batch=4))
    del result.measurements["induction_by_period"]
    assert objections(result) == ["no other period could be tried, since the context or S is too short"]


def test_a_later_beginning_is_tried_too(toy):
    measured = induction(toy, repeated_tokens(toy, seq_len=10, batch=6)).measurements["induction_by_period"]
    names = [str(name) for name in measured.dataset["group"].values]
    assert names == ["period 5", "period 7", "period 8", "period 15", "period 20", "period 10, begun 6 tokens later"]
    assert measured.sel(layer=1).values.min() > 0.5


def test_results_of_an_earlier_run_that_are_no_longer_there_are_taken_away(toy, make_model, tmp_path):
    tokens = repeated_tokens(toy, seq_len=6, batch=2)
    induction(toy, tokens, second=make_model(d_vocab=64, n_ctx=128)).save(tmp_path / "out")
    (tmp_path / "out" / "mine.txt").write_text("kept")
    induction(toy, tokens).save(tmp_path / "out", overwrite=True)
    left = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert "mine.txt" in left and not any(name.startswith("second") for name in left)


def test_published_figures_are_not_shown_for_another_model(wired):
    result = induction(wired, repeated_tokens(wired, batch=2))
    assert all(figure.published is None for figure in result.figures.values())
    assert "0.2283" not in induction_page(result).html()


@pytest.mark.slow
@pytest.mark.long
def test_a_head_that_learned_one_fixed_period_is_not_called_an_induction_head():
    attention = AttentionConfig(n_heads=2, d_head=32)
    recipe = Recipe(
        steps=300,
        batch_size=64,
        model=Start(config=Config(n_layers=1, d_model=64, d_vocab=64, n_ctx=64, attention=attention)),
        data=PeriodicSequences(d_vocab=64, length=61, shortest=20, longest=20),
        optimiser=Optimiser(lr=1e-2, weight_decay=0.01),
        schedule=Schedule(warmup=20),
        probes=Probes(batch=0, held_out=0),
    )
    model = train(recipe, device="cpu").model
    result = induction(model, repeated_tokens(model, seq_len=20, batch=12))
    assert result.figures["accuracy_second_half"].value > 0.9  # it does the task, at this period
    stripes = result.measurements["head_roles"].mean("prompt").sel(role="induction")
    assert stripes.top(1).values[0] > 0.5  # and a head has the stripe
    against = objections(result)
    assert any("not clearly above that on tokens which do not repeat" in reason for reason in against)
    html = induction_page(result).html()
    assert "No induction head was found" in html
    assert "is <strong>not</strong> called an induction head" in html
    assert "is an induction head" not in html


def test_a_stripe_that_outlives_its_previous_token_head_is_objected_to(toy, monkeypatch):
    result = induction(toy, repeated_tokens(toy, batch=4))
    score = result.figures["induction_head"]
    result.figures[CUT] = score
    assert any("does not depend on previous-token heads" in reason for reason in objections(result))


@pytest.mark.parametrize("name", ["stories260k", "shakespeare-char-gpt"])
def test_real_models_give_a_complete_report(shared, name, tmp_path):
    model = HookedTransformer.from_pretrained(shared / "data" / name, device="cpu")
    result = induction(model, repeated_tokens(model, seq_len=12, batch=4))
    result.save(tmp_path / "out", page=induction_page(result))
    told = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    assert set(told["files"]) >= {"result.json", "report.html"}
    assert all((tmp_path / "out" / file).is_file() for file in told["files"])
    assert all(figure["value"] is not None or figure["reason"] for figure in told["figures"].values())
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert [h for h in headings(html) if h in SECTIONS] == SECTIONS


def test_a_model_without_heads_still_has_a_report(make_model):
    model = make_model(n_layers=0)
    html = induction_page(induction(model, repeated_tokens(model, batch=3))).html()
    assert "No head was found that could do it: the model has no attention heads" in html


def test_a_second_model_is_scored_on_the_same_tokens(toy, make_model):
    other = make_model(d_vocab=64, n_ctx=128)
    result = induction(toy, repeated_tokens(toy, batch=4), second=other)
    assert result.figures["second_induction_head"].label is not None
    assert "The same in a second model?" in headings(induction_page(result).html())
    with pytest.raises(ArgumentError, match=r"the second model must read the same tokens: d_vocab=64 .* got 40"):
        induction(toy, repeated_tokens(toy, batch=2), second=make_model())


def test_prompts_without_bos_are_said_to_be_a_trap(toy):
    tokens = repeated_tokens(toy, batch=4, bos=False)
    with pytest.warns(UserWarning, match="lack BOS"):
        result = induction(toy, tokens)
    assert "rest_on_bos" not in result.measurements
    assert "BOS was left out, as asked" in induction_page(result).html()


def test_an_interrupted_write_leaves_the_old_report_or_none(toy, tmp_path, monkeypatch):
    result = induction(toy, repeated_tokens(toy, batch=2))
    page = induction_page(result)

    def stop(self, path):
        raise KeyboardInterrupt

    monkeypatch.setattr("pellucid.measurement.Measurement.save", stop)
    with pytest.raises(KeyboardInterrupt):
        result.save(tmp_path / "out", page=page)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
    monkeypatch.undo()
    result.save(tmp_path / "out", page=page)
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    monkeypatch.setattr("pellucid.measurement.Measurement.save", stop)
    with pytest.raises(KeyboardInterrupt):
        result.save(tmp_path / "out", page=page, overwrite=True)
    assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()} == before


def test_a_figure_never_depends_on_torchs_random_state(make_model):
    model = make_model()
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        found.append(induction(model, repeated_tokens(model, batch=3)).figures)
    assert found[0] == found[1]
