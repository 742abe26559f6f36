"""What stands before the walk: the model, its rotations, its windows, and the checks that need to know the model."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rotviz.device import resolve_device, resolve_dtype
from rotviz.errors import BadInput
from rotviz.models.families import FAMILIES, family_of
from rotviz.models.loading import LoadedModel, load
from rotviz.models.norms import in_own_precision
from rotviz.models.walk import BlockSource
from rotviz.pipeline.recipe import Recipe
from rotviz.surgery.doctor import source_sizes
from rotviz.surgery.plan import RotationPlan, Sizes, make_plan
from rotviz.texts import TextWindows, calibration_windows, evaluation_windows
from rotviz.types import Modality


@dataclass(frozen=True)
class Prepared:
    """A recipe with everything it names at hand."""

    recipe: Recipe
    loaded: LoadedModel
    source: BlockSource
    sizes: Sizes

    @property
    def device(self) -> torch.device:
        """Where the run computes."""
        return self.source.device

    @property
    def family_name(self) -> str:
        """The registered name of the model's family."""
        return FAMILIES.name_of(self.source.family)

    @property
    def modality(self) -> Modality:
        """What the model reads."""
        return self.source.family.modality


def prepare(recipe: Recipe, loaded: LoadedModel | None = None) -> Prepared:
    """Load the model (unless it is handed over) and check that the recipe fits it.

    Raises:
        BadInput: the model is unknown or broken, or a group does not divide a width.
    """
    device = resolve_device(recipe.device)
    dtype = resolve_dtype(recipe.dtype)
    loaded = loaded or load(recipe.model, dtype)
    model = loaded.model
    if dtype == torch.float64:
        model = in_own_precision(model, family_of(model))
    source = BlockSource(model, device)
    sizes = source_sizes(source)
    check_fit(recipe, source, sizes)
    return Prepared(recipe, loaded, source, sizes)


def check_fit(recipe: Recipe, source: BlockSource, sizes: Sizes) -> None:
    """Raises BadInput where a group does not divide a width of this model, naming the section and what fits."""
    heads = source.original(0).heads
    inputs = {sizes.width, heads.query * heads.width, *sizes.down_widths}
    wanted = (("weights", recipe.weights.spec(), inputs), ("activations", recipe.activations.spec(), inputs),
              ("kv", recipe.kv.spec(), {sizes.head_width}))
    for section, spec, widths in wanted:
        for width in sorted(widths) if spec.quantizes else ():
            try:
                spec.group_for(width)
            except BadInput as error:
                raise BadInput(f"{section}.{error}") from error


def rotation_plan(recipe: Recipe, sizes: Sizes) -> RotationPlan:
    """The rotations that a recipe asks for."""
    return make_plan(recipe.rotation_settings.build, recipe.slots, sizes, recipe.seed)


def windows_for(prepared: Prepared) -> TextWindows:
    """The evaluation windows of a recipe for a language model.

    Raises:
        BadInput: a window is longer than the model can read.
    """
    text = prepared.recipe.text
    limit = getattr(prepared.source.ends.model.config.get_text_config(), "max_position_embeddings", None)
    if limit and text.length > limit:
        raise BadInput(f"text.length = {text.length} is longer than this model reads; use at most {limit}")
    return evaluation_windows(text.evaluation, prepared.loaded.tokenizer, text.length, text.windows)


def calibration_tokens(prepared: Prepared) -> Tensor:
    """The calibration windows of a recipe, [N, L]."""
    text = prepared.recipe.text
    return calibration_windows(text.calibration, prepared.loaded.tokenizer, text.length, text.samples, prepared.recipe.seed).tokens


def probe_tokens(tokens: Tensor, count: int = 64) -> Tensor:
    """The probe of the proof: the first tokens of the first window, [1, count]."""
    return tokens[:1, :count]
