"""The study of attention-only models: its arms, what is read off a model, and what is said over runs."""

import itertools
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from pellucid import AttentionConfig, Config, HookedTransformer, LayerNorm, Shortformer
from pellucid.base.errors import ArgumentError, CheckpointError
from pellucid.studies.attention_only import NEEDED, attention_only, jobs_of
from pellucid.studies.attention_only_arms import (
    LAYERS,
    QUICK,
    REFERENCE,
    SETTINGS,
    Sizes,
    costs,
    path,
    source_grid,
)
from pellucid.studies.attention_only_page import attention_only_page, verdicts
from pellucid.studies.attention_only_reading import (
    attention_to_first,
    beside_bigrams,
    beside_trigrams,
    bigram_probabilities,
    lift,
    maps,
)
from pellucid.studies.attention_only_runs import read_words, run, words
from pellucid.studies.over_runs import difference
from pellucid.text.made import MadeText
from tests.studies.known import Known

SHARED = Path(__file__).resolve().parents[3] / "shared"
SOURCE = "made:200"
TEXT = "Bromley found the lamp. Neither Bromley nor Teverin was glad."


def flat(values, where=""):
    """A nested table's values by their places."""
    if not isinstance(values, dict):
        return {where: values}
    return {place: x for name, part in values.items() for place, x in flat(part, f"{where}.{name}").items()}


def changed(arm):
    """The fields of an arm's recipe that differ from the reference's."""
    ours, first = (flat(Sizes().recipe(one, 0, SOURCE).to_dict()) for one in (arm, REFERENCE))
    return {place.removeprefix(".") for place in ours.keys() | first.keys() if ours.get(place) != first.get(place)}


FOLLOWS_LENGTH = {"batch_size", "probes.held_out", "probes.seq_len"}


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("bos", {"data.bos"}),
        ("length", {"data.length"} | FOLLOWS_LENGTH),
        ("residual", {"model.residual"}),
        ("embedding", {"model.d_model"}),
        ("heads", {"model.attention.n_heads", "model.attention.d_head"}),
        ("learning_rate", {"optimiser.lr"}),
        ("tokenizer", {"model.tokenizer.size", "model.d_vocab"}),
        ("data", {"data.share"}),
        ("positions", {"model.positions.kind", "model.positions.layers"}),
    ],
)
def test_a_cost_is_that_of_one_setting(name, fields):
    (arm,) = (arm for arm in costs(False) if arm.name == f"cost_{name}")
    assert changed(arm) == fields


def test_the_path_puts_one_setting_right_after_the_other():
    names, arms = list(SETTINGS), path()
    assert changed(arms[0]) == set().union(*(changed(arm) for arm in costs(False)))
    for before, after, name in zip(arms, [*arms[1:], REFERENCE], names, strict=True):
        assert set(before.changes) - set(after.changes) == set(SETTINGS[name].changes)
    assert all(arm.words.startswith("and ") for arm in arms[1:])


def test_every_run_reads_as_many_tokens_and_looks_at_as_many_held_out_ones():
    for arm in [*costs(False), *path(), *LAYERS]:
        recipe = Sizes().recipe(arm, 0, SOURCE)
        length = recipe.data.length
        assert Sizes().tokens - length < recipe.batch_size * length <= Sizes().tokens
        assert 16384 - length < recipe.probes.held_out * length <= 16384


@pytest.mark.parametrize(("quick", "full"), [(True, False), (False, False), (False, True)])
def test_every_arm_has_its_seeds_and_no_job_comes_twice(quick, full):
    sizes = Sizes(quick=quick, full=full)
    jobs = jobs_of({"one": SOURCE, "two": SOURCE}, sizes, TEXT)
    told = Counter((job["data"], job["arm"], job["seed"]) for job in jobs)
    assert set(told.values()) == {1} and json.loads(json.dumps(jobs)) == jobs
    for arm in sizes.arms:
        seeds = sorted(seed for data, name, seed in told if data == "one" and name == arm.name)
        assert seeds == list(range(arm.seeds[quick]))
    assert {name for data, name, _ in told if data == "two"} == {arm.name for arm in LAYERS}
    if not quick:
        assert all(sizes.seeds(arm) >= 3 for arm in [*costs(False), *LAYERS]), "what has an interval"


def test_the_whole_grid_has_every_combination_once():
    grid = source_grid()
    assert len({arm.words for arm in grid}) == len(grid) == 2 * 2 * 2 * 2 * 4 * 3 * 2 * 2 * 2
    lengths = Counter(arm.changes["data.length"] for arm in grid)
    assert set(lengths) == {20, 30, 50, 80} and len(set(lengths.values())) == 1
    recipe = Sizes(full=True).recipe(grid[-1], 0, SOURCE)
    assert recipe.model.config.attention.n_heads * recipe.model.config.attention.d_head == recipe.model.config.d_model


