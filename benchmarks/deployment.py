"""A model in bits beside its float model, as `rotviz bench deployment` measures it: results/deployment-DEVICE.json, one file a device.

    python benchmarks/deployment.py [--device auto] [--rounds 3]

Bytes by part, measured and predicted; tokens a second at prefill and decode, alternating rounds. Without a GPU the deployed model runs on the torch
references of the kernels, and the file says so.
"""

import argparse

from record import environment, file_word, save

from rotviz.cli.bench import add_deployment_options, deployment_record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_deployment_options(parser)
    record = deployment_record(parser.parse_args())
    record["environment"] = environment() | record["environment"]
    print(f"written to {save('deployment-' + file_word(record['environment']['device']), record)}")


if __name__ == "__main__":
    main()
