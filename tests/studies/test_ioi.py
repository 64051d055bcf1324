"""The study of indirect objects: on a wired circuit exactly its heads, and nothing where nothing can be found."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from pellucid import HookedTransformer, patching
from pellucid.base.errors import ArgumentError
from pellucid.model.attention import AttentionConfig
from pellucid.model.mlp import MLPConfig
from pellucid.model.wired import indirect_object
from pellucid.studies.ioi import FIGURES, ioi
from pellucid.studies.ioi_page import ioi_page, plays
from pellucid.studies.ioi_prompts import Prompts
from pellucid.studies.ioi_texts import PAIR, PARAGRAPH, SENTENCE, introduction
from pellucid.tasks.pairs import Pairs
from pellucid.text.read import read_tokenizer
from tests.models import config_of, model_of

BOS, END, NAMES, FILLERS = 0, 1, range(2, 10), range(10, 16)


def prompts_of(n=12, seed=0) -> Prompts:
    """BOS . A . B . A . END, for a wired model: both orders, and of several lengths."""
    draw = torch.Generator().manual_seed(seed)
    sides: dict[str, list[list[int]]] = {"clean": [], "turned": [], "other": []}
    places: dict[str, list[int]] = {"IO": [], "S1": [], "S1+1": [], "S2": [], "S2+1": [], "end-1": []}
    answers = []
    for i in range(n):
        io, s, *others = (torch.randperm(len(NAMES), generator=draw)[:5] + NAMES[0]).tolist()
        fill = (torch.randint(len(FILLERS), (6,), generator=draw) + FILLERS[0]).tolist()
        front = fill[4 : 4 + i % 3]
        at = {"IO": 2, "S1": 4, "S2": 6} if i % 2 else {"IO": 4, "S1": 2, "S2": 6}
        at = {name: place + len(front) for name, place in at.items()}
        for side, names in {"clean": (io, s, s), "turned": (io, s, io), "other": tuple(others)}.items():
            row = [BOS, *front, *fill[:1], 0, fill[1], 0, fill[2], 0, fill[3], END]
            for name, token in zip(("IO", "S1", "S2"), names, strict=True):
                row[at[name]] = token
            sides[side].append(row)
        for name, place in {**at, "S1+1": at["S1"] + 1, "S2+1": at["S2"] + 1, "end-1": at["S2"] + 1}.items():
            places[name].append(place)
        answers.append((io, s))
    told = {"answer": [io for io, _ in answers], "wrong": [s for _, s in answers], "positions": places}
    return Prompts(
        Pairs.from_tokens(sides["clean"], sides["turned"], **told),
        Pairs.from_tokens(sides["clean"], sides["other"], **told),
    )


def wired(**where) -> HookedTransformer:
    made = indirect_object(4, 3, **where)
    model = HookedTransformer(made.config, device="cpu")
    model.load_state_dict(made.weights)
    return model.double()


@pytest.fixture(scope="module")
def found():
    return ioi(wired(duplicate=(0, 2), inhibition=(1, 1), mover=(3, 0)), prompts_of(), neurons=False)


def test_the_wired_heads_and_no_others_play_the_wired_roles(found):
    heads = {"duplicate_token": "0.2", "s_inhibition": "1.1", "name_mover": "3.0"}
    for role in ("name_mover", "negative", "s_inhibition", "duplicate_token", "previous_token", "induction", "backup"):
        assert plays(found, role) == (role in heads), role
        if role in heads:
            figure = found.figures[f"{role}_head"]
            assert figure.label == heads[role] and figure.low is not None
            assert found.figures[f"{role}_head_control"].value < 1e-3
            more = found.figures[f"{role}_head_minus_control"]
            assert more.value == pytest.approx(figure.value - found.figures[f"{role}_head_control"].value)
    assert found.figures["negative_head"].value is None and "95% of the names" in found.figures["negative_head"].reason


def test_the_answer_stands_at_the_second_subject_and_then_at_the_end(found):
    assert found.figures["accuracy"].value == 1
    assert found.figures["resid_localised_position"].label == "S2, layer 1"
    assert found.figures["resid_localised_position"].value == pytest.approx(1, abs=1e-3)
    assert found.figures["resid_elsewhere"].value == pytest.approx(0, abs=1e-3)
    assert found.figures["resid_handover_layer"].value == 2  # the S-inhibition head of layer 1 has moved it
    corrupted, clean = (found.figures[f"logit_diff{side}"].value for side in ("_corrupted", ""))
    assert corrupted == pytest.approx(-clean, rel=1e-3)


def test_without_the_heads_found_nothing_is_left_and_without_others_all_is(found):
    assert set(found.figures["knockout_found_logit_diff"].label.split()) == {"0.2", "1.1", "3.0"}
    assert found.figures["knockout_found_logit_diff"].value == pytest.approx(0, abs=1e-2)
    assert found.figures["knockout_random_logit_diff"].value == pytest.approx(
        found.figures["logit_diff"].value, rel=1e-3
    )


def test_edges_into_the_name_mover_are_the_wired_one(found):
    effect = found.measurements["edges_to_name_movers"].effect().mean("prompt").values[:, 0, 0]
    labels = [str(x) for x in found.measurements["edges_to_name_movers"].dataset["sender"].values]
    moved = {label for label, value in zip(labels, effect, strict=True) if abs(value) > 1}
    assert moved == {"1.1"}


def test_the_page_tells_the_story(found, tmp_path):
    path = found.save(tmp_path / "out", page=ioi_page(found))
    page = path.with_name("report.html").read_text()
    for told in (
        "3.0 (name mover)",
        "Where is it decided?",
        "Is it they that do it?",
        "What stays open?",
        "S2, layer 1",
    ):
        assert told in page
    assert set(FIGURES) <= set(found.figures)


def test_a_model_that_cannot_do_it_has_figures_with_reasons(tmp_path):
    found = ioi(model_of("gpt2"), prompts_of(8))
    assert found.figures["logit_diff"].value is not None and found.figures["name_mover_head"].value is None
    assert "the model cannot do the task" in found.figures["knockout_found_logit_diff"].reason
    assert "cannot do the task" in ioi_page(found).html()
    found.save(tmp_path / "out", page=ioi_page(found))


def test_a_tokenizer_without_the_names_is_the_finding():
    found = ioi(HookedTransformer.from_pretrained("toy-induction"))
    assert all(found.figures[name].value is None for name in FIGURES)
    assert "names of ioi or more must be single tokens" in found.figures["accuracy"].reason
    assert "Nothing can be said of a circuit" in ioi_page(found).html()


def test_prompts_that_are_not_one_are_refused():
    one, other = prompts_of(), prompts_of(seed=1)
    with pytest.raises(ArgumentError, match="same clean prompts"):
        Prompts(one.turned, other.unrepeated)
    with pytest.raises(ArgumentError, match="turned must name the positions .*got none for S2"):
        places = {name: at for name, at in one.turned.positions.items() if name != "S2"}
        Prompts(replace(one.turned, positions=places), one.unrepeated)


@pytest.fixture
def reads_gpt2(shared) -> HookedTransformer:
    """Small and untrained, with GPT-2's tokens."""
    attention, mlp = AttentionConfig(n_heads=9, d_head=2), MLPConfig(d_mlp=8)
    config = config_of(n_layers=1, d_model=8, d_vocab=50257, n_ctx=256, attention=attention, mlp=mlp)
    return HookedTransformer(config, read_tokenizer(shared / "data" / "gpt2-tokenizer"), seed=0).requires_grad_(False)


