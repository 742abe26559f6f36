"""Mixtral: Llama's attention, and in place of the MLP a router over experts. Every expert is an MLP of its own; the router stays in float."""

from typing import Any

from torch import nn

from rotviz.models.experts import LinearExperts
from rotviz.models.families import FAMILIES
from rotviz.models.family import MLP, Family, LinearSlice


class MixtureFamily(Family):
    """A family whose MLP may be a router over experts, and whose experts may share the work with one dense MLP."""

    def mlps(self, block: nn.Module, config: Any) -> list[MLP]:
        mixture = block.get_submodule("mlp")
        if not hasattr(mixture, "experts"):
            return super().mlps(block, config)
        if not isinstance(mixture.experts, LinearExperts):
            raise ValueError("the experts are still 3-D tensors; run surgery's experts step first")
        parts = [_mlp(expert, routed=True) for expert in mixture.experts.experts]
        return parts + ([_mlp(mixture.shared_expert, routed=False)] if hasattr(mixture, "shared_expert") else [])

    def routers(self, block: nn.Module) -> list[LinearSlice]:
        mixture = block.get_submodule("mlp")
        return [LinearSlice(getattr(mixture, name)) for name in ("gate", "shared_expert_gate") if hasattr(mixture, "experts")
                and hasattr(mixture, name)]


def _mlp(module: nn.Module, routed: bool) -> MLP:
    return MLP(LinearSlice(module.up_proj), LinearSlice(module.down_proj), LinearSlice(module.gate_proj), routed)


MIXTRAL = FAMILIES.register("mixtral")(MixtureFamily(("MixtralForCausalLM",), has_experts=True))
