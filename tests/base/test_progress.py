"""Progress: what it says, where it shows, and that it leaves everything else alone."""

import io
import re
import subprocess
import sys
import threading

import pytest

import pellucid.base.progress as module
from pellucid.base.progress import Work, progress


class Terminal(io.StringIO):
    """A stream that is one."""

    def isatty(self):
        return True

    def shown(self):
        """The words it was sent, without colours and the like."""
        return re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", self.getvalue())


def on_a_terminal(monkeypatch):
    """A terminal in the place of stderr; no fixture, since pytest sets stderr anew when the test itself begins."""
    for name, value in {"TERM": "xterm", "COLUMNS": "100"}.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


class Clock:
    """Time that passes when it is told to."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    """The clock that progress looks at."""
    made = Clock()
    monkeypatch.setattr(module, "monotonic", made)
    return made


def test_time_left_follows_from_the_mean_pace():
    work = Work(100.0, now=5.0)
    work.advance(10, now=10.0)
    work.advance(15, now=15.0)
    assert work.left(now=15.0) == 30.0


def test_time_left_counts_down_between_two_steps_and_stops_at_none():
    work = Work(4, now=0.0)
    work.advance(1, now=60.0)
    assert [work.left(now=now) for now in (60.0, 100.0, 240.0, 300.0)] == [180.0, 140.0, 0.0, 0.0]


def test_what_was_done_before_tells_nothing_about_the_pace():
    work = Work(10, done=5, now=0.0)
    assert work.left(now=3.0) is None
    assert work.words(now=3.0) == " 50%   5/10  0:00:03, -:--:-- left"
    work.advance(1, now=4.0)
    assert work.left(now=4.0) == 16.0


def test_amounts_are_shown_in_percent_and_counts_as_counts_too():
    amounts, counts = Work(0.75, now=0.0), Work(3, now=0.0)
    for work, step in ((amounts, 0.25), (counts, 1)):
        work.advance(step, now=3700.0)
        work.advance(step, now=3700.0)
    assert amounts.words(now=3700.0) == " 66%  1:01:40, 0:30:50 left"
    assert counts.words(now=3700.0) == " 66%  2/3  1:01:40, 0:30:50 left"


def test_all_is_done_at_a_hundred_percent_and_not_before():
    work = Work(1000, now=0.0)
    work.advance(999, now=1.0)
    assert work.words(now=1.0).startswith(" 99%")
    work.advance(1, now=1.0)
    assert work.words(now=1.0).startswith("100%")
    fractions = Work(1.0, now=0.0)
    for _ in range(10):
        fractions.advance(0.1, now=1.0)
    assert fractions.done < 1
    assert fractions.words(now=1.0) == "100%  0:00:01, 0:00:00 left"


def test_work_of_nothing_is_done():
    assert Work(0, now=0.0).words(now=0.0) == "100%  0/0  0:00:00, -:--:-- left"


def test_work_that_was_more_than_foretold_stays_at_a_hundred_percent():
    work = Work(2.0, now=0.0)
    work.advance(3.0, now=1.0)
    assert work.words(now=1.0) == "100%  0:00:01, 0:00:00 left"


def test_threads_lose_no_amount():
    work = Work(40_000, now=0.0)
    threads = [threading.Thread(target=lambda: [work.advance(1, now=1.0) for _ in range(10_000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert work.done == 40_000


def test_a_terminal_shows_a_bar_that_is_gone_when_the_block_ends(monkeypatch, clock):
    terminal = on_a_terminal(monkeypatch)
    with progress(8, "patching [z]", done=1) as advance:
        clock.now = 2.0
        advance(1)
    assert "patching [z] ━" in terminal.shown()
    assert "25%  2/8  0:00:02, 0:00:12 left" in terminal.shown()
    assert terminal.getvalue().endswith("\x1b[1A\x1b[2K"), "the last thing sent erases the bar"


def test_a_note_stands_beside_the_bar_until_the_next(monkeypatch, clock):
    terminal = on_a_terminal(monkeypatch)
    with progress(4, "training") as advance:
        clock.now = 1.0
        advance(1, "loss 2.5000")
        advance(1, "loss 1.2500")
    told = terminal.shown()
    assert "50%  2/4" in told and "loss 1.2500" in told
    assert told.rindex("loss 1.2500") > told.find("loss 2.5000")


def test_a_bar_is_gone_also_when_the_block_fails(monkeypatch):
    terminal = on_a_terminal(monkeypatch)
    with pytest.raises(KeyboardInterrupt), progress(2, "jobs"):
        raise KeyboardInterrupt
    assert terminal.getvalue().endswith("\x1b[1A\x1b[2K")
    assert sys.stderr is terminal


def test_nothing_shows_where_no_terminal_is(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress(2, "jobs") as advance:
        advance(1)
    assert sys.stderr.getvalue() == ""


def test_nothing_shows_where_stderr_is_missing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    done = []
    with progress(2, "jobs") as advance:
        advance(1)
        done.append(1)
    assert done == [1]


def test_nothing_shows_where_it_is_not_wanted(monkeypatch):
    terminal = on_a_terminal(monkeypatch)
    with progress(2, "jobs", shown=False) as advance:
        advance(1)
    assert terminal.getvalue() == ""


def test_a_bar_that_is_wanted_shows_anywhere(monkeypatch):
    terminal = on_a_terminal(monkeypatch)
    monkeypatch.setattr(Terminal, "isatty", lambda self: False)
    with progress(2, "jobs", shown=True) as advance:
        advance(1)
    assert "50%  1/2" in terminal.shown()


def test_what_is_printed_meanwhile_stays_on_stdout_where_that_is_a_file(monkeypatch, capsys):
    terminal = on_a_terminal(monkeypatch)
    with progress(2, "jobs"):
        print("a result")
    assert capsys.readouterr().out == "a result\n"
    assert "a result" not in terminal.shown()


def test_what_is_printed_meanwhile_goes_above_the_bar_where_both_are_a_terminal(monkeypatch):
    terminal = on_a_terminal(monkeypatch)
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    with progress(2, "jobs"):
        print("a result")
        print("a warning", file=sys.stderr)
    assert sys.stdout is out
    assert "a result" in terminal.shown() and "a warning" in terminal.shown()


def test_rich_is_imported_only_to_show_something():
    code = (
        "import sys; from pellucid.base.progress import progress\n"
        "with progress(2, 'jobs') as advance: advance(1)\n"
        "print('rich' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("False\n", "")


class Handle:
    """What a notebook gives for something that it displays: whatever it was told to show."""

    def __init__(self, first):
        self.states = [first]

    def update(self, data, raw):
        assert raw
        self.states.append(data)


@pytest.fixture
def cell(monkeypatch):
    """What a notebook's cell displays, a list of handles."""
    IPython = pytest.importorskip("IPython")
    handles = []

    def display(data, raw, display_id):
        assert raw and display_id
        handles.append(Handle(data))
        return handles[-1]

    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr(IPython, "get_ipython", lambda: type("Shell", (), {"kernel": object()})())
    return handles


