"""Qwen2-MoE and Qwen3-MoE: many small experts; Qwen2 adds a shared expert with a gate of its own, Qwen3 norms queries and keys.

Some blocks may be dense (mlp_only_layers, decoder_sparse_step): each block is asked, not the config.
"""

from rotviz.models.families import FAMILIES
from rotviz.models.families.mixtral import MixtureFamily

QWEN_MOE = FAMILIES.register("qwen_moe")(MixtureFamily(("Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM"), has_experts=True))
