"""The models that are part of the package: small, whole, and as their cards and READMEs say."""

import json
import math
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from pellucid import HookedTransformer
from pellucid.pretrained.names import bundled_models
from pellucid.studies.induction import CUT

SHOWN = ("accuracy_second_half", "induction_head", "induction_head_control", CUT, "previous_token_head")
"""Figures that a README shows at each period."""
TEXTS = {"toy-induction": "5 12 7 5 12", "toy-ioi": "When Mary and John went to the store"}
"""Where a model does not take a sentence."""
SENTENCE = "The old house stood at the end of the lane, and nobody had lived there for years."

each_model = pytest.mark.parametrize("name", bundled_models())


def folder_of(name: str) -> Path:
    return Path(str(files("pellucid"))) / "bundled" / name


def card_of(name: str) -> dict:
    return json.loads((folder_of(name) / "card.json").read_text(encoding="utf-8"))


@each_model
def test_a_card_tells_how_the_model_was_made_and_what_came_out(name):
    card = card_of(name)
    assert card["name"] == name
    assert {"recipe", "seed", "torch", "threads", "loss"} <= set(card)
    assert card.keys() & {"figures_by_period", "accuracy"}
    losses = card["loss"]["values"]
    assert len(losses) >= 50 and all(map(math.isfinite, losses)) and losses[-1] < losses[0]
    for figures in card.get("figures_by_period", {}).values():
        assert set(SHOWN) <= set(figures)
        assert all(figure["value"] is not None or figure["reason"] for figure in figures.values())


@each_model
def test_the_readme_says_what_the_card_does(name):
    card, said = card_of(name), (folder_of(name) / "README.md").read_text(encoding="utf-8")
    assert said.startswith(f"# {name}\n") and card["about"] in said and "MIT" in said
    for kind, by in card.get("accuracy", {}).items():
        assert f"| {kind} | {by['ABBA']:.3f} | {by['BABA']:.3f} |" in said
    for period, figures in card.get("figures_by_period", {}).items():
        (row,) = (line for line in said.splitlines() if line.startswith(f"| {period} |"))
        numbers = [figures[shown]["value"] for shown in SHOWN]
        assert [f"{number:.3f}" for number in numbers if number is not None and f"{number:.3f}" not in row] == []
    for unit in {"nats_per_token", "bits_per_byte"} & set(card.get("held_out", ())):
        assert f"**{card['held_out'][unit]:.3f} {unit.replace('_', ' ')}**" in said


@each_model
def test_a_model_is_at_most_eight_megabytes(name):
    assert sum(path.stat().st_size for path in folder_of(name).rglob("*")) <= 8e6


@each_model
def test_a_model_loads_and_takes_text(name):
    model, text = HookedTransformer.from_pretrained(name, device="cpu"), TEXTS.get(name, SENTENCE)
    assert model.record.model == model.cfg.model_name == name
    tokens = model.to_tokens(text)
    assert tokens[0, 0] == model.tokenizer.bos_token_id and tokens.shape[1] < model.cfg.n_ctx
    assert model.to_string(tokens[0, 1:]).strip() == text
    assert model(text).isfinite().all()


def test_without_its_text_the_model_of_prose_is_not_made_and_one_line_says_what_is_needed(tmp_path, repository):
    script = repository / "models" / "prose_2l_mixed.py"
    work = tmp_path / "work"
    work.mkdir()
    done = subprocess.run([sys.executable, script], cwd=work, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("prose-2l-mixed needs a folder of English prose to learn from, ../shared/data/prose")
    assert list(work.iterdir()) == []
