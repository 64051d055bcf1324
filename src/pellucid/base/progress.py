"""How far some work is, shown while it runs: a bar on a terminal, by rich, or a line in a notebook.

The time left follows from the mean pace since the beginning, and counts down between two steps, however far apart they
are; it holds where amounts are proportional to the time that they take.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from html import escape
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import rich.progress


@runtime_checkable
class Advance(Protocol):
    """Is told how much was done since it was last called, and perhaps a word about it; from any thread."""

    def __call__(self, amount: float, note: str = "", /) -> object:
        """Counts so much as done."""
        ...


EVERY = 0.3
"""Seconds between two states of a notebook's line; what takes less shows none."""


class Work:
    """How much of some work is done, and how long the rest will take.

    Args:
        total: All of it; a whole number is a count, and shown as such.
        done: What was done before.
        now: The time, in seconds.

    Example:
        >>> work = Work(10, done=4, now=0.0)
        >>> work.advance(2, now=6.0)
        >>> work.left(now=6.0), work.left(now=8.0)
        (12.0, 10.0)
        >>> work.words(now=8.0)
        ' 60%   6/10  0:00:08, 0:00:10 left'
    """

    def __init__(self, total: float, *, done: float = 0, now: float) -> None:
        self.total = total
        self.done = self._before = done
        self.note = ""
        self._start = self._at = now
        self._lock = threading.Lock()

    @property
    def fraction(self) -> float:
        """From 0 to 1."""
        return min(1.0, self.done / self.total) if self.total > 0 else 1.0

    def advance(self, amount: float, note: str = "", *, now: float) -> None:
        """Counts what was done; the note stands until the next one."""
        with self._lock:
            self.done += amount
            self.note = note or self.note
            self._at = now

    def left(self, *, now: float) -> float | None:
        """Seconds; None as long as nothing tells."""
        did = self.done - self._before
        if did <= 0:
            return None
        return max(0.0, (self.total - self.done) * (self._at - self._start) / did - (now - self._at))

    def words(self, *, now: float) -> str:
        """Percent, count, time taken and left, and the note."""
        percent = int(100 * self.fraction + 1e-6)  # so that sums of fractions reach 100
        count = f"  {self.done:{len(str(self.total))}.0f}/{self.total}" if isinstance(self.total, int) else ""
        note = f"  {self.note}" if self.note else ""
        return f"{percent:3}%{count}  {_clock(now - self._start)}, {_clock(self.left(now=now))} left{note}"


@contextmanager
def progress(total: float, what: str, *, done: float = 0, shown: bool | None = None) -> Iterator[Advance]:
    """Shows how far some work is, on stderr or in a notebook's cell, until the block ends.

    Args:
        total: All there is to do; a whole number is a count, and shown as such.
        what: A word about it.
        done: What is done already.
        shown: None: on a terminal or in a notebook. True: also where stderr does not look like a terminal.

    Yields:
        A function to be told of each amount that was done.

    Example:
        >>> with progress(2, "jobs") as advance:
        ...     for job in range(2):
        ...         advance(1)
    """
    notebook = _is_notebook()
    if not (notebook or _is_terminal(sys.stderr) if shown is None else shown):
        yield lambda amount, note="": None
        return
    work = Work(total, done=done, now=monotonic())
    with _line(work, what) if notebook else _bar(work, what, forced=bool(shown)) as advance:
        yield advance


@contextmanager
def _bar(work: Work, what: str, *, forced: bool) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
    from rich.text import Text

    class Words(ProgressColumn):
        max_refresh = 0.5  # seconds

        def render(self, task: "rich.progress.Task") -> Text:
            return Text(work.words(now=monotonic()), no_wrap=True)

    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=None), Words())
    console = Console(stderr=True, force_terminal=forced or None)
    # What is printed meanwhile goes above the bar; but where it goes to a file, it must not end on stderr.
    redirected = _is_terminal(sys.stdout)
    with Progress(*columns, console=console, transient=True, expand=True, redirect_stdout=redirected) as bar:
        task = bar.add_task(what, total=1)
        bar.update(task, completed=work.fraction)

        def advance(amount: float, note: str = "") -> None:
            work.advance(amount, note, now=monotonic())
            bar.update(task, completed=work.fraction)

        yield advance


@contextmanager
def _line(work: Work, what: str) -> Iterator[Advance]:
    """By the notebook's own means: rich's bar draws from a thread, which takes what the cell prints meanwhile."""
    from IPython.display import display

    handle: Any = None
    last = monotonic()

    def advance(amount: float, note: str = "") -> None:
        nonlocal handle, last
        now = monotonic()
        work.advance(amount, note, now=now)
        if now - last < EVERY:
            return
        last = now
        words = work.words(now=now)
        drawn = f'<progress value="{work.fraction:.3f}" max="1"></progress>'
        html = f'{escape(what)} {drawn} <span style="white-space:pre">{words}</span>'
        data = {"text/plain": f"{what} {words}", "text/html": html}
        if handle is None:
            handle = display(data, raw=True, display_id=True)
        else:
            handle.update(data, raw=True)

    try:
        yield advance
    finally:
        if handle is not None:
            handle.update({"text/plain": ""}, raw=True)


def _is_terminal(stream: Any) -> bool:
    return stream is not None and stream.isatty()


def _is_notebook() -> bool:
    ipython = sys.modules.get("IPython")  # whoever runs in a notebook has it imported
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


def _clock(seconds: float | None) -> str:
    return "-:--:--" if seconds is None else str(timedelta(seconds=int(seconds)))
