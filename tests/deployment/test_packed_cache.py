"""The KV cache of codes: what it reads back is what a run rounds to, in as many bytes as predicted; transformers' own operations work on it."""

from types import SimpleNamespace

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, MistralConfig
from transformers.cache_utils import DynamicLayer

from rotviz.deployment.cache import CacheCoder, PackedCache, from_bytes, to_bytes
from rotviz.errors import BadInput
from rotviz.kernels.cost import row_bytes
from rotviz.kernels.quantize import quantize
from rotviz.numerics.grids import fake_quantize
from rotviz.numerics.rotation import HadamardRotation
from rotviz.types import Granularity, QuantSpec

HEAD = Granularity.HEAD
SPECS = [QuantSpec(4, False, HEAD, clip=0.95), QuantSpec(4, True, HEAD), QuantSpec(4, False, HEAD, 16), QuantSpec(8, False, HEAD),
         QuantSpec(3, True, HEAD)]
BATCH, HEADS, WIDTH = 2, 3, 32
LLAMA = LlamaConfig(num_hidden_layers=2, hidden_size=96, num_attention_heads=3, num_key_value_heads=3)
SIGNS = torch.tensor([1.0, -1.0] * 16, dtype=torch.float64)


def draw(tokens: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(BATCH, HEADS, tokens, WIDTH, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_what_comes_back_is_what_a_run_rounds_to(spec):
    cache = PackedCache(LLAMA, CacheCoder(spec))
    parts = [(draw(n, i), draw(n, 10 + i)) for i, n in enumerate((5, 1, 1))]
    for keys, values in parts:
        read = cache.update(keys, values, 0)
    for found, new in zip(read, zip(*parts)):
        assert torch.equal(found, fake_quantize(torch.cat(new, 2), spec))
    rows = BATCH * HEADS * 7
    assert cache.layers[0].nbytes == cache.nbytes == 2 * row_bytes(rows, WIDTH, spec)
    assert cache.layers[0].keys.shape == (BATCH, HEADS, 7, CacheCoder(spec).bytes_for(WIDTH, torch.float32))
    assert cache.get_seq_length(0) == 7


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_keys_are_turned_once(spec):
    rotation, keys = HadamardRotation(WIDTH, SIGNS), draw(40)
    coder = CacheCoder(spec, rotation)
    found = coder.read(coder.stored_keys(keys), WIDTH, keys.dtype)
    away = (found - fake_quantize(rotation.apply(keys), spec)).abs()
    assert (away > 1e-5).float().mean() < 2e-3  # a tie may fall to the other side: the kernel's transform differs in the last place


def test_bytes_there_and_back():
    for spec in SPECS:
        packed = quantize(draw(4), spec)
        again = from_bytes(to_bytes(packed), spec, WIDTH, torch.float32)
        assert torch.equal(again.data, packed.data) and again.data.dtype == packed.data.dtype and torch.equal(again.step, packed.step)
        assert (again.zero is None and packed.zero is None) or torch.equal(again.zero, packed.zero)


def test_a_single_row_of_any_width():
    spec = QuantSpec(4, False, HEAD)
    row = torch.randn(1, 1, 1, 6, generator=torch.Generator().manual_seed(0))
    coder = CacheCoder(spec)
    assert torch.equal(coder.read(coder.stored_keys(row), 6, row.dtype), fake_quantize(row, spec))


def test_without_quantization_keys_are_kept_turned():
    rotation = HadamardRotation(WIDTH)
    cache, keys = PackedCache(LLAMA, CacheCoder(QuantSpec(), rotation)), draw(4)
    found, values = cache.update(keys, draw(4, 1), 0)
    assert torch.allclose(found, rotation.apply(keys), atol=1e-5) and torch.equal(values, draw(4, 1))
    assert cache.nbytes == 2 * 4 * keys.numel()


def test_attention_is_told_what_comes_from_the_cache():
    coder = CacheCoder(SPECS[0], HadamardRotation(WIDTH))
    keys, values, edit = draw(6), draw(6, 1), coder.edit()
    cached = PackedCache(LLAMA, coder).update(keys, values, 0)
    query, *from_cache = edit(keys, *cached)
    again, *without = edit(keys, keys, values)
    assert torch.equal(query, again) and not torch.equal(query, keys)
    assert from_cache[0] is cached[0]
    for a, b in zip(from_cache, without):
        assert torch.equal(a, b)


def test_beams_cropping_and_batches():
    cache, plain = PackedCache(LLAMA, CacheCoder(SPECS[0])), DynamicCache(config=LLAMA)
    keys, values = draw(9), draw(9, 1)
    for one in (cache, plain):
        one.update(fake_quantize(keys, SPECS[0]), fake_quantize(values, SPECS[0]), 0)
        one.reorder_cache(torch.tensor([1, 0]))
        one.crop(-3)
        one.batch_repeat_interleave(2)
    found, wanted = (one.update(*[fake_quantize(draw(1).repeat_interleave(2, 0), SPECS[0])] * 2, 0)[0] for one in (cache, plain))
    assert found.shape == wanted.shape == (4, HEADS, 7, WIDTH)
    assert torch.allclose(found, wanted, atol=1e-1 * wanted.abs().max())  # rounded twice: the clip moves what is rounded again
    cache.reset()
    assert cache.get_seq_length(0) == 0


def test_sliding_windows_forget():
    config = MistralConfig(num_hidden_layers=1, hidden_size=96, num_attention_heads=3, num_key_value_heads=3, sliding_window=5)
    cache = PackedCache(config, CacheCoder(SPECS[0]))
    everything = draw(12)
    for t in range(12):
        keys, _ = cache.update(everything[:, :, t:t + 1], everything[:, :, t:t + 1], 0)
    assert torch.equal(keys, fake_quantize(everything[:, :, -5:], SPECS[0]))
    assert cache.nbytes == 2 * row_bytes(BATCH * HEADS * 4, WIDTH, SPECS[0]) and cache.get_seq_length(0) == 12


def test_other_kinds_of_layers_are_refused(monkeypatch):
    class Odd(DynamicLayer):
        """A layer of a kind that is not known here."""

    monkeypatch.setattr("rotviz.deployment.cache.DynamicCache", lambda config: SimpleNamespace(layers=[Odd()]))
    with pytest.raises(BadInput, match="Odd cannot be stored in codes"):
        PackedCache(LLAMA, CacheCoder(SPECS[0]))
