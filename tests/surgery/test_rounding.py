"""Rounding while the model runs: each shared input once, keys and values head by head, nothing left behind on the original."""

import torch

from rotviz.models.attention import edited, edits_of
from rotviz.models.loading import load
from rotviz.models.walk import BlockSource, forward
from rotviz.numerics.grids import fake_quantize
from rotviz.surgery.online import quantize_activations, quantize_cache
from rotviz.types import Granularity, QuantSpec, Site


def block(name="tiny-llama"):
    source = BlockSource(load(name).model)
    entry = source.ends.entry(torch.arange(40)[None])
    return source, source.owned(0), entry


def test_shared_inputs_are_rounded_once_and_each_site_is_seen():
    _, view, entry = block()
    seen = []
    quantize_activations(view, QuantSpec(4, True), lambda site, before, after: seen.append((site, before, after)))
    forward(view.block, entry.hidden, entry.arguments[0])
    assert [site for site, _, _ in seen] == [Site.ATTN_IN, Site.O_IN, Site.MLP_IN, Site.DOWN_IN]
    for _, before, after in seen:
        assert torch.equal(after, fake_quantize(before, QuantSpec(4, True)))


def test_cache_is_rounded_head_by_head():
    _, view, entry = block()
    seen = {}
    quantize_cache(view, QuantSpec(4, False, clip=0.95), lambda site, before, after: seen.update({site: (before, after)}))
    forward(view.block, entry.hidden, entry.arguments[0])
    assert set(seen) == {Site.KEY, Site.VALUE}
    before, after = seen[Site.KEY]
    heads = before.unflatten(-1, (view.heads.kv, view.heads.width))
    spec = QuantSpec(4, False, Granularity.HEAD, clip=0.95)
    torch.testing.assert_close(after, fake_quantize(heads, spec).flatten(-2))


def test_float_specs_change_nothing():
    source, view, entry = block()
    quantize_activations(view, QuantSpec(16))
    quantize_cache(view, QuantSpec(16))
    out = forward(view.block, entry.hidden, entry.arguments[0])
    assert torch.equal(out, forward(source.original(0).block, entry.hidden, entry.arguments[0]))


def test_an_edit_lasts_as_long_as_its_block_and_belongs_to_one_module():
    source, view, _ = block()
    with edited(view.attention, lambda q, k, v: (q, k, v)):
        assert len(edits_of(view.attention)) == 1 and not edits_of(source.original(0).attention)
    assert not edits_of(view.attention)
