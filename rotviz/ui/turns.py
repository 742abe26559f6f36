"""Pickers of rotations, slots, grids and measures. The same keys on every page, so that a choice goes with the reader and into the link."""

from collections.abc import Mapping, Sequence

import streamlit as st

from rotviz.evaluation.sites import Turn
from rotviz.pipeline.saved import SavedRotation, saved_rotations
from rotviz.rotations import ROTATIONS, learns
from rotviz.types import CACHE_SITES, SITE_WORDS, SLOT_OF_SITE, SLOT_WORDS, Granularity, QuantSpec, Site, Slot
from rotviz.ui.words import plain

LAST_SEED = 2**31 - 1
BITS = (2, 3, 4, 5, 6, 7, 8)
CLIPS = ("1.0", "0.95", "0.9", "0.85", "0.8", "0.7", "0.6", "mse")
GROUPS = ("0", "16", "32", "36", "48", "64", "72", "96", "128", "192", "256")
UNLEARNED = tuple(name for name, method in ROTATIONS.items() if not learns(method))
"""What can be looked at without learning; a learned method shows itself through what it has learned."""
BOUND = {"bind": "query-params"}


def pick_turn(label: str, key: str, default: str, seed_key: str, slots: tuple[Slot, ...], model: str) -> Turn:
    """A rotation: an unlearned method with its seed side by side, or one that was learned on this model.

    The link carries a saved rotation's title, whose last letters follow all that decided it: where the same was learned, the link opens it.
    """
    left, right = st.columns([3, 2])
    saved = {s.title: s for s in saved_rotations(model)}
    names = [*UNLEARNED, *saved]
    linked = st.query_params.get(key)
    name = left.selectbox(label, names, names.index(default), key=key, help=_summaries(), **BOUND)
    if linked and linked not in names:
        left.caption(f"The link asks for “{plain(linked)}”, which was not learned on this machine.")
    chosen = saved.get(name)
    seed = right.number_input("Seed", 0, LAST_SEED, 0, key=seed_key, disabled=name == "none" or chosen is not None, **BOUND,
                              help="The same seed gives the same rotation on every machine; a learned rotation has its own.")
    if chosen is not None:
        return saved_turn(chosen, slots)
    return Turn(name, 0 if name == "none" else int(seed), slots)


def saved_turn(saved: SavedRotation, slots: tuple[Slot, ...]) -> Turn:
    """A saved rotation as a turn."""
    return Turn(saved.method, saved.seed, slots, file=str(saved.path))


def names_of(a: Turn, b: Turn) -> tuple[str, str]:
    """Short names that differ: the methods', with seeds where the methods are the same."""
    if a.method != b.method:
        return a.method, b.method
    return (a.label, b.label) if a != b else (f"{a.label}, A", f"{b.label}, B")


def pick_slots() -> tuple[Slot, ...]:
    """Which slots a rotation acts in."""
    names = [s.value for s in Slot]
    chosen = st.pills("Slots", names, selection_mode="multi", default=names, key="slots", **BOUND,
                      help="; ".join(f"{slot}: {words}" for slot, words in SLOT_WORDS.items()))
    return tuple(Slot(name) for name in names if name in chosen)


def pick_spec(site: Site) -> QuantSpec:
    """The grid: bits, clip, group, symmetric."""
    bits, clip, group, symmetric = st.columns([2, 3, 2, 4], vertical_alignment="bottom")
    bits = bits.selectbox("Bits", [str(b) for b in BITS], BITS.index(4), key="bits", **BOUND, help="Bits a number.")
    clip = clip.selectbox("Clip", CLIPS, CLIPS.index("0.9"), key="clip", **BOUND,
                          help="The share of the range that the grid covers; mse searches it for each scale, which takes longer.")
    group = group.selectbox("Group", GROUPS, key="group", **BOUND,
                            help="Numbers that share a scale; 0 = a whole " + ("head." if site in CACHE_SITES else "token."))
    symmetric = symmetric.toggle("Symmetric", True, key="sym", **BOUND,
                                 help="A grid symmetric about zero; otherwise from the smallest to the largest value.")
    granularity = Granularity.GROUP if int(group) else Granularity.TOKEN
    return QuantSpec(int(bits), symmetric, granularity, int(group), clip if clip == "mse" else float(clip))


def pick_name(label: str, words: Mapping[str, str], key: str) -> str:
    """One of a few short names: what is shown is what the link carries, and the help has the words.

    A link of before, which carried the words, still opens the same view.
    """
    names = {said: name for name, said in words.items()}
    linked = st.query_params.get(key)
    if linked in names and key not in st.session_state:
        st.session_state[key] = names[linked]
    return st.segmented_control(label, list(words), default=next(iter(words)), required=True, key=key, **BOUND,
                                help="\n\n".join(f"**{name}**: {said}" for name, said in words.items()))


def spec_words(spec: QuantSpec) -> str:
    """`4-bit symmetric grid, clipped to 0.9`."""
    clip = ", clip searched" if spec.clip == "mse" else "" if spec.clip == 1.0 else f", clipped to {spec.clip} of the range"
    group = f", groups of {spec.group}" if spec.group else ""
    return f"{spec.bits}-bit {'symmetric' if spec.symmetric else 'asymmetric'} grid{clip}{group}"


def warn_idle(site: Site, turns: Sequence[Turn]) -> None:
    """Says so where no chosen slot turns the chosen site: everything then looks the same before and after."""
    slot = SLOT_OF_SITE[site]
    if any(t.method != "none" for t in turns) and not any(t.acts_on(site) for t in turns):
        st.info(f"The {SITE_WORDS[site]} is turned by {slot} ({SLOT_WORDS[slot]}), which is switched off: nothing changes at this site.",
                icon=":material/info:")


def _summaries() -> str:
    lines = [f"**{name}**: {ROTATIONS[name].summary}" for name in UNLEARNED]
    lines.append("Rotations that were learned on this model follow by method, seed and a mark; the page *Learn a rotation* makes them.")
    return "\n\n".join(lines)
