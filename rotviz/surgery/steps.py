"""Function-preserving rewrites, one step at a time: each turns a block (or the ends of the model) into another with the same function.

    untie    the head gets its own copy of the embeddings
    experts  3-D expert tensors become linear layers
    center   LayerNorm models (OPT, ViT): every writer to the residual stream loses its mean, so that LayerNorm = RMSNorm
    fold     W <- W diag(gain), b <- b + W beta; norms become x / rms(x)
    R1       E <- E R1; readers W <- W R1; writers W <- R1^T W, b <- b R1; head W <- W R1
    R2       value rows of head h: W <- R2^T W, b <- b R2; output columns of its query heads: W <- W R2
    R3       q <- q R3, k <- k R3 after RoPE, online: (q R3)(k R3)^T = q k^T
    R4       down W <- W R4, and x <- x R4 online before it

Row vectors, linears are y = x W^T + b. All algebra runs in float64 and is cast back; weights of 16 bits stay in float32 from the first step to
the last, so that they are rounded once. References: QuaRot (arXiv 2404.00456), SpinQuant (2405.16406),
SliceGPT (2401.15024) for `center`. Departures: embedding rows are centered for LayerNorm models only, because RMSNorm is not invariant to a
shift; norms whose gain sits on the residual side of a sublayer (Gemma) stay, and R1 turns their output online; norms are folded only when
R1 acts, because folding alone changes which numbers are rounded.

The steps are cumulative and in order, so a proof can run after each and name the one that broke (proof.py).
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rotviz.kernels.online import OnlineRotation
from rotviz.models.attention import add_edit
from rotviz.models.experts import LinearExperts
from rotviz.models.family import BlockView, Family, LinearSlice, NormKind, norm_epsilon, norm_gain
from rotviz.models.norms import UnitRMSNorm
from rotviz.models.walk import Ends
from rotviz.numerics.rotation import Rotation
from rotviz.surgery.plan import RotationPlan
from rotviz.types import Role

NARROW = {torch.bfloat16, torch.float16}


class RotatedOutput(nn.Module):
    """A module whose output [..., D] is turned, online: for norms whose gain multiplies in the residual basis (Gemma)."""

    def __init__(self, inner: nn.Module, rotation: Rotation) -> None:
        super().__init__()
        self.inner = inner
        self.rotation = OnlineRotation(rotation)

    def forward(self, x: Tensor) -> Tensor:
        return self.rotation.apply(self.inner(x))


@dataclass(frozen=True)
class Step:
    """One rewrite: what it does to a block and to the ends, in place, on copies that the caller owns."""

    name: str
    words: str
    block: Callable[[BlockView], None]
    ends: Callable[[Ends], None]


def steps_for(plan: RotationPlan, family: Family) -> list[Step]:
    """The rewrites that a plan needs, in order. The first two only change how the same numbers are stored."""
    steps = [
        Step("untie", "give the head its own copy of the embeddings", _nothing, untie),
        Step("experts", "store every expert as linear layers", linearize_experts, _nothing),
    ]
    if plan.r1 is not None:
        if family.norm is NormKind.LAYER:
            steps.append(Step("center", "take the mean out of the residual stream", center_block, center_ends))
        steps.append(Step("fold", "fold the norms' gains into the linears that follow", fold_block, fold_ends))
        steps.append(Step("R1", "turn the residual stream", lambda v: rotate_residual(v, plan.r1), lambda e: rotate_ends(e, plan.r1)))
    if plan.r2:
        steps.append(Step("R2", "turn the value heads", lambda v: rotate_values(v, plan.r2[v.index]), _nothing))
    if plan.r3 is not None:
        steps.append(Step("R3", "turn queries and keys after RoPE", lambda v: rotate_queries_and_keys(v, plan.r3), _nothing))
    if plan.r4:
        steps.append(Step("R4", "turn the input of the down projection", lambda v: rotate_down(v, plan.r4), _nothing))
    return steps


def rewrite_block(view: BlockView, steps: list[Step]) -> BlockView:
    """Apply every step to a block that the caller owns."""
    with _rounded_once(lambda: dict(view.block.named_parameters())):
        for step in steps:
            step.block(view)
    return view


def rewrite_ends(ends: Ends, steps: list[Step]) -> Ends:
    """A rewritten copy of a model's ends; the blocks are shared, the rest is copied."""
    owned = own_ends(ends)
    with _rounded_once(lambda: {name: p for name, p in owned.model.named_parameters() if not name.startswith(f"{ends.family.blocks}.")}):
        for step in steps:
            step.ends(owned)
    return owned


