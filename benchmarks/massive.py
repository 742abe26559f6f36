"""The massive token of SmolLM2-135M, and what each rotation loses on it and on the others.

512 tokens of the embedded text, 4 bits, symmetric, clip 0.9.

    python benchmarks/massive.py
"""

import statistics
from typing import Any

from record import environment, save

from rotviz.capture.inspect import Look, inspect
from rotviz.evaluation.sites import Turn, token_errors
from rotviz.types import QuantSpec, Site

BLOCKS = (5, 14, 25)
SITES = (Site.ATTN_IN, Site.O_IN, Site.MLP_IN, Site.DOWN_IN)
TURNS = (Turn("none"), *(Turn(method, seed) for method in ("orthogonal", "hadamard") for seed in range(3)))
SPEC = QuantSpec(4, True, clip=0.9)


def main() -> None:
    found = inspect(Look())
    errors = [measure(found, block, site, turn) for block in BLOCKS for site in SITES for turn in TURNS]
    record = {"environment": environment(), "massive_tokens": found.to_dict()["massive_tokens"], "errors": errors,
              "less_on_massive_at_block_14_mlp_in": ratio(errors)}
    print(record["massive_tokens"], record["less_on_massive_at_block_14_mlp_in"], f"written to {save('massive', record)}", sep="\n")


def measure(found, block: int, site: Site, turn: Turn) -> dict[str, Any]:
    error = token_errors(found.capture, block, site, turn, SPEC)
    massive = error.mean_massive if error.massive.any() else None
    return {"block": block, "site": str(site), "method": turn.method, "seed": turn.seed, "all": error.all, "massive": massive,
            "ordinary": error.mean_ordinary}


def ratio(errors: list[dict[str, Any]]) -> float:
    """How many times less Hadamard loses on the massive token than orthogonal: medians over the seeds."""
    def median(method: str) -> float:
        return statistics.median(e["massive"] for e in errors if (e["block"], e["site"], e["method"]) == (14, "mlp_in", method))

    return median("orthogonal") / median("hadamard")


if __name__ == "__main__":
    main()
