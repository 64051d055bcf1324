"""Attention patterns in a browser: drawn, hovered, reached with keys, in light and dark, large."""

import numpy as np
import pytest
import torch

from pellucid import viz

WORDS = ["<bos>", "When", " Mary", " and", " John", " went"]
HOSTILE = [
    "</script><script>alert(1)</script>",
    "<b>x</b>",
    '"',
    "'",
    "\n",
    "\u200b",
    "\x00",
    " ",
    "&lt;",
    "${x}",
    "<!--",
]


def patterns(n_heads: int, n: int) -> torch.Tensor:
    """Random attention, as a decoder has it."""
    scores = torch.randn(n_heads, n, n) * 2
    return scores.masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), -torch.inf).softmax(-1)


def cell(page, q: int, k: int) -> None:
    """Move the mouse over a cell of the large pattern."""
    n = int(page.locator(".grid canvas").get_attribute("width"))
    page.locator(".grid").scroll_into_view_if_needed()
    box = page.locator(".grid").bounding_box()
    page.mouse.move(box["x"] + (k + 0.5) * box["width"] / n, box["y"] + (q + 0.5) * box["height"] / n)
    page.wait_for_function("q => document.querySelector('.tip').innerText.includes(`destination ${q} `)", arg=q)
    page.wait_for_function("k => document.querySelector('.tip').innerText.includes(`source ${k} `)", arg=k)


def weight(page) -> float:
    """The number in the tip."""
    return float(page.locator(".tip .weight").inner_text())


def four_digits(value: torch.Tensor) -> float:
    return float(f"{value.item():.4g}")


def test_every_head_is_drawn_and_one_of_them_large(shown, pixels):
    attention = patterns(4, 6)
    attention[2] = torch.eye(6)
    with shown(viz.attention_patterns(WORDS, attention)) as page:
        assert page.locator(".heads button").all_inner_texts() == [f"Head {head}" for head in range(4)]
        thumbs = [pixels(page.locator(".heads canvas").nth(head)) for head in range(4)]
        assert thumbs[2][1][1] == (8, 48, 107) and thumbs[2][1][0] == (255, 255, 255)
        assert len({str(thumb) for thumb in thumbs}) == 4
        assert pixels(page.locator(".grid canvas")) == thumbs[0]
        assert page.locator(".grid canvas").bounding_box()["width"] > 150


def test_the_mouse_tells_destination_source_and_weight(shown):
    attention = patterns(2, 6)
    with shown(viz.attention_patterns(WORDS, attention)) as page:
        for q, k in [(5, 0), (4, 2), (2, 2), (0, 3)]:
            cell(page, q, k)
            tip = page.locator(".tip").inner_text()
            assert f"destination {q}  {WORDS[q].replace(' ', '·')}" in tip
            assert f"source {k}  {WORDS[k].replace(' ', '·')}" in tip
            assert weight(page) == four_digits(attention[0, q, k])
        page.mouse.move(2, 2)
        page.locator(".tip").wait_for(state="hidden")


def test_a_click_on_a_thumbnail_chooses_its_head(shown, pixels):
    attention = patterns(3, 6)
    with shown(viz.attention_patterns(WORDS, attention, ["0.1", "1.4", "5.5"])) as page:
        page.get_by_role("radio", name="5.5").click()
        assert page.locator("h3").inner_text() == "5.5"
        assert page.locator("[aria-checked=true]").all_inner_texts() == ["5.5"]
        assert pixels(page.locator(".grid canvas")) == pixels(page.locator(".heads canvas").nth(2))
        cell(page, 3, 1)
        assert weight(page) == four_digits(attention[2, 3, 1])


def test_the_keyboard_reaches_every_head_and_every_cell(shown):
    attention = patterns(3, 6)
    with shown(viz.attention_patterns(WORDS, attention)) as page:
        focused = "document.activeElement"
        page.keyboard.press("Tab")
        assert page.evaluate(f"{focused}.innerText") == "Head 0"
        assert page.evaluate(f"getComputedStyle({focused}).outlineStyle") == "solid"
        page.keyboard.press("ArrowRight")
        assert page.evaluate(f"{focused}.innerText") == page.locator("h3").inner_text() == "Head 1"
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")
        assert page.locator("h3").inner_text() == "Head 2"
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        assert page.get_by_role("checkbox").is_checked()
        page.keyboard.press("Tab")
        assert page.evaluate(f"{focused}.className") == "grid"
        assert page.evaluate(f"getComputedStyle({focused}).outlineStyle") == "solid"
        assert "Head 2" in page.evaluate(f"{focused}.ariaLabel")
        assert weight(page) == four_digits(attention[2, 5, 0])
        for keys, (q, k) in [
            ("ArrowUp ArrowRight", (4, 1)),
            ("End", (4, 5)),
            ("PageUp", (3, 5)),
            ("Home ArrowDown", (4, 0)),
        ]:
            for key in keys.split():
                page.keyboard.press(key)
            assert f"destination {q} " in page.locator(".tip").inner_text()
            assert weight(page) == four_digits(attention[2, q, k])
        page.keyboard.press("Escape")
        assert page.locator(".tip").is_hidden()


