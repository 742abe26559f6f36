"""The app as a visitor meets it: a server of its own and a real Chromium. For browser tests, screenshots and the interactivity benchmark.

    with served(home) as address, chromium() as browser:
        page = browser.new_page()
        page.goto(address)
"""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from install_browser import find
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parents[1]
SWITCHES = ["--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
PATIENCE = 90_000
"""Milliseconds."""
READY = "[data-testid='stApp'][data-test-script-state='notRunning']"


@contextmanager
def served(home: Path, data: str | None = None, *, plain: bool = False) -> Iterator[str]:
    """The app on a free port with a cache folder of its own; its address. The worker that it starts is stopped as well.

    Args:
        data: ROTVIZ_DATA for the app, if not this process's own.
        plain: start it as `streamlit run app.py` does, not as `rotviz app`.
    """
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "ROTVIZ_HOME": str(home), **({"ROTVIZ_DATA": data} if data else {})}
    streamlit = ["streamlit", "run", "app.py", "--server.headless=true", f"--server.port={port}"]
    command = [sys.executable, "-m", *(streamlit if plain else ["rotviz", "app", "--port", str(port)])]
    log = home / "app.log"
    with log.open("w") as output:
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_for(f"http://localhost:{port}/_stcore/health", server)
        yield f"http://localhost:{port}"
    finally:
        server.terminate()
        server.wait(20)
        stop = "from rotviz.jobs.supervise import stop_worker; stop_worker(force=True)"
        subprocess.run([sys.executable, "-c", stop], cwd=ROOT, env=environment, check=False, capture_output=True)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find(), args=SWITCHES)
        browser.new_page, browser.new_context = _patient(browser.new_page), _patient(browser.new_context)
        try:
            yield browser
        finally:
            browser.close()


def _patient(opening: Callable[..., Any]) -> Callable[..., Any]:
    """Pages and contexts that wait longer than Playwright's 30 s: a busy machine with two cores is slow, not wrong."""
    def opened(**options: Any) -> Any:
        made = opening(**options)
        made.set_default_timeout(PATIENCE)
        return made

    return opened


def wait_for(address: str, server: subprocess.Popen, seconds: float = 60) -> None:
    """Wait until an address answers."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"the app ended with status {server.returncode}")
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(address)


def settled(page: Page, seconds: float = 90) -> None:
    """Wait until the script has run to its end and no figure is still being drawn."""
    page.wait_for_selector(READY, timeout=seconds * 1000)
    page.wait_for_function("() => !document.querySelector('[data-testid=stSkeleton]')", timeout=seconds * 1000)
    page.wait_for_timeout(250)
    page.wait_for_selector(READY, timeout=seconds * 1000)


def link_models(home: Path) -> None:
    """Let a cache folder share the embedded model of the user's, which is fetched if it is not there."""
    from rotviz.models.embedded import ensure_copy

    source = ensure_copy("smollm2-135m")
    place = home / source.relative_to(source.parents[1])
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        place.symlink_to(source, target_is_directory=True)
