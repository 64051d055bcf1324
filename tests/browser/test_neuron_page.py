"""The page on what was watched, in a browser: each place is marked by its colour, the mouse tells the activation."""

import pytest

from pellucid import HookedTransformer
from pellucid.analysis import HeadOutput, top_contexts, written_tokens
from pellucid.studies.neuron_page import neuron_page

TEXTS = ["5 9 7 5 9 7 5"]


@pytest.fixture(scope="module")
def found():
    model = HookedTransformer.from_pretrained("toy-induction", device="cpu")
    what = ["1.0", HeadOutput(1, 0, model.W_U[:, 9].detach(), "nine <i>")]
    return top_contexts(model, TEXTS, what=what, k=3, negative=True), written_tokens(model, what, k=4)


@pytest.fixture(scope="module")
def place(found, tmp_path_factory):
    path = tmp_path_factory.mktemp("neurons") / "page.html"
    neuron_page(*found, places=2).save(path)
    return path


def test_every_place_is_shown_with_its_text(opened, place, found):
    contexts, _ = found
    with opened(place) as page:
        assert page.locator("h2").all_inner_texts() == ["Over all tokens", *contexts.labels]
        views = page.locator(".pellucid")
        shown = [one for label in contexts.labels for one in contexts.of(label)[:2]]
        shown += contexts.of(contexts.labels[1], negative=True)[:2]
        assert views.count() == len(shown) == 6
        assert views.first.locator(".token").all_inner_texts()[1:] == [str(word) for word in shown[0].words[1:]]
        assert "It is nowhere below 0." in page.inner_text("main")  # a length
        assert page.locator("table").first.inner_text().count("\n") >= 2


def test_the_mouse_tells_the_activation_and_bos_has_none(opened, place, found):
    best = found[0].of("1.0")[0]
    with opened(place) as page:
        words = page.locator(".pellucid").first.locator(".text .token")
        words.nth(best.at).hover()
        tip = page.locator(".tip .value").first
        assert float(tip.inner_text()) == pytest.approx(best.value, rel=1e-3)
        grounds = words.evaluate_all("all => all.map(word => getComputedStyle(word).backgroundColor)")
        assert grounds[0] == "rgba(0, 0, 0, 0)" != grounds[best.at]
        words.nth(0).hover()
        assert tip.inner_text() == "—"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_in_light_and_dark(opened, place, contrast, scheme):
    with opened(place, scheme=scheme) as page:
        assert contrast(page)[0] >= 4.5
        assert page.locator("h2").last.inner_text() == "1.0 along nine <i>"
