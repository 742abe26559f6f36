"""Scores of two models' logits: as near to float64 as float32 numbers allow, whatever the width of the vocabulary and however sure the models are."""

import pytest
import torch
from judging import draw

from rotviz.errors import BadInput
from rotviz.kernels.scores import score

UNIT = 2.0**-24
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # the interpreter's, past the vocabulary's end


def logits(tokens, vocabulary, sure, dtype, device):
    """Two models', the second a little away from the first, and targets; the most likely token stands now early, now late."""
    p = draw(tokens, vocabulary) * 3
    p[torch.arange(tokens), torch.arange(tokens) * (vocabulary // tokens)] += sure
    q = p + draw(tokens, vocabulary, seed=1) / 8
    targets = torch.where(torch.arange(tokens) % 2 == 0, p.argmax(-1), torch.arange(tokens) % vocabulary)
    return p.to(device, dtype), q.to(device, dtype), targets.to(device)


def bounds(p, q, strip):
    """How far float32 may be off: rounded differences, an exponential that is off with its argument, sums of V / strip numbers a lane."""
    p, q = p.double(), q.double()
    adds = p.shape[1] / strip + 1
    off_p, off_q = ((x.softmax(-1) * (2 * (x.amax(-1, keepdim=True) - x) + 4 + adds)).sum(-1) * UNIT for x in (p, q))
    apart = (p - q).abs()
    cross = (p.softmax(-1) * apart * (2 * (p.amax(-1, keepdim=True) - p) + 6 + adds)).sum(-1) * UNIT
    return off_p, off_q, cross + off_p * (1 + apart.amax(-1)) + off_q


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("sure", [0.0, 12.0, 40.0])
@pytest.mark.parametrize("tokens, vocabulary", [(1, 1), (3, 260), (2, 4096), (5, 9001)])
def test_against_float64(tokens, vocabulary, sure, dtype, device):
    p, q, targets = logits(tokens, vocabulary, sure, dtype, device)
    truth = score(p.double(), q.double(), targets)
    allowed = bounds(p, q, 4096 if dtype != torch.float32 else 2048)
    for backend in ("triton", "torch"):
        found = score(p, q, targets, backend=backend)
        for name, bound in zip(("reference", "quantized", "kl"), allowed):
            away = (getattr(found, name) - getattr(truth, name)).abs()
            assert away.dtype == torch.float64 and (away <= bound).all(), (backend, name)
        assert torch.equal(found.same_top, truth.same_top)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_of_equal_logits_the_first_is_the_top(backend, device):
    p, q = torch.zeros(3, 5000, device=device), torch.zeros(3, 5000, device=device)
    p[0, [4500, 7]] = q[0, [7, 4999]] = 5.0
    p[1, 4500] = q[1, 4501] = 5.0
    assert score(p, q, torch.zeros(3, dtype=torch.int64, device=device), backend=backend).same_top.tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("strange", [float("nan"), float("inf")])
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_nan_stays_visible_in_its_token(strange, backend, device):
    p, q, targets = logits(3, 5000, 3.0, torch.float32, device)
    q[1, 4800] = strange
    found = score(p, q, targets, backend=backend)
    assert found.quantized.isnan().tolist() == found.kl.isnan().tolist() == [False, True, False] and not found.reference.isnan().any()


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_tokens_that_are_ruled_out(backend, device):
    """More of them than a strip has; both models' losses are those over the others."""
    p, q, targets = logits(3, 9000, 3.0, torch.float32, device)
    p[:, :4500] = q[:, :4500] = -torch.inf
    targets[:] = 8000
    found, rest = score(p, q, targets, backend=backend), score(p[:, 4500:], q[:, 4500:], targets - 4500, backend="torch")
    assert torch.allclose(found.reference, rest.reference, atol=1e-6) and torch.allclose(found.quantized, rest.quantized, atol=1e-6)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_a_model_beside_itself(backend, device):
    p, _, targets = logits(4, 3000, 6.0, torch.bfloat16, device)
    found = score(p, p.clone(), targets, backend=backend)
    assert found.kl.eq(0).all() and found.same_top.eq(1).all() and torch.equal(found.reference, found.quantized)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_logits_may_lie_anyhow(backend, device):
    p, q, targets = logits(4, 600, 2.0, torch.float32, device)
    plain = score(p, q, targets, backend=backend)
    wide = torch.full((4, 1200), float("nan"), device=device)
    wide[:, ::2] = p
    rows = torch.full((8, 600), float("nan"), device=device)
    rows[::2] = q
    found = score(wide[:, ::2], rows[::2], targets, backend=backend)
    assert all(torch.equal(getattr(plain, name), getattr(found, name)) for name in ("reference", "quantized", "kl", "same_top"))
    none = score(p[:0], q[:0], targets[:0], backend=backend)
    assert none.kl.shape == (0,) and none.kl.dtype == torch.float64


def test_refusals(device):
    p, q, targets = logits(4, 60, 2.0, torch.float32, device)
    for wrong in ((p, q[:2], targets), (p, q, targets[:3]), (p[0], q[0], targets)):
        with pytest.raises(BadInput, match="do not belong together"):
            score(*wrong)
    with pytest.raises(BadInput, match=r"it reads float32, bfloat16 and float16, not torch\.float64"):
        score(p.double(), q.double(), targets, backend="triton")