def test_a_text_that_cannot_be_read_is_told_before_anything_is_trained():
    with pytest.raises(CheckpointError, match="nowhere"):
        attention_only({"ours": "nowhere.txt"}, beside=(), executor=Known(None))
    with pytest.raises(ArgumentError, match="a text must have a name of letters and digits, got 'a b'"):
        attention_only({"a b": SOURCE}, beside=(), executor=Known(None))
    with pytest.raises(ArgumentError, match="one of quick and full"):
        attention_only(quick=True, full=True)


# What is read off a model


def small(n_layers, d_vocab=30, seed=0):
    config = Config(
        n_layers=n_layers,
        d_model=12,
        d_vocab=d_vocab,
        n_ctx=24,
        attention=AttentionConfig(n_heads=2, d_head=6),
        norm=LayerNorm(affine=False),
        positions=Shortformer() if n_layers else None,
        init_range=1.0,
    )
    return HookedTransformer(config, seed=seed)


def rows_of(n, d_vocab, length=24):
    draws = torch.Generator().manual_seed(n)
    return torch.randint(0, d_vocab, (n, length), generator=draws)


def test_counted_bigrams_are_those_of_witten_and_bell():
    rows = rows_of(20, 6)
    found = bigram_probabilities(rows, 6)
    pairs = Counter((a, b) for row in rows.tolist() for a, b in itertools.pairwise(row))
    single = Counter(b for row in rows.tolist() for b in row[1:])
    total = sum(single.values()) + 6
    for a in range(6):
        kinds = sum(1 for one in pairs if one[0] == a)
        here = sum(n for one, n in pairs.items() if one[0] == a)
        for b in range(6):
            expected = (pairs[a, b] + kinds * (single[b] + 1) / total) / (here + kinds)
            assert found[a, b].item() == pytest.approx(expected)
    assert torch.allclose(found.sum(1), torch.ones(6, dtype=torch.float64))


def test_a_model_is_compared_with_them_token_by_token():
    model, rows, held_out = small(0, 8), rows_of(30, 8), rows_of(5, 8)
    found, counted = beside_bigrams(model, rows, held_out), bigram_probabilities(rows, 8)
    losses = [-math.log(counted[a, b]) for row in held_out.tolist() for a, b in itertools.pairwise(row)]
    assert found.counted_loss == pytest.approx(np.mean(losses))
    divergences, agreements = [], []
    for row in rows.tolist():
        for a in row[:-1]:
            said = model(torch.tensor([[a]]))[0, 0].double().log_softmax(-1)
            divergences.append(sum(counted[a, b] * (counted[a, b].log() - said[b]) for b in range(8)).item())
            agreements.append(float(counted[a].argmax() == said.argmax()))
    assert found.divergence == pytest.approx(np.mean(divergences)) and found.divergence > 0
    assert found.agreement == pytest.approx(np.mean(agreements))


def test_skip_trigrams_are_counted_as_a_reader_would(monkeypatch):
    monkeypatch.setattr("pellucid.studies.attention_only_reading.SEEN", 1)
    model, rows = small(1), rows_of(200, 30)
    found = beside_trigrams(model, rows, n=4)
    assert found.triples.shape == (8, 4) and (found.triples[:, 1] != found.triples[:, 2]).all()
    for (_, s, d, o), counts in zip(found.triples.tolist(), found.counts.tolist(), strict=True):
        told = [0, 0, 0, 0]
        for row in rows.tolist():
            for p in range(len(row) - 1):
                if row[p] == d:
                    place = 0 if s in row[:p] else 2
                    told[place] += 1
                    told[place + 1] += row[p + 1] == o
        assert counts == told
    n, k, m, j = found.counts[0].tolist()
    assert found.lifts[0].item() == pytest.approx((k + 0.5) / (n + 1) / ((j + 0.5) / (m + 1)))
    assert lift(torch.tensor([[0, 0, 5, 1], [5, 1, 0, 0]])).isnan().all()