@contextmanager
def _rounded_once(parameters: Callable[[], dict[str, nn.Parameter]]) -> Iterator[None]:
    """A block in which parameters of 16 bits are float32. Afterwards each has its dtype again; what the steps have put in place of others, under
    names of its own, that of most."""
    before = {name: parameter.dtype for name, parameter in parameters().items()}
    if not NARROW.intersection(before.values()):
        yield
        return
    usual = Counter(before.values()).most_common(1)[0][0]
    for name, parameter in parameters().items():
        if before[name] in NARROW:
            parameter.data = parameter.data.float()
    try:
        yield
    finally:
        for name, parameter in parameters().items():
            parameter.data = parameter.data.to(before.get(name, usual))


def own_ends(ends: Ends) -> Ends:
    """A copy of a model's ends that may be changed, with the same blocks (not copied)."""
    blocks = ends.model.get_submodule(ends.family.blocks)
    shared = {id(block): block for block in blocks}  # tells deepcopy to keep these as they are
    return Ends(copy.deepcopy(ends.model, shared), ends.family)


def untie(ends: Ends) -> None:
    """Clone the head's weight where it shares storage with the embeddings: folding into one would corrupt the other."""
    tables = [entrance.parameter for entrance in ends.family.entrances(ends.model)]
    for head in ends.family.readouts(ends.model):
        if any(head.module.weight.data_ptr() == table.data_ptr() for table in tables):
            head.module.weight = nn.Parameter(head.module.weight.data.clone(), requires_grad=False)


def linearize_experts(view: BlockView) -> None:
    """Replace 3-D expert tensors by linear layers, where the block has any."""
    mixture = getattr(view.block, "mlp", None)
    stored = getattr(mixture, "experts", None)
    if stored is not None and not isinstance(stored, LinearExperts):
        mixture.experts = LinearExperts(stored)


def center_block(view: BlockView) -> None:
    """Take the mean out of what each writer adds to the residual stream."""
    for writer in view.writers():
        writer.set_weight(_centered(writer.weight.double(), axis=0))
        if writer.bias is not None:
            writer.set_bias(_centered(writer.bias.double(), axis=0))


def center_ends(ends: Ends) -> None:
    """Take the mean out of every embedding row (and of a vision model's patch filters, tokens and positions)."""
    for entrance in ends.family.entrances(ends.model):
        entrance.set_rows(_centered(entrance.rows, axis=-1))


def fold_block(view: BlockView, centered: bool = True) -> None:
    """Fold the gains (and LayerNorm's offsets) of the norms before attention and MLP into their readers.

    What is left is x / rms(x). Where a LayerNorm's stream still has a mean (`centered` is false) it is (x - mean) / std.
    """
    family = view.family
    for path, readers in ((family.attn_norm, view.attention_readers()), (family.mlp_norm, view.mlp_readers())):
        norm = view.norm(path)
        _fold(norm, family.norm, readers)
        keep_mean_out = family.norm is NormKind.LAYER and not centered
        bare = nn.LayerNorm(norm.normalized_shape, norm_epsilon(norm), elementwise_affine=False) if keep_mean_out else UnitRMSNorm(norm_epsilon(norm))
        view.set_module(path, bare)


