"""The study of contractions: verdicts come out as wired, too few prompts are undecided, and what cannot be is said."""

import numpy as np
import pytest
import torch

from pellucid import HookedTransformer
from pellucid.model.wired import skip_trigram
from pellucid.studies.contractions import FIGURES, Prompts, contractions
from pellucid.studies.contractions_groups import side_by_side
from pellucid.studies.contractions_page import contractions_page
from pellucid.tasks.pairs import Pairs
from tests.models import model_of

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


def prompts_of(frames=12, seed=0) -> Prompts:
    draw = torch.Generator().manual_seed(seed)
    rows: dict[str, list] = {"clean": [], "corrupted": [], "group": [], "frame": []}
    for frame in range(frames):
        fill = (torch.randint(5, (4,), generator=draw) + 12).tolist()
        for group, last in (("first", FIRST), ("second", SECOND)):
            for side, seen in (("clean", SEEN), ("corrupted", WRITTEN)):
                rows[side].append([0, fill[0], seen, *fill[1:], last])
            rows["group"].append(group)
            rows["frame"].append(f"frame {frame}")
    told = {"answer": RIGHT, "wrong": WRONG, "group": rows["group"], "frame": rows["frame"]}
    pairs = Pairs.from_tokens(rows["clean"], rows["corrupted"], positions={"contraction": 2, "subject": 1}, **told)
    nouns = [[*row[:-1], 18] for row in rows["clean"]], [[*row[:-1], 18] for row in rows["corrupted"]]
    return Prompts(pairs, Pairs.from_tokens(*nouns, positions={"contraction": 2, "subject": 1}, **told))


@pytest.fixture(scope="module")
def found():
    return contractions(wired(), prompts_of())


def test_the_verdicts_are_those_that_were_wired(found):
    sides = side_by_side(found.measurements["parts"])
    assert sides.groups == ["first", "second"]
    assert sides.of_part("head 0.0") == "shared"
    assert sides.of_part("head 0.1") == "different"
    effect = found.measurements["heads_z"].effect().sel(head=1).values[:, 0]
    groups = np.array(found.measurements["heads_z"].dataset["group"].values)
    assert (np.abs(effect[groups == "second"]) < 1e-6).all() and (np.abs(effect[groups == "first"]) > 0.2).all()
    assert found.figures["parts_shared"].value >= 1 and found.figures["parts_different"].value >= 1


def test_too_few_prompts_are_undecided():
    one = contractions(wired(), prompts_of(frames=1))
    sides = side_by_side(one.measurements["parts"])
    assert {sides.of_part(part) for part in sides.parts} == {"undecided"}
    assert one.figures["habit"].low is None and "interval" in one.figures["habit"].reason


def test_the_habit_is_a_skip_trigram_and_no_bigram(found):
    """Nothing is brought by the last token alone, nor by the first one without it: all of it is both together."""
    habit = found.figures["habit"].value
    assert habit > 1 and found.figures["metric_corrupted"].value == pytest.approx(0, abs=1e-3)
    for name in ("pronoun_alone", "contraction_alone"):
        assert found.figures[name].value == pytest.approx(0, abs=1e-3)
    assert found.figures["interaction"].value == pytest.approx(habit, abs=1e-3)
    assert found.figures["habit first"].value > found.figures["habit second"].value > 1
    assert "rejected" in contractions_page(found).html()


def test_the_heads_are_taken_apart(found):
    """The head that is found is a wired one; each of its parts was patched alone."""
    assert found.figures["head"].label in ("0.0", "0.1")
    for site in ("z", "pattern", "v", "q", "k"):
        assert np.isfinite(found.measurements[f"heads_{site}"].values).all()
    assert found.figures["neuron"].reason == "the model has no MLPs"


def test_the_page_tells_the_story(found, tmp_path):
    path = found.save(tmp_path / "out", page=contractions_page(found))
    page = path.with_name("report.html").read_text()
    for told in ("Does the model have the habit?", "What do groups share?", "Does it add up?", "different", "shared"):
        assert told in page
    assert set(FIGURES) <= set(found.figures)


def test_a_model_with_mlps_has_its_neurons_patched():
    model = model_of("gpt2")
    draw = torch.Generator().manual_seed(1)
    clean = torch.randint(17, (6, 7), generator=draw)
    corrupted = clean.clone()
    corrupted[:, 2] = (clean[:, 2] + 1) % 17
    told = {"answer": 1, "wrong": 2, "group": ["a", "b"] * 3, "positions": {"contraction": 2}}
    pairs = Pairs.from_tokens(clean, corrupted, **told)
    flipped = Pairs.from_tokens(clean, corrupted, **told | {"answer": 2, "wrong": 1})
    results = [contractions(model, Prompts(x)) for x in (pairs, flipped)]
    best = max(results, key=lambda result: result.figures["habit"].value)
    other = min(results, key=lambda result: result.figures["habit"].value)
    assert "cannot do it" in other.figures["head"].reason and other.figures["habit"].value < 0
    assert "attribution_component" in other.measurements
    if best.figures["head"].value is not None:
        assert best.measurements["neurons"].shape == (6, 2, 14)
    assert best.figures["interaction"].reason == "there are no prompts without pronoun"


def test_a_tokenizer_that_splits_contractions_is_the_finding(tmp_path):
    found = contractions(HookedTransformer.from_pretrained("prose-2l-mixed"))
    assert all(found.figures[name].value is None for name in FIGURES)
    assert "['We', \"'\", 're']" in found.figures["habit"].reason
    found.save(tmp_path / "out", page=contractions_page(found))
    assert "Nothing can be said of the habit" in contractions_page(found).html()
