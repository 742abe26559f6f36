"""Sampled rows are the rows that a whole forward sees, drawn uniformly, from every window."""

import pytest
import torch

from rotviz.capture.sample import sample_sites
from rotviz.capture.taps import tapped
from rotviz.models.loading import load
from rotviz.models.walk import BlockSource, forward
from rotviz.surgery.steps import fold_block, linearize_experts
from rotviz.texts import calibration_windows
from rotviz.types import Site

SITES = (Site.ATTN_IN, Site.MLP_IN, Site.O_IN)


def windows_of(loaded, count=5, length=1000):
    return calibration_windows("pydoc", loaded.tokenizer, min(length, 400), count, 0).tokens


def sample(loaded, windows, count, folder, **keys):
    return sample_sites(BlockSource(loaded.model), windows, SITES, count, torch.Generator().manual_seed(3), folder, **keys)


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-opt", "tiny-qwen3-moe"])
def test_rows_are_those_of_a_whole_forward(name, tmp_path):
    """Seven windows of 400 tokens go through in two batches; what is kept is what one batch of all would show."""
    loaded = load(name)
    windows = windows_of(loaded, 7)
    kept = sample(loaded, windows, windows.numel(), tmp_path)
    source = BlockSource(loaded.model)
    entry = source.ends.entry(windows)
    hidden = entry.hidden
    for block in range(len(source)):
        view = source.owned(block)
        linearize_experts(view)
        fold_block(view, centered=False)
        with tapped(view) as seen:
            hidden = forward(view.block, hidden, entry.arguments[block])
        for site in SITES:
            torch.testing.assert_close(kept.rows(block, site), seen[site], rtol=1e-4, atol=1e-4)


def test_tokens_are_drawn_from_all_windows_and_are_the_same_at_every_site(tmp_path):
    loaded = load("tiny-llama")
    windows = windows_of(loaded)
    whole, part = (sample(loaded, windows, n, tmp_path / str(n)) for n in (windows.numel(), 200))
    assert part.tokens == 200
    places = []
    for site in (Site.ATTN_IN, Site.O_IN):
        everything, some = whole.rows(1, site), part.rows(1, site)
        places.append([int((everything == row).all(-1).nonzero()[0, 0]) for row in some])
    assert places[0] == places[1] == sorted(set(places[0]))
    by_window = torch.tensor(places[0]).div(windows.shape[1], rounding_mode="floor").bincount(minlength=len(windows))
    # 200 of 2000 without replacement: 40 a window, with a standard deviation of 5.4
    assert (by_window - 40).abs().max() < 5 * 5.4


def test_the_first_token_of_each_window_is_there_when_asked_for(tmp_path):
    loaded = load("tiny-llama")
    windows = windows_of(loaded)
    kept, whole = sample(loaded, windows, 10, tmp_path / "a", sinks=True), sample(loaded, windows, windows.numel(), tmp_path / "b")
    first = whole.rows(0, Site.MLP_IN)[:: windows.shape[1]]
    assert all((kept.rows(0, Site.MLP_IN) == row).all(-1).any() for row in first) and 10 <= kept.tokens <= 15
