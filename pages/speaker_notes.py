"""Speaker notes: all lessons on one page, to read or print before a class: what each is about, its mathematics, its dials, and what to ask.

Each has its link, which fixes the model, the text, the block and the site, so that a class that opens it sees what the speaker sees, the question
still open. A middle block of the embedded model is chosen to begin with, because tokens are massive there.
"""

from urllib.parse import urlencode

import streamlit as st

from rotviz.lessons import LESSONS, Dial, Lesson
from rotviz.ui.frame import kept_choices

CLASS = {"m": "smollm2-135m", "t": "pydoc", "n": "512", "b": "14", "s": "mlp_in"}
"""What a link fixes where the speaker has chosen nothing."""


def link(lesson: Lesson) -> str:
    """The address of a lesson, relative to this page, with what was chosen last in this session."""
    kept = kept_choices()
    fixed = {key: str(kept.get(key, value)) for key, value in CLASS.items()}
    fixed["bos"] = str(kept.get("bos", True)).lower()
    own = {"prompt": "prompt", "file": "file"}.get(fixed["t"])  # the words themselves, or the mark of an uploaded text
    if own and own in kept:
        fixed[own] = str(kept[own])
    return f"lessons?{urlencode(fixed | {'lesson': lesson.name})}"


def dial_words(dial: Dial) -> str:
    """`**Bits**, from 2 to 7`; Markdown."""
    if dial.options:
        return f"**{dial.label}**: {', '.join(dial.options)}"
    if isinstance(dial.default, bool):
        return f"**{dial.label}**, on or off"
    return f"**{dial.label}**, from {dial.low:g} to {dial.high:g}"


def notes(number: int, lesson: Lesson) -> None:
    """One lesson for whoever speaks."""
    st.subheader(f"{number}. {lesson.title}", divider="gray")
    st.markdown(lesson.idea)
    for formula in lesson.formulas:
        st.latex(formula)
    st.markdown(f"**In class.** {lesson.notes}")
    st.markdown(f"**Dials.** {'; '.join(dial_words(dial) for dial in lesson.dials)}.")
    st.markdown(f'<a href="{link(lesson).replace("&", "&amp;")}" target="_self">Open lesson {number} with the question open →</a>',
                unsafe_allow_html=True)


st.title("Speaker notes")
st.markdown("Eight lessons of some minutes each: let the class guess, then reveal on the live model. A link fixes the model, text, block and site "
            "that were chosen last in this session; the address bar of a lesson also has its dials where they stand. *Show the answer* there reveals "
            "without a guess.")
for place, one in enumerate(LESSONS.values(), start=1):
    notes(place, one)
