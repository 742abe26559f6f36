"""One realistic call of every figure function, at any size: a massive token at index 0, channel 507 of 576, value 23,700, median 1.7."""

import numpy as np

from rotviz.plots.apart import draw_apart
from rotviz.plots.bars import draw_bars
from rotviz.plots.boxes_by_block import PERCENTILES, draw_boxes_by_block
from rotviz.plots.butterflies import draw_butterflies
from rotviz.plots.channel_ribbons import channel_percentiles, draw_channel_ribbons
from rotviz.plots.compare_errors import draw_compare_errors
from rotviz.plots.curves import draw_curves
from rotviz.plots.divergence_bars import draw_divergence_bars
from rotviz.plots.effect_by_switch import draw_effect_by_switch
from rotviz.plots.energy_spread import draw_energy_spread
from rotviz.plots.error_by_block import draw_error_by_block
from rotviz.plots.error_by_channel import draw_error_by_channel
from rotviz.plots.error_scatter import draw_error_scatter
from rotviz.plots.estimate_scatter import draw_estimate_scatter
from rotviz.plots.grid_cells import draw_grid_cells
from rotviz.plots.histogram import draw_histogram
from rotviz.plots.kurtosis_by_block import draw_kurtosis_by_block
from rotviz.plots.learning_curve import draw_learning_curve
from rotviz.plots.magnitude_by_block import draw_magnitude_by_block
from rotviz.plots.massive_map import draw_massive_map
from rotviz.plots.massive_ordinary import draw_massive_ordinary
from rotviz.plots.memory_by_part import draw_memory_by_part
from rotviz.plots.pareto import draw_pareto
from rotviz.plots.perplexity_bars import draw_perplexity_bars
from rotviz.plots.progress_by_block import draw_progress_by_block
from rotviz.plots.qq import draw_qq
from rotviz.plots.roofline import draw_roofline
from rotviz.plots.seed_spread import draw_seed_spread
from rotviz.plots.spikes import draw_spikes
from rotviz.plots.stack_waterfall import draw_stack_waterfall
from rotviz.plots.token_channel_map import draw_token_channel_map
from rotviz.plots.token_channels import draw_token_channels
from rotviz.plots.token_loss import draw_token_loss
from rotviz.plots.token_strip import draw_token_strip
from rotviz.plots.token_winners import draw_token_winners
from rotviz.plots.verdict_map import draw_verdict_map
from rotviz.plots.waterfall import draw_waterfall
from rotviz.plots.weight_grid import draw_weight_grid
from rotviz.plots.weight_map import draw_weight_map

SPIKE, MEDIAN = 23_700.0, 1.7
NAN = float("nan")
METHODS = ("none", "orthogonal", "hadamard", "dartquant", "dfrot", "spinquant")
SITES = ("attn_in", "o_in", "mlp_in", "down_in", "key", "value")
_WORDS = ("Summer", " is", " warm", ".", " Winter", " is", " cold", ".", "\n", " The", " compiler",
          " 冬天", "<script>", " $x$", "\t", " naïve")


def texts(total: int) -> list[str]:
    """Token texts with white space, markup, TeX and other scripts among them."""
    return [_WORDS[i % len(_WORDS)] for i in range(total)]


