"""python tools/install_browser.py: make sure there is a Chromium for the browser tests.

Uses what is there (chromium, google-chrome, CHROMIUM=/path). Where there is none and this is Debian or Ubuntu and we may,
it is installed; otherwise one line says what to install.
"""

import os
import shutil
import subprocess
import sys

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find() -> str | None:
    """The path of a Chromium-like browser, or None."""
    named = os.environ.get("CHROMIUM")
    return named if named else next((path for path in map(shutil.which, NAMES) if path), None)


def main() -> int:
    """Find or install a browser."""
    if find():
        return 0
    if shutil.which("apt-get") and os.geteuid() == 0:
        subprocess.run(["apt-get", "update", "-qq"], check=False)
        subprocess.run(["apt-get", "install", "-y", "-qq", "chromium"], check=False, stdout=subprocess.DEVNULL)
    if find():
        return 0
    sys.stderr.write("the browser tests need Chromium; install it and try again: sudo apt-get install chromium\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
