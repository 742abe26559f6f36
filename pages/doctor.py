"""Architecture doctor: which rotations can act on this model, at what price, and the proof that its function stays.

A rewrite is allowed only if the logits stay: the norms' gains are folded into the linear layers that follow, R1 and R2 disappear into the
weights, R3 and R4 run online. Each step is carried out on the model itself, in order, and the logits are compared with the original's:

    error = |L' - L| / |L|      at most 1e-3 in float32
"""

import pandas as pd
import streamlit as st

from rotviz.types import SLOT_WORDS
from rotviz.ui.cache import examined
from rotviz.ui.choices import chosen_model
from rotviz.ui.turns import LAST_SEED, UNLEARNED

METHODS = [name for name in UNLEARNED if name != "none"]


def facts(found: dict) -> None:
    """What kind of model it is."""
    st.markdown(f"**{found['architecture']}** (family {found['family']})")
    st.dataframe(pd.DataFrame(found["facts"], columns=["fact", "value"]), hide_index=True, key="facts",
                 height=38 + 35 * len(found["facts"]))


def slots(found: dict) -> None:
    """Where a rotation can act."""
    st.markdown("**Where a rotation can act**")
    st.table(pd.DataFrame([{"slot": s["slot"], "acts": "yes" if s["acts"] else "no", "how": s["how"], "size": s["size"],
                            "Hadamard construction": s["construction"], "remark": s["remark"]} for s in found["slots"]]).set_index("slot"))
    st.caption("; ".join(f"{slot}: {words}" for slot, words in SLOT_WORDS.items()) + ".")


def proof(found: dict, method: str) -> None:
    """Step by step: what each changed in the logits."""
    steps = found["proof"]
    broken = next((s for s in steps if not s["holds"]), None)
    if broken:
        where = f", first seen after block {broken['block']}" if broken["block"] is not None else ""
        st.error(f"The function does not stay: step “{broken['name']}” changes the logits by {broken['error']:.1e}{where}.",
                 icon=":material/error:")
    else:
        worst = max(s["error"] for s in steps)
        st.success(f"All {len(steps)} steps keep the logits with {method} in every slot: the largest relative difference is {worst:.1e}, "
                   f"allowed is {steps[-1]['tolerance']:.0e}.", icon=":material/check:")
    st.dataframe(pd.DataFrame([{"step": s["name"], "what it does": s["words"], "error": f"{s['error']:.1e}",
                                "tolerance": f"{s['tolerance']:.0e}", "holds": s["holds"]} for s in steps]), hide_index=True, key="proof")
    reads = "a few drawn images" if any(fact == "reads" for fact, _ in found["facts"]) else "64 tokens of the embedded text"
    st.caption(f"Relative difference of the logits after this step and all before it, on {reads}.")


model = chosen_model()
st.title("Architecture doctor")
left, right = st.columns([3, 2])
method = left.segmented_control("Prove it with", METHODS, default="hadamard", required=True, key="dm", bind="query-params")
seed = int(right.number_input("Seed", 0, LAST_SEED, 0, key="ds", bind="query-params"))
found = examined(model, method, seed)
proof(found, method)
slots(found)
facts(found)
