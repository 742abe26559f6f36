"""Reports of tiny runs: one file without requests, a notebook whose cells run, the store's own numbers, and words for what cannot be compared."""

import importlib.util
import json
import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rotviz.cli import main
from rotviz.errors import BadInput
from rotviz.evaluation.perplexity import perplexity, ratio
from rotviz.jobs.execute import execute_now
from rotviz.pipeline.recipe import Recipe
from rotviz.plots.export import browser
from rotviz.plots.words import number
from rotviz.reports.files import content
from rotviz.reports.notebook import MIME
from rotviz.reports.report import Report, _factor, report_of
from rotviz.store.runs import RunRecord, Store

PEAK = {"method": "peak", "peak": {"steps": 3, "rounds": 1}}
VOID = {"meta", "link", "br", "img", "input", "hr", "path"}


def recipe(rotation: dict | str = "hadamard", **more: object) -> Recipe:
    rotation = {"method": rotation} if isinstance(rotation, str) else rotation
    return Recipe.from_dict({"model": "tiny-llama", "text": {"calibration": "pydoc", "samples": 2, "evaluation": "pydoc", "windows": 2, "length": 32},
                             "rotation": rotation, **more})


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A home with none, two Hadamard seeds, a learned rotation, and a run of another protocol."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROTVIZ_HOME", str(tmp_path_factory.mktemp("reports-home")))
        store = Store()
        other = recipe(text={"evaluation": "pydoc", "windows": 1, "length": 48})
        for one in (other, recipe("none"), recipe(), recipe(seed=1), recipe(PEAK)):
            execute_now(store, one)
        yield store


def runs(store: Store, *methods: str) -> list[RunRecord]:
    """The newest run of each method among those of 32 tokens."""
    known = [r for r in store.list() if r.recipe["text"]["length"] == 32]
    return [next(r for r in known if r.recipe["rotation"]["method"] == method) for method in methods]


def report(store: Store, *methods: str) -> Report:
    return report_of([r.run_id for r in runs(store, *methods)])


