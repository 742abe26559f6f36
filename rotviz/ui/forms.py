"""Forms made from configurations: each setting of a class becomes the widget that fits it, so that a new method has a form at once.

    bool                      a toggle
    a choice among few        a segmented control; among many, a select box
    int, float                a number box with the setting's limits
    float | str (clip)        a select box of the words and "a number", with a number box below
    tuple of choices (slots)  pills, several at a time
    anything else             a line of text

What comes back has been through rotviz.config, like a recipe file and the command line's flags: one check for all doors.
"""

import hashlib
import json
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import streamlit as st

from rotviz.allocation import ALLOCATIONS
from rotviz.config import Setting, from_mapping, settings_of
from rotviz.errors import BadInput, RotvizError
from rotviz.home import home, write_atomically
from rotviz.pipeline.recipe import Recipe
from rotviz.quantizers import QUANTIZERS
from rotviz.rotations import ROTATIONS
from rotviz.texts import text_from_bytes
from rotviz.types import SLOT_WORDS

C = TypeVar("C")

FEW, SHORT = 5, 12  # so many choices of so many letters fit beside each other
ROOM = 24
"""Letters of choices, with what stands around them, that a quarter of the page has room for."""
A_NUMBER = "a number"
CLIP_WORDS = ("none", "mse")
TEXTS = {"pydoc": "Python documentation (embedded)", "wikitext2:test": "WikiText-2, test", "wikitext2:validation": "WikiText-2, validation",
         "c4:validation": "C4, validation", "file": "a text file"}
SECTIONS = {"rotation": "Rotation", "scaling": "Scaling", "weights": "Weights", "allocation": "Mixed precision", "activations": "Activations",
            "kv": "KV cache", "text": "Text", "images": "Images", "": "Run"}
METHODS = {"rotation": ROTATIONS, "weights": QUANTIZERS, "allocation": ALLOCATIONS}
OFF = ("rotation", "scaling", "weights", "allocation")
"""Sections that the method none switches off: their other keys then determine nothing and are not shown."""
SCALING_WORDS = "SmoothQuant: part of each channel's range moves from the activations into the weights, folded into the norms."

PRESETS: dict[str, dict[str, Any]] = {
    "W16A4": {"weights": {"method": "none"}, "activations": {"bits": 4}},
    "W4A16": {"weights": {"bits": 4}, "activations": {"bits": 16}},
    "W4A8": {"weights": {"bits": 4}, "activations": {"bits": 8}},
    "W4A4": {"weights": {"bits": 4}, "activations": {"bits": 4}},
    "W4A4KV4": {"weights": {"bits": 4}, "activations": {"bits": 4}, "kv": {"bits": 4}},
    "W4A4KV4 g16": {"weights": {"bits": 4, "group": 32, "symmetric": False, "clip": "none", "format": "int_min"},
                    "activations": {"bits": 4, "group": 16}, "kv": {"bits": 4, "group": 16, "clip": 1.0}},
}
"""The usual columns of the papers' tables, and what came nearest to the float SmolLM2-135M (benchmarks/best_w4a4kv4.py): 16 numbers a scale for what
flows, 32 a step and a float minimum for weights. What is not said here is a recipe's default."""


def form(cls: type[C], key: str, values: Mapping[str, Any] | None = None, columns: int = 2, where: str = "") -> C | None:
    """Draw a configuration's settings and return the configuration, or None below a message that says what is wrong.

    Args:
        cls: a configuration class.
        key: begins the key of every widget; the values stay for the session.
        values: what the widgets start with instead of the defaults.
        columns: widgets side by side.
        where: the table's dotted name, for messages.
    """
    try:
        return from_mapping(cls, plain_form(cls, key, values, columns), where)
    except RotvizError as error:
        st.error(str(error))
        return None


def recipe_form(key: str, values: Mapping[str, Any] | None = None, skip: Sequence[str] = ()) -> Recipe | None:
    """The whole recipe as a form, a section below the other, each with its method's own settings.

    Args:
        key: begins the key of every widget.
        values: plain nested values to start with; those of `skip` are taken over as they are.
        skip: dotted keys that are chosen elsewhere on the page ("model", "text.evaluation").
    """
    values = values or {}
    tables = {s.name: s.type for s in settings_of(Recipe) if is_dataclass(s.type)}
    plain: dict[str, Any] = {}
    for section, title in SECTIONS.items():
        cls, start = tables.get(section, Recipe), values.get(section, {}) if section else values
        if all(_dotted(section, s.name) in skip for s in _fields(cls)):
            continue
        st.markdown(f"**{title}**")
        hidden = tuple(s.name for s in _fields(cls) if _dotted(section, s.name) in skip)
        if section in OFF:
            found = _switched_form(section, cls, _dotted(key, section), start, hidden)
        else:
            found = plain_form(cls, _dotted(key, section), start, skip=hidden)
        if found.get("method") in METHODS.get(section, ()):
            found |= _method_form(section, found["method"], key, start)
        plain |= {section: found} if section else found
    try:
        return Recipe.from_dict(_kept(values, skip, plain))
    except RotvizError as error:
        st.error(str(error))
        return None


