"""Pages and vision models: Evaluate and Runs measure them in their own words, the doctor examines them, pages that need a text refuse them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from rotviz.jobs import supervise
from rotviz.jobs.execute import execute, execute_now
from rotviz.pipeline.recipe import Recipe
from rotviz.store.runs import Status, Store

ROOT = Path(__file__).resolve().parents[2]
NEED_TEXT = ("overview", "outliers", "massive_tokens", "microscope", "figures", "verdict", "hurts", "budget", "rotate", "lens", "learn", "lessons",
             "weights")


def _recipe(**more: object) -> Recipe:
    return Recipe.from_dict({"model": "tiny-vit", "images": {"count": 30}, **more})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with finished runs of two vision protocols and of a language model; no worker is started in it."""
    home = tmp_path_factory.mktemp("vision-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROTVIZ_HOME", str(home))
        patch.setattr(supervise, "ensure_worker", lambda *_: False)
        store = Store()
        for recipe in (_recipe(rotation={"method": "none"}, weights={"bits": 2}), _recipe(), _recipe(images={"count": 20}),
                       Recipe.from_dict({"model": "tiny-llama", "text": {"evaluation": "pydoc", "windows": 1, "length": 32}})):
            execute_now(store, recipe)
        yield home


def _page(name: str, **query: str) -> AppTest:
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    for key, value in query.items():
        at.query_params[key] = value
    at.switch_page(f"pages/{name}.py").run()
    assert not at.exception, at.exception[0].message
    return at


def _words(at: AppTest) -> str:
    return " ".join(str(e.value) for kind in (at.markdown, at.caption, at.info, at.warning, at.error, at.success, at.subheader) for e in kind)


def _figures(at: AppTest) -> str:
    return " ".join(json.dumps(json.loads(chart.proto.spec)) for chart in at.get("plotly_chart"))


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("name", NEED_TEXT)
def test_pages_that_need_a_text_refuse_in_words(name: str) -> None:
    at = _page(name, m="tiny-vit")
    assert len(at.error) == 1 and at.error[0].value.startswith("tiny-vit reads images, and this page needs a model that reads text")
    at.selectbox(key="m").set_value("tiny-llama")  # the way back is on the page


@pytest.mark.usefixtures("home")
def test_the_doctor_examines_a_vision_model() -> None:
    words = _words(_page("doctor", m="tiny-vit"))
    assert "keep the logits" in words and "a few drawn images" in words and "ViTForImageClassification" in words


@pytest.mark.usefixtures("home")
def test_evaluate_asks_for_images_and_queues_recipes(tmp_path: Path) -> None:
    at = _page("evaluate", m="tiny-vit", ic="30")
    assert "top-1 agreement" in _words(at) and "perplexity" not in _words(at).lower()
    assert {str(g.key) for g in at.button_group} >= {"r-none", "r-hadamard"} and "r-dartquant" not in {str(g.key) for g in at.button_group}
    for method in ("none", "orthogonal"):
        at.button_group(key=f"r-{method}").set_value([])
    at.button_group(key="r-hadamard").set_value(["W4A4", "W4A8"]).run()
    assert at.button(key="go").label == "Put 1 run on the queue"  # the other has a result
    at.button(key="go").click().run()
    store = Store()
    queued = store.list(status=Status.QUEUED)
    assert len(queued) == 1 and queued[0].recipe["images"]["count"] == 30
    assert execute(store, queued[0].run_id)["classification"]["images"] == 30
    store.delete(queued[0].run_id)
    at.number_input(key="ic").set_value(25).run()
    assert at.button(key="go").label == "Put 2 runs on the queue"
    at = _page("evaluate", m="tiny-vit", ei=str(tmp_path / "nowhere"))
    assert "no folder of images" in at.error[0].value and at.button(key="go").disabled


