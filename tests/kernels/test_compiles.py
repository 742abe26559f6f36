"""Every kernel compiles for a data-center GPU and for a 24 GB card, down to machine code, without either: shared memory fits, little spills.

That it also runs there is for test_gpu.py to say.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SHARED_LIMIT = {86: 99 * 1024, 90: 227 * 1024}
"""Bytes of shared memory that one block can have, by compute capability: 86 is a GeForce RTX 3090's (a 4090's, 89, has as much), 90 an H100's."""
ROUNDING = ("quantize_kernel", "fake_quantize_kernel", "hadamard_quantize_kernel")
PRODUCTS = ("weight_only_matmul_kernel", "integer_matmul_kernel")


@pytest.mark.parametrize("capability", SHARED_LIMIT)
def test_every_kernel_compiles(capability, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(HERE.parents[1]), "TRITON_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", HERE / "compiling.py", str(capability)]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr[-3000:]
    made = [json.loads(line) for line in found.stdout.splitlines()]
    assert {m["kernel"] for m in made} == {
        "hadamard_kernel", "hadamard_quantize_kernel", "quantize_kernel", "dequantize_kernel", "fake_quantize_kernel", "pack_kernel",
        "unpack_kernel", "weight_only_matmul_kernel", "integer_matmul_kernel", "scores_kernel", "statistics_kernel"}
    for one in made:
        assert one["shared"] <= SHARED_LIMIT[capability] and one["stack"] <= 256, one
    assert all(one["narrow"] == 0 for one in made if one["kernel"] in PRODUCTS), "inputs come in wide reads"
    assert all(one["fused"] % 2 == 0 for one in made if one["kernel"] in ROUNDING[:2]), "two a number, as asked for"
    assert all(one["passes_nan"] for one in made if one["kernel"] in ROUNDING), "a NaN stays visible"
    for four, eight in product_pairs(made):
        assert four["instructions"] < 1.5 * eight["instructions"], "4-bit codes are taken apart four bytes at a time"


def product_pairs(made):
    """The integer products of 4-bit and of 8-bit codes, for few and for many rows."""
    products = [one for one in made if one["kernel"] == "integer_matmul_kernel"]
    assert len(products) == 4
    return zip(products[::2], products[1::2])
