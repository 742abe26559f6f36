"""Every kernel compiles for an H100, down to machine code, without one: shapes, layouts and shared memory fit, and nothing spills by much.

That it also runs there is for test_gpu.py to say.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SHARED_LIMIT = 227 * 1024
"""Bytes of shared memory that one block of an H100 can have."""


def test_every_kernel_compiles_for_an_h100(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(HERE.parents[1]), "TRITON_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    found = subprocess.run([sys.executable, "-W", "ignore", HERE / "compiling.py"], env=environment, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr[-3000:]
    made = [json.loads(line) for line in found.stdout.splitlines()]
    assert {m["kernel"] for m in made} == {
        "hadamard_kernel", "hadamard_quantize_kernel", "quantize_kernel", "dequantize_kernel", "pack_kernel", "unpack_kernel",
        "weight_only_matmul_kernel", "integer_matmul_kernel", "statistics_kernel"}
    for one in made:
        assert one["shared"] <= SHARED_LIMIT and one["stack"] <= 256, one
    assert all(one["narrow"] == 0 for one in made if one["kernel"] in ("weight_only_matmul_kernel", "integer_matmul_kernel")), "inputs come in wide reads"
    for four, eight in product_pairs(made):
        assert four["instructions"] < 1.5 * eight["instructions"], "4-bit codes are taken apart four bytes at a time"


def product_pairs(made):
    """The integer products of 4-bit and of 8-bit codes, for few and for many rows."""
    products = [one for one in made if one["kernel"] == "integer_matmul_kernel"]
    assert len(products) == 4
    return zip(products[::2], products[1::2])
