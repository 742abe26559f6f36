"""Mistral: Llama's shape with a sliding attention window, which lives in the mask that transformers hands to each block."""

from rotviz.models.families import FAMILIES
from rotviz.models.family import Family

MISTRAL = FAMILIES.register("mistral")(Family(("MistralForCausalLM",)))