def test_the_introductions_rows_are_what_its_code_gives(reads_gpt2):
    """178 tokens with BOS and 32, as was published."""
    figures, model = introduction(reads_gpt2), reads_gpt2
    tokens = model.to_tokens(PARAGRAPH)
    assert tokens.shape == (1, 178) and model.to_tokens(SENTENCE).shape == (1, 32)
    assert figures["paragraph_loss"].value == pytest.approx(float(model(tokens, return_type="loss")), rel=1e-5)

    def zeroed(value, hook):
        value[:, :, 8] = 0.0
        return value

    loss = model.run_with_hooks(SENTENCE, return_type="loss", fwd_hooks=[("blocks.0.attn.hook_v", zeroed)])
    assert figures["sentence_loss_head_0_8_zeroed"].value == pytest.approx(float(loss), rel=1e-5)
    logits = model("After John and Mary went to the store, Mary gave a bottle of milk to")[0, -1]
    difference = logits[model.to_single_token(" John")] - logits[model.to_single_token(" Mary")]
    assert figures["pair_logit_diff_clean"].value == pytest.approx(float(difference), abs=1e-5)


def test_the_introductions_loop_and_our_sweep_give_one_table(reads_gpt2):
    """The loop of the public introduction, cell by cell."""
    model, (clean, corrupted) = reads_gpt2, PAIR
    pairs = Pairs.from_text(model.tokenizer, clean, corrupted, answer=" John", wrong=" Mary")
    found = patching.sweep(model, pairs, site="resid_pre", over=("layer", "pos")).normalised().mean("prompt").values
    runs = {side: model.to_tokens(text) for side, text in (("clean", clean), ("corrupted", corrupted))}
    right, wrong = (model.to_single_token(name) for name in (" John", " Mary"))

    def difference(logits):
        return float(logits[0, -1, right] - logits[0, -1, wrong])

    _, cache = model.run_with_cache(runs["clean"])
    ends = {side: difference(model(tokens)) for side, tokens in runs.items()}

    def put_in(resid_pre, hook, position):
        resid_pre[:, position, :] = cache[hook.name][:, position, :]
        return resid_pre

    for position in range(runs["clean"].shape[1]):
        hook = ("blocks.0.hook_resid_pre", partial(put_in, position=position))
        patched = difference(model.run_with_hooks(runs["corrupted"], fwd_hooks=[hook]))
        share = (patched - ends["corrupted"]) / (ends["clean"] - ends["corrupted"])
        assert found[0, position] == pytest.approx(share, abs=1e-3)


def test_what_cannot_be_read_is_a_reason():
    figures = introduction(HookedTransformer.from_pretrained("prose-2l-mixed"))
    assert "more than the context of 256" in figures["paragraph_loss"].reason
    assert figures["sentence_loss"].value > 3 and figures["sentence_loss"].low is None
    assert figures["sentence_loss_head_0_8_zeroed"].reason == "the model has no head 0.8"
    assert "exactly one token" in figures["pair_logit_diff_clean"].reason