def test_the_skip_trigrams_are_what_the_head_says(monkeypatch):
    """One head is made to say: from 7, attend to 3, and then write for 11."""
    monkeypatch.setattr("pellucid.studies.attention_only_reading.SEEN", 1)
    model = small(1, d_vocab=12)
    with torch.no_grad():
        model.embed.W_E.copy_(torch.eye(12))
        model.unembed.W_U.copy_(torch.eye(12))
        for W in ("W_Q", "W_K", "W_V", "W_O"):
            getattr(model.blocks[0].attn, W).mul_(1e-3)
        attn = model.blocks[0].attn
        attn.W_Q[1, 7, 0] = attn.W_K[1, 3, 0] = 5.0
        attn.W_V[1, 3, 1] = attn.W_O[1, 1, 11] = 5.0
    found = beside_trigrams(model, rows_of(200, 12), n=1)
    assert found.triples[1].tolist() == [1, 3, 7, 11]


def test_maps_are_the_heads_own_attention_and_what_they_write():
    model, tokens = small(2), rows_of(1, 30, 9)
    found = maps(model, tokens)
    _logits, cache = model.run_with_cache(tokens)
    scale = cache["ln_final.hook_scale"][0]
    for layer in range(2):
        assert torch.allclose(found.patterns[layer], cache["pattern", layer][0], atol=1e-6)
        for head in range(2):
            z = cache["z", layer][0, :, head]
            out = z @ model.blocks[layer].attn.W_O[head]
            raised = ((out - out.mean(-1, keepdim=True)) / scale) @ model.W_U
            best = (raised - raised.mean(-1, keepdim=True)).topk(3)
            assert torch.allclose(found.raised[layer, head], best.values, atol=1e-5)
            assert torch.equal(found.top[layer, head], best.indices)
    assert maps(model, tokens, layers=1).patterns.shape[0] == 1


def test_attention_to_the_first_token_is_beside_uniform():
    model, rows = small(2), rows_of(4, 30, 10)
    found = attention_to_first(model, rows)
    _, cache = model.run_with_cache(rows)
    for layer in range(2):
        for head in range(2):
            excess = [
                cache["pattern", layer][i, head, q, 0].item() - 1 / (q + 1) for i in range(4) for q in range(5, 10)
            ]
            assert found[layer, head].item() == pytest.approx(np.mean(excess), abs=1e-6)


def test_words_go_through_a_journal():
    strings = [" the", "\n", "ü", '"', "\ufffd"]
    assert read_words(words(strings)) == strings


def test_text_that_is_made_is_the_same_each_time_and_has_names_of_its_own():
    first, again = (list(MadeText(documents=50)) for _ in range(2))
    assert first == again and len(set(first)) == 50
    assert list(MadeText(documents=20)) == first[:20] and list(MadeText(documents=3, seed=1)) != first[:3]
    names = [{word.strip('.,"') for word in text.split() if word[0].isupper()} for text in first]
    known = Counter(name for one in names for name in one)
    once = [{name for name in one if known[name] == 1} for one in names]
    assert np.mean([len(one) > 1 for one in once]) > 0.7, "most tell of somebody whom no other tells of"


# Over runs


