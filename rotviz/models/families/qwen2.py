"""Qwen2 and Qwen2.5: Llama's shape with biases on q, k and v. The value bias turns with R2; the others sit before RoPE."""

from rotviz.models.families import FAMILIES
from rotviz.models.family import Family

QWEN2 = FAMILIES.register("qwen2")(Family(("Qwen2ForCausalLM",)))
