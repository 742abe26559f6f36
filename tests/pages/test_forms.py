"""Forms made from configurations: every setting has a widget, what comes back is checked, and a method's own settings need no page."""

import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from streamlit.testing.v1 import AppTest

from rotviz.config import setting
from rotviz.errors import BadInput, RotvizError
from rotviz.pipeline.recipe import Recipe
from rotviz.ui.forms import PRESETS, preset_recipes, recipe_from_bytes

TEXT = {"evaluation": "pydoc", "windows": 2, "length": 32}


@dataclass(frozen=True)
class Every:
    """A setting of every kind."""

    flag: bool = setting(True, "a switch")
    few: str = setting("b", "one of few", choices=("a", "b", "c"))
    many: int = setting(4, "one of many", choices=(2, 3, 4, 5, 6, 7, 8, 16))
    count: int = setting(3, "a whole number", minimum=1, maximum=9)
    share: float = setting(0.5, "a number", minimum=0.0, maximum=1.0)
    perhaps: int | None = setting(None, "a whole number or nothing")
    clip: float | str = setting("mse", "a word or a number")
    several: tuple[str, ...] = setting(("x", "y"), "some of these", choices=("x", "y", "z"))
    name: str = setting("tiny", "text")


def _form_app(cls: type) -> None:
    import streamlit as st

    from rotviz.ui.forms import form

    st.session_state["made"] = form(cls, "f", {"count": 5})


def _recipe_app() -> None:
    import streamlit as st

    from rotviz.ui.forms import recipe_form

    st.session_state["made"] = recipe_form("r", {"model": "tiny-llama", "text": {"evaluation": "pydoc"}}, skip=("model", "text.evaluation"))


def _run(app: Callable[..., None], *args: object) -> AppTest:
    at = AppTest.from_function(app, default_timeout=60, args=args).run()
    assert not at.exception
    return at


def test_a_form_gives_the_defaults_and_the_values_it_starts_with() -> None:
    assert _run(_form_app, Every).session_state["made"] == Every(count=5)


def test_each_widget_changes_its_setting() -> None:
    at = _run(_form_app, Every)
    at.toggle(key="f.flag").set_value(False)
    at.button_group(key="f.few").set_value("c")
    at.selectbox(key="f.many").set_value(16)
    at.number_input(key="f.count").set_value(7)
    at.number_input(key="f.share").set_value(0.25)
    at.number_input(key="f.perhaps").set_value(12)
    at.button_group(key="f.several").set_value(["z"])
    at.text_input(key="f.name").set_value("huge")
    at.button_group(key="f.clip").set_value("a number")
    at.run()
    assert at.session_state["made"] == Every(False, "c", 16, 7, 0.25, 12, 0.9, ("z",), "huge")


def test_a_recipe_form_is_the_default_recipe_with_what_the_page_chose() -> None:
    made = _run(_recipe_app).session_state["made"]
    assert made == Recipe.from_dict({"model": "tiny-llama", "text": {"evaluation": "pydoc"}})


def test_a_methods_own_settings_are_in_the_form() -> None:
    at = _run(_recipe_app)
    at.toggle(key="r.rotation.hadamard.randomize").set_value(False)
    at.number_input(key="r.weights.group").set_value(16)
    at.button_group(key="r.activations.clip").set_value("none")
    at.run()
    made = at.session_state["made"]
    assert (made.rotation_settings.randomize, made.weights.group, made.activations.clip) == (False, 16, "none")
    at.selectbox(key="r.rotation.method").set_value("none").run()
    assert at.session_state["made"].slots == ()
    assert not [t for t in at.toggle if t.key == "r.rotation.hadamard.randomize"]


def test_a_list_of_what_is_kept_is_typed_in() -> None:
    at = _run(_recipe_app)
    at.selectbox(key="r.allocation.method").set_value("listed").run()
    assert "keep is empty" in at.error[0].value
    at.text_input(key="r.allocation.listed.keep").set_value("7.down, 11").run()
    made = at.session_state["made"]
    assert made.allocation_settings.keep == ("7.down", "11") and made.allocation.method == "listed"


def test_presets_are_methods_times_bits_times_seeds_and_no_rotation_needs_one_seed() -> None:
    made = preset_recipes({"none": ["W4A4"], "hadamard": list(PRESETS)}, [0, 1], {"model": "tiny-llama", "text": TEXT})
    assert len(made) == len({r.fingerprint for r in made}) == 1 + 2 * len(PRESETS)
    assert {r.bits_title for r in made} == {"W16A4KV16", "W4A16KV16", "W4A8KV16", "W4A4KV16", "W4A4KV4"}
    assert len({r.title for r in made}) == 1 + len(PRESETS)


def test_a_recipe_file_comes_back_as_it_was_written() -> None:
    recipe = Recipe.from_dict({"model": "tiny-llama", "seed": 3, "kv": {"bits": 4}})
    assert recipe_from_bytes(recipe.to_toml().encode(), "a.toml") == recipe
    assert recipe_from_bytes(json.dumps(recipe.to_dict()).encode(), "a.json") == recipe


@pytest.mark.parametrize(("data", "name", "words"), [
    (b"model = ", "a.toml", "not valid TOML"), (b"{", "a.json", "not valid JSON"), (b"[1]", "a.json", "holds no recipe"),
    (b"wieghts = 1", "a.toml", "weights"), (b"[weights]\nbits = 17", "a.toml", "bits"), (b"\x00\x01", "a.toml", "binary"),
    (b"", "a.toml", "empty"), (b"[kv]\nbits = 0", "a.toml", "bits"),
])
def test_a_bad_recipe_file_is_refused_in_words(data: bytes, name: str, words: str) -> None:
    with pytest.raises(RotvizError, match=words):
        recipe_from_bytes(data, name)
    assert issubclass(BadInput, RotvizError)
