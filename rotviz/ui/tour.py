"""The guided tour: three steps through the embedded model, from what is wrong to what helps to what it costs.

A step is a link: it opens a page with everything chosen that the step speaks of, in this tab or another, and can be sent to somebody. The choice of
step is bound to the address (`tour`), so that the link of a page on the tour brings its explanation along; `off` ends the tour and is remembered.
"""

import html
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

import streamlit as st

OFF = "off"
START = ""
"""The address of the page that offers the tour."""
_MODEL = {"m": "smollm2-135m", "t": "pydoc", "n": "512"}


@dataclass(frozen=True)
class Step:
    """One step: its page and the page's choices, what it shows in a sentence, and where to look once it is open."""

    page: str
    title: str
    choices: Mapping[str, str]
    words: str
    look: str


STEPS: dict[str, Step] = {
    "1": Step("massive_tokens", "See the spike", {**_MODEL, "b": "14", "s": "mlp_in", "at": "mlp_in"},
              "One token holds nearly all of its energy in one channel.",
              "In the colored text one token stands out. Below, its channels: on the left one spike, on the right the same token after a Hadamard "
              "rotation. Choose another position to see an ordinary token."),
    "2": Step("rotate", "See what a rotation does", {**_MODEL, "b": "14", "s": "mlp_in", "ra": "orthogonal", "rb": "hadamard", "sym": "true"},
              "A random and a Hadamard rotation, token by token.",
              "Each point is a token: how much of it 4-bit rounding loses under a random orthogonal matrix (across) and a Hadamard matrix (up). "
              "Ordinary tokens lie on the diagonal; the diamond, the massive token, lies far below it. Change the seeds: it stays there."),
    "3": Step("evaluate", "Measure what it costs",
              {"m": _MODEL["m"], "et": "pydoc", "w": "2", "l": "512", "r-none": "W16A4", "r-orthogonal": "W16A4", "r-hadamard": "W16A4"},
              "Perplexity and KL divergence of the whole model.",
              "Three recipes are chosen, activations at 4 bits. Put them on the queue: a worker measures them while this page watches, and a figure "
              "compares them with the float model."),
}


def draw_tour(page: str) -> None:
    """The tour's place on a page: an invitation on the first page, an explanation on the page of the chosen step, nothing elsewhere."""
    kept = st.session_state.get("tour") or st.query_params.get("tour")
    if page != START and (kept not in STEPS):
        return
    with st.container(border=True, key="tour-panel"):
        left, right = st.columns([3, 2], vertical_alignment="center")
        with right:
            chosen = st.pills("Guided tour", [*STEPS, OFF], key="tour", bind="query-params",
                              help="Three steps; each opens a page with everything chosen. *off* puts the tour away.")
        with left:
            if chosen in STEPS:
                _step(chosen, page)
            elif chosen == OFF:
                st.caption("The tour is off; a number brings it back.")
            else:
                st.markdown("**New here?** Three steps, a minute each:")
        if page == START and chosen is None:
            _invitation()


def link_to(name: str) -> str:
    """The address of a step, relative to any page."""
    step = STEPS[name]
    return f"{step.page}?{urlencode({**step.choices, 'tour': name})}"


def _invitation() -> None:
    for column, (name, step) in zip(st.columns(len(STEPS)), STEPS.items(), strict=True):
        with column:
            _anchor(name, f"{name}. {step.title}")
            st.caption(step.words)


def _step(name: str, page: str) -> None:
    """The step in words, and the way to its page or to the next one."""
    step, following = STEPS[name], str(int(name) + 1)
    st.markdown(f"**Step {name} of {len(STEPS)}: {step.title}.** {step.look if page == step.page else step.words}")
    if page != step.page:
        _anchor(name, f"Open step {name}")
    elif following in STEPS:
        _anchor(following, f"Next: {STEPS[following].title}")


def _anchor(name: str, words: str) -> None:
    """A link in this tab: a whole new view, with nothing left of the one before."""
    st.markdown(f'<a href="{html.escape(link_to(name), quote=True)}" target="_self">{html.escape(words)} →</a>', unsafe_allow_html=True)
