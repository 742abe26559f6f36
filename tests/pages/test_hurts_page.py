"""The pages Which layer hurts and Bit budget on a tiny model: every control changes something, and the way from the question to the mend works."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from streamlit.testing.v1 import AppTest
from streamlit.testing.v1.element_tree import Multiselect
from test_explore import checked, seen, specs, widget, words

from rotviz.cli import main
from rotviz.jobs import supervise
from rotviz.jobs.execute import execute
from rotviz.jobs.queue import cancel
from rotviz.pipeline.budget import Calibration, Measured, listed_recipe
from rotviz.pipeline.preview import preview
from rotviz.pipeline.recipe import Recipe, load_recipe
from rotviz.store.runs import Status, Store
from rotviz.ui.sensitivity import float_loss

APP = Path(__file__).resolve().parents[2] / "app.py"
QUICK = {"m": "tiny-llama", "hn": "1", "hl": "64", "hclip": "none", "hw": "3"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home of its own; no worker is started in it."""
    folder = tmp_path_factory.mktemp("hurts-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROTVIZ_HOME", str(folder))
        patch.setattr(supervise, "ensure_worker", lambda *_: False)
        yield folder


@pytest.fixture
def store(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The store of that home, emptied afterwards."""
    monkeypatch.setenv("ROTVIZ_HOME", str(home))
    yield Store()
    for record in Store().list():
        Store().delete(record.run_id)


def opened(page: str, **query: str) -> AppTest:
    at = AppTest.from_file(str(APP), default_timeout=60)
    for key, value in (QUICK | query).items():
        at.query_params[key] = value
    at.switch_page(f"pages/{page}.py")
    return checked(at.run())


def pressed(at: AppTest, key: str) -> AppTest:
    at.button(key=key).click()
    return checked(at.run())


def kept(at: AppTest) -> Multiselect:
    """The box of units that a mend keeps."""
    return next(box for box in at.multiselect if str(box.key).startswith("hkeep-"))


def carried_out(store: Store) -> dict:
    """The one run that waits, done."""
    (record,) = store.list(status=Status.QUEUED)
    return execute(store, record.run_id)


def test_from_the_question_to_the_mend(store: Store) -> None:
    at = opened("hurts", hu="module")
    assert "28 scorings" in words(at) and "MB of hidden states" in words(at), "the cost stands before the start"
    at = pressed(at, "hestimate")
    assert len(specs(at)) == 1 and list(at.dataframe[-1].value.columns) == ["unit", "estimate", "of weights", "of inputs"]
    at = pressed(at, "hmeasure")
    assert "Cancel" in [b.label for b in at.button]
    measured = carried_out(store)
    at = opened("hurts", hu="module")
    assert len(specs(at)) == 3 and "Rank correlation of estimate and measurement" in words(at)
    table = at.dataframe[-1].value
    worst = max(measured["ablation"]["units"], key=lambda row: row["all_but"]["loss_saved"])
    assert table["unit"].iloc[0] == worst["name"] and table["gives back"].iloc[0] == pytest.approx(worst["all_but"]["loss_saved"])
    keep = kept(at)
    assert keep.value[0] == worst["name"]
    at.selectbox(key="hkb").set_value(16)
    at = pressed(checked(at.run()), "hmend")
    mended = carried_out(store)
    assert mended["recipe"]["allocation"]["listed"]["keep"] == keep.value
    assert mended["perplexity"]["quantized"]["value"] < measured["perplexity"]["quantized"]["value"]
    at = opened("hurts", hu="module", hkb="16")
    assert [m.label for m in at.metric] == ["float model", "all quantized", "with these kept"]
    assert float(at.metric[2].value.replace(",", "")) == pytest.approx(mended["perplexity"]["quantized"]["value"], rel=1e-3)
    kept(at).set_value([])
    assert "Name at least one unit" in words(checked(at.run()))


def test_a_stopped_run_is_said_and_can_go_on(store: Store) -> None:
    pressed(opened("hurts"), "hmeasure")
    (record,) = store.list(status=Status.QUEUED)
    cancel(record.run_id)
    at = opened("hurts")
    assert "Cancelled before it began" in words(at)
    pressed(at, f"resume-{record.run_id}")
    assert store.get(record.run_id).status is Status.QUEUED


@pytest.mark.usefixtures("store")
def test_every_control_of_the_question_changes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("rotviz.ui.accumulated.submit", lambda recipe: asked.append(recipe.fingerprint))
    at = pressed(opened("hurts"), "hmeasure")
    for key, value in {"hw": "4", "hclip": "0.9", "hgroup": "16", "hab": "8", "hkv": "4", "hn": 2, "hl": "128", "sa": 3, "slots": ["R1"],
                       "ra": "none", "hu": "module", "hk": "only"}.items():
        widget(at, key).set_value(value)
        at = pressed(checked(at.run()), "hmeasure")
        assert len(set(asked)) == len(asked), key


@pytest.mark.usefixtures("store")
def test_nothing_quantized_is_said_in_words() -> None:
    at = opened("hurts")
    at.selectbox(key="hw").set_value("16")
    at.selectbox(key="hab").set_value("16")
    at.run()
    assert not at.exception and "needs something that is quantized" in at.error[0].value


def test_the_budget_predicts_queues_and_is_checked(store: Store) -> None:
    at = opened("budget", sa="5")
    at = pressed(at, "bestimate")
    assert "no run has checked" in words(at) and len(specs(at)) == 2
    before = seen(at)
    for key, value in (("bb", 3.0), ("bs", "random"), ("bs", "importance")):
        at = _turned(at, key, value)
        assert seen(at) != before
        before = seen(at)
    table = at.dataframe[0].value if "allocation" in at.dataframe[0].value else next(d.value for d in at.dataframe if "allocation" in d.value)
    assert set(table["allocation"]) == {"importance", "uniform", "random", "magnitude"} and table["perplexity"].idxmin() == 0
    pressed(at, "bqueue")
    (record,) = store.list(status=Status.QUEUED)
    result = execute(store, record.run_id)
    assert result["allocation"]["average"] == pytest.approx(table["average"].iloc[0])
    at = opened("budget", sa="5", bb="3.0")
    assert "Measured: perplexity" in at.success[0].value and at.button(key="bqueue").disabled
    lost = result["perplexity"]["quantized"]["value"] > result["perplexity"]["reference"]["value"]  # a random model may gain by rounding
    assert ("to fit the one run" in words(at)) == lost and any("off by" in d.value for d in at.dataframe) == lost


def test_the_predicted_perplexity_is_of_the_asked_text(store: Store) -> None:
    recipe = Recipe.from_dict({"model": "tiny-llama", "text": {"evaluation": "pydoc", "windows": 1, "length": 64}})
    found = SimpleNamespace(loss=5.0, protocol="the estimate's windows")
    for more in ({"windows": 2}, {}):
        assert float_loss(recipe, found, Calibration(runs=tuple(Measured(r.run_id, "", 4, 1, 1, 7.0) for r in store.list())))[0] == 5.0
        text = recipe.to_dict()["text"] | more
        store.create(Recipe.from_dict({**recipe.to_dict(), "text": text}))
    measured = tuple(Measured(r.run_id, "", 4, 1, 1, 6.0 if r.recipe["text"]["windows"] == 1 else 7.0) for r in store.list())
    assert float_loss(recipe, found, Calibration(runs=measured))[0] == 6.0


def _turned(at: AppTest, key: str, value: object) -> AppTest:
    (at.select_slider(key=key) if key == "bb" else at.button_group(key=key)).set_value(value)
    return checked(at.run())


@pytest.mark.usefixtures("store")
def test_a_budget_of_the_page_is_a_recipe(home: Path) -> None:
    recipe = Recipe.from_dict({"model": "tiny-llama", "weights": {"clip": "none"}, "activations": {"bits": 16},
                               "text": {"evaluation": "pydoc", "calibration": "pydoc", "samples": 4, "length": 64, "windows": 1}})
    found = preview(recipe)
    wanted = listed_recipe(recipe, {one.name: 4 if one.block else 3 for one in found.linears})
    assert wanted.to_dict()["allocation"]["listed"]["keep"] == ["1=4"] and wanted.weights.bits == 3


# The command


def test_the_command_ranks_previews_and_writes_the_mend(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--model", "tiny-llama", "--set", "text.length=64", "--set", "weights.clip=none", "--set", "text.windows=2"]
    file = tmp_path / "mended.toml"
    assert main(["hurts", *small, "--unit", "module", "--keep", "2", "--bits", "16", "--to", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    saved = [row["all_but"]["loss_saved"] for row in found["units"]]
    assert found["measured"] and saved == sorted(saved, reverse=True) and store.get(found["run_id"]).status is Status.DONE
    assert load_recipe(file).to_dict() == found["mended"]
    assert found["mended"]["allocation"]["listed"]["keep"] == [r["name"] for r in found["units"][:2]]
    assert main(["hurts", *small, "--preview", "--json"]) == 0
    estimated = json.loads(capsys.readouterr().out)
    assert not estimated["measured"] and {row["name"] for row in estimated["units"]} == {"0", "1"}
    for more in ([], ["--preview"], ["--kind", "only", "--keep", "1"]):
        assert main(["hurts", *small, *more]) == 0
        assert "2 units, the worst first" in capsys.readouterr().out


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(("arguments", "words"), [
    (["--to", "x.toml"], "needs --keep"), (["--set", "weights.method=none", "--set", "activations.bits=16"], "needs something that is quantized"),
    (["--keep", "1", "--bits", "4"], "keeps nothing"), (["--keep", "1", "--set", "allocation.method=importance"], "shares out its bits"),
    (["--set", "weights"], "not KEY=VALUE"), (["--model", "no-such-model"], "no-such-model"),
])
def test_the_command_refuses_in_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str],
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    if "--keep" in arguments:
        monkeypatch.setattr("rotviz.cli.hurts._measured", lambda *_: pytest.fail("measured what is refused afterwards"))
    assert main(["hurts", "--model", "tiny-llama", *arguments]) == 2
    assert words in capsys.readouterr().err.strip().splitlines()[-1]
