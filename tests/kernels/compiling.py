"""Compile every kernel for an NVIDIA GPU that need not be there: python compiling.py [CAPABILITY], 90 = H100, 80 = A100.

Triton carries its own assembler, so a kernel can be taken all the way to machine code on a machine without a GPU. Each launch function is
called as usual, with a compiler in the kernel's place that turns the arguments into a signature. Printed as JSON, one object a kernel:
bytes of shared memory, fused multiply-adds and maxima that pass NaN on (both as PTX), registers a thread, bytes of stack a thread (registers
that spilled), machine instructions, how many of them are the longest loop, and how many read global memory less than four bytes at a time into
registers.
"""

import contextlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import rotviz.kernels.hadamard.triton_kernel as hadamard
import rotviz.kernels.hadamard_quantize.triton_kernel as fused
import rotviz.kernels.integer_matmul.triton_kernel as integer
import rotviz.kernels.packing.triton_kernel as packing
import rotviz.kernels.quantize.triton_kernel as quantize
import rotviz.kernels.scores.triton_kernel as scores
import rotviz.kernels.statistics.triton_kernel as statistics
import rotviz.kernels.weight_only_matmul.triton_kernel as weight_only
from rotviz.kernels.quantize import room_for
from rotviz.types import Granularity, QuantSpec

POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.int8: "*i8", torch.uint8: "*u8", torch.int32: "*i32",
            torch.int64: "*i64", torch.float64: "*fp64"}
HALF = torch.bfloat16


class Compiler:
    """Stands where a kernel stands: compiles what would have been launched."""

    def __init__(self, kernel: Any, capability: int) -> None:
        self.kernel, self.target = kernel, GPUTarget("cuda", capability, 32)

    def __getitem__(self, grid: Any) -> Any:
        return self.compile

    def compile(self, *arguments: Any, num_warps: int = 4, enable_fp_fusion: bool = True, **constants: Any) -> None:
        """Compile for these arguments as Triton would have, with its assumptions about alignment."""
        names = self.kernel.arg_names
        signature, aligned = dict.fromkeys(constants, "constexpr"), {}
        for place, (name, value) in enumerate(zip(names, arguments)):
            if isinstance(value, int) and value == 1:
                constants[name] = 1
            signature[name] = "constexpr" if name in constants else _type(value)
            if isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0):
                aligned[(place,)] = [["tt.divisibility", 16]]
        source = ASTSource(self.kernel, {name: signature[name] for name in names}, constants, aligned)
        made = triton.compile(source, target=self.target, options={"num_warps": num_warps, "enable_fp_fusion": enable_fp_fusion})
        ptx = made.asm["ptx"]
        print(json.dumps({"kernel": self.kernel.__name__, "shared": made.metadata.shared, "fused": ptx.count("fma.rn"),
                          "passes_nan": ptx.count("max.NaN"), **_usage(made.asm["cubin"])}), flush=True)


def _type(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return POINTERS[value.dtype]
    return "fp32" if isinstance(value, float) else "i32"


def _usage(cubin: bytes) -> dict[str, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        words, code = _run("cuobjdump", "-res-usage", file.name), _run("nvdisasm", "-c", file.name)
    used = {name.lower(): int(re.search(rf"{name}:(\d+)", words)[1]) for name in ("REG", "STACK")}
    lines = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(.*?);", code)
    return used | {"instructions": len(lines), "loop": _longest_loop(code),
                   "narrow": sum(bool(re.search(r"\bLDG\S*\.[US](8|16)\b", line)) for line in lines)}


def _longest_loop(code: str) -> int:
    """Instructions from a label to the farthest branch back to it; 0 without one. (The branch to itself that ends a kernel is none.)"""
    labels, longest, count = {}, 0, 0
    for line in code.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = count
        if re.search(r"/\*[0-9a-f]{4,}\*/\s+.*?;", line):
            count += 1
            back = re.search(r"\bBRA\S*.*?(\.L_x_\d+)", line)
            if back and count - labels.get(back[1], count) > 1:
                longest = max(longest, count - labels[back[1]])
    return longest


def _run(tool: str, *arguments: str) -> str:
    path = Path(triton.__file__).parent / "backends/nvidia/bin" / tool
    return subprocess.run([path, *arguments], capture_output=True, text=True, check=True).stdout


def main() -> None:
    capability = int(sys.argv[1]) if len(sys.argv) > 1 else 90
    for module in (hadamard, fused, integer, packing, quantize, scores, statistics, weight_only):
        for name in [n for n in vars(module) if n.endswith("_kernel")]:
            setattr(module, name, Compiler(getattr(module, name), capability))
    for n in (128, 576, 11008, 28672):
        x = torch.empty(64, n, dtype=HALF)
        hadamard.launch(x, x.clone(), torch.ones(n, dtype=torch.int8), n == 576)
    fused.launch(torch.empty(64, 14336, dtype=HALF), room_for(torch.empty(64, 14336), QuantSpec(4, False), 14336), None, 0.9)
    hadamard.launch(torch.empty(8, 4096), torch.empty(8, 4096), None, False)
    _products()
    x = torch.empty(64, 4096, dtype=HALF)
    minimum = QuantSpec(4, False, Granularity.GROUP, 32, number_format="int_min")
    for spec, group in ((QuantSpec(4, False, Granularity.GROUP, 128), 128), (QuantSpec(8, True), 4096), (QuantSpec(4, False), 4096), (minimum, 32)):
        packed = room_for(x, spec, group)
        quantize.launch_quantize(x, packed, group, 1.0, True)
        quantize.launch_dequantize(packed, x)
        quantize.launch_fake_quantize(x, x.clone(), spec, group, 1.0, True)
    packing.launch_pack(torch.empty(64, 64, dtype=torch.int8), torch.empty(64, 32, dtype=torch.uint8))
    packing.launch_unpack(torch.empty(64, 32, dtype=torch.uint8), torch.empty(64, 64, dtype=torch.int8), True)
    for dtype in (HALF, torch.float32):
        logits = torch.empty(8, 49_152, dtype=dtype)
        scores.launch(logits, logits.clone(), torch.empty(8, dtype=torch.int64))
    with contextlib.suppress(ValueError, OverflowError):  # nothing was launched: the sums it reads are whatever lay in memory
        statistics.launch(x)


def _products() -> None:
    wide = torch.empty(4096, 4096, dtype=HALF)
    grouped = room_for(wide, QuantSpec(4, False, Granularity.GROUP, 128), 128)
    for rows in (1, 512):
        weight_only.launch(wide[:rows], grouped, wide[:rows].clone())
        for bits in (4, 8):
            weight = room_for(wide, QuantSpec(bits, True, Granularity.CHANNEL), 4096)
            x = room_for(wide[:rows], QuantSpec(bits, False), 4096)
            integer.launch(x, weight, torch.empty(4096, dtype=torch.int32), wide[:rows].clone())


if __name__ == "__main__":
    main()
