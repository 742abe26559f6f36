"""Overview: what this model's problem is, in one look, with its own numbers, and where to go next."""

import numpy as np
import streamlit as st

from rotviz.evaluation.sites import Turn
from rotviz.numerics.massive import massive_tokens
from rotviz.plots.error_by_block import draw_error_by_block
from rotviz.plots.magnitude_by_block import draw_magnitude_by_block
from rotviz.types import QuantSpec, Site
from rotviz.ui.cache import errors_by_block, inspected
from rotviz.ui.choices import chosen
from rotviz.ui.show import show

view = chosen(block=False, site=False)
found = inspected(view.look)
st.title("Why does this model break at 4 bits?")
st.write(found.capture.meta)
tokens = massive_tokens(found.massive)
st.write(tokens[:5])
spec = QuantSpec(4, True, clip=0.9)
lines = {t.label: errors_by_block(view.look, Site.DOWN_IN, t, spec).all for t in (Turn("none"), Turn("orthogonal"), Turn("hadamard"))}
show(draw_error_by_block(lines), "err")
