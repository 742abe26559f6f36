"""Model families, one file each: which module of a transformers model plays which role.

A family file is a map, not a fork: it names paths and kinds, and everything else in rotviz speaks of roles. A model whose architecture no
file describes is refused by name; nothing is ever treated as a Llama because it looks like one.
"""

from transformers import PreTrainedModel

from rotviz.errors import UnknownFamily
from rotviz.models.family import Family
from rotviz.registry import Registry

FAMILIES: Registry[Family] = Registry("model family", package="rotviz.models.families")


def family_of(model: PreTrainedModel) -> Family:
    """The family that describes this model.

    Raises:
        UnknownFamily: no family file names the architecture, or the family refuses this variant of it.
    """
    return family_for(type(model).__name__, model.config)


def family_for(architecture: str, config: object) -> Family:
    """The family of an architecture (a transformers class name), so that a model can be refused before its weights are read."""
    for family in FAMILIES.values():
        if architecture in family.architectures:
            reason = family.refusal(config)
            if reason:
                raise UnknownFamily(f"{architecture}: {reason}")
            return family
    known = sorted(name for family in FAMILIES.values() for name in family.architectures)
    raise UnknownFamily(f"no family file describes the architecture {architecture}; known: {', '.join(known)}")
