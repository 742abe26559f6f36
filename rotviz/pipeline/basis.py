"""Between the float model's residual stream and the rewritten model's: h -> h R1 and back.

Where the rewrite centered a LayerNorm model's stream, the float stream's mean means nothing and is taken out first; a LayerNorm that follows does not
see the difference.
"""

from torch import Tensor

from rotviz.models.family import Family, NormKind
from rotviz.surgery.plan import RotationPlan


def turned(hidden: Tensor, plan: RotationPlan, family: Family) -> Tensor:
    """The float stream [N, L, D] as a rewritten block expects it."""
    found = centered(hidden, plan, family)
    return plan.r1.apply(found) if plan.r1 is not None else found


def straightened(hidden: Tensor, plan: RotationPlan) -> Tensor:
    """A rewritten block's stream [N, L, D] in the float model's basis."""
    return plan.r1.apply_inverse(hidden) if plan.r1 is not None else hidden


def centered(hidden: Tensor, plan: RotationPlan, family: Family) -> Tensor:
    """The float stream [N, L, D] without what the rewrite took out of it."""
    if plan.r1 is not None and family.norm is NormKind.LAYER:
        return hidden - hidden.mean(-1, keepdim=True)
    return hidden
