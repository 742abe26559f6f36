"""Each kernel and size on this machine, as `rotviz bench kernels` measures them: results/kernels-DEVICE.json, one file a device.

    python benchmarks/kernels.py [--device auto] [--repeats 20]

Without a GPU the file holds the torch references' times on the CPU, and None where a Triton kernel's would stand.
"""

import argparse

from record import environment, file_word, save

from rotviz.cli.bench import kernels_record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    record = kernels_record(options.device, quick=False, repeats=options.repeats)
    record["environment"] = environment() | record["environment"]
    print(f"written to {save('kernels-' + file_word(record['ceilings']['device']), record)}")


if __name__ == "__main__":
    main()
