"""The figures of the papers on a tiny model and tiny runs: each is drawn, explained, written, and its script makes the same one again."""

import io
import json
import re
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rotviz.capture.inspect import Look
from rotviz.cli import main
from rotviz.errors import BadInput, UnknownName
from rotviz.figures import FIGURES, Needs, Subject, of_runs
from rotviz.figures.files import FORMATS, bundle, content, write
from rotviz.figures.make import PaperFigure, make
from rotviz.jobs.execute import execute_now
from rotviz.pipeline.recipe import Recipe
from rotviz.plots import export
from rotviz.store.runs import Store
from rotviz.types import Site

LOOK = Look("tiny-llama", tokens=40)
SUBJECT = Subject(LOOK, block=1)
CHANGED = {
    "spikes": {"rotations": ["orthogonal"]}, "channel-ribbons": {"sort": True}, "flatness": {"alpha": 0.5}, "error-scatter": {"bits": 3},
    "kurtosis-by-block": {"sites": ["key"]}, "boxes-by-block": {"rms": False}, "massive-bars": {"clip": "mse"}, "migration": {"bits": 4},
    "attention-sinks": {"log": False}, "error-accumulation": {"measure": "sqnr_db"}, "pareto": {"cost": "seconds"},
}


def recipe(method: str = "hadamard", **more: object) -> Recipe:
    return Recipe.from_dict({"model": "tiny-llama", "text": {"evaluation": "pydoc", "windows": 2, "length": 32}, "weights": {"method": "none"},
                             "rotation": {"method": method}, **more})


@pytest.fixture(scope="module", autouse=True)
def filled_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A home with runs of three rotations, two seeds of one, and one run of another protocol."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROTVIZ_HOME", str(tmp_path_factory.mktemp("figures-home")))
        store = Store()
        other = recipe(text={"evaluation": "pydoc", "windows": 1, "length": 48})
        for one in (other, recipe("none"), recipe("orthogonal"), recipe(), recipe(seed=1)):
            execute_now(store, one)
        yield store


def drawn(made: PaperFigure) -> str:
    return made.drawing.figure.to_json()


@pytest.mark.parametrize("name", list(FIGURES))
def test_each_is_drawn_explained_and_made_again_by_its_script(name, tmp_path, monkeypatch):
    made = make(name, SUBJECT)
    assert made.panels and made.drawing.to_json_size() < 2_000_000
    assert not made.drawing.alt.startswith("Nothing to show") and len(made.drawing.table)
    preset = FIGURES[name]
    assert preset.paper in made.caption and "tiny-llama" in made.caption and preset.words in made.caption
    assert {"figure", "after", "model", "rotviz", "torch", "transformers", "plotly"} <= set(made.protocol)
    assert ("runs" in made.protocol) == of_runs(preset) != ("text" in made.protocol)
    if preset.needs in (Needs.SITE, Needs.WEIGHTS):
        assert made.protocol["block"] == "1" and made.protocol["site"].startswith("mlp_in")
    monkeypatch.chdir(tmp_path)
    space: dict = {}
    exec(compile(made.script, f"{name}.py", "exec"), space)
    assert space["figure"].to_json() == drawn(made)
    assert len(made.script.splitlines()) < 16
    assert (tmp_path / f"{name}.csv").read_bytes() == content(made, ".csv") and (tmp_path / f"{name}.html").stat().st_size > 1_000_000


def test_every_setting_file_is_covered():
    assert set(CHANGED) | {"magnitude-by-block", "seed-spread"} == set(FIGURES)
    for name, preset in FIGURES.items():
        assert re.fullmatch(r"[a-z-]+", name) and "Reference:" in __import__(preset.__module__, fromlist=["x"]).__doc__


@pytest.mark.parametrize("name", list(CHANGED))
def test_settings_change_the_figure(name):
    assert drawn(make(name, SUBJECT, CHANGED[name])) != drawn(make(name, SUBJECT))


def test_panels_share_their_axes():
    for name in ("channel-ribbons", "boxes-by-block", "error-scatter"):
        layout = make(name, SUBJECT).drawing.figure.layout
        assert layout.yaxis.range == layout.yaxis2.range is not None
    scenes = make("spikes", SUBJECT).drawing.figure.layout
    assert scenes.scene.zaxis.range == scenes.scene2.zaxis.range


