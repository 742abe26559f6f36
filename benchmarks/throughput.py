"""Evaluation throughput: the walk over the blocks against plain transformers loops and lm-eval, on the same windows, in one run.

    python benchmarks/throughput.py [--windows 16] [--rounds 3] [--device auto] [--dtype float32]

rotviz/pipeline/throughput.py says what is measured and how; `rotviz bench evaluation` is the same for any model, text and device. A GPU's results go
to results/throughput-DEVICE.json.
"""

import argparse

from record import environment, file_word, save

from rotviz.device import describe, resolve_device
from rotviz.pipeline.throughput import measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--text", default="wikitext2:test")
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    device = resolve_device(options.device)
    record = measure(options.model, options.text, windows=options.windows, length=2048, rounds=options.rounds, device=options.device,
                     dtype=options.dtype)
    record["environment"] = environment() | record["environment"]
    name = "throughput" if device.type == "cpu" else f"throughput-{file_word(describe(device))}"
    print(record["median_ratios"], record["floor"]["shares"], save(name, record))


if __name__ == "__main__":
    main()
