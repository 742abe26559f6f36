"""The frame around every page: navigation, the choices that stay across pages and in the link, and errors in words.

Choices are widgets bound to the address bar: a link opens the same view. They stand in the sidebar, once, before the page runs.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from rotviz.errors import RotvizError
from rotviz.ui.theme import apply_theme


@contextmanager
def frame(pages: Mapping[str, Sequence[StreamlitPage]]) -> Iterator[StreamlitPage]:
    """Draw the frame and hand over the page to run. An error that rotviz explains becomes a message, not a traceback."""
    st.set_page_config(page_title="rotviz", page_icon=":material/sync:", layout="wide")
    page = st.navigation(dict(pages))
    apply_theme()
    try:
        yield page
    except RotvizError as error:
        st.error(str(error), icon=":material/error:")