def test_runs_are_chosen_so_that_they_compare(filled_home):
    spread = make("seed-spread", SUBJECT).panels[0].drawing
    assert dict(zip(spread.table["method"], spread.table["seeds"], strict=True)) == {"none": 1, "orthogonal": 1, "hadamard": 2}
    assert "Shaded" in spread.alt
    assert len(make("pareto", SUBJECT).panels[0].drawing.table) == 4
    assert make("error-accumulation", SUBJECT).panels[0].drawing.table.shape[0] == 2
    some = tuple(r.run_id for r in filled_home.list() if r.recipe["rotation"]["method"] != "none" and r.recipe["text"]["length"] == 32)
    assert "none" not in make("seed-spread", Subject(runs=some)).panels[0].drawing.alt


@pytest.mark.parametrize(("name", "subject", "settings", "words"), [
    ("spike", SUBJECT, {}, "did you mean 'spikes'"), ("spikes", SUBJECT, {"rotation": "none"}, "spikes.rotations"),
    ("spikes", SUBJECT, {"rotations": ["hadamrd"]}, "did you mean 'hadamard'"), ("spikes", SUBJECT, {"rotations": []}, "one or more"),
    ("spikes", SUBJECT, {"rotations": ["none", "none"]}, "different"), ("error-scatter", SUBJECT, {"rotations": ["none"]}, "two or three"),
    ("error-scatter", SUBJECT, {"clip": "wide"}, "clip = 'wide'"), ("kurtosis-by-block", SUBJECT, {"sites": []}, "name one or more"),
    ("spikes", Subject(LOOK, block=2), {}, "blocks 0 to 1"), ("migration", Subject(LOOK, site=Site.DOWN_IN), {}, "attn_in or mlp_in"),
    ("massive-bars", Subject(Look("tiny-llama", tokens=40, bos=False), block=1), {}, "no token is massive"),
    ("spikes", Subject(LOOK, runs=("any",)), {}, "made from runs: error-accumulation, pareto, seed-spread"),
    ("pareto", Subject(Look("tiny-opt")), {}, "no finished run of tiny-opt"), ("pareto", Subject(runs=("nonsense",)), {}, "no run 'nonsense'"),
])
def test_what_cannot_be_drawn_says_what_would_work(name, subject, settings, words):
    with pytest.raises(BadInput, match=re.escape(words)):
        make(name, subject, settings)


def test_runs_that_do_not_compare_are_refused(filled_home):
    every = tuple(r.run_id for r in filled_home.list())
    for name in ("pareto", "error-accumulation", "seed-spread"):
        with pytest.raises(BadInput, match="choose runs of one"):
            make(name, Subject(runs=every))
    lone = tuple(r.run_id for r in filled_home.list() if r.recipe["rotation"]["method"] == "none")
    with pytest.raises(BadInput, match="two seeds"):
        make("seed-spread", Subject(runs=lone))
    waiting = filled_home.create(recipe(seed=5))
    with pytest.raises(BadInput, match="is not finished"):
        make("pareto", Subject(runs=(waiting,)))
    filled_home.delete(waiting)


def test_a_rotation_saved_for_the_model_can_be_drawn(tmp_path):
    from rotviz.home import home
    from rotviz.models.loading import load
    from rotviz.models.walk import BlockSource
    from rotviz.rotations import ROTATIONS
    from rotviz.surgery.doctor import source_sizes
    from rotviz.surgery.plan import make_plan
    from rotviz.surgery.saved import save_plan
    from rotviz.types import Slot

    plan = make_plan(ROTATIONS["orthogonal"]().build, tuple(Slot), source_sizes(BlockSource(load("tiny-llama").model)), 7)
    path = home() / "rotations" / "peak-aaaabbbbccdd.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_plan(path, plan, {"method": "peak", "recipe": recipe("none", seed=7).to_dict()})
    for name in ("ccdd", "peak, seed 7, ccdd"):
        made = make("channel-ribbons", SUBJECT, {"rotations": ["none", name]})
        assert [p.title for p in made.panels] == ["none", "peak"] and "ccdd" in made.protocol["rotations"]
    with pytest.raises(UnknownName, match="no rotation"):
        make("channel-ribbons", SUBJECT, {"rotations": ["eeee"]})


