"""DeiT (Touvron et al., arXiv 2012.12877): ViT with a second learned token beside the class token, which a teacher was distilled into.

DeiTForImageClassification reads out the class token alone; DeiTForImageClassificationWithTeacher, which the distilled checkpoints are, gives each
token a classifier of its own and averages their logits.
"""

from rotviz.models.families import FAMILIES
from rotviz.models.families.vit import vision_family

DEIT = FAMILIES.register("deit")(vision_family("DeiTForImageClassification", "deit"))
DEIT_DISTILLED = FAMILIES.register("deit_distilled")(
    vision_family("DeiTForImageClassificationWithTeacher", "deit", "cls_classifier", "distillation_classifier"))
