"""Figures of the papers for your own model: choose one, see it on the model and text at the left, take it away with all that belongs to it.

The same figures come from the command line: `python -m rotviz figure NAME --model M --to FILE`.
"""

import shlex

import pandas as pd
import streamlit as st

from rotviz.errors import RotvizError
from rotviz.figures import FIGURES, Needs, Subject, of_runs
from rotviz.figures.make import PaperFigure
from rotviz.ui.choices import Chosen, chosen
from rotviz.ui.commands import look_arguments
from rotviz.ui.figures import downloads, made, pick_runs, pick_settings
from rotviz.ui.show import show
from rotviz.ui.words import plain

SAID = {Needs.SITE: "Block and site are chosen at the left.", Needs.WEIGHTS: "Block and site are chosen at the left.",
        Needs.DEPTH: "The site is chosen at the left; all blocks are drawn.", Needs.STREAM: "All blocks are drawn."}


def pick_figure() -> str:
    """Which figure, with what it shows and where it comes from."""
    name = st.selectbox("Figure", list(FIGURES), key="fig", bind="query-params",
                        help="\n\n".join(f"**{name}**: {preset.title}. {preset.paper}." for name, preset in FIGURES.items()))
    preset = FIGURES[name]
    st.markdown(f"##### {preset.title}")
    st.caption(f"{preset.words} {SAID.get(preset.needs, '')}  \n:material/menu_book: {preset.paper}")
    return name


def draw(figure: PaperFigure) -> None:
    """The panels beside each other, then what belongs to them."""
    for i, (column, panel) in enumerate(zip(st.columns(len(figure.panels)), figure.panels, strict=True)):
        with column:
            if panel.title:
                st.markdown(f"**{plain(panel.title)}**")
            show(panel.drawing, f"panel-{i}")
    st.caption(plain(figure.caption))
    downloads(figure)
    left, right = st.columns(2)
    with left.expander("Protocol"):
        st.dataframe(pd.DataFrame(figure.protocol.items(), columns=["what", "value"]), hide_index=True, key="protocol",
                     alt="What the figure was made from")
    with right.expander("The script that draws it again"):
        st.code(figure.script, language="python", wrap_lines=True)


def command(name: str, view: Chosen, subject: Subject, settings: dict[str, object]) -> str:
    """The command line that makes the same files."""
    if of_runs(FIGURES[name]):
        where = [f"--model {shlex.quote(view.look.model)}", *(f"--run {run}" for run in subject.runs)]
    else:
        where = [*look_arguments(view.look), f"--block {subject.block}", f"--site {subject.site}"]
    changed = [f"--set {shlex.quote(f'{key}={_word(value)}')}" for key, value in settings.items() if not _usual(name, key, value)]
    return " ".join([f"python -m rotviz figure {name}", *where, *changed, f"--to {name}/"])


def _usual(name: str, key: str, value: object) -> bool:
    default = getattr(FIGURES[name](), key)
    return default == (tuple(value) if isinstance(value, list) else value)


def _word(value: object) -> str:
    """A setting as the command line reads it; a saved rotation by its mark, since its title has commas."""
    return ",".join(str(v).rpartition(", ")[2] for v in value) if isinstance(value, list) else str(value)


view = chosen()
st.title("Figures of the papers, for your model")
with st.container(border=True):
    name = pick_figure()
    runs = pick_runs(name, view.look.model) if of_runs(FIGURES[name]) else ()
    settings = pick_settings(name, view.look.model)
if runs is None or (of_runs(FIGURES[name]) and not runs):
    st.info(f"This figure is made from finished runs of {plain(view.look.model)}: "
            + ("there are none yet." if runs is None else "choose one or more."), icon=":material/info:")
    st.page_link("pages/evaluate.py", label="Queue runs on the page Evaluate", icon=":material/arrow_forward:")
else:
    subject = Subject(view.look, view.block, view.site, runs)
    try:
        figure = made(name, subject, settings, None if runs else view.capture.path)
    except RotvizError as error:
        st.warning(plain(str(error)), icon=":material/error:")
    else:
        draw(figure)
        st.caption("The same on the command line:")
        st.code(command(name, view, subject, settings), language="bash", wrap_lines=True)