class Structure(HTMLParser):
    """Headings, ids, links to ids, labels of pictures, and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.ids: set[str] = set()
        self.targets: set[str] = set()
        self.pictures: list[dict] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        found = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(tag)
        if "id" in found:
            assert found["id"] not in self.ids
            self.ids.add(found["id"])
        if str(found.get("href", "")).startswith("#"):
            self.targets.add(found["href"][1:])
        if found.get("role") == "img":
            self.pictures.append(found)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_is_one_whole_accessible_file(store):
    made = report(store, "none", "hadamard", "peak")
    text = content(made, ".html").decode()
    found = Structure(text)
    assert not found.open and found.headings[0] == "h1" and found.headings.count("h1") == 1
    assert found.targets and found.targets <= found.ids
    assert len(found.pictures) == len(made.figures) and all(p["aria-label"] for p in found.pictures)
    assert text.startswith("<!DOCTYPE html>\n<html lang='en'>") and "default-src 'none'" in text
    assert text.count("Plotly.newPlot(place") == 1 and 4_000_000 < len(text) < 8_000_000
    assert not re.search(r"<(script|img|iframe)[^>]*\ssrc=|<link|@import", text.split("</style>")[1].split("<script>")[0])
    for name, (toml, command) in made.recipes.items():
        assert name in text and "python -m rotviz run" in command and "method = " in toml
    data = re.findall(r"<script type='application/json' id='figure-\d+-data'>(.*?)</script>", text)
    assert [len(json.loads(d)["data"]) for d in data] == [len(s.drawing.figure.data) for s in made.figures]


def test_one_run_says_what_came_out_with_its_errors_and_protocol(store):
    made, record = report(store, "hadamard"), runs(store, "hadamard")[0]
    result = store.result(record.run_id)
    assert made.title == f"{record.title} of tiny-llama" and made.differences.empty and made.learning.empty
    quantized = result["perplexity"]["quantized"]
    error = number(float(f"{quantized['stderr']:.2g}"))
    assert f"{number(quantized['value'])} ± {error}" in made.summary[0]
    assert made.protocols == [f"{quantized['protocol']}; {quantized['tokens']:,} scored tokens"]
    text = content(made, ".html").decode()
    for part in ("Summary", "Numbers", "Figures", "Notes" if result["notes"] else "Proof", "Time and place", quantized["protocol"]):
        assert part in text
    assert "What differs" not in text and "Learned rotations" not in text


def test_a_comparison_ranks_by_the_paired_ratio(store):
    made = report(store, "none", "hadamard")
    assert made.comparable and "rotation.method" in list(made.differences["key"])
    a, b = (perplexity(store.result(r.run_id)["perplexity"]["quantized"]["by_window"], 1, "") for r in runs(store, "none", "hadamard"))
    low, high = sorted((a, b), key=lambda p: p.value)
    factor, error = ratio(high, low)
    assert factor < 2 and f"{100 * (factor - 1):.1f} % ± {100 * error:.1f} % above" in made.summary[-1] and "paired by window" in made.summary[-1]
    assert _factor(178.24, 7.41) == "178 ± 7.4 times the perplexity of"
    headings = [s.heading for s in made.figures]
    assert headings[:3] == ["Perplexity", "Divergence", "Error of the residual stream by block"] and "cell by cell" in headings[-1]
    sites = [s.drawing.figure.layout.yaxis.range for s in made.figures if s.heading.startswith("Error by site")]
    assert len(sites) == 2 and sites[0] == sites[1]


def test_runs_of_two_protocols_are_told_apart(store):
    ids = [next(r.run_id for r in store.list() if r.recipe["text"]["length"] == n) for n in (32, 48)]
    made = report_of(ids)
    assert any("must not be compared" in s for s in made.summary) and len(made.protocols) == 2
    assert not {"Perplexity", "Divergence"} & {s.heading for s in made.figures}


def test_a_learned_rotation_has_its_cost_and_is_judged_by_seeds_of_the_store(store):
    made = report(store, "peak")
    row = made.learning.iloc[0]
    assert row["method"] == "peak" and row["seconds"] > 0 and row["tokens seen"] > 0 and row["learned"] == "in this run"
    assert len(made.peers) == 2 and "2 hadamard seeds" in made.verdicts[0]
    assert any("learned" in s.heading for s in made.figures)
    lone = Report(made.records, made.results)
    assert "cannot be told" in lone.verdicts[0] and "there are 0" in lone.verdicts[0]


def test_notebook_is_valid_and_its_cells_run(store, tmp_path, monkeypatch):
    made = report(store, "hadamard", "peak")
    plain = json.loads(content(made, ".ipynb"))
    assert (plain["nbformat"], plain["nbformat_minor"]) == (4, 5) and set(plain) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    ids = [cell["id"] for cell in plain["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch("[a-zA-Z0-9-_]{1,64}", i) for i in ids)
    if importlib.util.find_spec("nbformat"):
        import nbformat

        nbformat.validate(plain)
    monkeypatch.setenv("ROTVIZ_HOME", str(tmp_path))  # neither the store nor the model
    space, results = {}, []
    for cell in plain["cells"]:
        assert set(cell) == {"cell_type", "id", "metadata", "source"} | ({"outputs", "execution_count"} if cell["cell_type"] == "code" else set())
        if cell["cell_type"] != "code":
            continue
        *before, last = "".join(cell["source"]).split("\n")
        if cell["outputs"]:
            exec("\n".join([*before, f"shown = {last}"]), space)
            results.append((space["shown"], cell["outputs"][0]["data"]))
        else:
            exec("".join(cell["source"]), space)
    figures = [(value, data) for value, data in results if MIME in data]
    assert len(figures) == len(made.figures)
    assert all(json.loads(value.to_json()) == data[MIME] and data["text/plain"] for value, data in figures)
    tables = [(value, data) for value, data in results if MIME not in data]
    assert len(tables) == 4 and all(value.to_html(index=False, na_rep="–") == data["text/html"] for value, data in tables)
    words = "".join(s for cell in plain["cells"] if cell["cell_type"] == "markdown" for s in cell["source"])
    assert "python -m rotviz run" in words and "± " in words


def test_nothing_of_a_user_becomes_markup(store):
    record = runs(store, "hadamard")[0]
    result = store.result(record.run_id) | {"notes": ["a <script>alert(1)</script> & </script>"]}
    odd = Report((record,), {record.run_id: result})
    text = content(odd, ".html").decode()
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text
    cells = json.loads(content(odd, ".ipynb"))["cells"]
    markdown = "".join(line for cell in cells if cell["cell_type"] == "markdown" for line in cell["source"])
    assert "\\<script\\>" in markdown and "<script>" not in markdown


def test_a_perplexity_that_is_no_number_is_said(store):
    record = runs(store, "hadamard")[0]
    result = json.loads(json.dumps(store.result(record.run_id)))
    result["perplexity"]["quantized"] |= {"value": None, "stderr": None, "nan_windows": 2}
    result["perplexity"]["ratio"] = {"value": None, "stderr": None}
    odd = Report((record,), {record.run_id: result})
    assert "is no number (2 windows" in odd.summary[0] and content(odd, ".html") and content(odd, ".ipynb")
    assert not math.isnan(len(odd.figures))


@pytest.mark.parametrize(("ids", "words"), [([], "1 to 12 runs"), (["nonsense"], "no run 'nonsense'")])
def test_refusals(ids, words):
    with pytest.raises(BadInput, match=words):
        report_of(ids)


def test_command_line(store, tmp_path, capsys):
    one, two = runs(store, "none", "hadamard")
    assert main(["report", one.run_id, two.run_id[-6:], "--to", str(tmp_path / "r.ipynb"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    made = report_of([one.run_id, two.run_id])
    assert told == {"title": made.title, "summary": made.summary, "runs": [one.run_id, two.run_id], "file": str(tmp_path / "r.ipynb")}
    assert (tmp_path / "r.ipynb").read_bytes() == content(made, ".ipynb")
    assert main(["report", one.run_id, "--to", str(tmp_path / "r.html")]) == 0 and "perplexity" in capsys.readouterr().out
    assert main(["report", one.run_id, "--to", str(tmp_path / "r.pdf")]) == 2 and ".html or .ipynb" in capsys.readouterr().err
    waiting = store.create(recipe(seed=9))
    assert main(["report", waiting, "--to", str(tmp_path / "w.html")]) == 2 and "not finished" in capsys.readouterr().err
    store.delete(waiting)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["r.html", "r.ipynb"]


@pytest.mark.browser
@pytest.mark.xdist_group("browser")
@pytest.mark.skipif(browser() is None, reason="no Chrome or Chromium here")
def test_the_file_opens_alone_draws_everything_and_asks_nobody(store, tmp_path, browser):
    made = report(store, "none", "hadamard", "peak")
    path = Path(tmp_path / "report.html")
    path.write_bytes(content(made, ".html"))
    page = browser.new_context(color_scheme="dark", viewport={"width": 390, "height": 900}).new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_function(f"() => document.querySelectorAll('.plot .main-svg').length >= {len(made.figures)}", timeout=30_000)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    ink = "() => document.querySelector('.plot')._fullLayout.font.color"
    assert page.evaluate(ink) == "#e8ebf0"
    page.emulate_media(color_scheme="light")
    page.wait_for_function(f"() => ({ink})() === '#1c2430'")
    assert not said and [u for u in asked if not u.startswith(("data:", "blob:"))] == [path.as_uri()]
