"""How quick the app feels, measured in a real Chromium: another block, another page, a slider, a linked choice, the size of the figures, and the
memory of ten sessions.

    python benchmarks/interactivity.py [--rounds 8]

SmolLM2-135M, 512 tokens, activations already captured. Times run from a key press or click, to two ends:

    first figure    one of the page's figures shows the new block: its data are not any of the data that stood there before
    whole page      the script has ended and nothing on the page is of before

Sliders are the rotation lens's (a step along the geodesic) and the bit budget's; the linked choice is a click on a block in Compare, with two stored
runs, until a first figure has followed. Memory is the proportional set size of the server, its worker and their children with ten visitors,
each on a page of their own; the browser is not counted.
"""

import argparse
import os
import re
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from record import environment, save

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

from lab import READY, chromium, link_models, served, settled

from rotviz.jobs.execute import execute_now
from rotviz.pipeline.recipe import Recipe
from rotviz.store.runs import Store

SLIDER, LINKED = "first_figure_after_slider_step_seconds", "first_figure_after_linked_choice_seconds"
VISITED = ("", "outliers", "massive_tokens", "rotate", "lens", "microscope", "runs", "compare", "weights", "lessons")
"""Where ten visitors are."""
FIRST_FIGURE, WHOLE_PAGE = "first_figure_after_block_seconds", "another_block_whole_page_seconds"
PAGES = {"Overview": "", "Outliers": "outliers", "Massive tokens": "massive_tokens", "Rotate": "rotate", "Runs": "runs"}
FIGURE_BYTES = """() => [...document.querySelectorAll('.js-plotly-plot')].map(figure => {
    let bytes = 0;
    const text = JSON.stringify([figure.data, figure.layout], (key, value) => {
        if (ArrayBuffer.isView(value)) { bytes += value.byteLength * 4 / 3; return null }
        return value });
    return bytes + text.length })"""
# Looks at every frame that the browser draws: a watcher of the page's elements also fires when Streamlit only greys a figure out. A figure
# counts by its data, and only with its drawing there; where it stands does not matter, for a figure that the block does not change (the map of
# massive tokens) may stand above. Plotly draws in the same turn in which it takes new data, so the next frame shows them.
WATCH_FIGURES = """() => {
    const known = new WeakMap();
    const whole = (key, value) => ArrayBuffer.isView(value) ? Array.from(value) : value;
    const words = data => { if (!known.has(data)) known.set(data, JSON.stringify(data, whole)); return known.get(data) };
    const shown = () => [...document.querySelectorAll('.js-plotly-plot')].filter(f => f.data && f.querySelector('.main-svg'))
        .map(f => words(f.data));
    const before = new Set(shown());
    window.firstFigure = new Promise(drawn => addEventListener('keydown', pressed => {
        const look = () => requestAnimationFrame(shown().some(figure => !before.has(figure)) ? now => drawn((now - pressed.timeStamp) / 1000) : look);
        look() }, {once: true, capture: true})) }"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        link_models(Path(folder))
        runs = two_runs(folder)
        start = time.perf_counter()
        with served(Path(folder)) as address, chromium() as browser:
            up = time.perf_counter() - start
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            first = timed_visit(page, address)
            record = {
                "environment": environment(), "server_up_seconds": up, "first_visit_with_capture_seconds": first,
                **blocks(page, address, options.rounds),
                "page_switch_seconds": switches(page, address, options.rounds),
                SLIDER: sliders(page, address, options.rounds),
                LINKED: {"compare": linked(page, address, runs, options.rounds)},
                "largest_figure_mb": largest_figures(page, address),
                "ten_sessions_mb": sessions(browser, address, folder),
            }
    record["medians"] = {name: {key: statistics.median(values) for key, values in record[name].items()}
                         for name in (FIRST_FIGURE, WHOLE_PAGE, "page_switch_seconds", SLIDER, LINKED)}
    print(record["medians"], record["largest_figure_mb"], record["ten_sessions_mb"], f"written to {save('interactivity', record)}", sep="\n")


def timed_visit(page, address: str) -> float:
    """Seconds to the whole first page, the text read by the model; benchmarks/start.py measures the first figure."""
    start = time.perf_counter()
    page.goto(address)
    settled(page, 180)
    return time.perf_counter() - start


def blocks(page, address: str, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds from choosing another block until a first figure shows it, and until every figure and table of the page is new."""
    found: dict[str, dict[str, list[float]]] = {FIRST_FIGURE: {}, WHOLE_PAGE: {}}
    for name in ("outliers", "rotate", "massive_tokens"):
        page.goto(f"{address}/{name}?b=3&s=mlp_in")
        settled(page, 180)
        slider = page.get_by_role("slider", name="Block")
        first, whole = found[FIRST_FIGURE].setdefault(name, []), found[WHOLE_PAGE].setdefault(name, [])
        for _ in range(rounds):
            slider.focus()
            page.evaluate(WATCH_FIGURES)
            whole.append(until_drawn(page, lambda: page.keyboard.press("ArrowRight")))
            first.append(page.evaluate("() => window.firstFigure"))
    return found