def test_a_notebook_shows_one_line_that_is_empty_when_the_block_ends(cell, clock):
    with progress(4, "a < b") as advance:
        for clock.now in (1.0, 2.0, 2.1):
            advance(1)
    (handle,) = cell
    assert [state["text/plain"] for state in handle.states] == [
        "a < b  25%  1/4  0:00:01, 0:00:03 left",
        "a < b  50%  2/4  0:00:02, 0:00:02 left",
        "",
    ]
    assert 'a &lt; b <progress value="0.250" max="1"></progress>' in handle.states[0]["text/html"]


def test_a_notebook_shows_nothing_of_what_is_soon_over(cell, clock):
    with progress(4, "jobs") as advance:
        for clock.now in (0.05, 0.1, 0.15, 0.2):
            advance(1)
    assert cell == []


def test_a_notebook_shows_nothing_where_it_is_not_wanted(cell, clock):
    with progress(4, "jobs", shown=False) as advance:
        clock.now = 9.0
        advance(1)
    assert cell == []


def test_a_terminal_of_ipython_is_a_terminal(monkeypatch):
    terminal = on_a_terminal(monkeypatch)
    IPython = pytest.importorskip("IPython")
    monkeypatch.setattr(IPython, "get_ipython", lambda: object())
    with progress(2, "jobs") as advance:
        advance(1)
    assert "50%  1/2" in terminal.shown()