def hidden(tokens: int = 96, width: int = 576, seed: int = 0) -> np.ndarray:
    """A residual stream [T, D] with one massive token, two massive channels and a few outlier channels."""
    generator = np.random.default_rng(seed)
    values = generator.standard_normal((tokens, width), dtype=np.float32) * np.float32(MEDIAN / 0.6745)
    values[:, [width // 9, width // 3]] *= 18
    values[0, min(507, width - 1)] = SPIKE
    values[0, width // 5] = -4100
    values[min(8, tokens - 1), min(507, width - 1)] = SPIKE * 0.6
    return values


def by_block(blocks: int, seed: int, scale: float = 1.0) -> np.ndarray:
    """An error that grows with depth and jumps once."""
    generator = np.random.default_rng(seed)
    steps = np.exp(generator.normal(0.05, 0.15, blocks).cumsum())
    steps[blocks // 3 :] *= 3
    return 0.004 * scale * steps


def token_channel_map(n: int = 96, d: int = 576):
    return draw_token_channel_map(hidden(n, d), texts(n))


def spikes(n: int = 96, d: int = 576):
    return draw_spikes(hidden(n, d), texts(n))


def channel_ribbons(n: int = 96, d: int = 576):
    return draw_channel_ribbons(channel_percentiles(hidden(min(n, 256), d)), symmetric_log=True)


def histogram(n: int = 96, d: int = 576):
    values = hidden(min(n, 256), d)
    counts, edges = np.histogram(np.clip(values, -60, 60), bins=200 if n < 1000 else 4000)
    return draw_histogram(counts, edges, normal=(0.0, float(np.percentile(np.abs(values), 68))), levels=np.linspace(-60, 60, 16))


def qq(n: int = 96, d: int = 576):
    generator = np.random.default_rng(0)
    normal = np.sort(generator.standard_normal(n * 40))
    return draw_qq(normal, {"none": np.sort(generator.standard_t(2.5, n * 40)), "hadamard": np.sort(generator.standard_normal(n * 40))})


def magnitude_by_block(n: int = 96, d: int = 576):
    blocks = 30 if n < 1000 else 126
    top = np.full((blocks, 3), [9.0, 8.0, 7.5]) * np.linspace(1, 4, blocks)[:, None]
    top[blocks // 3 : -2] = [SPIKE, 4100, 900]
    return draw_magnitude_by_block(top, np.linspace(0.3, 2.5, blocks), where=[f"token 0 Summer, channel {507}"] * blocks)


def kurtosis_by_block(n: int = 96, d: int = 576):
    blocks = 30 if n < 1000 else 126
    generator = np.random.default_rng(1)
    before = {s: 10 ** generator.uniform(0.2, 3 + i / 2, blocks) for i, s in enumerate(SITES[:4])}
    after = {s: generator.uniform(-0.6, 0.8, blocks) for s in SITES[:4]}
    return draw_kurtosis_by_block({"none": before, "hadamard": after})


def massive_map(n: int = 96, d: int = 576):
    blocks = 30 if n < 1000 else 126
    generator = np.random.default_rng(2)
    peaks = np.exp(generator.normal(2, 0.4, (blocks, n))) * np.linspace(0.5, 3, blocks)[:, None]
    peaks[blocks // 3 : -2, 0] = SPIKE
    peaks[blocks // 3 : -2, 8] = SPIKE / 2
    massive = peaks > 5000
    return draw_massive_map(peaks, texts(n), massive=massive, channels=np.full(peaks.shape, 507))


def token_channels(n: int = 96, d: int = 576):
    return draw_token_channels(hidden(16, d)[0], "Summer", 0)


def error_scatter(n: int = 96, d: int = 576):
    generator = np.random.default_rng(3)
    total = 4 * n
    base = np.exp(generator.normal(-4.5, 0.3, total))
    a, b = base * np.exp(generator.normal(0, 0.08, total)), base * np.exp(generator.normal(0, 0.08, total))
    a[[0, 8]], b[[0, 8]] = [0.021, 0.024], [0.0041, 0.0052]
    return draw_error_scatter(a, b, texts(total), name_a="orthogonal", name_b="hadamard", massive={0, 8})


def error_by_block(n: int = 96, d: int = 576):
    blocks = 30 if n < 1000 else 126
    errors = {m: by_block(blocks, i, 6.0 / (i + 1)) for i, m in enumerate(METHODS)}
    alone = {m: errors[m] * 0.2 for m in METHODS[:3]}
    return draw_error_by_block(errors, isolated=alone)


def error_by_channel(n: int = 96, d: int = 576):
    generator = np.random.default_rng(4)
    return draw_error_by_channel({m: np.exp(generator.normal(-3 - i, 1.2 / (i + 1), d)) for i, m in enumerate(METHODS[:4])}, sort=True)


def perplexity_bars(n: int = 96, d: int = 576):
    names = [f"{m} + gptq W4A4" for m in METHODS]
    return draw_perplexity_bars(names, np.array([812.0, 7.96, 6.27, 6.2, 6.21, 6.24]), np.array([31, 0.09, 0.05, 0.05, 0.05, 0.05]),
                                reference=5.47, reference_stderr=0.04, methods=METHODS)


def divergence_bars(n: int = 96, d: int = 576):
    return draw_divergence_bars(METHODS, np.array([1.9, 0.41, 0.21, 0.19, 0.18, 0.2]), np.array([0.41, 0.71, 0.81, 0.82, 0.83, 0.82]),
                                stderrs=np.full(6, 0.02))


def pareto(n: int = 96, d: int = 576):
    generator = np.random.default_rng(5)
    runs = min(n, 60)
    bits = generator.choice([2.3, 3, 3.25, 4, 4.25, 5, 6, 8], runs)
    values = 5.5 + 20 * np.exp(-bits) * generator.uniform(0.7, 2.5, runs)
    return draw_pareto([f"{METHODS[i % 6]} {bits[i]:g} bit" for i in range(runs)], bits, values,
                       stderrs=np.full(runs, 0.05), methods=[METHODS[i % 6] for i in range(runs)], reference=5.47)


def progress_by_block(n: int = 96, d: int = 576):
    return draw_progress_by_block({s: by_block(12, i) for i, s in enumerate(SITES[:4])}, 30)


def seed_spread(n: int = 96, d: int = 576):
    generator = np.random.default_rng(6)
    found = {m: 8 - i / 2 + generator.standard_normal(12 if i != 3 else 4) * (1.0 / (i + 1)) for i, m in enumerate(METHODS)}
    return draw_seed_spread(found, reference=5.47)


def compare_errors(n: int = 96, d: int = 576):
    blocks = 30 if n < 1000 else 126
    generator = np.random.default_rng(7)
    a = np.exp(generator.normal(-4, 0.4, (blocks, 6)))
    b = a * np.exp(generator.normal(-0.3, 0.3, (blocks, 6)))
    b[5, 3] *= 6
    return draw_compare_errors(a, b, SITES, name_a="hadamard", name_b="dfrot")


def memory_by_part(n: int = 96, d: int = 576):
    parts = ["attention weights", "MLP weights", "embedding", "norms and routers", "KV cache", "activations"]
    return draw_memory_by_part(parts, np.array([9e8, 3.6e9, 2.6e8, 5e5, 1.1e9, 4e7]), np.array([2.2e8, 9e8, 2.6e8, 5e5, 3e8, 2e7]), limit=4e9)


def roofline(n: int = 96, d: int = 576):
    generator = np.random.default_rng(8)
    kernels = [["hadamard", "int4 weights", "statistics"][i % 3] for i in range(n)]
    moved = 10 ** generator.uniform(6, 9, n)
    done = moved * 10 ** generator.uniform(-1, 3, n)
    return draw_roofline(kernels, ["1 x 4096"] * n, done, moved, np.maximum(moved / 2e12, done / 6e14) * 1.5, copy_rate=2e12, matrix_rate=6e14)


def learning_curve(n: int = 96, d: int = 576):
    steps = np.arange(n)
    fall = np.exp(-steps / n)
    return draw_learning_curve({"ordinary": (steps, 0.012 * (0.8 + 0.2 * fall)), "massive": (steps[::5], 0.004 * fall[::5])}, what="relative error")


def massive_ordinary(n: int = 96, d: int = 576):
    generator = np.random.default_rng(9)
    spread = {m: np.exp(generator.normal(0, 0.02, n if m in METHODS[1:3] else 3)) for m in METHODS[1:]}
    heavy = dict(zip(METHODS[1:], (0.013, 0.002, 0.0019, 0.0008, 0.0015), strict=True))
    return draw_massive_ordinary({m: (0.0121 * s, heavy[m] * s[::-1]) for m, s in spread.items()})


def curves(n: int = 96, d: int = 576):
    t = np.linspace(0, 1, 21)
    fall = np.exp(-4 * t)
    return draw_curves(t, {"all tokens": 0.012 + 0.08 * fall, "massive tokens": 0.002 + 0.1 * fall, "ordinary tokens": 0.012 + 0.001 * t},
                       now=0.35, what="relative error")


def energy_spread(n: int = 96, d: int = 576):
    generator = np.random.default_rng(10)
    spike = generator.standard_normal(d) * 0.05
    spike[d // 2] = 0.8
    return draw_energy_spread({"the spike": spike**2, "its whole token": hidden(2, d)[1].astype(np.float64) ** 2})


def bars(n: int = 96, d: int = 576):
    return draw_bars(["the whole tensor", "each token", "each channel"], {"before": np.array([0.33, 0.18, 0.012]),
                                                                          "after hadamard": np.array([0.03, 0.016, 0.012])}, what="relative error")


def grid_cells(n: int = 96, d: int = 576):
    generator = np.random.default_rng(11)
    return draw_grid_cells(generator.standard_normal((n, 2)) * [6, 1], 2.1, reach=20)


def butterflies(n: int = 96, d: int = 576):
    size = 8 if n < 1000 else 64
    stages = [np.eye(size)[3] * 24]
    while 2 ** (len(stages) - 1) < size:
        pairs = stages[-1].reshape(-1, 2, 2 ** (len(stages) - 1))
        stages.append(np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], 1).ravel() / 2**0.5)
    return draw_butterflies(np.stack(stages))


def boxes_by_block(n: int = 96, d: int = 576):
    blocks = 30 if n < 1000 else 126
    return draw_boxes_by_block(np.stack([np.percentile(hidden(8, d, seed=b), PERCENTILES) for b in range(blocks)]))


def weight_grid(n: int = 96, d: int = 576):
    generator = np.random.default_rng(11)
    counts, edges = np.histogram(generator.standard_normal(n * d) * 2.5, bins=200 if n < 1000 else 4000)
    return draw_weight_grid(counts, edges, levels=np.arange(-8.0, 8.0), ends=(-8.5, 7.5), method="hadamard", what="weight in steps of its grid")


def weight_map(n: int = 96, d: int = 576):
    blocks = 30 if n < 1000 else 126
    generator = np.random.default_rng(12)
    return draw_weight_map(np.exp(generator.normal(-4, 0.8, (blocks, 7))), ["q", "k", "v", "o", "gate", "up", "down"])


def waterfall(n: int = 96, d: int = 576):
    return draw_waterfall(["float", "W4 weights", "+ A4 activations", "+ KV4 cache"],
                          {"none": np.array([15.1, 21.0, 920.0, NAN]), "hadamard": np.array([15.1, 26.0, 33.1, 41.0])},
                          stderrs={"hadamard": np.array([0.1, 0.2, 0.2, 0.3])}, reference=15.1)


def effect_by_switch(n: int = 96, d: int = 576):
    found = {"loss": {"normalized": 0.31, "block": 0.62, "kl": 0.29, "layer": 0.34}, "calibration": {"wikitext2:validation": 0.31, "pydoc": 0.33},
             "step": {f"sign, codes, step {i}": 0.3 + 0.001 * i for i in range(min(n, 400))}}
    return draw_effect_by_switch(found, base=0.31, band=(0.29, 0.33))


def stack_waterfall(n: int = 96, d: int = 576):
    steps = ["float", "W4 weights", "+ A4 activations", "+ KV4 cache", "+ hadamard R1", "+ R2", "+ R3", "+ R4", "+ smoothquant", "+ gptq"]
    values = np.array([15.1, 21.0, 920.0, 1010.0, 88.0, 80.0, 61.0, 41.0, NAN, 36.5])
    return draw_stack_waterfall(steps, values, stderrs=values * 0.01)


def apart(n: int = 96, d: int = 576):
    rows = {"none · rtn": [0.997, 5.1, 6.28], "hadamard · rtn": [0.926, 0.559, 1.75], "none · mine": [1e-10, 5.1, 5.06],
            "peak · gptq": [NAN, 0.4, NAN]}
    rows |= {f"hadamard · method {i}": [0.1 * i, 0.5, 1.0] for i in range(1, min(n, 400) // 12)}
    return draw_apart({name: np.array(values) for name, values in rows.items()})


def estimate_scatter(n: int = 96, d: int = 576):
    generator = np.random.default_rng(14)
    estimate = np.exp(generator.normal(-5, 1.5, 2 * n))
    measured = 3 * estimate * np.exp(generator.normal(0, 0.5, 2 * n))
    measured[:4] *= -1
    return draw_estimate_scatter(estimate, measured, [f"{i // 7}.{'qkvogud'[i % 7]}" for i in range(2 * n)], correlation=0.93)


def verdict_map(n: int = 96, d: int = 576):
    blocks = 30 if n < 1000 else 126
    ratios = np.exp(np.random.default_rng(13).normal(-0.6, 0.6, (blocks, 6)))
    kinds = [["helps" if r < 0.9 else "hurts" if r > 1.2 else "no difference" for r in row] for row in ratios]
    reasons = [[f"outlier channels spread: kurtosis 1,240 → {r:.2g}" for r in row] for row in ratios]
    return draw_verdict_map(ratios, kinds, SITES, ruined=ratios > 2, reasons=reasons, name_a="none", name_b="hadamard")


def token_loss(n: int = 96, d: int = 576):
    generator = np.random.default_rng(13)
    total = n if n < 1000 else 16 * n
    losses = {f"{m} W4A4": generator.exponential(0.3 / (i + 1), total) - 0.1 for i, m in enumerate(METHODS)}
    losses["none W4A4"][[0, total // 3]] = [NAN, 14.0]
    return draw_token_loss(losses, texts(total), massive={0, 8}, length=max(total // 4, 1), now=total // 3, methods=METHODS)


def token_strip(n: int = 96, d: int = 576):
    return draw_token_strip(texts(n), np.abs(hidden(n, min(d, 576))).max(axis=1), massive={0, 8}, what="largest |activation|")


def token_winners(n: int = 96, d: int = 576):
    generator = np.random.default_rng(13)
    return draw_token_winners(texts(n), {m: np.exp(generator.normal(-4, 0.3, n)) for m in METHODS[:3]}, massive={0, 8}, what="relative error")


STRIPS = {f.__name__: f for f in (token_strip, token_winners)}
"""Figures that are HTML."""

DRAWINGS = {f.__name__: f for f in (
    token_channel_map, spikes, channel_ribbons, histogram, qq, magnitude_by_block, kurtosis_by_block, massive_map, token_channels,
    error_scatter, error_by_block, error_by_channel, perplexity_bars, divergence_bars, pareto, progress_by_block, seed_spread,
    weight_grid, weight_map, waterfall, token_loss, learning_curve, massive_ordinary, curves, energy_spread, bars, grid_cells,
    boxes_by_block, butterflies, compare_errors, memory_by_part, roofline, effect_by_switch, stack_waterfall, apart,
    verdict_map, estimate_scatter)}
