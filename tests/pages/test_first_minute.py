"""The first minute: stored results that agree with the raw ones, drawn before torch is there; and the guided tour."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from streamlit.testing.v1 import AppTest
from test_explore import APP, checked, opened, specs, widget, words

from rotviz.pipeline.recipe import Recipe
from rotviz.ui.first_minute import comparison_figure, headline, provenance, stored, stream_figure
from rotviz.ui.recompute import learning_recipe, measuring_recipe
from rotviz.ui.tour import STEPS, link_to

ROOT = Path(__file__).parents[2]


def distilled():
    """What the benchmark script makes of the committed results."""
    folder = ROOT / "benchmarks"
    spec = importlib.util.spec_from_file_location("first_minute_benchmark", folder / "first_minute.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        spec.loader.exec_module(module)
        return module.distilled()


def test_stored_numbers_are_those_of_the_raw_results():
    """Every stored number is among them; seeds that were measured since may be missing, and the date is that of the storing."""
    found, raw = stored(), json.loads(json.dumps(distilled()))
    by_seed = {row["method"]: dict(zip(row["seeds"], row["perplexity"], strict=True)) for row in raw["comparison"]["rows"]}
    for row in found["comparison"]["rows"]:
        assert row["perplexity"] == [by_seed[row["method"]][seed] for seed in row["seeds"]] and 0 in row["seeds"]
    same = ("float", "tokens", "protocol", "recipe")
    assert {key: found["comparison"][key] for key in same} == {key: raw["comparison"][key] for key in same}
    assert all(found["massive"][key] == raw["massive"][key] for key in ("errors", "token", "block", "site"))
    assert len(found["stream"]["top"]) == len(found["stream"]["median"]) == len(found["stream"]["where"]) == 30
    token = found["massive"]["token"]
    largest = found["stream"]["top"][token["block"]][0]
    assert abs(largest / abs(token["value"]) - 1) < 1e-3, "the stream and the massive token were measured on different things"


def test_every_part_says_when_and_on_what_it_was_measured():
    for part in ("comparison", "massive", "stream"):
        assert stored()[part]["date"].startswith("20") and stored()[part]["machine"] and stored()[part]["versions"]["torch"]
    said = provenance(stored())
    assert stored()["comparison"]["date"] in said and "not of this machine" in said and "6,141 scored" in said


def test_figures_are_small_and_described():
    for drawing in (comparison_figure(), stream_figure()):
        assert drawing.to_json_size() < 100_000 and any(c.isdigit() for c in drawing.alt)
    assert all(words in headline(stored()) for words in ("22.73", "4,051", "38.84", "34.47", "13,358 times", "5.6 times"))


def test_first_figures_stand_before_torch_is_imported():
    """All that the first page imports until they are drawn."""
    script = ("import sys\nimport streamlit\nfrom rotviz.ui.frame import run\nfrom rotviz.ui.first_minute import comparison_figure, stream_figure\n"
              "comparison_figure(), stream_figure()\nheavy = {'torch', 'transformers', 'datasets', 'scipy'} & set(sys.modules)\n"
              "assert not heavy, heavy")
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr


def test_overview_shows_stored_figures_first_and_says_what_they_are():
    at = opened("overview")
    assert len(specs(at)) == 4 and "perplexity" in words(at) and "Stored results" in words(at)
    assert "Your model and text: tiny\\-llama" in at.subheader[0].value


def test_stored_figures_stand_even_where_the_model_is_unknown():
    at = AppTest.from_file(str(APP), default_timeout=60)
    at.query_params["m"] = "no-such-model"
    at.run()
    assert len(specs(at)) == 2 and len(at.error) == 1 and not at.exception


def test_recomputing_queues_the_same_recipes(monkeypatch):
    queued = []
    monkeypatch.setattr("rotviz.ui.accumulated.submit", lambda recipe: queued.append(recipe))
    assert "redo-queue" not in {b.key for b in opened("overview").button}
    at = opened("overview", redo="true")
    at.button(key="redo-queue").click().run()
    checked(at)
    comparison = stored()["comparison"]
    assert [r.rotation.method for r in queued] == ["peak", "none", "orthogonal", "hadamard"]
    raw = json.loads((ROOT / "benchmarks" / "results" / "learned_rotations.json").read_text())["runs"]
    assert queued[3].fingerprint == Recipe.from_dict(raw["W16A4 hadamard 0 3"]["recipe"]).fingerprint
    assert queued[0] == learning_recipe(comparison, "peak")
    assert (queued[0].text.length, queued[0].text.windows, queued[0].text.samples) == (512, 1, 16)
    table = next(d.value for d in at.dataframe if "rotation" in d.value)
    assert list(table["rotation"]) == ["none", "orthogonal", "hadamard", "peak"] and table["stored, seed 0"][3] == pytest.approx(33.9676)
    assert measuring_recipe(comparison, "peak", "/x.safetensors").rotation.load == "/x.safetensors"


# The tour


@pytest.mark.parametrize("name", STEPS)
def test_link_of_a_step_opens_its_page_with_everything_chosen(name):
    step, link = STEPS[name], urlsplit(link_to(name))
    query = {key: values[0] if len(values) == 1 else values for key, values in parse_qs(link.query).items()}
    assert link.path == step.page and query["tour"] == name
    at = opened(step.page, **{**query, "m": "tiny-llama", "n": "32", "b": "1"} if step.page != "evaluate" else {**query, "m": "tiny-llama"})
    assert f"Step {name} of 3: {step.title}" in words(at) and step.look in words(at)
    for key, value in step.choices.items():
        if key not in ("m", "n", "b"):
            found = widget(at, key).value
            assert str(found).lower() in (value, f"['{value.lower()}']"), key


def test_tour_invites_leads_on_and_can_be_put_away():
    at = opened("overview")
    assert "New here?" in words(at) and all(link_to(name).replace("&", "&amp;") in words(at) for name in STEPS)
    at.button_group(key="tour").set_value("2").run()
    assert "Step 2 of 3" in words(checked(at)) and "New here?" not in words(at) and "Open step 2" in words(at)
    at.button_group(key="tour").set_value("off").run()
    assert "The tour is off" in words(checked(at)) and "Step" not in words(at)
    at.switch_page("pages/outliers.py").run()
    assert "tour" not in {w.key for w in checked(at).button_group}
    at.switch_page("pages/overview.py").run()
    assert at.button_group(key="tour").value == "off"
