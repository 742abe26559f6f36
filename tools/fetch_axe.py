"""python tools/fetch_axe.py: the accessibility checker axe-core, one pinned file from npm, kept out of the repository (node_modules/).

axe-core (Deque Systems, MPL-2.0) runs inside a page and names what a screen reader, a keyboard or weak eyes cannot use. Without npm or a network
there is none, and the tests that need it say so and are skipped.
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VERSION = "4.11.1"
SHA256 = "7dbfabdfc6062936d79c873ddbb5f811a1219fca3928bd8cc9dd81f1e65f4720"
PLACE = Path(__file__).parents[1] / "node_modules" / f"axe-core-{VERSION}.min.js"
SECONDS = 60


def axe() -> str:
    """The script, fetched if it is not here yet.

    Raises:
        LookupError: it cannot be had, with the reason.
    """
    if not PLACE.exists():
        _fetch()
    source = PLACE.read_bytes()
    if hashlib.sha256(source).hexdigest() != SHA256:
        raise LookupError(f"{PLACE} is not axe-core {VERSION}: delete it")
    return source.decode("utf-8")


def _fetch() -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise LookupError("no npm to fetch axe-core with")
    PLACE.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=PLACE.parent) as folder:
        command = [npm, "pack", "--silent", f"axe-core@{VERSION}", "--pack-destination", folder]
        try:
            found = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise LookupError(f"npm did not answer within {SECONDS} s") from error
        packed = list(Path(folder).glob("*.tgz"))
        if found.returncode or not packed:
            raise LookupError(f"npm could not fetch axe-core {VERSION}: {found.stderr.strip() or found.returncode}")
        with tarfile.open(packed[0]) as archive:
            part = Path(folder) / "axe.min.js"
            part.write_bytes(archive.extractfile("package/axe.min.js").read())
        part.replace(PLACE)


if __name__ == "__main__":
    try:
        axe()
    except LookupError as error:
        sys.stderr.write(f"{error}; the accessibility tests will be skipped\n")
