"""What commands print: JSON, tables for people, and progress on standard error."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any


def print_json(value: Any) -> None:
    """One JSON object on standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Rows as aligned columns on standard output; numbers in at most five figures."""
    cells = [[short(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(c), *(len(line[i]) for line in cells)) if cells else len(c) for i, c in enumerate(columns)]
    for line in ([*columns], *cells):
        sys.stdout.write("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() + "\n")


def short(value: Any) -> str:
    """A value in few characters."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.5g}"
    return str(value)


class Progress:
    """A progress line on standard error: rewritten in place on a terminal, a line every few seconds elsewhere."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.last = 0.0
        self.terminal = sys.stderr.isatty()

    def __call__(self, fraction: float, words: str) -> None:
        now = time.monotonic()
        if not self.terminal and fraction < 1 and now - self.last < 2:
            return
        self.last = now
        elapsed = now - self.began
        left = f", {duration(elapsed / fraction - elapsed)} left" if fraction > 0.08 and fraction < 1 else ""
        line = f"{fraction:4.0%} {duration(elapsed)}{left}  {words}"
        sys.stderr.write(f"\r\x1b[K{line}" if self.terminal else f"{line}\n")
        sys.stderr.flush()

    def close(self) -> None:
        """Leave the line behind."""
        if self.terminal:
            sys.stderr.write("\n")


def duration(seconds: float) -> str:
    """Seconds as 42 s, 3 min 05 s or 2 h 07 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
