"""What the token microscope keeps and asks: a text changed on purpose, and for each of its tokens what rounding costs under every method.

A change of the text (a prefix, other delimiters, no BOS) is another look at the same model, captured as any other is. Errors at a site come from the
captures; losses need the whole model, are measured for all methods and both texts in one pass, and are kept on disk.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import streamlit as st

import rotviz
from rotviz.capture.capture import Capture, open_capture
from rotviz.capture.inspect import Look, text_of
from rotviz.config import fingerprint, to_mapping
from rotviz.evaluation.sites import Turn
from rotviz.evaluation.token_loss import LONGEST, TokenLoss, token_losses
from rotviz.evaluation.weights import plan_of
from rotviz.home import home, write_atomically
from rotviz.models.loading import load
from rotviz.numerics.massive import PersistentToken
from rotviz.pipeline.saved import saved_rotations
from rotviz.plots.words import count, visible
from rotviz.texts import prompt_tokens
from rotviz.texts.windows import CHARACTERS_PER_TOKEN
from rotviz.types import QuantSpec, Site, Slot
from rotviz.ui.cache import COMPUTING, Say, errors_by_token
from rotviz.ui.progress import progress
from rotviz.ui.turns import BOUND, UNLEARNED, saved_turn
from rotviz.ui.words import number_words, plain, token_words

AS_IT_IS = "as it is"
DELIMITERS: dict[str, tuple[tuple[str, str], ...]] = {
    AS_IT_IS: (), ". to ,": ((".", ","),), ". to ;": ((".", ";"),), "line breaks to spaces": (("\r\n", " "), ("\n", " ")),
    "none": (*((mark, "") for mark in ".,;:!?"), ("\r\n", " "), ("\n", " ")),
}
"""What is put in the place of delimiters, by the name that the link carries."""
NAMED = 4


# The texts


def changed_look(look: Look, prefix: str, delimiters: str, bos: bool) -> Look:
    """The same look at a changed text; the look itself where nothing changes.

    Args:
        prefix: put before the text.
        delimiters: one of DELIMITERS.
        bos: with the special tokens that the tokenizer adds.
    """
    if not prefix and not DELIMITERS[delimiters]:
        return replace(look, bos=bos)
    text = text_of(look)[: max(look.tokens * CHARACTERS_PER_TOKEN, 4096)]  # what is not read need not be changed
    for old, new in DELIMITERS[delimiters]:
        text = text.replace(old, new)
    return replace(look, bos=bos, prompt=prefix + text)


def pick_change(look: Look, capture: Capture) -> Look:
    """The controls that change the text, bound to the link; the changed look."""
    first, second, third = st.columns([3, 2, 2], vertical_alignment="bottom")
    bos = capture.meta.get("bos_token", "")
    hint = f" This tokenizer's own first token is written `{bos}`: as a prefix it stands before the text." if bos else ""
    prefix = first.text_input("Prefix", key="pre", max_chars=200, placeholder="put before the text", **BOUND,
                              help="The first token is nearly always a sink: put another one before it and see where the sink goes." + hint)
    delimiters = second.selectbox("Delimiters", list(DELIMITERS), key="del", **BOUND,
                                  help="Models often put a second sink on the first full stop or line break.")
    adds = capture.meta.get("special_tokens") != "no"
    without = third.toggle("Without BOS", False, key="nobos", disabled=not (adds and look.bos), **BOUND,
                           help="Leave out the token that the tokenizer puts first." if adds else "This tokenizer puts no token of its own first.")
    return changed_look(look, prefix, delimiters, look.bos and not (adds and without))


# The methods


def pick_methods(model: str, seed: int, slots: tuple[Slot, ...]) -> dict[str, Turn]:
    """The rotations to compare, by name: the unlearned ones at a seed, and those that were learned on this model."""
    saved = {s.title: s for s in saved_rotations(model)}
    names = [*UNLEARNED, *saved]
    kept = st.session_state.get("mm")
    if kept is not None and not set(kept) <= set(names):
        st.session_state["mm"] = [name for name in kept if name in names]  # learned on another model
    chosen = st.pills("Methods", names, selection_mode="multi", default=list(UNLEARNED), key="mm", **BOUND,
                      help="Rotations to compare; those that were learned on this model follow by method, seed and a mark.")
    return {name: saved_turn(saved[name], slots) if name in saved else Turn(name, 0 if name == "none" else seed, slots)
            for name in names if name in chosen}


# What rounding costs each token


def site_errors(path: Path, block: int, site: Site, turns: Mapping[str, Turn], spec: QuantSpec) -> dict[str, np.ndarray]:
    """By method the share of each token's energy that rounding loses at one site, [T]; NaN for a token that no expert of the block reads."""
    capture = open_capture(path)
    owners = capture.tokens_of_rows(block, site)
    return {name: by_token(errors_by_token(path, block, site, turn, spec).relative, owners if owners is None else owners.numpy(), len(capture.tokens))
            for name, turn in turns.items()}


