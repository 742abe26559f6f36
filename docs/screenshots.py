"""Retake docs/screenshots: every page in light and dark, with the embedded model and a few real runs, and what three kinds of visitors come for
(tools/stories.py). `make screenshots`.

    python docs/screenshots.py [PAGE ... stories]     only these
"""

import os
import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import stories  # noqa: E402
from lab import chromium, link_models, served, settled  # noqa: E402

from rotviz.jobs.execute import execute_now  # noqa: E402
from rotviz.pipeline.preview import preview  # noqa: E402
from rotviz.pipeline.recipe import Recipe  # noqa: E402
from rotviz.store.runs import Store  # noqa: E402

TARGET = ROOT / "docs" / "screenshots"
VIEWS = {
    "outliers": "?b=14&s=mlp_in",
    "microscope": "?b=14&s=mlp_in&n=128&pre=Well,+&color=best+method",
    "rotate": "?b=14&s=mlp_in",
    "figures": "?b=14&s=mlp_in&fig=channel-ribbons",
    "verdict": "?ra=orthogonal&b=14&s=mlp_in",
    "hurts": "?hn=1&hl=64&hclip=none&ra=none",
    "budget": "?hn=1&hl=64&hclip=none&ra=none&bb=3.5",
    "weights": "?b=12&lin=gate_proj",
    "lens": "?b=14&s=mlp_in",
    "lessons": "?b=14&lesson=Outlier&answer=true",
    "learn": "?b=14&s=mlp_in&ltab=Massive+and+ordinary",
}

STORIES = "stories"
WITHOUT_RUNS = {"overview", "outliers", "massive_tokens", "microscope", "lens", "doctor", "kernels", "lessons", "speaker_notes"}
"""Pages that show no run: by themselves they are taken without making any."""


def main() -> None:
    TARGET.mkdir(exist_ok=True)
    pages = sys.argv[1:] or [*re.findall(r"pages/(\w+)\.py", (ROOT / "app.py").read_text()), STORIES]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        link_models(home)
        os.environ["ROTVIZ_HOME"] = folder
        if not WITHOUT_RUNS.issuperset(pages):
            runs = f"?runs={','.join(some_runs()[:3])}"
            VIEWS["compare"] = f"{runs}&ctab=Tokens"
            sensitivities()
        with served(home) as address, chromium() as browser:
            for theme in ("light", "dark"):
                context = browser.new_context(viewport={"width": 1280, "height": 1000}, color_scheme=theme)
                for page in pages:
                    if page != STORIES:
                        take(context, address, page, theme)
            if STORIES in pages:
                tell(browser, address, runs)


def tell(browser, address: str, runs: str) -> None:
    """Every visitor in a browser of their own."""
    def page():
        return browser.new_context(viewport={"width": 1280, "height": 1000}, color_scheme="light").new_page()

    def shot(tab, name: str) -> None:
        tab.wait_for_timeout(1500)
        tab.screenshot(path=str(TARGET / f"story-{name}.png"))

    stories.researcher(page(), f"{address}/hurts{VIEWS['hurts']}", shot)
    stories.comparer(page(), f"{address}/compare{runs}", shot)
    stories.teacher(page(), page(), f"{address}/lessons?lesson=Clipping&b=14", shot)


def some_runs() -> list[str]:
    """A few small real runs, so that the pages that show runs have something to show; one of them learns its rotation. Their ids."""
    made = []
    for method in ("none", "orthogonal", "hadamard"):
        for bits in (4, 8) if method == "hadamard" else (4,):
            made.append(execute_now(Store(), Recipe.from_dict({
                "rotation": {"method": method}, "weights": {"method": "none"}, "activations": {"bits": bits, "symmetric": True, "clip": 0.9},
                "text": {"evaluation": "pydoc", "windows": 2, "length": 512}}))["run_id"])
    learning = {"method": "peak", "peak": {"steps": 40, "rounds": 5}}
    made.append(execute_now(Store(), Recipe.from_dict({
        "rotation": learning, "weights": {"method": "none"}, "activations": {"bits": 4, "symmetric": True, "clip": 0.9},
        "text": {"calibration": "pydoc", "samples": 4, "evaluation": "pydoc", "windows": 2, "length": 512}}))["run_id"])
    return made


def sensitivities() -> None:
    """What the pages Which layer hurts and Bit budget show: every block alone, and the estimate from gradients."""
    recipe = Recipe.from_dict({
        "rotation": {"method": "none"}, "weights": {"bits": 4, "clip": "none"}, "activations": {"bits": 4}, "ablation": {"unit": "block"},
        "text": {"evaluation": "pydoc", "calibration": "pydoc", "windows": 1, "length": 64, "samples": 4}})
    execute_now(Store(), recipe)
    preview(recipe)


def take(context, address: str, page: str, theme: str) -> None:
    tab = context.new_page()
    tab.goto(f"{address}/{'' if page == 'overview' else page}{VIEWS.get(page, '')}")
    settled(tab, 180)
    tab.wait_for_timeout(1500)  # charts fade in
    tab.screenshot(path=str(TARGET / f"{page}-{theme}.png"))
    tab.close()


if __name__ == "__main__":
    main()
