"""What the Hadamard and statistics kernels become as machine code, for GPUs that need not be there: results/machine_code.json.

    python benchmarks/machine_code.py

For compute capabilities 86 (GeForce RTX 3090) and 90 (H100): shared memory, registers, spilled bytes a thread, instructions, as
tests/kernels/compiling.py counts them; of the statistics kernel its loop too, which sees 32 numbers a thread. Nothing is timed.
"""

import contextlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton
from record import environment, save
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "kernels"))

import compiling

from rotviz.types import QuantSpec

WIDTHS = (64, 128, 576, 1536, 2048, 4096, 5120, 8192, 11008, 13824, 14336, 18944, 27648, 28672, 32768)


def main() -> None:
    kernels = {(module, name): kernel for module in (compiling.hadamard, compiling.fused, compiling.statistics)
               for name, kernel in vars(module).items() if name.endswith("_kernel")}
    rows = []
    for capability in (86, 90):
        for (module, name), kernel in kernels.items():
            setattr(module, name, compiling.Compiler(kernel, capability))
        rows += [{"capability": capability} | row for row in all_rows()]
        save("machine_code", {"environment": environment() | {"triton": triton.__version__}, "rows": rows})


def all_rows() -> Iterator[dict[str, Any]]:
    """The transform at each width in each dtype, signed or not, and undone; fused with 4 bits; the statistics."""
    for n in WIDTHS:
        signs = torch.ones(n, dtype=torch.int8)
        half, full = torch.empty(64, n, dtype=torch.bfloat16), torch.empty(64, n)
        codes = compiling.room_for(half, QuantSpec(4, False), n)
        for x in (half, full):
            for flips, inverse in ((None, False), (signs, False), (signs, True)):
                yield compiled(x, flips, inverse, partial(compiling.hadamard.launch, x, x.clone(), flips, inverse))
        for flips in (None, signs):
            yield compiled(half, flips, False, partial(compiling.fused.launch, half, codes, flips, 0.9))
    for dtype in (torch.bfloat16, torch.float32):
        x = torch.empty(4096, 4096, dtype=dtype)
        yield compiled(x, None, False, partial(compiling.statistics.launch, x))


def compiled(x: Tensor, signs: Tensor | None, inverse: bool, launch: Callable[[], object]) -> dict[str, Any]:
    """What the compiler says of one launch. (Nothing runs: what the statistics make of their sums is made of whatever lay in memory.)"""
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(ValueError, OverflowError):
        launch()
    said = json.loads(text.getvalue().splitlines()[0])
    return {"width": x.shape[1], "dtype": str(x.dtype).removeprefix("torch."), "signed": signs is not None, "inverse": inverse, **said}


if __name__ == "__main__":
    main()
