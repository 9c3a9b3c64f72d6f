"""Progress on a terminal: a panel that is drawn over and over in its place."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.file_proxy import FileProxy
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..display import printable
from ..launch.signals import telling_of_stops
from .numbers import RunProgress, duration, evaluations, short, shown_numbers
from .samples import as_line


_WIDTH = 100
"""Columns at most: lines that are longer are hard to read."""

_ROOM_FOR_ECHO = 2
"""Columns to the right, where a terminal writes ^C when that is typed; in the next line it would shift the panel."""

_COMPLETION_LINES = 2


class ProgressPanel:
    """Draws a panel twice a second, below everything that is printed meanwhile, until it is closed.

    A thread draws; whoever trains only changes `progress`, so that a terminal that is gone cannot end a run.

    Args:
        progress ([`RunProgress`]): kept up to date by whoever calls.
    """

    def __init__(self, progress: RunProgress):
        self.progress = progress
        self._open = contextlib.ExitStack()
        console = Console(file=sys.stdout, highlight=False)
        live = Live(
            console=console, get_renderable=self._drawn, refresh_per_second=2, transient=True, redirect_stderr=True
        )
        self._console, self._live = console, live
        self._open.enter_context(live)
        self._open.enter_context(_logging_to_proxies())
        self._open.enter_context(telling_of_stops(self._show_notice))

    def log(self) -> None:
        """The panel is drawn anew by itself."""

    def log_evaluation(self, logs: Mapping[str, float]) -> None:
        """Print what an evaluation gave above the panel, where it stays."""
        progress = self.progress
        for of, numbers in evaluations(logs).items():
            name = f"evaluation{f' of {of}' if of else ''}"
            self._print(f"{progress.title}, {progress.step} of {progress.total}: {name}: {numbers}")

    def log_end(self, logs: Mapping[str, float]) -> None:
        """What transformers logs at the end says nothing that is not shown."""

    def close(self) -> None:
        """Take the panel away and leave a line in its place."""
        # A terminal that is gone, by a hangup, is no reason to lose a run.
        progress = self.progress
        with contextlib.suppress(OSError):
            if progress.notice:
                # An update may end before the panel is drawn again by itself.
                self._live.refresh()
            self._open.close()
        names = ("loss", "reward", "KL", "perplexity")
        numbers = [f"{name} {text}" for name, text in shown_numbers(progress).items() if name in names]
        ran = f"{progress.step} of {progress.total} {progress.unit} in {duration(progress.seconds)}"
        self._print(f"{progress.title}: {', '.join([ran, *numbers])}")

    def _print(self, line: str) -> None:
        with contextlib.suppress(OSError):
            self._console.print(Text(printable(line)), soft_wrap=True)

    def _show_notice(self, line: str) -> None:
        self.progress.notice = line

    def _drawn(self) -> _Drawn:
        return _Drawn(self.progress)


class _Drawn:
    """The panel at one moment, at the width of the terminal."""

    def __init__(self, progress: RunProgress):
        self.progress = progress

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = min(options.max_width - _ROOM_FOR_ECHO, _WIDTH)
        content = Table.grid(expand=True)
        content.add_column()
        inner = width - 4
        content.add_row(self._bar())
        if numbers := self._numbers():
            content.add_row("")
            content.add_row(numbers)
        if self.progress.sample is not None:
            content.add_row("")
            for line in self._sample(console, inner):
                content.add_row(line)
        if self.progress.notice:
            content.add_row("")
            content.add_row(Text(printable(self.progress.notice), style="bold yellow"))
        title = f"[bold]{escape(printable(self.progress.title))}[/bold]"
        yield Panel(content, title=title, title_align="left", box=box.ROUNDED, border_style="dim", width=width)

    def _bar(self) -> Table:
        progress = self.progress
        left = progress.seconds_left
        row = Table.grid(expand=True, padding=(0, 1))
        row.add_column(ratio=1)
        row.add_column(justify="right", no_wrap=True)
        row.add_column(justify="right", no_wrap=True, style="dim")
        bar = ProgressBar(
            total=max(progress.total, 1), completed=progress.step, style="dim", complete_style="green",
            finished_style="green",
        )  # fmt: skip
        times = duration(progress.seconds) + ("" if left is None else f", {duration(left)} left")
        row.add_row(bar, f"{progress.step} of {progress.total}", times)
        return row

    def _numbers(self) -> Table | None:
        """Two numbers a row, those of the mask in one."""
        shown = shown_numbers(self.progress)
        if not shown:
            return None
        first, now = self.progress.first_reward, self.progress.logs.get("reward")
        if first is not None and now is not None and short(now) != short(first):
            shown["reward"] += f" (at first {short(first)})"
        mask = shown.pop("mask", None)
        shown = {"β" if name == "kl_coef" else name: text for name, text in shown.items()}
        grid = Table.grid(padding=(0, 2), expand=True)
        for _ in range(2):
            grid.add_column(style="dim", no_wrap=True, min_width=10)
            grid.add_column(ratio=1, no_wrap=True)
        cells = [cell for name, text in shown.items() for cell in (name, Text(text))]
        for start in range(0, len(cells), 4):
            grid.add_row(*cells[start : start + 4])
        if mask is None:
            return grid
        rows = Table.grid(expand=True)
        rows.add_row(grid)
        rows.add_row(Text.assemble((f"{'mask':<12}", "dim"), mask))
        return rows

    def _sample(self, console: Console, width: int) -> Iterator[Text]:
        sample: Mapping[str, Any] = self.progress.sample or {}
        # The end of a prompt, which the completion goes on from.
        prompt = as_line(sample["prompt"])
        prompt = prompt if len(prompt) <= width else f"…{prompt[1 - width :]}"
        yield _cut(Text(prompt, style="dim"), width)
        # What was wrapped is as many lines as there are always, so that nothing jumps.
        lines = list(Text(as_line(sample["completion"])).wrap(console, width, overflow="fold"))
        if len(lines) > _COMPLETION_LINES:
            lines[_COMPLETION_LINES - 1].append(" …")
        for number in range(_COMPLETION_LINES):
            yield _cut(lines[number], width) if number < len(lines) else Text("")
        yield Text(f"reward {short(sample['score'])}", style="dim")


def _cut(text: Text, width: int) -> Text:
    text.truncate(width, overflow="ellipsis")
    text.no_wrap = True
    return text


@contextlib.contextmanager
def _logging_to_proxies() -> Iterator[None]:
    """Let log handlers, which took stdout or stderr before the panel was there, write above it."""
    own: dict[int, Any] = {id(sys.__stdout__): sys.stdout, id(sys.__stderr__): sys.stderr}
    own |= {id(proxy.rich_proxied_file): proxy for proxy in (sys.stdout, sys.stderr) if isinstance(proxy, FileProxy)}
    named = logging.root.manager.loggerDict.values()
    loggers = [logging.root, *(one for one in named if isinstance(one, logging.Logger))]
    before = []
    for handler in {handler for one in loggers for handler in one.handlers}:
        if isinstance(handler, logging.StreamHandler) and id(handler.stream) in own:
            before.append((handler, handler.stream))
            handler.setStream(own[id(handler.stream)])
    try:
        yield
    finally:
        for handler, stream in before:
            handler.setStream(stream)