def test_a_token_of_the_text_shows_where_it_looks(shown):
    attention = torch.zeros(1, 6, 6)
    attention[0, 4, 1] = 1.0
    with shown(viz.attention_patterns(WORDS, attention)) as page:
        words = page.locator(".text .token")
        words.nth(4).hover()
        ground = "(word) => getComputedStyle(word).backgroundColor"
        assert words.nth(1).evaluate(ground) == "rgb(8, 48, 107)"
        assert words.nth(2).evaluate(ground) == "rgba(0, 0, 0, 0)"
        words.nth(4).click()
        page.keyboard.press("ArrowRight")
        assert weight(page) == 1.0


def test_tokens_are_text_whatever_they_hold(shown):
    n = len(HOSTILE)
    with shown(viz.attention_patterns(HOSTILE, patterns(1, n), ["<i>head</i>"])) as page:
        words = page.locator(".text .token").all_text_contents()
        assert words[:2] == HOSTILE[:2]
        assert words[4:8] == ["↵", "⟨U+200B⟩", "␀", "·"]
        assert words[8:] == ["&lt;", "${x}", "<!--"]
        assert page.locator("h3").inner_text() == "<i>head</i>"
        assert page.locator(".token b, .token script, h3 i").count() == 0


def test_numbers_that_are_no_pattern_are_drawn_too(shown, pixels):
    scores = torch.tensor([[[-4.0, 2.0], [0.0, 4.0]]])
    with shown(viz.attention_patterns(["a", "b"], scores)) as page:
        (a, b), (c, d) = pixels(page.locator(".grid canvas"))
        assert (a, c, d) == ((122, 18, 8), (255, 255, 255), (8, 48, 107))
        assert b[2] > b[0]
        cell(page, 0, 1)
        assert weight(page) == 2.0


def test_faint_heads_can_be_stretched(shown, pixels):
    faint = torch.full((1, 40, 40), 0.025).tril()
    with shown(viz.attention_patterns(["x"] * 40, faint)) as page:
        assert sum(pixels(page.locator(".grid canvas"))[5][0]) > 700
        page.get_by_role("checkbox").check()
        assert pixels(page.locator(".grid canvas"))[5][0] == (8, 48, 107)
        cell(page, 5, 0)
        assert weight(page) == 0.025


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read(shown, contrast, scheme):
    with shown(viz.attention_patterns(WORDS, patterns(4, 6)), scheme=scheme) as page:
        assert page.locator(".pellucid").get_attribute("data-theme") == scheme
        for k in range(6):
            cell(page, 5, k)
            assert contrast(page)[0] >= 4.5


def test_the_colours_follow_the_place(shown, pixels):
    grounds = {"light": (255, 255, 255), "dark": (20, 23, 28)}
    with shown(viz.attention_patterns(WORDS, patterns(1, 6))) as page:

        def becomes(theme: str) -> None:
            page.locator(f".pellucid[data-theme={theme}]").wait_for()
            assert pixels(page.locator(".grid canvas"))[0][5] == grounds[theme]

        becomes("light")
        page.emulate_media(color_scheme="dark")
        becomes("dark")
        page.emulate_media(media="print")
        becomes("light")
        page.emulate_media(media="screen", color_scheme="light")
        for change, theme in [
            ("body.dataset.jpThemeLight = 'false'", "dark"),  # JupyterLab
            ("body.dataset.jpThemeLight = 'true'", "light"),
            ("delete body.dataset.jpThemeLight; body.className = 'pellucid-dark'", "dark"),
            ("body.className = ''", "light"),
            ("documentElement.setAttribute('theme', 'dark')", "dark"),  # Colab
            ("documentElement.removeAttribute('theme')", "light"),
            ("body.dataset.vscodeThemeKind = 'vscode-dark'", "dark"),
        ]:
            page.evaluate(f"() => {{ const {{ body, documentElement }} = document; {change}; }}")
            becomes(theme)


def test_a_thousand_tokens_and_twelve_heads_answer(shown, pixels):
    n = 1000
    attention = np.random.default_rng(0).random((12, n, n), dtype=np.float32)
    attention = np.tril(attention)
    attention[7, np.arange(1, n), np.arange(n - 1)] = 3.0  # a stripe one cell wide, to be seen in its thumbnail
    view = viz.attention_patterns([f" t{i}" for i in range(n)], attention)
    with shown(view, width=1300, height=1500) as page:
        for _ in range(100):  # thumbnails come a few at a time
            thumb = pixels(page.locator(".heads canvas").nth(7))
            if thumb[40][1] != (0, 0, 0):
                break
            page.wait_for_timeout(20)
        assert all(thumb[at][at] == (8, 48, 107) for at in range(64))
        for head, q, k in [(0, 999, 0), (0, 500, 250), (7, 700, 699), (11, 3, 2)]:
            page.locator(".heads button").nth(head).click()
            cell(page, q, k)
            assert weight(page) == four_digits(torch.tensor(attention[head, q, k]))
            assert f"·t{q}" in page.locator(".tip").inner_text()
