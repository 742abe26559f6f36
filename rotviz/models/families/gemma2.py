"""Gemma 2: gains stored as 1 + w, a norm after attention and after the MLP as well, capped attention scores and logits.

The norms after a sublayer multiply in the residual basis, so their gain cannot be folded across R1: there the writer keeps its
basis and R1 turns the norm's output, online (surgery.steps). The embedding scale commutes with R1.
"""

from rotviz.models.families import FAMILIES
from rotviz.models.family import Family, NormKind

GEMMA2 = FAMILIES.register("gemma2")(Family(
    ("Gemma2ForCausalLM",), norm=NormKind.RMS_PLUS_ONE, mlp_norm="pre_feedforward_layernorm",
    post_attn_norm="post_attention_layernorm", post_mlp_norm="post_feedforward_layernorm",
))
