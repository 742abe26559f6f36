"""What is looked at: model, text, block and site. Chosen once, kept across pages, in the link.

Every page that looks at a capture begins with `chosen()`. The widgets are bound to the address bar (m, t, n, bos, prompt, b, s), so a copied link opens the
same view in another browser.
"""

import hashlib
from dataclasses import dataclass

import streamlit as st

from rotviz.capture.capture import Capture
from rotviz.capture.inspect import Look
from rotviz.errors import BadInput, RotvizError
from rotviz.home import home, write_atomically
from rotviz.texts import text_from_bytes
from rotviz.types import SITE_WORDS, Site
from rotviz.ui.cache import captured, model_names

TEXTS = {"pydoc": "Python documentation (embedded)", "wikitext2:test": "WikiText-2, test", "wikitext2:validation": "WikiText-2, validation",
         "c4:validation": "C4, validation", "prompt": "my own prompt", "file": "a text file"}
DEFAULT_PROMPT = "Summer is warm. Winter is cold."


@dataclass(frozen=True)
class Chosen:
    """The view's choices and the capture they lead to."""

    look: Look
    block: int
    site: Site
    capture: Capture


def chosen(*, block: bool = True, site: bool = True) -> Chosen:
    """Draw the sidebar's choices and return them with the capture. Stops the page with a message where the input cannot be used.

    Args:
        block, site: whether this page has a use for a block and a site; the others keep their last value.
    """
    with st.sidebar:
        wanted = _look()
    capture = captured(wanted)
    with st.sidebar:
        at = _block(capture.blocks) if block else int(st.session_state.get("b", 0))
        where = _site() if site else Site(st.session_state.get("s", Site.MLP_IN))
    return Chosen(wanted, min(at, capture.blocks - 1), where, capture)


def _look() -> Look:
    st.subheader("What to look at", divider=False)
    model = st.selectbox("Model", model_names(), key="m", accept_new_options=True, bind="query-params",
                         help="An embedded model, a hub id such as Qwen/Qwen2.5-0.5B, a folder, or a .gguf file: type it in.")
    text = st.selectbox("Text", list(TEXTS), format_func=TEXTS.get, key="t", bind="query-params")
    tokens = st.select_slider("Tokens", [32, 64, 128, 256, 512, 1024, 2048], 512, key="n", bind="query-params")
    bos = st.toggle("Special tokens at the start", True, key="bos", bind="query-params",
                    help="Whether the tokenizer may put its own first token (BOS) before the text; some have none.")
    try:
        if text == "prompt":
            prompt = st.text_area("Prompt", DEFAULT_PROMPT, key="prompt", max_chars=20_000, bind="query-params")
            return Look(model, "prompt", tokens, bos, prompt)
        if text == "file":
            return Look(model, _uploaded(), tokens, bos)
        return Look(model, text, tokens, bos)
    except RotvizError as error:
        st.error(str(error))
        st.stop()


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
    return str(path)


def _block(blocks: int) -> int:
    if st.session_state.get("b", 0) > blocks - 1:
        st.session_state["b"] = blocks - 1
    return st.slider("Block", 0, blocks - 1, min(12, blocks // 2), key="b", bind="query-params", help="Decoder layer, counted from 0.") if blocks > 1 else 0


def _site() -> Site:
    return st.selectbox("Site", list(Site), index=list(Site).index(Site.RESID), format_func=lambda s: f"{s} · {SITE_WORDS[s]}", key="s", bind="query-params",
                        help="A tensor that enters a linear layer or the KV cache; resid is the residual stream after the block.")
