"""What is looked at: model, text, block and site. Chosen once, kept across pages, in the link.

The frame draws them before the page runs, and the page asks for them: `chosen()`. The widgets are bound to the address bar (m, t, n, bos,
prompt, b, s), so a copied link opens the same view in another browser.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import streamlit as st
from streamlit.runtime.pages_manager import PagesManager

from rotviz.capture.capture import Capture
from rotviz.capture.inspect import Look
from rotviz.errors import BadInput
from rotviz.home import home, write_atomically
from rotviz.models.loading import require_text
from rotviz.texts import text_from_bytes
from rotviz.types import SITE_WORDS, Site
from rotviz.ui.cache import captured, model_names

TEXTS = {"pydoc": "Python documentation (embedded)", "wikitext2:test": "WikiText-2, test", "wikitext2:validation": "WikiText-2, validation",
         "c4:validation": "C4, validation", "prompt": "my own prompt", "file": "a text file"}
TOKENS = (32, 64, 128, 256, 512, 1024, 2048)
DEFAULT_PROMPT = "Summer is warm. Winter is cold."
FIRST_BLOCK = 12
_DRAWN = "choices-drawn"


@dataclass(frozen=True)
class Chosen:
    """The view's choices and the capture they lead to."""

    look: Look
    block: int
    site: Site
    capture: Capture

    @property
    def at(self) -> str:
        """`block 12, MLP input`."""
        return f"block {self.block}, {SITE_WORDS[self.site]}"


def draw_choices(*, looks: bool, loads: bool) -> None:
    """Draw the sidebar's choices for the page that runs next, which asks for them with `chosen` or `chosen_model`.

    Args:
        looks: the page looks at a text.
        loads: the page has a use for a model alone.

    Raises:
        RotvizError: the input cannot be used; the frame shows it in words.
    """
    st.session_state.pop(_DRAWN, None)
    if loads:
        with st.sidebar:
            st.session_state[_DRAWN] = _model()
    if looks:
        with st.sidebar:
            wanted = _look()
            place = st.container()  # first: the progress of a capture goes on the page, not here
        capture = captured(wanted)
        with place:
            st.session_state[_DRAWN] = Chosen(wanted, _block(capture.blocks), _site(), capture)


def chosen() -> Chosen:
    """The model, the text, the block and the site of this run, with the capture they lead to."""
    return _drawn(looks=True)


def chosen_model() -> str:
    """The model alone."""
    return _drawn(looks=False)


def framed() -> None:
    """See to it that the page runs inside the frame. Pages with choices need not call it.

    Until a server's first st.navigation Streamlit takes the folder pages/ for pages of its own: a link that is the first thing a new server
    is asked for runs its page bare.
    """
    if _DRAWN not in st.session_state and PagesManager.uses_pages_directory:
        PagesManager.uses_pages_directory = False
        st.rerun()


def _drawn(looks: bool) -> Any:
    framed()
    if _DRAWN not in st.session_state:  # a page on its own, as in a test
        draw_choices(looks=looks, loads=not looks)
    return st.session_state.pop(_DRAWN)


def _look() -> Look:
    model = _model()
    require_text(model, "this page")
    text = st.selectbox("Text", list(TEXTS), key="t", bind="query-params",
                        help="; ".join(f"{name}: {words}" for name, words in TEXTS.items()))
    prompt = source = None
    if text == "prompt":
        prompt = st.text_area("Prompt", DEFAULT_PROMPT, key="prompt", max_chars=20_000, bind="query-params", height=100)
    elif text == "file":
        source = _uploaded()
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    tokens = left.selectbox("Tokens at most", [str(n) for n in TOKENS], TOKENS.index(512), key="n", bind="query-params")
    bos = right.toggle("BOS", True, key="bos", bind="query-params",
                       help="Let the tokenizer put its own first token (BOS) before the text. Some have none: then this changes nothing.")
    return Look(model, source or text, int(tokens), bos, prompt)


def _model() -> str:
    return st.selectbox("Model", model_names(), key="m", accept_new_options=True, bind="query-params",
                        help="An embedded model, a hub id such as Qwen/Qwen2.5-0.5B, a folder, or a .gguf file: type it in.") or ""


def _uploaded() -> str:
    """The path of the uploaded text, kept under the name of its contents; the link then holds that name."""
    file = st.file_uploader("Text file", type=["txt", "md"], key="upload")
    if file is not None:
        text = text_from_bytes(file.getvalue(), file.name)
        mark = hashlib.sha256(text.encode()).hexdigest()[:16]
        write_atomically(home() / "texts" / f"{mark}.txt", lambda path: path.write_text(text, encoding="utf-8"))
        st.query_params["file"] = mark
    mark = st.query_params.get("file", "")
    path = home() / "texts" / f"{mark}.txt"
    if not mark.isalnum() or not path.is_file():
        raise BadInput("choose a text file (UTF-8, up to 20 MB)")
    st.session_state["file"] = mark  # for links that other pages make
    return str(path)


def _block(blocks: int) -> int:
    if blocks < 2:
        return 0
    kept = st.session_state.get("b")
    if isinstance(kept, int) and kept > blocks - 1:  # a smaller model was chosen, or a link names a block that is not there
        st.session_state["b"] = blocks - 1
    return st.slider("Block", 0, blocks - 1, min(FIRST_BLOCK, blocks // 2), key="b", bind="query-params",
                     help="Decoder layer, counted from 0.")


def _site() -> Site:
    names = [s.value for s in Site]
    name = st.selectbox("Site", names, names.index(Site.MLP_IN), key="s", bind="query-params",
                        help="A tensor that enters a linear layer or the KV cache.\n\n"
                        + "\n\n".join(f"**{site}**: {words}" for site, words in SITE_WORDS.items()))
    return Site(name)
