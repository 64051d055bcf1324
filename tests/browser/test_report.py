"""A report in a browser: complete, closed to the network and to foreign scripts, readable, reached with keys."""

from pathlib import Path

import pytest
import torch

from pellucid import viz
from pellucid.report.page import Page
from pellucid.report.prose import code


def written(path: Path, *, charts: bool) -> Path:
    """A report of every kind of part."""
    tokens = ["<bos>", " a", "</script><img src=x onerror=alert(1)>"]
    page = Page("Report of <i>nothing</i>", lead="It is **about** nothing; see [a paper](https://example.org/paper).")
    page.section("What is seen?").text(f"A token: {code(tokens[2])}.\n\n- one\n- <script>alert(2)</script>")
    page.figure(viz.attention_patterns(tokens, torch.eye(3).expand(2, 3, 3)), "Read it *row by row*.")
    if charts:
        page.figure(viz.line([1.0, 3.0, 2.0], xaxis="Position", yaxis="Loss"), "A line.")
    page.section("What is told?").note("Mind this.").note("It may be **misread**.", kind="warning")
    page.figure(viz.sortable_table({"x": [1.0, 2.0]}, rows=["0.0", "0.1"]), "A table to sort.")
    page.figure(viz.attention_patterns(["a", "b"], torch.eye(2)[None]), "Another pattern, of the same kind.")
    page.table(["figure", "value"], [["score", 0.98765], ["<b>control</b>", None]], "A table that stands.")
    page.save(path)
    return path


@pytest.fixture
def report(tmp_path):
    """A report without charts of plotly, whose script takes a browser a second."""
    return written(tmp_path / "report.html", charts=False)


@pytest.fixture
def charted(tmp_path):
    """A report with a chart of plotly."""
    return written(tmp_path / "report.html", charts=True)


def test_every_part_is_there_in_order(opened, charted):
    with opened(charted) as page:
        assert page.locator("h1").inner_text() == "Report of <i>nothing</i>"
        assert page.locator("h2").all_inner_texts() == ["What is seen?", "What is told?"]
        captions = [text.split(".")[0] for text in page.locator("figcaption").all_inner_texts()]
        assert captions == ["Figure 1", "Figure 2", "Figure 3", "Figure 4", "Table 1"]
        assert page.locator("[data-drawn] .pellucid").count() == 3
        assert page.locator(".scatterlayer .js-line").count() == 1
        assert page.locator("figure:last-of-type td").all_inner_texts() == ["0.9877", "—"]
        assert "<script>alert(2)</script>" in page.locator("ul").inner_text()
        assert page.locator("main img, main i, aside b").count() == 0
        assert page.locator(".pellucid .text .token").nth(2).text_content() == "</script><img·src=x·onerror=alert(1)>"


def test_figures_answer_beside_each_other(opened, report):
    with opened(report) as page:
        page.locator(".grid").nth(1).scroll_into_view_if_needed()
        page.locator(".grid").nth(1).hover(position={"x": 5, "y": 5})
        page.locator(".tip:visible").wait_for()
        assert page.locator(".tip:visible .weight").inner_text() == "1"
        page.get_by_role("button", name="x", exact=True).click()
        assert page.locator(".pellucid.table tbody th").all_inner_texts() == ["0.1", "0.0"]


def test_the_table_of_contents_leads_there_by_keys(opened, report):
    with opened(report) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.href") == "https://example.org/paper"
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.keyboard.press("Enter")
        assert page.url.endswith("#2-what-is-told")


def test_its_policy_lets_no_request_out_and_no_script_in(opened, window, report):
    broken = """async () => {
      const broken = [];
      document.addEventListener("securitypolicyviolation", (event) => broken.push(event.effectiveDirective));
      await fetch("https://example.org/").catch(() => null);
      const image = document.createElement("img");
      image.src = "https://example.org/pixel.png";
      const script = document.createElement("script");
      script.textContent = "window.ran = true";
      document.body.append(image, script);
      await new Promise((next) => setTimeout(next, 50));
      return [broken, window.ran ?? false];
    }"""
    _, watch = window
    with opened(report) as page:
        directives, ran = page.evaluate(broken)
        assert (sorted(directives), ran) == (["connect-src", "img-src", "script-src-elem"], False)
        assert len(watch.complaints) >= 3 and all("Content Security Policy" in line for line in watch.complaints[:3])
        watch.complaints.clear()
        watch.asked.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read(opened, report, contrast, scheme):
    with opened(report, scheme=scheme) as page:
        assert contrast(page)[0] >= 4.5
        ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 28)"}[scheme]


def test_lines_are_short_and_nothing_sticks_out(opened, report):
    with opened(report, width=1600) as page:
        assert (
            page.locator("p").first.evaluate(
                "p => p.getBoundingClientRect().width / parseFloat(getComputedStyle(p).fontSize)"
            )
            < 50
        )
    with opened(report, width=380) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 380


def test_paper_is_white(opened, charted, contrast):
    with opened(charted, scheme="dark") as page:
        page.emulate_media(media="print", color_scheme="dark")
        page.wait_for_function("() => document.querySelector('.pellucid').dataset.theme === 'light'")
        page.wait_for_function("() => getComputedStyle(document.querySelector('.xtitle')).fill === 'rgb(27, 31, 36)'")
        assert contrast(page)[0] >= 4.5
        assert len(page.pdf()) > 10_000
