"""Gemma 3 (text): Gemma 2's norms, RMSNorm on query and key heads, and two kinds of RoPE that alternate between blocks.

Which RoPE and which mask a block gets is decided by transformers; the walk over the blocks hands each block its own.
"""

from rotviz.models.families import FAMILIES
from rotviz.models.family import Family, NormKind

GEMMA3 = FAMILIES.register("gemma3")(Family(
    ("Gemma3ForCausalLM",), norm=NormKind.RMS_PLUS_ONE, mlp_norm="pre_feedforward_layernorm",
    post_attn_norm="post_attention_layernorm", post_mlp_norm="post_feedforward_layernorm",
))
