"""How long a newcomer waits: from the moment that the server answers to the first figure, and to the whole first page with the model read.

    python benchmarks/start.py [--rounds 3]

Every round starts a new server on a cache folder that holds the embedded model and nothing else, in a browser that has not seen it; `again` is the
same server and a new visitor, when torch is there and the capture on disk. The browser itself is running already. The clock of the first figure is
the page's own: from the beginning of the navigation to the frame that holds the figure.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from record import environment, save

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

from lab import chromium, link_models, served, settled

FIGURE = ".js-plotly-plot .main-svg"
WATCH = """() => {
    const look = () => document.querySelector('%s') ? window.firstFigure = performance.now() / 1000 : requestAnimationFrame(look);
    look() }"""
"""Notes the frame that first holds a figure, in seconds since the navigation began; a driver that asks from outside is late by half a second."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = []
    with chromium() as browser:
        for _ in range(parser.parse_args().rounds):
            rounds.append(one_round(browser))
            print(rounds[-1], file=sys.stderr, flush=True)
    record = {"environment": environment(), "rounds": rounds,
              "medians": {visit: {end: statistics.median(r[visit][end] for r in rounds) for end in rounds[0][visit]} for visit in rounds[0]}}
    print(record["medians"], f"written to {save('start', record)}", sep="\n")


def one_round(browser) -> dict[str, dict[str, float]]:
    """A server's first visitor and the next one."""
    with tempfile.TemporaryDirectory() as folder:
        link_models(Path(folder))
        with served(Path(folder)) as address:
            return {"first": visit(browser, address), "again": visit(browser, address)}


def visit(browser, address: str) -> dict[str, float]:
    """Seconds to the first figure and to the whole page."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page, start = context.new_page(), time.perf_counter()
    page.add_init_script(f"({WATCH % FIGURE})()")
    page.goto(address)
    page.wait_for_function("() => window.firstFigure", timeout=180_000)
    figure = page.evaluate("() => window.firstFigure")
    settled(page, 180)
    whole = time.perf_counter() - start
    context.close()
    return {"first_figure_seconds": figure, "whole_page_seconds": whole}


if __name__ == "__main__":
    main()
