"""The documentation says what the code does."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_methods_page_is_current():
    found = subprocess.run([sys.executable, ROOT / "tools" / "methods_table.py", "--check"], cwd=ROOT, check=False)
    assert found.returncode == 0, "run: python tools/methods_table.py"


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), ROOT / "benchmarks" / "README.md"], ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_page_of_the_app_has_its_screenshots():
    pages = re.findall(r"pages/(\w+)\.py", (ROOT / "app.py").read_text())
    for page in pages:
        for theme in ("light", "dark"):
            assert (ROOT / "docs" / "screenshots" / f"{page}-{theme}.png").exists(), f"make screenshots: {page} {theme}"


def test_committed_results_say_where_they_come_from():
    for path in ROOT.glob("benchmarks/results/*.json"):
        record = json.loads(path.read_text())
        environments = [record["environment"]] if "environment" in record else [run["environment"] for run in record["runs"].values()]
        assert environments and all({"date", "torch", "processor"} <= set(environment) for environment in environments), path.name
