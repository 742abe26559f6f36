"""Every control that changes what a page shows is bound to the address, so that a copied link opens the same view. What is not is named here."""

import re

import pytest
from streamlit.testing.v1 import AppTest
from test_explore import APP

PAGES = re.findall(r"pages/(\w+)\.py", APP.read_text())
KINDS = ("selectbox", "slider", "toggle", "checkbox", "number_input", "text_input", "text_area", "multiselect", "button_group", "radio")
VIEWS = {
    "outliers": [{"tab": t} for t in ("Channels", "Distribution", "By block")],
    "rotate": [{"rtab": t} for t in ("By block", "By channel", "Accumulated")],
    "overview": [{"redo": "true"}], "microscope": [{"pre": "x ", "measure": "loss"}], "evaluate": [{"ask": "Free choice"}],
    "lessons": [{"lesson": "Whip"}], "lens": [{"s": "key"}],
}
FREE = (
    (r"guess-.*", "a guess stays out of the link, so that a class finds the question open"),
    (r"(recipe|free|learn|l)\b.*\..*", "a form makes a recipe, and a recipe travels as TOML or as a run's page"),
    (r"again", "what a button will do, not what is shown"),
    (r"compared", "the page Compare keeps its runs in the address itself (runs=...)"),
    (r"open", "the page Runs keeps its runs in the address itself (run=...)"),
    (r"kernels-run", "the page Kernels and cost keeps its run in the address itself (kr=...)"),
    (r"wblock\d+|wbits1", "a format's only choice"),
)
"""(pattern of keys, why they are not in the link)."""


def unbound(at):
    """Keys of controls that the address does not carry."""
    widgets = [w for kind in KINDS for w in getattr(at, kind)]
    return sorted({w.key or f"{type(w).__name__} {w.label!r} without a key" for w in widgets if not w.proto.query_param_key})


@pytest.mark.parametrize("page", PAGES)
def test_every_control_is_in_the_link(page):
    for query in [{}, *VIEWS.get(page, [])]:
        at = AppTest.from_file(str(APP), default_timeout=60)
        for key, value in ({"m": "tiny-llama", "n": "32"} | query).items():
            at.query_params[key] = value
        at.switch_page(f"pages/{page}.py").run()
        assert not at.exception and not at.error, (page, query)
        left = [key for key in unbound(at) if not any(re.fullmatch(pattern, key) for pattern, _ in FREE)]
        assert not left, (page, query, left)
