"""The page Learn a rotation on rotations that were really learned on a tiny model, and learned rotations on the pages that look at them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from rotviz.jobs import supervise
from rotviz.jobs.execute import execute_now
from rotviz.pipeline.events import Event
from rotviz.pipeline.recipe import Recipe
from rotviz.pipeline.saved import saved_rotations
from rotviz.store.processes import this_process
from rotviz.store.runs import Status, Store

APP = Path(__file__).resolve().parents[2] / "app.py"
TABS = ("Cost and gain", "Massive and ordinary", "Seed lottery", "Before and after", "By token", "Learning")
CEILING = 2_000_000


def recipe(seed: int = 0, method: str = "hadamard", **settings: object) -> Recipe:
    return Recipe.from_dict({
        "model": "tiny-llama", "seed": seed, "rotation": {"method": method, method: settings} if settings else {"method": method},
        "text": {"calibration": "pydoc", "evaluation": "pydoc", "samples": 2, "length": 64, "windows": 1},
        "weights": {"method": "none", "bits": 16}, "activations": {"bits": 4, "symmetric": True, "clip": 0.9}})


@pytest.fixture(scope="module")
def filled_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with two learned rotations and three seeds of the random one; no worker is started in it."""
    home = tmp_path_factory.mktemp("learn-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROTVIZ_HOME", str(home))
        patch.setattr(supervise, "ensure_worker", lambda *_: False)
        for wanted in (recipe(method="peak", steps=4), recipe(method="dfrot", iterations=3), *(recipe(seed) for seed in range(3))):
            execute_now(Store(), wanted)
        yield home


