"""What rounding costs each token: the loss of a text's tokens under the float model and under quantized ones, position by position.

    loss(t) = -log p(token t | the tokens before it)        difference = loss under the quantized model - loss under the float model, nats

Rounding is by round-to-nearest and of activations alone (the input of every linear of every block, each token on its own scale), so nothing has to be
calibrated and a text of some hundred tokens takes seconds. One block is in memory at a time: a copy of it is rewritten for each rotation, and every
text goes through the block as it was and through the copies side by side, as in a run (rotviz.pipeline.run). A token's loss
may fall by luck of the text; the KL divergence beside it does not know the text's own next token, and is never negative.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rotviz.errors import BadInput
from rotviz.kernels.scores import score
from rotviz.models.walk import BlockSource, Ends, forward
from rotviz.surgery.online import quantize_activations
from rotviz.surgery.plan import RotationPlan
from rotviz.surgery.steps import rewrite_block, rewrite_ends, steps_for
from rotviz.types import QuantSpec

LONGEST = 1024
"""Tokens of a text at most: what keeps a page waiting for seconds, not minutes."""
SCORED = 256
"""Tokens scored at a time; their logits under two models are what memory must hold."""


@dataclass(frozen=True)
class TokenLoss:
    """Losses in nats, float64 [T] each; NaN at the first token, which nothing predicts."""

    reference: np.ndarray
    quantized: np.ndarray
    kl: np.ndarray

    @property
    def difference(self) -> np.ndarray:
        """How much more the quantized model loses on each token."""
        return self.quantized - self.reference


def token_losses(source: BlockSource, plans: Mapping[str, RotationPlan], spec: QuantSpec, texts: Sequence[Tensor],
                 progress: Callable[[float, str], None] | None = None) -> dict[str, list[TokenLoss]]:
    """By the name of each plan, the losses of every text.

    Args:
        source: the model; it is not changed.
        plans: rotations by name; an empty plan is no rotation.
        spec: how activations are rounded.
        texts: token ids [T] of each text, 2 <= T <= LONGEST.
        progress: called with the share done and a few words.

    Raises:
        BadInput: a text is too long, or a group does not divide a width.
    """
    if any(len(tokens) > LONGEST for tokens in texts):
        raise BadInput(f"losses by token are for texts of up to {LONGEST:,} tokens; choose fewer")
    say = progress or (lambda fraction, words: None)
    texts = [tokens.to(source.device) for tokens in texts]
    rewrites = {name: steps_for(plan, source.family) for name, plan in plans.items()}
    ends = {name: rewrite_ends(source.ends, steps) for name, steps in rewrites.items()}
    entries = [source.ends.entry(tokens[None]) for tokens in texts]
    floats = [entry.hidden for entry in entries]
    streams = {name: [end.entry(tokens[None]).hidden for tokens in texts] for name, end in ends.items()}
    for index in range(len(source)):
        say(0.9 * index / len(source), f"block {index + 1} of {len(source)}")
        arguments = [entry.arguments[index] for entry in entries]
        floats = [forward(source.original(index).block, h, a) for h, a in zip(floats, arguments, strict=True)]
        for name, steps in rewrites.items():
            view = rewrite_block(source.owned(index), steps)
            quantize_activations(view, spec)
            streams[name] = [forward(view.block, h, a) for h, a in zip(streams[name], arguments, strict=True)]
    say(0.9, "scoring")
    return {name: [_losses(source.ends, ends[name], *three) for three in zip(floats, streams[name], texts, strict=True)] for name in plans}


def _losses(ends: Ends, rewritten: Ends, hidden: Tensor, quantized: Tensor, tokens: Tensor) -> TokenLoss:
    parts = []
    for start in range(0, len(tokens) - 1, SCORED):
        part = slice(start, min(start + SCORED, len(tokens) - 1))
        parts.append(score(ends.finish(hidden[:, part])[0], rewritten.finish(quantized[:, part])[0], tokens[1:][part]))
    columns = (torch.cat([getattr(p, name) for p in parts]).cpu().numpy() for name in ("reference", "quantized", "kl"))
    return TokenLoss(*(np.concatenate([[np.nan], column]) for column in columns))
