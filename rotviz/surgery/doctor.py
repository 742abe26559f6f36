"""The architecture doctor: which slots can act on a model, how, at what price, and why not.

For every slot it states whether the rotation folds into weights or runs online, which Hadamard construction its width allows, and the online
cost in multiply-adds a token. The proof that the logits stay (proof.py) follows from the same steps that a run uses.
"""

from dataclasses import dataclass

from rotviz.models.families.vit import image_shape
from rotviz.models.family import BlockView, Family, NormKind
from rotviz.models.walk import BlockSource
from rotviz.numerics.hadamard import hadamard_base
from rotviz.surgery.plan import Sizes, sizes_of
from rotviz.surgery.steps import linearize_experts
from rotviz.types import Modality, Role, Slot


@dataclass(frozen=True, slots=True)
class SlotDiagnosis:
    """What one slot can do on this model."""

    slot: Slot
    acts: bool
    how: str
    size: str
    construction: str
    remark: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the doctor says about a model."""

    architecture: str
    family: str
    facts: tuple[tuple[str, str], ...]
    slots: tuple[SlotDiagnosis, ...]


def diagnose(source: BlockSource, family_name: str) -> Diagnosis:
    """Examine a model without changing it. Experts are made linear on a copy of one block to see their widths."""
    views = [_sample(source, i) for i in range(len(source))] if _has_experts(source) else [source.original(i) for i in range(len(source))]
    sizes = sizes_of(views, views[0].linear(Role.Q).weight.shape[1])
    return Diagnosis(
        architecture=type(source.ends.model).__name__, family=family_name,
        facts=_facts(source, views, sizes), slots=tuple(_slot(slot, source.family, sizes) for slot in Slot),
    )


def source_sizes(source: BlockSource) -> Sizes:
    """The slot sizes of a model; experts are counted on copies."""
    views = [_sample(source, i) if _has_experts_at(source, i) else source.original(i) for i in range(len(source))]
    return sizes_of(views, views[0].linear(Role.Q).weight.shape[1])


def _sample(source: BlockSource, index: int) -> BlockView:
    view = source.owned(index)
    linearize_experts(view)
    return view


def _has_experts_at(source: BlockSource, index: int) -> bool:
    return hasattr(getattr(source.original(index).block, "mlp", None), "experts")


def _has_experts(source: BlockSource) -> bool:
    return any(_has_experts_at(source, i) for i in range(len(source)))


def _facts(source: BlockSource, views: list[BlockView], sizes: Sizes) -> tuple[tuple[str, str], ...]:
    family, heads, model = source.family, views[0].heads, source.ends.model
    heads_tied = {head.module.weight.data_ptr() for head in family.readouts(model)}
    tied = family.entrances(model)[0].parameter.data_ptr() in heads_tied
    biased = [role.value for role in (Role.Q, Role.K, Role.V, Role.O) if views[0].linear(role).bias is not None]
    experts = [sum(mlp.routed for mlp in view.mlps) for view in views]
    reading = _reading(source) if family.modality is Modality.IMAGE else ()
    return (
        *reading,
        ("blocks", str(sizes.blocks)),
        ("width", str(sizes.width)),
        ("heads", f"{heads.query} query on {heads.kv} key-value, {heads.width} wide"
                  + ("" if heads.query * heads.width == sizes.width else f" (together {heads.query * heads.width}, not the model's width)")),
        ("MLP width", ", ".join(map(str, sizes.down_widths))),
        ("norm", _NORM_WORDS[family.norm] + (", also after each sublayer" if family.post_attn_norm else "")),
        ("embeddings", "tied to the head: untied first" if tied else "patches, tokens and positions" if reading else "not tied"),
        ("biases", ", ".join(biased) or "none"),
        ("query and key norms", "yes, before RoPE" if hasattr(views[0].attention, "q_norm") else "none"),
        ("experts", f"{max(experts)} a block" if max(experts) else "none"),
    )


def _reading(source: BlockSource) -> tuple[tuple[str, str], ...]:
    """What is particular to a model that reads images."""
    config, model = source.ends.model.config, source.ends.model
    height, width = image_shape(config)
    filters, _, places, *_ = source.family.entrances(model)
    rows, columns = filters.parameter.shape[-2:]
    return (
        ("reads", f"images of {config.num_channels} x {height} x {width} in patches of {rows} x {columns}: {places.parameter.shape[1]} positions"),
        ("attention", "both ways, no cache: kv rounds keys and values"),
        ("classes", str(config.num_labels)),
    )


_NORM_WORDS = {NormKind.RMS: "RMSNorm", NormKind.RMS_PLUS_ONE: "RMSNorm with gain 1 + w", NormKind.LAYER: "LayerNorm"}


def _slot(slot: Slot, family: Family, sizes: Sizes) -> SlotDiagnosis:
    widths = {Slot.R1: (sizes.width,), Slot.R2: (sizes.head_width,), Slot.R3: (sizes.head_width,), Slot.R4: sizes.down_widths}[slot]
    how, remark = {
        Slot.R1: _residual_words(family), Slot.R2: ("folded", f"one for each of {sizes.kv_heads} key-value heads of every block"),
        Slot.R3: ("online", "after RoPE" if family.rope else "no RoPE in this family: acts on queries and keys as they are"),
        Slot.R4: ("online", "the weight's half is folded; the activation's half runs before the down projection"),
    }[slot]
    return SlotDiagnosis(slot, True, how, ", ".join(map(str, widths)), "; ".join(_construction(w) for w in widths), remark)


def _construction(width: int) -> str:
    found = hadamard_base(width)
    return found.name if found else f"no Hadamard matrix of order {width} is known here: a fall-back is used"


def _residual_words(family: Family) -> tuple[str, str]:
    if family.post_attn_norm:
        return "folded and online", "norms after the sublayers multiply in the residual basis: their outputs are turned online, twice a block"
    if family.norm is NormKind.LAYER:
        return "folded", "LayerNorm becomes RMSNorm: every writer to the residual stream is centered first, which is exact"
    return "folded", "norm gains are folded into the linears that follow"