@pytest.fixture(scope="module")
def tiny():
    """Runs of a few steps of each kind that is asked differently: a function of a job."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sizes, "steps", 12)
        patch.setattr(Sizes, "tokens", 512)
        same = {"source": SOURCE, "text": TEXT, "quick": False, "full": False}
        names = ("0_layers", "1_layers", "2_layers", "2_layers_mlp", "cost_bos", "cost_length")
        runs = {name: run({"arm": name, "seed": 0, **same}) for name in names}

    def of(job):
        found = dict(runs[job["arm"] if job["arm"] in runs else "cost_length"])
        shift = 0.01 * (job["seed"] + 1) * (1 + len(job["arm"]))
        for name in ("bits_per_byte", "loss", "in_context_score", "in_context_bits_per_byte"):
            found[name] = found[name] + shift
        if job["seed"]:
            found = {name: x for name, x in found.items() if not name.startswith("map.")}
        return found

    of.runs = runs
    return of


@pytest.fixture(scope="module")
def result(tiny):
    return attention_only({"ours": SOURCE, "more": SOURCE}, text=TEXT, beside=(), executor=Known(tiny))


def test_a_run_says_what_its_probes_say(tiny):
    found = tiny.runs["2_layers"]
    assert found["curve.bits_per_byte"][-1].item() == pytest.approx(found["bits_per_byte"].item())
    assert found["steps"].tolist()[-1] == 12 and len(found["losses"]) == 12
    assert found["first"].shape == (2, 4) and "bigrams" not in found and "triples" not in found
    assert len(tiny.runs["0_layers"]["bigrams"]) == 3 and "first" not in tiny.runs["0_layers"]
    read = tiny.runs["1_layers"]
    assert len(read_words(read["words"])) == 3 * len(read["triples"])


def test_the_trap_of_bos_is_there_to_be_seen(tiny):
    with_bos, without = (read_words(tiny.runs[name]["map.tokens"]) for name in ("2_layers", "cost_bos"))
    assert with_bos == ["<bos>", *without]
    patterns = tiny.runs["cost_bos"]["map.patterns"]
    assert patterns.shape[-1] == len(without) and torch.allclose(patterns.sum(-1), torch.ones(()), atol=1e-5)
    assert tiny.runs["2_layers"]["map.raised"].shape[:3] == (2, 4, len(with_bos))


def test_figures_are_over_the_runs_of_their_arm(result, tiny):
    def numbers(arm, name, seeds):
        return [tiny({"arm": arm, "seed": seed})[name].item() for seed in range(seeds)]

    figures = result.figures
    for arm in LAYERS:
        ours = numbers(arm.name, "bits_per_byte", 3)
        assert figures[f"bits_per_byte_{arm.name}"].value == pytest.approx(np.mean(ours))
        assert figures[f"icl_score_{arm.name}_more"].value == pytest.approx(
            np.mean(numbers(arm.name, "in_context_score", 3))
        )
        perplexities = np.exp(numbers(arm.name, "loss", 3))
        assert figures[f"perplexity_{arm.name}"].value == pytest.approx(np.mean(perplexities))
    for name in SETTINGS:
        expected = difference(
            numbers(f"cost_{name}", "bits_per_byte", 3), numbers("2_layers", "bits_per_byte", 3), "bits per byte"
        )
        assert figures[f"cost_of_{name}"].value == pytest.approx(expected.value)
        assert (figures[f"cost_of_{name}"].low, figures[f"cost_of_{name}"].high) == (expected.low, expected.high)
    way = result.measurements["path"]
    assert way.shape == (1, 10) and way.values[0, -1] == numbers("2_layers", "bits_per_byte", 1)[0]
    assert figures["bits_per_byte_source"].value == pytest.approx(np.mean(numbers("path_0", "bits_per_byte", 1)))
    assert figures["share_of_tokens_needed"].value == figures["tokens_seen"].value / NEEDED
    assert figures["tokens_seen"].value == 12 * 512
    of_bigrams = tiny.runs["0_layers"]["bigrams"]
    assert figures["bigram_divergence"].value == pytest.approx(of_bigrams[1].item())


def test_all_that_the_story_tells_is_in_the_numbers(result):
    told = result.to_dict()
    wanted = [f"bits_per_byte_{arm.name}" for arm in LAYERS] + [f"icl_score_{arm.name}" for arm in LAYERS]
    wanted += [f"cost_of_{name}" for name in SETTINGS]
    assert set(wanted) <= set(told["figures"])
    assert [arm.name for arm in LAYERS] == ["0_layers", "1_layers", "2_layers", "2_layers_mlp"]
    dims = {name: measured.dims for name, measured in result.measurements.items()}
    assert dims["bits_per_byte_1_layers"] == dims["training_loss_2_layers_more"] == ("run", "step")
    assert dims["attention_cost_bos"] == ("layer", "head", "q_pos", "k_pos")
    written = result.measurements["written_2_layers"].dataset
    assert written["written"].shape == written["value"].shape and "'" in str(written["written"].values[0, 0, 0])


def test_the_page_tells_the_story_with_its_pictures(result):
    html = attention_only_page(result).html()
    for heading in (
        "Which setting was to blame?",
        "What does each layer bring?",
        "Is no layer a bigram table?",
        "Which skip-trigrams can be read off one layer?",
        "Are there induction heads?",
        "Where do the heads look, and what do they write?",
        "How it was made",
    ):
        assert heading in html
    assert "of more" in html and "not asked" not in html and TEXT in html
    assert len(verdicts(result)) == len(SETTINGS) + 3


def test_a_quick_look_says_what_it_did_not_ask(tiny):
    found = attention_only({"ours": SOURCE}, text=TEXT, beside=(), quick=True, executor=Known(tiny))
    for name in SETTINGS:
        assert (found.figures[f"cost_of_{name}"].value is None) == (name not in QUICK)
    assert found.figures["bits_per_byte_source"].reason == "not asked by a quick look"
    assert attention_only_page(found).html()


@pytest.mark.parametrize("name", ["imdb", "wikitext-2"])
def test_real_texts_can_be_trained_on(name, monkeypatch):
    monkeypatch.setattr(Sizes, "steps", 12)
    monkeypatch.setattr(Sizes, "tokens", 1024)
    source = SHARED / "data" / name
    found = run({"arm": "0_layers", "seed": 0, "source": str(source), "text": TEXT, "quick": True, "full": False})
    assert 1.5 < found["bits_per_byte"].item() < 8
    assert found["bigrams"][0].item() > 1, "there is held-out text"
