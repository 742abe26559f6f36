"""Packed linears: as right as torch's own, hooks run, nothing is left behind, and what cannot be packed is left alone."""

import pytest
import torch
from torch import nn

from rotviz.models.loading import load
from rotviz.models.packed import PackedLinear, can_pack, packed_linears
from rotviz.models.walk import BlockSource


@pytest.mark.parametrize("shape", [(1, 3, 576), (2, 2048, 576), (5, 80), (1, 1, 64)])
@pytest.mark.parametrize("bias", [True, False])
def test_packed_is_as_right_as_torch(shape, bias):
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(shape[-1], 193, bias=bias).requires_grad_(False)
    x = torch.randn(shape, generator=generator)
    truth = nn.functional.linear(x.double(), linear.weight.double(), linear.bias.double() if bias else None)
    with torch.no_grad():
        plain, packed = linear(x), PackedLinear(linear)(x)
    assert packed.shape == plain.shape
    assert float((packed - truth).norm()) <= 2 * float((plain - truth).norm()) + 1e-12


def test_hooks_run_and_nothing_is_left_behind():
    block = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).requires_grad_(False)
    x, seen = torch.randn(3, 8), []
    block[2].register_forward_pre_hook(lambda _, inputs: (inputs[0] * 2,))
    block[2].register_forward_hook(lambda *_: seen.append(1))
    plain = block(x)
    with packed_linears(block), torch.no_grad():
        torch.testing.assert_close(block(x), plain)
        assert "forward" in block[0].__dict__
    assert len(seen) == 2 and not any("forward" in module.__dict__ for module in block)
    with pytest.raises(RuntimeError, match="stop"), packed_linears(block):
        raise RuntimeError("stop")
    assert not any("forward" in module.__dict__ for module in block)


def test_only_plain_float32_linears_on_the_cpu(monkeypatch):
    class Own(nn.Linear):
        pass

    assert can_pack(nn.Linear(4, 4)) and not can_pack(Own(4, 4)) and not can_pack(nn.Linear(4, 4).double()) and not can_pack(nn.ReLU())
    monkeypatch.setattr("rotviz.models.packed.LARGEST", 63)
    assert not can_pack(nn.Linear(4, 4))


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-llama-tied", "tiny-gemma2", "tiny-opt"])
def test_packed_ends_finish_alike_and_leave_the_model(name):
    source = BlockSource(load(name).model)
    hidden = torch.randn(1, 9, source.model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    head = source.model.get_submodule(source.family.head)
    packed = source.ends.packed()
    torch.testing.assert_close(packed.finish(hidden), source.ends.finish(hidden), rtol=1e-5, atol=1e-5)
    assert source.ends.model.get_submodule(source.family.head) is head and type(packed.model.get_submodule(source.family.head)) is PackedLinear
