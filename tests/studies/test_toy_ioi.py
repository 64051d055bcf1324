"""The bundled model names the indirect object, as its card says; what must hold of any such circuit holds of its."""

import json
from importlib.resources import files

import pytest
import torch

from pellucid import HookedTransformer
from pellucid.studies.ioi import ioi
from pellucid.studies.ioi_page import ioi_page
from pellucid.tasks.ioi import FRAMES, IOI
from pellucid.train.sentences import NAMES, NEW_FRAMES, NEW_NAMES, kept_out

FOLDER = files("pellucid") / "bundled" / "toy-ioi"
KNOWN = tuple(frame for frame in FRAMES if frame not in NEW_FRAMES)
KINDS = {
    "familiar": (KNOWN, lambda a, b: not kept_out(a, b)),
    "new pairs of names": (KNOWN, lambda a, b: kept_out(a, b) and not {a, b} & set(NEW_NAMES)),
    "new names": (KNOWN, lambda a, b: {a, b} <= set(NEW_NAMES)),
    "new templates": (NEW_FRAMES, lambda a, b: not kept_out(a, b)),
}


@pytest.fixture(scope="module")
def toy() -> HookedTransformer:
    return HookedTransformer.from_pretrained("toy-ioi")


@pytest.fixture(scope="module")
def found(toy):
    return ioi(toy, n=60, neurons=False)


@pytest.mark.parametrize("kind", KINDS)
def test_the_card_is_true(toy, kind):
    card = json.loads((FOLDER / "card.json").read_text(encoding="utf-8"))["accuracy"]
    frames, wanted = KINDS[kind]
    names = [name for name in NAMES if kind != "new names" or name in NEW_NAMES]
    pairs = IOI(frames=frames, names=tuple(names)).pairs(
        toy.tokenizer, n=1200 if kind != "new pairs of names" else 4000, seed=5
    )
    words = [toy.tokenizer.strings(x[:, 0]) for x in (pairs.answer, pairs.wrong)]
    pairs = pairs[[i for i, two in enumerate(zip(*words, strict=True)) if wanted(*two)]]
    logits = toy.run(pairs.clean, logits_at=pairs.positions["end"][:, None], padding_side="right").logits[:, 0]
    right = (logits.argmax(1) == pairs.answer[:, 0]).double()
    for group in ("ABBA", "BABA"):
        inside = torch.tensor([name == group for name in pairs.group])
        assert inside.sum() > 40
        assert float(right[inside].mean()) == pytest.approx(card[kind][group], abs=0.05)


def test_it_is_small():
    assert sum(len(part.read_bytes()) for part in FOLDER.iterdir()) < 3_000_000


def test_the_answer_goes_from_the_second_subject_to_the_end(found):
    assert found.figures["accuracy"].value > 0.9 and found.figures["logit_diff"].low > 1
    assert found.figures["logit_diff_corrupted"].high < -1
    stream = found.measurements["resid_pre"].normalised().mean("prompt")
    assert float(stream.sel(layer=0, position="S2").values) == pytest.approx(1, abs=1e-4)
    assert float(stream.sel(layer=0, position="end").values) == pytest.approx(0, abs=1e-4)
    attention = found.measurements["attn_out"].normalised().mean("prompt").sel(position="end")
    assert float(attention.values.max()) > 0.7  # some layer's attention brings it there


def test_without_the_heads_found_the_behaviour_is_gone_and_without_others_it_is_not(found):
    whole, without, others = (found.figures[f"knockout_{x}_logit_diff"].value for x in ("none", "found", "random"))
    assert abs(without) < 0.4 * whole < 0.5 * others


def test_the_report_tells_what_was_found(found):
    page = ioi_page(found).html()
    for label in found.figures["knockout_found_logit_diff"].label.split():
        assert label in page
    assert "Is it they that do it?" in page
