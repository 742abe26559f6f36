"""Attention received: against transformers' own eager attention, for every tiny family that has it."""

import numpy as np
import pytest
import torch

from rotviz.capture.attention import attention_received
from rotviz.capture.capture import capture
from rotviz.models.loading import load
from rotviz.models.tiny import tiny
from rotviz.models.walk import BlockSource


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-qwen3", "tiny-gemma2", "tiny-gemma3", "tiny-mistral", "tiny-phi3", "tiny-opt", "tiny-mixtral"])
def test_received_is_what_eager_attention_says(name, tmp_path):
    tokens = torch.randint(0, 256, (60,), generator=torch.Generator().manual_seed(0))
    source = BlockSource(load(name).model)
    seen = capture(source, tokens, [str(t) for t in tokens.tolist()], tmp_path / "c.safetensors")
    found = attention_received(seen, source)
    eager, _ = tiny(name, attention="eager")
    with torch.no_grad():
        attentions = eager(tokens[None], output_attentions=True, use_cache=False).attentions
    assert found.shape == (len(source), 60)
    for block, probabilities in enumerate(attentions):
        mean = probabilities[0].double().mean(0).numpy()
        for token in (0, 1, 17, 58):
            rows = mean[token + 1:, token]
            window = getattr(eager.config, "sliding_window", None)
            kinds = getattr(eager.config, "layer_types", None)
            if window and (kinds is None or kinds[block] == "sliding_attention"):
                rows = rows[:window - 1]
            assert found[block, token] == pytest.approx(rows.mean(), rel=1e-4, abs=1e-7)
    assert np.isnan(found[:, -1]).all()


def test_a_watcher_leaves_no_trace(tmp_path):
    from rotviz.models import attention

    source = BlockSource(load("tiny-llama").model)
    seen = capture(source, torch.arange(20), [str(t) for t in range(20)], tmp_path / "c.safetensors")
    attention_received(seen, source)
    assert not any(attention._WATCHES.get(source.original(block).attention) for block in range(len(source)))