def plain_form(cls: type, key: str, values: Mapping[str, Any] | None = None, columns: int = 2, skip: Sequence[str] = (),
               link: bool = False) -> dict[str, Any]:
    """The widgets alone; their values by name, unchecked. With `link` they stand in the address bar, otherwise they stay for the session.

    Where more than two stand side by side, those with many words in a row come last and get twice the room.
    """
    shown, found = [s for s in _fields(cls) if s.name not in skip], {}
    wide = [s for s in shown if columns > 2 and _is_wide(s)]
    narrow = [s for s in shown if s not in wide]
    rows = [(size, part[i:i + size]) for size, part in ((columns, narrow), (max(1, columns // 2), wide)) for i in range(0, len(part), size)]
    for size, row in rows:
        for cell, setting in zip(st.columns(size, vertical_alignment="bottom"), row):
            with cell:
                found[setting.name] = widget(setting, f"{key}.{setting.name}", (values or {}).get(setting.name, setting.default), link)
    return found


def widget(setting: Setting, key: str, value: Any, link: bool = False) -> Any:
    """The widget that fits a setting; its value."""
    kind, union = setting.type, typing.get_origin(setting.type) in (typing.Union, types.UnionType)
    parts = typing.get_args(kind) if union else (kind,)
    common = {"key": key, "help": setting.help} | ({"bind": "query-params"} if link else {"persist_state": "session"})
    label = setting.label[:1].upper() + setting.label[1:]
    if kind is bool:
        return st.toggle(label, bool(value), **common)
    if typing.get_origin(kind) is tuple:
        return _several(setting, label, value, common)
    if setting.choices is not None:
        return _one_of(setting.choices, label, value, common)
    if union and str in parts and (int in parts or float in parts):
        return _word_or_number(setting, label, value, common)
    if int in parts or float in parts:
        return _number(setting, label, value, common, whole=float not in parts)
    return st.text_input(label, "" if value is None else str(value), **common) or (None if type(None) in parts else "")


def uploaded_recipe(key: str) -> Recipe | None:
    """A recipe from an uploaded .toml or .json file, checked; None before there is one and below a message that says what is wrong."""
    file = st.file_uploader("Recipe file", type=["toml", "json"], key=key, help="As `rotviz run` takes it and as the page Runs writes it.")
    if file is None:
        return None
    try:
        return recipe_from_bytes(file.getvalue(), file.name)
    except RotvizError as error:
        st.error(str(error))
        return None


def recipe_from_bytes(data: bytes, name: str) -> Recipe:
    """The recipe in a file's bytes.

    Raises:
        BadInput: it is not text, not TOML or JSON, or not a recipe; names the file and what is wrong.
    """
    text, kind = text_from_bytes(data, name), "JSON" if name.endswith(".json") else "TOML"
    try:
        plain = json.loads(text) if kind == "JSON" else tomllib.loads(text)
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"{name} is not valid {kind}: {error}") from error
    if not isinstance(plain, dict):
        raise BadInput(f"{name} holds no recipe: a recipe is a table of keys, as DESIGN.md section 4 lists them")
    return Recipe.from_dict(plain)


def evaluation_text(key: str) -> str | None:
    """The text that perplexity is measured on, a corpus or an uploaded file; None below a message that says what is missing."""
    return pick_text("Evaluation text", key, "Perplexities on different texts, or on different cuts of one text, cannot be compared.")


def pick_text(label: str, key: str, remark: str, default: str = "pydoc") -> str | None:
    """A corpus or an uploaded file; None below a message that says what is missing."""
    chosen = st.selectbox(label, list(TEXTS), list(TEXTS).index(default), key=key, bind="query-params",
                          help="; ".join(f"{name}: {words}" for name, words in TEXTS.items()) + f". {remark}")
    if chosen != "file":
        return chosen
    file = st.file_uploader("Text file", type=["txt", "md"], key=f"{key}-file", help="UTF-8, up to 20 MB.")
    try:
        if file is not None:
            text = text_from_bytes(file.getvalue(), file.name)
            mark = hashlib.sha256(text.encode()).hexdigest()[:16]
            write_atomically(_text_path(mark), lambda path: path.write_text(text, encoding="utf-8"))
            st.query_params[f"{key}f"] = mark  # a link then opens the same text on this machine
    except RotvizError as error:
        st.error(str(error))
        return None
    mark = st.query_params.get(f"{key}f", "")
    return str(_text_path(mark)) if mark.isalnum() and _text_path(mark).is_file() else None


def _text_path(mark: str) -> Path:
    return home() / "texts" / f"{mark}.txt"


def preset_recipes(chosen: Mapping[str, Sequence[str]], seeds: Sequence[int], base: Mapping[str, Any]) -> list[Recipe]:
    """A recipe for every chosen (method, preset, seed).

    Without a rotation nothing in a preset is random, so that the first seed stands for all.

    Args:
        chosen: rotation method -> names of PRESETS.
        seeds: seeds of the random methods.
        base: the rest of the recipe: model and text.
    """
    return [Recipe.from_dict({**base, **PRESETS[name], "rotation": {"method": method}, "seed": seed})
            for method, names in chosen.items() for name in PRESETS if name in names
            for seed in (seeds[:1] if method == "none" else seeds)]


def _fields(cls: type) -> list[Setting]:
    return [s for s in settings_of(cls) if s.help and not is_dataclass(s.type)]


def _dotted(section: str, name: str) -> str:
    return f"{section}.{name}" if section and name else section or name


def _switched_form(section: str, cls: type, key: str, start: Mapping[str, Any], hidden: Sequence[str]) -> dict[str, Any]:
    """The method of a section, and the section's other keys only where it is not none."""
    others = tuple(s.name for s in _fields(cls) if s.name != "method")
    found = plain_form(cls, key, start, columns=1, skip=(*others, *hidden))
    if found["method"] == "none":
        return found
    if section == "scaling":
        st.caption(SCALING_WORDS)
    return found | plain_form(cls, key, start, skip=("method", *hidden))


def _method_form(section: str, method: str, key: str, start: Mapping[str, Any]) -> dict[str, Any]:
    """The chosen method in a sentence and its own settings, as the table below its section."""
    cls = METHODS[section][method]
    slots = " Slots: " + "; ".join(f"{slot} {words}" for slot, words in SLOT_WORDS.items()) + "."
    st.caption(cls.summary + (slots if section == "rotation" and method != "none" else ""))
    if not _fields(cls):
        return {}
    with st.expander(f"Settings of {method}"):
        return {method: plain_form(cls, f"{key}.{section}.{method}", start.get(method))}


def _kept(values: Mapping[str, Any], skip: Sequence[str], plain: dict[str, Any]) -> dict[str, Any]:
    """The form's values with those that are chosen elsewhere put in."""
    for dotted in skip:
        section, _, name = dotted.rpartition(".")
        source = values.get(section, {}) if section else values
        if name in source:
            (plain.setdefault(section, {}) if section else plain)[name] = source[name]
    return plain


def _is_wide(setting: Setting) -> bool:
    """Whether all choices are drawn side by side, and are too many words for a quarter of the page."""
    choices = [str(c) for c in setting.choices or ()]
    several = typing.get_origin(setting.type) is tuple
    return (several or len(choices) <= FEW) and sum(len(c) + 3 for c in choices) > ROOM


def _several(setting: Setting, label: str, value: Any, common: dict[str, Any]) -> list[Any]:
    if setting.choices is not None:
        return st.pills(label, setting.choices, selection_mode="multi", default=list(value or ()), **common)
    text = st.text_input(label, ", ".join(map(str, value or ())), placeholder="values with commas between them", **common)
    return [part.strip() for part in text.split(",") if part.strip()]


def _one_of(choices: Sequence[Any], label: str, value: Any, common: dict[str, Any]) -> Any:
    start = value if value in choices else choices[0]
    if len(choices) <= FEW and all(len(str(c)) <= SHORT for c in choices):
        return st.segmented_control(label, choices, default=start, required=True, **common)
    return st.selectbox(label, choices, index=list(choices).index(start), **common)


def _word_or_number(setting: Setting, label: str, value: Any, common: dict[str, Any]) -> Any:
    """A word such as mse, or a number: the number's box is there when it is wanted."""
    words = CLIP_WORDS if setting.name == "clip" else ()
    if not words:
        return st.text_input(label, str(value), **common)
    is_number = not isinstance(value, str)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        kind = st.segmented_control(label, [*words, A_NUMBER], default=A_NUMBER if is_number else value, required=True, **common)
        if kind != A_NUMBER:
            return kind
        return st.number_input(f"{label}: share of the range", 0.05, 1.0, float(value) if is_number else 0.9, 0.05, width=120,
                               key=f"{common['key']}.number", persist_state="session", label_visibility="collapsed")


def _number(setting: Setting, label: str, value: Any, common: dict[str, Any], whole: bool) -> Any:
    kind = int if whole else float
    low, high = (None if limit is None else kind(limit) for limit in (setting.minimum, setting.maximum))
    start = None if value is None else kind(value)
    return st.number_input(label, low, high, start, step=1 if whole else None, format=None if whole else "%g", **common)
