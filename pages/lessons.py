"""Lessons: eight short ones, each with one idea, its formulas, a dial or two, and a question before the answer.

The question is about the numbers on the screen, and so is the answer: another block or model may have another one. A link carries the lesson and
all its dials, not the guess, so a class that opens it finds the question open; with *Show the answer* it opens revealed.
"""

import streamlit as st

from rotviz.evaluation.sites import R1_SITES
from rotviz.lessons import LESSONS, Finding, Lesson
from rotviz.plots.words import count
from rotviz.types import SITE_WORDS
from rotviz.ui.choices import Chosen, chosen
from rotviz.ui.lessons import finding, guesses, pick_dials, remember_guess
from rotviz.ui.show import show

NAMES = list(LESSONS)


def go_to(name: str) -> None:
    """Open another lesson, with its answer hidden."""
    st.session_state["lesson"] = name
    hide_answer()


def hide_answer() -> None:
    """So that the next lesson opens with its question."""
    st.session_state["answer"] = False


def progress_words() -> str:
    """How far the reader has come in this session."""
    known = guesses()
    if not known:
        return "Guess before you look: a wrong guess teaches more than a right one."
    right = sum(known.values())
    return f"{count(len(known), 'lesson')} of {len(NAMES)} answered in this session, {right} right at the first try."


def teach(lesson: Lesson) -> None:
    """The idea and its mathematics."""
    left, right = st.columns(2, vertical_alignment="center")
    left.markdown(lesson.idea)
    with right:
        for formula in lesson.formulas:
            st.latex(formula)


def ask(lesson: Lesson, found: Finding) -> bool:
    """The question; whether the answer may be shown."""
    with st.container(border=True):
        st.markdown(f"**Predict.** {found.question}")
        guess = st.radio("Your guess", found.answers, index=None, key=f"guess-{lesson.name}", horizontal=True, label_visibility="collapsed")
        shown = st.toggle("Show the answer", False, key="answer", bind="query-params", help="For whoever presents: reveals without a guess.")
        if guess is None:
            return shown
        right = guess == found.answers[found.right]
        if not shown:
            remember_guess(lesson.name, right)
        told = f"**{found.answers[found.right]}**"
        if right:
            st.success(f"Right: {told}.", icon=":material/check:")
        else:
            st.warning(f"Not here: {told}.", icon=":material/close:")
        return True


def reveal(found: Finding) -> None:
    """Why, with the first figure; others stand below what was seen before."""
    st.markdown(f"**{found.answers[found.right]}.** {found.why}")
    drawing, caption = found.after[0]
    show(drawing, "after-0", caption=caption)


def steps(name: str) -> None:
    """To the lesson before and the one after."""
    at = NAMES.index(name)
    with st.container(horizontal=True):
        if at:
            st.button(NAMES[at - 1], key="previous", icon=":material/arrow_back:", on_click=go_to, args=(NAMES[at - 1],))
        if at + 1 < len(NAMES):
            st.button(NAMES[at + 1], key="next", icon=":material/arrow_forward:", on_click=go_to, args=(NAMES[at + 1],))


def study(view: Chosen, lesson: Lesson) -> None:
    """One lesson."""
    st.markdown(f"### {NAMES.index(lesson.name) + 1}. {lesson.title}")
    teach(lesson)
    dials = pick_dials(lesson)
    found = finding(view.capture.path, view.block, view.site, lesson.name, dials)
    left, right = st.columns(2)
    with left:
        for i, (drawing, caption) in enumerate(found.before):
            show(drawing, f"before-{i}", caption=caption)
    with right:
        known = ask(lesson, found)
        if known:
            reveal(found)
    for i, (drawing, caption) in enumerate(found.after[1:] if known else (), start=1):
        with left:
            show(drawing, f"after-{i}", caption=caption)


view = chosen()
st.title("Lessons")
name = st.pills("Lesson", NAMES, default=NAMES[0], required=True, key="lesson", bind="query-params", label_visibility="collapsed")
if st.session_state.setdefault("lesson-before", name) != name:
    hide_answer()
    st.session_state["lesson-before"] = name
study(view, LESSONS[name])
with st.expander("For whoever speaks", icon=":material/record_voice_over:"):
    st.markdown(LESSONS[name].notes)
    st.caption("The link in the address bar opens this lesson with these dials, this model, block and site, and the question open. "
               "The page *Speaker notes* has those of all lessons, to read or print beforehand.")
steps(name)
gain = ", without the norm's gain, as R1 finds it" if view.site in R1_SITES else ""
st.caption(f"{progress_words()} Measured on the {SITE_WORDS[view.site]} of block {view.block}{gain}; choose others in the sidebar.")
