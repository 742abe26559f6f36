"""Everything that takes a GPU, one after the other, each step within its time: what this project has not measured until somebody runs it.

    python benchmarks/gpu.py [--only tests kernels ...] [--text wikitext2:test] [--model smollm2-135m]

    model         fetched and converted, where that has not been done
    tests         pytest -m gpu: kernels against float64 and torch at the sizes of real models, deployed models, CUDA graphs
    kernels       each kernel and size against this GPU's ceilings, torch and fast-hadamard-transform        results/kernels-DEVICE.json
    deployment    bytes, prefill, decode, decode with CUDA graphs, beside the 16-bit model                   results/deployment-DEVICE.json
    evaluation    windows a second beside plain loops and lm-eval, and the share of the matrix rate          results/throughput-DEVICE.json
    devices       the same recipes on the CPU in float32, on the GPU in float32 and in bfloat16              results/devices-DEVICE.json
    compile       torch.compile and its CUDA graphs                                                          results/compile-cuda.json

A step that fails or runs out of time does not stop the others; results/gpu.json says how each ended, with the end of its output. Without the
model's the steps are limited to 14 minutes together.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from record import environment, save

from rotviz.device import describe, resolve_device
from rotviz.errors import BadInput

HERE = Path(__file__).parent
LINES = 40


def steps(text: str, model: str) -> dict[str, tuple[int, list[str]]]:
    """Seconds at most, and what to run."""
    def script(name: str, *arguments: str) -> list[str]:
        return [str(HERE / f"{name}.py"), "--device", "cuda", *arguments]

    tests = ["-m", "pytest", "-m", "gpu", "-n", "4", "-p", "no:cacheprovider", "tests/kernels", "tests/deployment", "tests/device"]
    measured = ["--model", model, "--text", text]
    return {
        "model": (300, ["-c", "import sys; from rotviz.models.loading import load; load(sys.argv[1])", model]),
        "tests": (240, tests),
        "kernels": (120, script("kernels")),
        "deployment": (90, script("deployment", "--model", model, "--dtype", "bfloat16", "--prompt", "1024", "--tokens", "64")),
        "evaluation": (120, script("throughput", *measured, "--dtype", "bfloat16", "--windows", "32")),
        "devices": (150, script("devices", *measured)),
        "compile": (120, script("compile", "--model", model, "--dtype", "bfloat16", "--length", "2048")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=steps("", ""), metavar="STEP")
    parser.add_argument("--text", default="wikitext2:test", help="pydoc, where there is neither the text nor the hub")
    parser.add_argument("--model", default="smollm2-135m")
    options = parser.parse_args()
    try:
        device = resolve_device("cuda")
    except BadInput as error:
        parser.error(str(error))
    found: dict[str, Any] = {}
    for name, (limit, command) in steps(options.text, options.model).items():
        if options.only and name not in options.only:
            continue
        found[name] = carried_out(command, limit)
        print(f"{name}: {found[name]['ended']}, {found[name]['seconds']:.0f} s\n{found[name]['output']}\n", flush=True)
        save("gpu", {"environment": environment() | {"device": describe(device)}, "steps": found})


def carried_out(command: list[str], limit: int) -> dict[str, Any]:
    """How a step ended, how long it took, and the last lines that it wrote."""
    began = time.perf_counter()
    child = subprocess.Popen([sys.executable, *command], cwd=HERE.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                             start_new_session=True)
    try:
        output, _ = child.communicate(timeout=limit)
        ended = "well" if child.returncode == 0 else f"with exit status {child.returncode}"
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)  # with its workers, which would go on using the GPU under what comes next
        output, _ = child.communicate()
        ended = f"stopped after {limit} s"
    lines = [line.split("\r")[-1] for line in output.splitlines()]
    return {"ended": ended, "seconds": time.perf_counter() - began, "output": "\n".join(lines[-LINES:])}


if __name__ == "__main__":
    main()
