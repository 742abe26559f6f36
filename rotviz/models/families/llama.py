"""Llama 1, 2, 3 and everything that transformers loads as LlamaForCausalLM (SmolLM2, TinyLlama, ...).

RMSNorm before attention and MLP, RoPE, grouped-query attention, SwiGLU; biases where the config asks for them.
"""

from rotviz.models.families import FAMILIES
from rotviz.models.family import Family

LLAMA = FAMILIES.register("llama")(Family(("LlamaForCausalLM",)))