def fold_ends(ends: Ends) -> None:
    """Fold the final norm into the head."""
    norm = ends.model.get_submodule(ends.family.final_norm)
    _fold(norm, ends.family.norm, ends.family.readouts(ends.model))
    ends.model.set_submodule(ends.family.final_norm, UnitRMSNorm(norm_epsilon(norm)))


def rotate_residual(view: BlockView, rotation: Rotation) -> None:
    """R1 on one block."""
    for reader in view.attention_readers() + view.mlp_readers():
        _turn_input(reader, rotation)
    family = view.family
    attention, mlp = [view.linear(Role.O)], [m.down for m in view.mlps]
    for writers, post_norm in ((attention, family.post_attn_norm), (mlp, family.post_mlp_norm)):
        if post_norm is None:
            for writer in writers:
                _turn_output(writer, rotation)
        else:
            view.set_module(post_norm, RotatedOutput(view.norm(post_norm), rotation))


def rotate_ends(ends: Ends, rotation: Rotation) -> None:
    """R1 on embeddings and head."""
    for entrance in ends.family.entrances(ends.model):
        entrance.set_rows(rotation.apply(entrance.rows))
    for head in ends.family.readouts(ends.model):
        _turn_input(head, rotation)


def rotate_values(view: BlockView, rotations: tuple[Rotation, ...]) -> None:
    """R2 on one block: one rotation for each key-value head."""
    heads, value, output = view.heads, view.linear(Role.V), view.linear(Role.O)
    rows = value.weight.double().unflatten(0, (heads.kv, heads.width))                           # [kv, K, D]
    value.set_weight(torch.stack([r.apply(w.T).T for r, w in zip(rotations, rows)]).flatten(0, 1))
    if value.bias is not None:
        bias = value.bias.double().unflatten(0, (heads.kv, heads.width))
        value.set_bias(torch.stack([r.apply(b) for r, b in zip(rotations, bias)]).flatten())
    columns = output.weight.double().unflatten(1, (heads.kv, heads.repeats, heads.width))        # [D, kv, repeats, K]
    output.set_weight(torch.stack([r.apply(columns[:, h]) for h, r in enumerate(rotations)], dim=1).flatten(1))


def rotate_queries_and_keys(view: BlockView, rotation: Rotation) -> None:
    """R3 on one block, online."""
    online = OnlineRotation(rotation)

    def turn(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return online.apply(query), online.apply(key), value

    add_edit(view.attention, turn)


def rotate_down(view: BlockView, rotations: dict[int, Rotation]) -> None:
    """R4 on one block: the weight offline, the input online."""
    for mlp in view.mlps:
        rotation = rotations[mlp.down.weight.shape[1]]
        _turn_input(mlp.down, rotation)
        mlp.down.module.register_forward_pre_hook(_turning(rotation))


def _turning(rotation: Rotation) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor]]:
    online = OnlineRotation(rotation)

    def turn(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        return (online.apply(inputs[0]),)

    return turn


def _turn_input(linear: LinearSlice, rotation: Rotation) -> None:
    linear.set_weight(rotation.apply(linear.weight.double()))


def _turn_output(linear: LinearSlice, rotation: Rotation) -> None:
    linear.set_weight(rotation.apply(linear.weight.double().T).T)
    if linear.bias is not None:
        linear.set_bias(rotation.apply(linear.bias.double()))


def _fold(norm: nn.Module, kind: NormKind, readers: list[LinearSlice]) -> None:
    gain = norm_gain(norm, kind)
    offset = norm.bias.data.double() if kind is NormKind.LAYER else None
    for reader in readers:
        weight = reader.weight.double()
        if offset is not None:
            reader.add_bias(weight @ offset)
        reader.set_weight(weight * gain)


def _centered(x: Tensor, axis: int) -> Tensor:
    return x - x.mean(axis, keepdim=True)


def _nothing(_: object) -> None:
    pass
