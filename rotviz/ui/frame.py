"""The frame around every page: navigation, choices that stay across pages and in the link, and errors in words.

Choices are widgets bound to the address bar: a link opens the same view. Those in the sidebar (choices.py) are drawn here, before the page
runs, because Streamlit keeps the part of the address that belongs to the router's own widgets when the reader goes to another page.
What pages choose on their own under a shared key (a rotation, a grid) is remembered in the session and put back on the next page.

The first page shows stored results before anything that computes is imported: torch and what stands on it come with the choices.
"""

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from rotviz.errors import RotvizError
from rotviz.ui.first_minute import draw_first_minute
from rotviz.ui.theme import apply_theme
from rotviz.ui.tour import START, draw_tour

LOOKING = (START, "outliers", "massive_tokens", "microscope", "figures", "rotate", "verdict", "lens", "lessons", "learn")
"""Pages that look at a text: they get all of the sidebar's choices."""
LOADING = ("doctor", "evaluate", "hurts", "budget", "weights")
"""Pages that have a use for a model alone."""

SHARED = ("m", "t", "n", "bos", "prompt", "file", "b", "s", "r", "seed", "slots", "ra", "sa", "rb", "sb", "bits", "clip", "group", "sym", "tok", "at",
          "tour")
"""Keys of the choices that mean the same on every page that has them."""

_PAGE, _KEPT = "frame-page", "frame-kept"


def run(pages: Mapping[str, Sequence[StreamlitPage]]) -> None:
    """Draw the frame and run the page. An error that rotviz explains becomes a message, not a traceback."""
    st.set_page_config(page_title="rotviz", page_icon=":material/sync:", layout="wide")
    page = st.navigation(dict(pages), expanded=True)  # all of them: Streamlit would fold the last ones away
    apply_theme()
    _put_back(page)
    try:
        draw_tour(page.url_path)
        if page.url_path == START:
            draw_first_minute()
        _draw_choices(page.url_path)
        page.run()
    except RotvizError as error:
        st.error(str(error), icon=":material/error:")
    finally:
        _remember()


def _draw_choices(path: str) -> None:
    """The sidebar's choices. The first page after the start of a server imports torch and transformers for it, which takes seconds."""
    with st.spinner("Loading PyTorch") if "torch" not in sys.modules else nullcontext():
        from rotviz.ui.choices import draw_choices
    draw_choices(looks=path in LOOKING, loads=path in LOADING)


def kept_choices() -> dict[str, Any]:
    """What was chosen in this session under the keys that pages share."""
    return dict(st.session_state.get(_KEPT, {}))


def _put_back(page: StreamlitPage) -> None:
    """On the first run of another page: what was chosen before, unless the link that led here says otherwise."""
    before, st.session_state[_PAGE] = st.session_state.get(_PAGE), page.url_path
    if before is None or before == page.url_path:
        return
    for key, value in st.session_state.get(_KEPT, {}).items():
        if key not in st.query_params:
            st.session_state[key] = value


def _remember() -> None:
    kept = st.session_state.setdefault(_KEPT, {})
    kept.update({key: st.session_state[key] for key in SHARED if key in st.session_state})