@pytest.fixture
def store(filled_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The store of the filled home; what a test adds to it is removed."""
    monkeypatch.setenv("ROTVIZ_HOME", str(filled_home))
    store = Store()
    before = {r.run_id for r in store.list()}
    yield store
    for record in store.list():
        if record.run_id not in before:
            store.request_cancel(record.run_id)
            if record.status is Status.RUNNING:
                store.mark_cancelled(record.run_id)
            store.delete(record.run_id)


def opened(page: str = "learn", **query: str | list[str]) -> AppTest:
    at = AppTest.from_file(str(APP), default_timeout=60)
    texts = {"lc": "pydoc", "le": "pydoc", "ll": "64", "ln": "2", "lwin": "1"}
    for key, value in ({"m": "tiny-llama", "n": "32", **(texts if page == "learn" else {})} | query).items():
        at.query_params[key] = value
    at.switch_page(f"pages/{page}.py").run()
    return checked(at)


def checked(at: AppTest) -> AppTest:
    assert not at.exception, [e.value for e in at.exception]
    assert not at.error, [e.value for e in at.error]
    return at


def charts(at: AppTest) -> list[dict]:
    specs = [chart.proto.spec for chart in at.get("plotly_chart")]
    assert all(len(spec) < CEILING for spec in specs)
    return [json.loads(spec) for spec in specs]


def words(at: AppTest) -> str:
    return " ".join(str(e.value) for kind in (at.markdown, at.caption, at.info, at.warning) for e in kind)


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(("tab", "figures"), zip(TABS, (0, 1, 2, 6, 1, 5), strict=True))
def test_every_tab_shows_what_was_learned(tab: str, figures: int) -> None:
    at = opened(ltab=tab)
    assert len(charts(at)) == figures
    assert all(chart.proto.alt for chart in at.get("plotly_chart"))


@pytest.mark.usefixtures("store")
def test_cost_and_gain_stand_side_by_side() -> None:
    table = opened().dataframe[0].value.set_index("rotation")
    for saved in saved_rotations("tiny-llama"):
        row = table.loc[saved.title]
        assert row["seconds"] == saved.seconds and row["tokens"] == saved.tokens and row["peak MB"] == saved.peak_memory_mb
        assert row["perplexity"] > 1 and row["KL"] > 0 and row["massive"] > 0
        assert row["ordinary"] != row["ordinary, start"]


@pytest.mark.usefixtures("store")
def test_the_lottery_ends_in_verdicts_with_their_interval() -> None:
    at = opened(ltab="Seed lottery")
    table = at.dataframe[-1].value
    assert {"error, all tokens", "error, massive tokens", "perplexity of the run", "KL of the run"} <= set(table["measure"])
    for _, row in table.iterrows():
        expected = "helps" if row["value"] < row["low"] else "hurts" if row["value"] > row["high"] else "no difference"
        assert row["verdict"] == expected
    assert "one more seed would fall between" in words(at)
    bands = [shape for chart in charts(at) for shape in chart["layout"]["shapes"] if shape.get("fillcolor")]
    assert len(bands) == 2


@pytest.mark.usefixtures("store")
def test_the_number_of_seeds_is_that_of_the_figure() -> None:
    at = opened(ltab="Massive and ordinary", lot="3")
    traces = {t["name"]: len(t["text"]) for t in charts(at)[0]["data"]}
    assert traces == {"orthogonal": 3, "hadamard": 3, "peak": 1, "dfrot": 1}
    at.number_input(key="lot").set_value(5).run()
    assert {t["name"]: len(t["text"]) for t in charts(checked(at))[0]["data"]}["hadamard"] == 5


@pytest.mark.usefixtures("store")
def test_sides_before_and_after_share_their_axes() -> None:
    first = charts(opened(ltab="Before and after"))
    histograms, ribbons, tokens = first[:4:2], first[1:4:2], first[4:]  # column by column, then the massive token's row
    for a, b in (histograms, ribbons, tokens):
        assert a["layout"]["yaxis"]["range"] == b["layout"]["yaxis"]["range"]
    assert charts(opened(ltab="Before and after", lagainst="original")) != first
    assert "R4 is not learned" in words(opened(ltab="Before and after", s="down_in"))


def test_methods_go_on_the_queue_with_their_settings(store: Store) -> None:
    at = opened()
    at.button_group(key="lm").set_value(["peak", "dfrot"])
    at.number_input(key="lh").set_value(2)
    at.number_input(key="lseed").set_value(5).run()
    at.number_input(key="learn.peak.steps").set_value(7).run()
    assert at.button(key="go").label == "Put 2 runs on the queue"  # the two Hadamard seeds have results already
    at.button(key="go").click().run()
    checked(at)
    queued = {r.recipe["rotation"]["method"]: r.recipe for r in store.list(status=Status.QUEUED)}
    assert set(queued) == {"peak", "dfrot"}
    peak = queued["peak"]
    assert (peak["rotation"]["peak"]["steps"], peak["seed"], peak["text"]["samples"], peak["text"]["windows"]) == (7, 5, 2, 1)
    assert (peak["activations"]["symmetric"], peak["activations"]["clip"], peak["weights"]["method"]) == (True, 0.9, "none")


def test_a_saved_rotation_is_a_start(store: Store) -> None:
    peak = next(s for s in saved_rotations("tiny-llama") if s.method == "peak")
    at = opened(lm="dfrot", ls=peak.title, lh="0")
    at.button(key="go").click().run()
    assert store.list(status=Status.QUEUED)[0].recipe["rotation"]["dfrot"]["start"] == str(peak.path)


@pytest.mark.usefixtures("store")
def test_a_bad_setting_becomes_a_message() -> None:
    at = AppTest.from_file(str(APP), default_timeout=60)
    for key, value in {"m": "tiny-llama", "n": "32", "lc": "pydoc", "group": "48"}.items():
        at.query_params[key] = value
    at.switch_page("pages/learn.py").run()
    assert not at.exception
    assert "48" in at.error[0].value


def test_a_learner_at_work_shows_its_curves(store: Store) -> None:
    run_id = store.create(recipe(9, "peak", steps=50))
    store.claim(run_id, this_process())
    store.add_events(run_id, [Event("learn", None, None, 0.1 + i / 100, f"R1 step {i}", {
        "step": float(i), "loss": 1.0 / (i + 1), "ordinary": 0.01, "massive": 0.02 / (i + 1), "orthogonality": 3e-7}, float(i))
        for i in range(12)])
    at = opened()
    assert "R1 step 11" in " ".join(p.proto.text for p in at.get("progress"))
    live = [c for c in charts(at) if c["data"] and c["data"][0].get("name") in ("loss", "ordinary")]
    assert len(live) == 2 and {t["name"] for t in live[1]["data"]} == {"ordinary", "massive"}
    assert "3e-07" in words(at)
    assert at.button(key=f"cancel-{run_id}")


def test_what_is_learned_meanwhile_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROTVIZ_HOME", str(tmp_path))
    monkeypatch.setattr(supervise, "ensure_worker", lambda *_: False)
    at = opened()
    assert at.multiselect(key="lr").value == []
    for method in ("dfrot", "peak"):
        execute_now(Store(), recipe(method=method, **{"iterations": 1} if method == "dfrot" else {"steps": 2}))
        at.run()
        assert not at.exception and at.multiselect(key="lr").value[-1].startswith(f"{method}")
    assert len(at.multiselect(key="lr").value) == 2
    at.multiselect(key="lr").set_value([]).run()
    assert at.multiselect(key="lr").value == [], "what was put away stays away"


def test_nothing_learned_yet_says_where_to_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROTVIZ_HOME", str(tmp_path))
    monkeypatch.setattr(supervise, "ensure_worker", lambda *_: False)
    assert "No learned rotation is chosen" in words(opened())
    assert len(charts(opened(ltab="Massive and ordinary"))) == 1
    assert "No finished run of a learned rotation" in words(opened(ltab="Seed lottery"))


# On the pages that look at a model


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(("page", "key"), [("outliers", "r"), ("massive_tokens", "r"), ("rotate", "ra"), ("rotate", "rb")])
def test_a_link_opens_a_learned_rotation(page: str, key: str) -> None:
    peak = next(s for s in saved_rotations("tiny-llama") if s.method == "peak")
    at = opened(page, **{key: peak.title})
    assert at.selectbox(key=key).value == peak.title
    assert str(peak.path) not in str(at.query_params)
    assert charts(at) != charts(opened(page))


@pytest.mark.usefixtures("store")
def test_learned_methods_are_offered_through_their_files_alone() -> None:
    at = opened("rotate", rtab="All methods")
    assert set(at.selectbox(key="ra").options) == {"none", "orthogonal", "hadamard", *(s.title for s in saved_rotations("tiny-llama"))}
    found = next(d.value for d in at.dataframe if "method" in d.value and "seed" in d.value)
    assert {m for m in found["method"] if "," in m} == {f"{s.method}, {s.mark}" for s in saved_rotations("tiny-llama")}
    assert not {"peak", "dfrot", "dartquant", "spinquant"} & set(found["method"])


@pytest.mark.usefixtures("store")
def test_a_link_to_a_rotation_that_is_not_here_says_so() -> None:
    at = opened("outliers", r="peak, seed 0, zzzz")
    assert "not learned on this machine" in words(at)
    assert at.selectbox(key="r").value == "hadamard"
