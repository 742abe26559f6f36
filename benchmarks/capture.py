"""Time to capture every site of SmolLM2-135M on 512 tokens, from a loaded model to a file on disk.

    python benchmarks/capture.py [--rounds 5]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from record import environment, save

from rotviz.capture.capture import capture
from rotviz.models.loading import load
from rotviz.models.walk import BlockSource
from rotviz.texts import load_text, prompt_tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    start = time.perf_counter()
    loaded = load("smollm2-135m")
    load_seconds = time.perf_counter() - start
    tokens = prompt_tokens(load_text("pydoc"), loaded.tokenizer, 512)
    with tempfile.TemporaryDirectory() as folder:
        seconds = [measure(loaded, tokens, Path(folder) / f"{i}.safetensors") for i in range(options.rounds)]
        size = (Path(folder) / "0.safetensors").stat().st_size / 1e6
    record = {"environment": environment(), "tokens": len(tokens), "load_seconds": load_seconds, "seconds": seconds,
              "median_seconds": statistics.median(seconds), "file_mb": size}
    print(f"median {record['median_seconds']:.2f} s; written to {save('capture', record)}")


def measure(loaded, tokens, path: Path) -> float:
    start = time.perf_counter()
    capture(BlockSource(loaded.model), tokens, [""] * len(tokens), path)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
