"""A bar with the time that is left, for whatever takes over a second inside a page."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import streamlit as st


@contextmanager
def progress(title: str) -> Iterator[Callable[[float, str], None]]:
    """A progress bar that goes away when the block ends; call what it yields with the share done and a few words."""
    bar, began = st.progress(0.0, text=title), time.monotonic()

    def say(fraction: float, words: str) -> None:
        elapsed = time.monotonic() - began
        left = f", about {max(1, round(elapsed / fraction - elapsed))} s left" if fraction > 0.1 else ""
        bar.progress(min(max(fraction, 0.0), 1.0), text=f"{title}: {words}{left}")

    try:
        yield say
    finally:
        bar.empty()
