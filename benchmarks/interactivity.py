"""How quick the app feels, measured in a real Chromium: another block, another page, and the size of the figures.

    python benchmarks/interactivity.py [--rounds 8]

SmolLM2-135M, 512 tokens, activations already captured. Times run from a key press or click, to two ends:

    first figure    one of the page's figures shows the new block: its data are not any of the data that stood there before
    whole page      the script has ended and nothing on the page is of before
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from record import environment, save

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

from lab import READY, chromium, link_models, served, settled

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
        start = time.perf_counter()
        with served(Path(folder)) as address, chromium() as browser:
            up = time.perf_counter() - start
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            first = timed_visit(page, address)
            record = {
                "environment": environment(), "server_up_seconds": up, "first_visit_with_capture_seconds": first,
                **blocks(page, address, options.rounds),
                "page_switch_seconds": switches(page, address, options.rounds),
                "largest_figure_mb": largest_figures(page, address),
            }
    record["medians"] = {name: {key: statistics.median(values) for key, values in record[name].items()}
                         for name in (FIRST_FIGURE, WHOLE_PAGE, "page_switch_seconds")}
    print(record["medians"], record["largest_figure_mb"], f"written to {save('interactivity', record)}", sep="\n")


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
