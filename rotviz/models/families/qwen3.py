"""Qwen3: Llama's shape with RMSNorm on each query and key head before RoPE, and heads that need not add up to the width.

R3 acts after RoPE, so the query and key norms do not stand in its way.
"""

from rotviz.models.families import FAMILIES
from rotviz.models.family import Family

QWEN3 = FAMILIES.register("qwen3")(Family(("Qwen3ForCausalLM",)))