def by_token(rows: np.ndarray, owners: np.ndarray | None, tokens: int) -> np.ndarray:
    """The mean over a token's rows, [tokens]: in a mixture it has one for each expert."""
    if owners is None:
        return rows
    sums, counts = np.bincount(owners, rows, tokens), np.bincount(owners, minlength=tokens)
    return np.divide(sums, counts, out=np.full(tokens, np.nan), where=counts > 0)


def losses(looks: Sequence[Look], paths: Sequence[Path], turns: Mapping[str, Turn], spec: QuantSpec) -> list[dict[str, TokenLoss]]:
    """For each look the losses of its tokens by method. What is not on disk yet is measured in one pass, with a bar.

    Raises:
        BadInput: a text is too long, or a group does not divide a width.
    """
    files = {name: [_file(path, turn, spec) for path in paths] for name, turn in turns.items()}
    missing = {name: turns[name] for name, found in files.items() if not all(f.exists() for f in found)}
    if missing:
        with progress("Measuring losses") as say, COMPUTING:
            say(0.0, f"loading {looks[0].model}")
            _measure(looks, {name: (turn, files[name]) for name, turn in missing.items()}, spec, say)
    return [{name: _read(found[i]) for name, found in files.items()} for i in range(len(looks))]


def _measure(looks: Sequence[Look], wanted: Mapping[str, tuple[Turn, list[Path]]], spec: QuantSpec, say: Say) -> None:
    from rotviz.models.walk import BlockSource  # with transformers behind it
    from rotviz.surgery.doctor import source_sizes

    loaded = load(looks[0].model)
    source = BlockSource(loaded.model)
    sizes = source_sizes(source)
    texts = [prompt_tokens(text_of(look), loaded.tokenizer, look.tokens, look.bos) for look in looks]
    found = token_losses(source, {name: plan_of(turn, sizes) for name, (turn, _) in wanted.items()}, spec, texts, say)
    for name, (_, files) in wanted.items():
        for file, loss in zip(files, found[name], strict=True):
            write_atomically(file, partial(_save, loss))


def _save(loss: TokenLoss, target: Path) -> None:
    with target.open("wb") as file:
        np.save(file, np.stack([loss.reference, loss.quantized, loss.kl]))


def _file(path: Path, turn: Turn, spec: QuantSpec) -> Path:
    """Where the losses of a text under a turn are kept. The capture's name follows the weights, the text and how it was cut."""
    changed = Path(turn.file).stat().st_mtime_ns if turn.file and Path(turn.file).is_file() else 0
    key = {"capture": path.stem, "method": turn.method, "seed": turn.seed, "slots": [str(s) for s in turn.slots], "file": turn.file,
           "changed": changed, "spec": to_mapping(spec), "rotviz": rotviz.__version__}
    return home() / "losses" / f"{fingerprint(key)}.npy"


def _read(file: Path) -> TokenLoss:
    return TokenLoss(*np.load(file, allow_pickle=False))


def too_long(capture: Capture) -> bool:
    """Whether a text has more tokens than losses are measured for."""
    return len(capture.tokens) > LONGEST


# Words


def sinks(tokens: Sequence[str], massive: Sequence[PersistentToken]) -> str:
    """`token 0 “Summer” and token 3 “.”`, or that there is none; Markdown."""
    names = [token_words(i, tokens[i]) for i in dict.fromkeys(m.index for m in massive)]
    if not names:
        return "no massive token"
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def moved(before: tuple[Sequence[str], Sequence[PersistentToken]], after: tuple[Sequence[str], Sequence[PersistentToken]]) -> str:
    """How the change moved the sinks, in a sentence; Markdown."""
    named = [{f"{m.index} {tokens[m.index]}" for m in massive} for tokens, massive in (before, after)]
    if named[0] == named[1]:
        return f"The change leaves the sinks where they were: {sinks(*after)}."
    return f"The sinks move. Before: **{sinks(*before)}**. After: **{sinks(*after)}**."


def served(best: np.ndarray, names: Sequence[str]) -> str:
    """`hadamard serves 300 tokens best, orthogonal 150`; Markdown."""
    counts = sorted(((int((best == i).sum()), name) for i, name in enumerate(names)), reverse=True)
    (most, first), rest = counts[0], counts[1:]
    others = "".join(f", {plain(name)} {wins}" for wins, name in rest)
    return f"**{plain(first)}** serves {count(most, 'token')} best{others}."


def worst(tokens: Sequence[str], values: np.ndarray) -> str:
    """`token 5 “.” (0.031)`; Markdown."""
    at = int(np.nanargmax(values))
    return f"{token_words(at, visible(tokens[at]))} ({number_words(float(values[at]))})"
