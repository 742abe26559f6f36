"""Each kernel and size on this machine, as `rotviz bench kernels` measures them: results/kernels-DEVICE.json, one file a device.

    python benchmarks/kernels.py [--device auto] [--repeats 20]

Without a GPU the file holds the torch references' times on the CPU, and None where a Triton kernel's would stand.
"""

import argparse
import re

from record import environment, save

from rotviz.cli.bench import kernels_record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    record = kernels_record(options.device, quick=False, repeats=options.repeats)
    record["environment"] = environment() | record["environment"]
    device = re.sub(r"[^a-z0-9]+", "-", record["ceilings"]["device"].split(",")[0].lower()).strip("-")
    print(f"written to {save(f'kernels-{device}', record)}")


if __name__ == "__main__":
    main()
