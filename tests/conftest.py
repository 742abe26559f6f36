"""What every test has: a cache folder of its own, so that no test reads or changes the user's.

`embedded_home` is the one way to the embedded model. Its files are taken from the user's cache (and fetched into it once if they are
not there), linked into the test's cache folder.
"""

import importlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rotviz.device import resolve_device
from rotviz.models.embedded import copy_path, ensure_copy, gguf_path

if resolve_device("auto").type == "cpu" and importlib.util.find_spec("triton"):
    # Triton decides when it is imported whether kernels are interpreted, and parts of torch import it on the way: here, before any of them,
    # and with the variable set for that moment only.
    with pytest.MonkeyPatch.context() as interpreting:
        interpreting.setenv("TRITON_INTERPRET", "1")
        importlib.import_module("triton.language")


@pytest.fixture(scope="session")
def user_environment() -> dict[str, str]:
    """The variables of rotviz as they were before the tests."""
    return {name: os.environ[name] for name in ("ROTVIZ_HOME", "ROTVIZ_DATA") if name in os.environ}


@pytest.fixture(scope="session", autouse=True)
def session_home(tmp_path_factory: pytest.TempPathFactory, user_environment: dict[str, str]) -> Iterator[Path]:
    """A cache folder for this session, and no local corpora unless a test sets them."""
    folder = tmp_path_factory.mktemp("rotviz-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROTVIZ_HOME", str(folder))
        patch.delenv("ROTVIZ_DATA", raising=False)
        yield folder


@pytest.fixture(scope="session")
def embedded_home(session_home: Path, user_environment: dict[str, str]) -> Path:
    """The session's cache folder with the embedded model in it, so that loading "smollm2-135m" takes under a second."""
    name = "smollm2-135m"
    with pytest.MonkeyPatch.context() as patch:
        if "ROTVIZ_HOME" in user_environment:
            patch.setenv("ROTVIZ_HOME", user_environment["ROTVIZ_HOME"])
        else:
            patch.delenv("ROTVIZ_HOME")
        sources = {ensure_copy(name): copy_path, gguf_path(name): gguf_path}
    for source, place in sources.items():
        if source.exists() and not place(name).exists():
            place(name).parent.mkdir(parents=True, exist_ok=True)
            place(name).symlink_to(source, target_is_directory=source.is_dir())
    return session_home


@pytest.fixture(scope="session")
def browser():
    """One Chromium for the session: Playwright runs once in a process."""
    from lab import chromium

    with chromium() as found:
        yield found
