"""Blocks of code in the documentation: what is run, and what stands beneath them."""

import json
import os

import pytest

PYTHON = "Text.\n\n```python run{words}\n{code}\n```\n\nMore.\n"


def page(code, words=""):
    return PYTHON.format(code=code, words=words)


def test_what_a_block_prints_and_its_last_value_stand_beneath_it(rendered):
    found = rendered(page("a = 2\nprint('said')\na + 1"), "page")
    assert "```python\na = 2\nprint('said')\na + 1\n```\n\n``` {.text .output}\nsaid\n3\n```" in found


def test_a_block_without_output_has_nothing_beneath_it(rendered):
    assert rendered(page("a = 2"), "page") == "Text.\n\n```python\na = 2\n```\n\nMore.\n"


def test_a_last_line_with_a_semicolon_is_not_shown(rendered):
    assert "output" not in rendered(page("1 + 1;"), "page")


def test_blocks_of_a_page_share_names_and_those_of_another_do_not(rendered):
    assert "\n2\n" in rendered(page("a = 2") + page("a"), "page")
    with pytest.raises(NameError, match="a"):
        rendered(page("a"), "other")


def test_a_block_that_is_not_marked_is_left_alone(rendered):
    text = "```python\n1 / 0\n```\n\n```sh\nmake tour\n```\n"
    assert rendered(text, "page") == text


def test_an_error_ends_the_build_and_tells_the_page_and_the_block(rendered):
    with pytest.raises(ZeroDivisionError) as caught:
        rendered(page("1 / 0"), "concepts/page")
    assert caught.value.__notes__ == ["in a block of concepts-page:\n1 / 0\n"]


def test_an_error_that_is_meant_is_shown_in_a_line(rendered):
    assert "ZeroDivisionError: division by zero" in rendered(page("1 / 0", " raises"), "page")


def test_an_error_that_is_meant_and_does_not_come_ends_the_build(rendered):
    with pytest.raises(AssertionError, match="must end in an error"):
        rendered(page("1 / 1", " raises"), "page")


def test_a_hidden_block_shows_its_output_alone_and_markdown_is_not_code(rendered):
    found = rendered(page("print('| a |')", " hidden markdown"), "page")
    assert found == "Text.\n\n| a |\n\nMore.\n"


def test_a_warning_that_something_may_be_misread_is_shown_and_others_end_the_build(rendered):
    code = "import warnings\nfrom pellucid.base.errors import MisreadWarning\nwarnings.warn('n is 1', MisreadWarning)"
    assert "MisreadWarning: n is 1" in rendered(page(code), "page")
    with pytest.raises(DeprecationWarning):
        rendered(page("import warnings\nwarnings.warn('old', DeprecationWarning)"), "page")


def test_a_command_is_run_and_shows_what_it_prints_but_not_its_progress(rendered):
    found = rendered("```sh run\npellucid heads --model toy-induction \\\n    --batch 2\n```\n", "page")
    assert "tokens  2 prompts" in found and "loading" not in found


def test_a_command_that_fails_ends_the_build_if_that_is_not_meant(rendered):
    command = "pellucid heads --model toy-induction --batch 0\n```\n"
    with pytest.raises(AssertionError, match="exit status 2"):
        rendered(f"```sh run\n{command}", "page")
    assert "Invalid value for '--batch'" in rendered(f"```sh run raises\n{command}", "page")


def test_nothing_but_pellucid_is_run_as_a_command(rendered):
    with pytest.raises(AssertionError, match="only pellucid"):
        rendered("```sh run\nrm -r out\n```\n", "page")


def test_pictures_are_framed_where_they_are_made(rendered, tmp_path):
    found = rendered(page("from pellucid import viz\nviz.hello('Ada')") + page("viz.line([1.0, 2.0])"), "a/page")
    frames = [line for line in found.splitlines() if line.startswith("<iframe")]
    assert ["hello-ada" in frames[0], "plot" in frames[1], len(frames)] == [True, True, 2]
    assert "Hello, Ada; .save" not in found
    assert len(list((tmp_path / "a-page").glob("*.html"))) == 2


def test_a_run_leaves_folder_and_environment_as_they_were(rendered):
    before = os.getcwd(), dict(os.environ)
    with pytest.raises(ZeroDivisionError):
        rendered(page("1 / 0"), "page")
    assert (os.getcwd(), dict(os.environ)) == before


def test_a_notebook_becomes_a_page_whose_cells_are_run(hooks, tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "\n", "See [more](other.ipynb)."]},
        {"cell_type": "code", "source": ["1 + 1"]},
    ]
    (tmp_path / "book.ipynb").write_text(json.dumps({"cells": cells}))
    made = hooks.notebook_page(tmp_path / "book.ipynb")
    assert made.startswith("# Title\n\nThis page is a notebook")
    assert "[book.ipynb](book.ipynb)" in made and "[more](other.md)" in made
    assert "```python run\n1 + 1\n```" in made


def test_a_picture_takes_plotly_from_the_site_and_may_not_from_elsewhere(hooks, tmp_path):
    from plotly.offline import get_plotlyjs

    from pellucid import viz
    from pellucid.viz.charts import save
    from pellucid.viz.showing import unshown

    with unshown():
        save(viz.line([1.0, 2.0]), tmp_path / "plot.html")
    whole = (tmp_path / "plot.html").read_text(encoding="utf-8")
    shared = hooks._shared_script(whole)
    assert len(shared) < len(whole) / 10 and get_plotlyjs() not in shared
    assert '<script src="../plotly.js">' in shared
