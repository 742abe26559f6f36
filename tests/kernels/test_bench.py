"""The benchmark: what it counts, and that without a GPU it says so instead of guessing."""

import json

import pytest
import torch

from rotviz.cli import main
from rotviz.device import timed
from rotviz.errors import BadInput
from rotviz.kernels.bench import Case, Ceilings, cases, kernel_of, measure_case

CPU = torch.device("cpu")


def test_bytes_and_operations_are_counted_by_hand():
    found = {(c.kernel, c.size): c for c in cases(CPU, torch.float32, small=True)}
    assert found["hadamard", "170 x 1536"].bytes == 2 * 4 * 170 * 1536
    assert found["hadamard", "170 x 1536"].multiply_adds == 170 * (1536 * 7 + 1536 * 12)
    assert found["hadamard + int4", "170 x 1536"].bytes == 170 * (4 * 1536 + 768 + 8)
    assert found["int4 weights", "16 x 1024 -> 1024"].bytes == 4 * 16 * 1024 * 2 + 1024 * (512 + 8 * 8)
    assert found["int8 x int8", "1 x 1024 -> 1024"].bytes == 1024 + 4 + 1024 * 1024 + 4 * 1024 + 4 * 1024
    assert found["fake-quantize int4 a token", "64 x 4096"].bytes == 2 * 4 * 64 * 4096
    assert found["scores", "5 x 49152"].bytes == 2 * 4 * 5 * 49_152
    assert len({kernel for kernel, _ in found}) == 16


def test_the_floor_is_the_nearer_ceiling():
    case = next(iter(cases(CPU, torch.float32, small=True)))
    slow_memory, slow_arithmetic = Ceilings("", "float32", 1.0, 1e30), Ceilings("", "float32", 1e30, 1.0)
    assert measure_case(case, slow_memory, CPU, 1).floor == case.bytes
    assert measure_case(case, slow_arithmetic, CPU, 1).floor == 2 * case.multiply_adds
    row = measure_case(case, slow_memory, CPU, 1)
    assert row.seconds["triton"] is None and row.share is None and row.torch_share == pytest.approx(row.floor / row.seconds["torch"])
    assert len(timed(lambda: None, CPU, 3)) == 3


def test_a_size_that_the_gpu_has_no_room_for_is_not_measured_and_the_others_are():
    def refused(backend):
        raise BadInput("it takes 131,072 bytes of shared memory")

    fitting, large = (Case("hadamard", "", 1, 1, run) for run in (lambda backend: None, refused))
    assert kernel_of(large, torch.device("cuda")) is None
    assert kernel_of(fitting, torch.device("cuda")) is not None
    assert kernel_of(fitting, CPU) is None


def test_the_command_says_what_was_not_measured(capsys):
    assert main(["bench", "kernels", "--device", "cpu", "--repeats", "1", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert "not measured" in record["ceilings"]["not_measured"] and record["environment"]["torch"]
    assert all(row["seconds"]["triton"] is None and row["share"] is None and row["seconds"]["torch"] > 0 for row in record["rows"])
    assert main(["bench", "kernels", "--repeats", "0"]) == 2
    assert main(["bench", "kernels", "--device", "cpu", "--repeats", "1"]) == 0
    assert "not measured" in capsys.readouterr().out