def switches(page, address: str, rounds: int) -> dict[str, list[float]]:
    """Seconds from a click on a page's name to its figures; the first round fills the caches and is not counted."""
    page.goto(address)
    settled(page, 180)
    found: dict[str, list[float]] = {name: [] for name in PAGES}
    for round_ in range(rounds // 2 + 1):
        for name in [*list(PAGES)[1:], "Overview"]:
            link = page.get_by_role("link", name=name, exact=True).first
            seconds = until_drawn(page, link.click)
            if round_:
                found[name].append(seconds)
    return found


def until_drawn(page, action) -> float:
    """Seconds from an action until the script has run and ended."""
    page.evaluate("""() => { const app = document.querySelector("[data-testid='stApp']"); window.ran = false;
        window.watcher = new MutationObserver(() => { if (app.dataset.testScriptState === 'running') window.ran = true });
        window.watcher.observe(app, {attributes: true}) }""")
    start = time.perf_counter()
    action()
    page.wait_for_function("() => window.ran", timeout=60_000, polling=10)
    page.wait_for_selector(READY, timeout=60_000)
    page.wait_for_function("() => !document.querySelector('[data-stale=true]')", timeout=60_000, polling=10)
    seconds = time.perf_counter() - start
    page.wait_for_timeout(300)
    return seconds


def two_runs(folder: str) -> list[str]:
    """Two small stored runs of the embedded model, in the folder that is served."""
    os.environ["ROTVIZ_HOME"] = folder
    return [execute_now(Store(), Recipe.from_dict({
        "rotation": {"method": method}, "weights": {"method": "none"}, "activations": {"bits": 4},
        "text": {"evaluation": "pydoc", "windows": 2, "length": 256}}))["run_id"] for method in ("none", "hadamard")]


def sliders(page, address: str, rounds: int) -> dict[str, list[float]]:
    """Seconds from a key on a slider until a first figure has followed."""
    found: dict[str, list[float]] = {}
    for name, query in (("lens", "b=3&s=mlp_in"), ("budget", "hn=1&hl=64&hclip=none&ra=none")):
        page.goto(f"{address}/{name}?{query}")
        settled(page, 180)
        if name == "budget":
            page.get_by_role("button", name="Estimate from gradients").click()
        slider = page.get_by_test_id("stMain").get_by_role("slider").first
        slider.wait_for(timeout=180_000)
        settled(page, 180)
        found[name] = [figure_after(page, slider, lambda: page.keyboard.press("ArrowRight")) for _ in range(rounds)]
    return found


def figure_after(page, target, action, event: str = "keydown") -> float:
    """Seconds from an action on something until a first figure shows other data."""
    target.focus()
    page.evaluate(WATCH_FIGURES.replace("keydown", event))
    until_drawn(page, action)
    return page.evaluate("() => window.firstFigure")


def linked(page, address: str, runs: list[str], rounds: int) -> list[float]:
    """Seconds from a click on a block in one figure until a first figure has followed."""
    page.goto(f"{address}/compare?runs={','.join(runs)}&ctab=Blocks&b=1")
    settled(page, 180)
    page.wait_for_selector(".js-plotly-plot .point", state="attached")
    points, found = page.locator(".js-plotly-plot").first.locator(".scatterlayer .trace").nth(1).locator(".point"), []
    for k in range(rounds):
        page.mouse.move(5, 5)
        page.wait_for_timeout(300)
        spot = points.nth(3 + 2 * k).bounding_box()
        x, y = spot["x"] + spot["width"] / 2, spot["y"] + spot["height"] / 2
        page.mouse.move(x, y)
        page.wait_for_timeout(300)
        found.append(figure_after(page, page.locator("body"), partial(page.mouse.click, x, y), "pointerdown"))
    return found


def sessions(browser, address: str, folder: str) -> dict[str, float]:
    """Megabytes of the app's processes before and with ten visitors."""
    found = {"one": memory_mb(folder)}
    contexts = [browser.new_context(viewport={"width": 1280, "height": 900}) for _ in VISITED]
    pages = [context.new_page() for context in contexts]
    for page, name in zip(pages, VISITED):
        page.goto(f"{address}/{name}", wait_until="commit")
    for page in pages:
        settled(page, 300)
    found["ten"] = memory_mb(folder)
    for context in contexts:
        context.close()
    return found


def memory_mb(folder: str) -> float:
    """Proportional set size of all processes but this one that have the folder for their cache."""
    kilobytes, mark = 0, f"ROTVIZ_HOME={folder}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if int(process.name) != os.getpid() and mark in (process / "environ").read_bytes().split(b"\0"):
                kilobytes += int(re.search(r"^Pss:\s+(\d+)", (process / "smaps_rollup").read_text(), re.M)[1])
        except OSError:  # it has ended, or is somebody else's
            continue
    return kilobytes / 1e3


def largest_figures(page, address: str) -> dict[str, float]:
    """Megabytes of the largest figure of each page."""
    found = {}
    for name, path in PAGES.items():
        page.goto(f"{address}/{path}")
        settled(page, 180)
        sizes = page.evaluate(FIGURE_BYTES)
        found[name] = max(sizes, default=0) / 1e6
    return found


if __name__ == "__main__":
    main()
