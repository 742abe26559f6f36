"""Evaluation throughput: the walk over the blocks against plain transformers loops and lm-eval, on the same windows, in one run.

    python benchmarks/throughput.py [--windows 16] [--rounds 3]

rotviz/pipeline/throughput.py says what is measured and how; `rotviz bench evaluation` is the same for any model, text and device.
"""

import argparse

from record import environment, save

from rotviz.pipeline.throughput import measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    record = measure("smollm2-135m", "wikitext2:test", windows=options.windows, length=2048, rounds=options.rounds)
    record["environment"] = environment() | record["environment"]
    print(record["median_ratios"], save("throughput", record))


if __name__ == "__main__":
    main()
