"""How a benchmark keeps its results: one JSON file with the machine, the versions and every raw number, rewritten after each measurement."""

import fcntl
import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def environment() -> dict[str, Any]:
    """Machine and versions."""
    import torch

    from rotviz.device import describe
    from rotviz.pipeline.result import environment as versions

    return {"date": datetime.now(UTC).date().isoformat(), "cores": os.cpu_count(), **versions(describe(torch.device("cpu")))}


def file_word(device: str) -> str:
    """A device's words as part of a file's name: NVIDIA H200 -> nvidia-h200."""
    return re.sub(r"[^a-z0-9]+", "-", device.split(",")[0].lower()).strip("-")


def load(name: str) -> dict[str, Any]:
    """What was measured before, or an empty record."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def save(name: str, record: dict[str, Any]) -> Path:
    """Write a record."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    return path


def keep(name: str, key: str, run: dict[str, Any]) -> dict[str, Any]:
    """Add one run to a record and write it. The file is read anew, so that several processes may fill one record; returns all runs."""
    with (RESULTS / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        record = load(name) or {"runs": {}}
        record["runs"][key] = run
        save(name, record)
    return record["runs"]
