"""What the lessons page keeps: findings between reruns, dials in the address, guesses and progress in the session.

A guess stays out of the link, so that a class which opens the teacher's link finds the question open.
"""

from pathlib import Path
from typing import Any

import streamlit as st

from rotviz.capture.capture import open_capture
from rotviz.lessons import LESSONS, Dial, Finding, Lesson, Material, material
from rotviz.types import Site

_GUESSES = "lesson-guesses"
BOUND = {"bind": "query-params"}


@st.cache_resource(max_entries=8, show_spinner=False)
def rows_for(path: Path, block: int, site: Site) -> Material:
    """The material of the lessons."""
    return material(open_capture(path), block, site)


@st.cache_resource(max_entries=64, show_spinner="Measuring")
def finding(path: Path, block: int, site: Site, lesson: str, dials: tuple[tuple[str, Any], ...]) -> Finding:
    """What a lesson finds on this material with its dials here."""
    return LESSONS[lesson].find(rows_for(path, block, site), dict(dials))


def pick_dials(lesson: Lesson) -> tuple[tuple[str, Any], ...]:
    """The lesson's controls side by side, bound to the address; where they stand."""
    columns = st.columns(len(lesson.dials), vertical_alignment="bottom")
    return tuple((dial.key, _dial(dial, column)) for dial, column in zip(lesson.dials, columns, strict=True))


def _dial(dial: Dial, place: Any) -> Any:
    same = {"key": dial.key, "help": dial.help or None, **BOUND}
    if dial.options:
        return place.segmented_control(dial.label, list(dial.options), default=dial.default, required=True, **same)
    if isinstance(dial.default, bool):
        return place.toggle(dial.label, dial.default, **same)
    kind = float if isinstance(dial.step, float) else int
    return place.slider(dial.label, kind(dial.low), kind(dial.high), kind(dial.default), kind(dial.step), **same)


def remember_guess(lesson: str, right: bool) -> None:
    """Keep whether the first guess at a lesson was right; later ones, when the answer is known, do not count."""
    st.session_state.setdefault(_GUESSES, {}).setdefault(lesson, right)


def guesses() -> dict[str, bool]:
    """Lessons answered in this session, and whether rightly at the first try."""
    return dict(st.session_state.get(_GUESSES, {}))
