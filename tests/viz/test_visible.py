"""Tokens are shown as what they are."""

import html
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pellucid.viz.visible import label, printable, visible

ANYTHING = st.text(st.characters(codec=None, exclude_categories=()))  # lone surrogates too


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" the", "·the"),
        ("a b", "a·b"),
        ("\r\n\t", "␍↵⇥"),
        ("", "⟨empty⟩"),
        ("\x00\x1b\x7f", "␀␛␡"),
        ("\x85", "⟨U+0085⟩"),
        ("\xa0", "⍽"),
        ("\u200b\u202e\ufeff", "⟨U+200B⟩⟨U+202E⟩⟨U+FEFF⟩"),
        ("\u3164\ufe0f", "⟨U+3164⟩⟨U+FE0F⟩"),
        ("\ud83d", "⟨U+D83D⟩"),
        ("\u0301a", "◌\u0301a"),
        ("é 日本 🙂", "é·日本·🙂"),
        ("</script>", "</script>"),
        ("�", "�"),
    ],
)
def test_what_cannot_be_seen_gets_a_sign(token, shown):
    assert visible(token) == shown


@given(ANYTHING)
def test_nothing_shown_is_white_or_in_control(token):
    shown = visible(token)
    assert shown
    assert not {unicodedata.category(character) for character in shown} & {"Cc", "Cf", "Cs", "Co", "Zs", "Zl", "Zp"}
    shown.encode("utf-8")


@given(st.text(st.characters(categories=["L", "N", "P"])).filter(bool))
def test_what_can_be_seen_stays(token):
    assert visible(token) == printable(token) == token or {ord(character) for character in token} & {0x3164, 0xFFA0}


def test_a_name_keeps_its_spaces():
    assert printable(" Ada\nLovelace ") == " Ada↵Lovelace "


@given(ANYTHING)
def test_a_label_holds_no_markup(text):
    shown = label(text)
    assert shown and not {"<", ">"} & set(shown)
    assert html.escape(html.unescape(shown), quote=False) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("subject 2", "subject 2"),
        (" the_3", "·the_3"),
        ("a  b ", "a··b·"),
        ("<b>&", "&lt;b&gt;&amp;"),
        ("", "⟨empty⟩"),
        (5, "5"),
    ],
)
def test_a_label_of_words_keeps_single_spaces(text, shown):
    assert label(text) == shown
