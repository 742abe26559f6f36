"""A whole model rewritten in memory: what the walk over the blocks does one by one, for export and for the tests that hold it to that."""

import copy

from transformers import PreTrainedModel

from rotviz.models.families import family_of
from rotviz.models.family import block_views
from rotviz.models.walk import Ends
from rotviz.surgery.plan import RotationPlan
from rotviz.surgery.steps import rewrite_block, steps_for


def rewrite_model(model: PreTrainedModel, plan: RotationPlan) -> PreTrainedModel:
    """A copy of the model with the plan's rotations in place; the model itself is untouched."""
    family = family_of(model)
    rewritten = copy.deepcopy(model)
    ends = Ends(rewritten, family)
    steps = steps_for(plan, family)
    for step in steps:
        step.ends(ends)
    for view in block_views(rewritten, family):
        rewrite_block(view, steps)
    return rewritten