def test_data_is_whole_and_readable(tmp_path):
    made = make("error-scatter", SUBJECT)
    plain = json.loads(content(made, ".json"))
    points = [t for t in plain["figure"]["data"] if t.get("mode") == "markers"]
    assert sum(len(t["x"]) for t in points) == 3 * 40 and all(isinstance(x, float) for t in points for x in t["x"])
    assert plain["protocol"]["tokens"] == "40" and [t["panel"] for t in plain["tables"]] == [p.title for p in made.panels]
    table = content(made, ".csv").decode().splitlines()
    assert table[0].startswith("panel,token index") and len(table) == 1 + sum(len(p.drawing.table) for p in made.panels)
    html = content(make("spikes", Subject(Look("tiny-llama", tokens=20, prompt="a <script>b</script>"))), ".html").decode()
    assert "<script>b</script>" not in html and "lang='en'" in html and "cdn.plot.ly" not in html.split("<body>")[1].split("<script")[0]
    files = write(made, tmp_path / "figure.csv")
    assert [f.name for f in files] == ["figure.csv", "figure.txt"] and "protocol" not in files[0].read_text()
    assert made.caption in files[1].read_text() and "weights: " in files[1].read_text()


def test_without_a_browser_the_rest_is_made_and_the_lack_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export, "browser", lambda: None)
    made = make("magnitude-by-block", SUBJECT)
    with pytest.raises(BadInput, match="need a browser"):
        content(made, ".svg")
    assert [f.suffix for f in write(made, tmp_path / "all")] == [".html", ".csv", ".json", ".py", ".txt"]
    assert bundle(made).startswith(b"PK")
    with pytest.raises(BadInput, match=r"use \.svg, \.pdf"):
        content(made, ".gif")
    common = ["figure", "flatness", "--model", "tiny-llama", "--tokens", "32"]
    assert main([*common, "--to", str(tmp_path / "cli")]) == 0
    printed = capsys.readouterr()
    assert printed.out.count("\n") == 5 and "need a browser" in printed.err
    assert main([*common, "--to", str(tmp_path / "x.svg")]) == 2 and not (tmp_path / "x.svg").exists()


@pytest.mark.browser
@pytest.mark.skipif(bool(export.missing()), reason="no Chrome or Chromium here")
def test_pictures_carry_caption_and_protocol():
    made = make("flatness", SUBJECT)
    packed = zipfile.ZipFile(io.BytesIO(bundle(made)))
    assert [name.removeprefix("flatness") for name in packed.namelist()] == list(FORMATS)
    svg = packed.read("flatness.svg").decode()
    assert f"<title>{made.title}</title>" in svg and "weights: " in svg.split("<desc>")[1].split("</desc>")[0]
    png, found, at = packed.read("flatness.png"), {}, 8
    while at < len(png):
        size, kind = struct.unpack(">I4s", png[at:at + 8])
        if kind == b"iTXt":
            key, _, rest = png[at + 8:at + 8 + size].partition(b"\0")
            found[key] = rest.lstrip(b"\0").decode()
        at += 12 + size
    assert found[b"Title"] == made.title and made.caption in found[b"Description"]
    assert packed.read("flatness.pdf").startswith(b"%PDF")


def test_command_line(tmp_path, capsys, filled_home):
    assert main(["figure", "--json"]) == 0
    assert {f["name"] for f in json.loads(capsys.readouterr().out)["figures"]} == set(FIGURES)
    assert main(["figure"]) == 0 and "channel-ribbons" in capsys.readouterr().out
    common = ["figure", "channel-ribbons", "--model", "tiny-llama", "--tokens", "40", "--block", "1", "--set", "sort=true"]
    assert main([*common, "--to", str(tmp_path / "a.json"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    made = make("channel-ribbons", SUBJECT, {"sort": True})
    assert told["caption"] == made.caption and told["protocol"] == made.protocol and told["files"] == [str(tmp_path / "a.json")]
    assert json.loads((tmp_path / "a.json").read_text()) == json.loads(content(made, ".json"))
    assert main(common) == 0 and made.caption in capsys.readouterr().out
    run = filled_home.list()[0].run_id
    assert main(["figure", "error-accumulation", "--run", run, "--json"]) == 0 and run in json.loads(capsys.readouterr().out)["protocol"]["runs"]
    for arguments, words in ((["spike"], "did you mean 'spikes'"), (["spikes", "--site", "mlp"], "mlp_in"),
                             (["spikes", "--set", "bits"], "KEY=VALUE"), (["spikes", "--model", "tiny-llama", "--set", "lines=0"], "from 1 to 256")):
        assert main(["figure", *arguments]) == 2
        assert words in capsys.readouterr().err.splitlines()[-1]


def test_module_names_lead_to_files():
    for preset in FIGURES.values():
        assert (Path(__file__).parents[2] / f"{preset.__module__.replace('.', '/')}.py").is_file()