@pytest.mark.usefixtures("home")
def test_the_free_choice_shows_images_and_no_text() -> None:
    def keys(model: str) -> set[str]:
        at = _page("evaluate", m=model, ask="Free choice")
        return {str(w.key) for kind in (at.text_input, at.number_input, at.selectbox) for w in kind}

    vision, text = keys("tiny-vit"), keys("tiny-llama")
    assert {"free.images.calibration", "free.images.samples"} <= vision and not any(key.startswith("free.text.") for key in vision)
    assert {"free.text.calibration", "free.text.samples"} <= text and not any(key.startswith("free.images.") for key in text)


@pytest.mark.usefixtures("home")
def test_evaluate_shows_results_of_one_protocol() -> None:
    at = _page("evaluate", m="tiny-vit")
    assert at.selectbox(key="pr").options == ["shapes:test, 20 images", "shapes:test, 30 images"]
    at.selectbox(key="pr").set_value("shapes:test, 30 images").run()
    frame = next(f.value for f in at.dataframe if "accuracy" in f.value)
    assert len(frame) == 2 and frame["images"].tolist() == [30, 30] and "perplexity" not in frame
    assert "Float model: accuracy" in _words(at) and "an image" in _words(at)
    for tab, said in (("Agreement", "images in another class"), ("Divergence", "nats an image"), ("Cost and quality", "KL, nats an image"),
                      ("Error by block", "block")):
        shown = _page("evaluate", m="tiny-vit", **{"pr": "shapes:test, 30 images", "fig-images": tab})
        assert said in _figures(shown), tab


@pytest.mark.usefixtures("home")
def test_runs_opens_one_and_compares_several() -> None:
    ids = [r.run_id for r in Store().list(status=Status.DONE, model="tiny-vit")]
    at = _page("runs", run=ids[1])
    labels = {m.label: m.value for m in at.metric}
    assert set(labels) == {"Top-1 agreement", "KL, nats an image", "Accuracy", "Float accuracy"} and labels["Accuracy"].endswith("%")
    assert "shapes test" in _words(at) and "its weights are random" in _words(at)
    for part in ("Errors", "Recipe", "Proof", "Weights", "Time and place"):
        _page("runs", run=ids[1], part=part)
    several = _page("runs", runs=",".join(ids[1:3]))
    assert "in another class" in _figures(several) and "nats an image" in _figures(several) and "must not be compared" not in _words(several)
    assert "must not be compared" in _words(_page("runs", runs=",".join(ids[:2])))
    mixed = _page("runs", runs=",".join([ids[0], Store().list(model="tiny-llama")[0].run_id]))
    assert "their numbers must not be compared" in _words(mixed)
    assert "Two finished runs are needed" in _words(_page("compare", runs=",".join(ids[:2])))
    both = next(f.value for f in mixed.dataframe if "recipe" in f.value)
    assert {"perplexity", "accuracy"} <= set(both.columns)


@pytest.mark.usefixtures("home")
def test_compare_is_for_language_models() -> None:
    again = execute_now(Store(), Recipe.from_dict({"model": "tiny-llama", "seed": 1, "text": {"evaluation": "pydoc", "windows": 1, "length": 32}}))
    vision = next(r for r in Store().list() if r.model == "tiny-vit")
    assert "Compare is for language models" in _words(_page("compare", runs=vision.run_id))
    Store().delete(again["run_id"])


@pytest.mark.usefixtures("home")
def test_a_run_without_labels_says_that_accuracy_is_not_known(tmp_path: Path) -> None:
    from PIL import Image

    for i in range(2):
        Image.effect_noise((40, 40), 60 + i).convert("RGB").save(tmp_path / f"{i}.png")
    store = Store()
    run_id = execute_now(store, _recipe(images={"evaluation": str(tmp_path), "count": 0}))["run_id"]
    at = _page("runs", run=run_id)
    assert {m.label: m.value for m in at.metric}["Accuracy"] == "–" and "accuracy is not known" in _words(at)
    assert "Accuracy is not known" in _words(_page("evaluate", m="tiny-vit"))
    store.delete(run_id)
