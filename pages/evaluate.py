"""Evaluate: what a recipe costs, measured end to end. Recipes go on the queue, a worker carries them out, this page watches and compares.

    perplexity = exp( mean of -log p(token | the tokens before it) )      of the float and of the quantized model, on the same windows
    divergence = mean of KL( p_float || p_quantized ), nats a token       sees changes that luck in the text hides from perplexity
    agreement  = share of images that both models put into the same class      in place of perplexity, of a model that reads images

The page asks for nothing that a recipe cannot say: each button press makes recipes, and `rotviz run` does the same with the same numbers.
"""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from rotviz.errors import RotvizError
from rotviz.images import parse_images
from rotviz.jobs.queue import submit, tend
from rotviz.models.loading import modality_of
from rotviz.pipeline.recipe import Recipe
from rotviz.reports.run_figures import COSTS, MEASURES, agreement_figure, divergence_figure, pareto_figure, perplexity_figure, residual_figure
from rotviz.reports.runs import Measure, by_measure, classifies, measure_labels, names_of, table
from rotviz.rotations import ROTATIONS, learns
from rotviz.store.runs import RunRecord, Status
from rotviz.types import Modality
from rotviz.ui.choices import chosen_model
from rotviz.ui.forms import PRESETS, evaluation_text, preset_recipes, recipe_form, uploaded_recipe
from rotviz.ui.live import live_queue, stopped_runs
from rotviz.ui.pace import estimate
from rotviz.ui.runs import already_done, column_config, listed, on_the_way, reference_words, safe
from rotviz.ui.show import show
from rotviz.ui.turns import pick_name

ORDER = ("none", "orthogonal", "hadamard")
IMAGES = {"shapes:test": "drawn shapes, test (embedded)", "shapes:validation": "drawn shapes, validation (embedded)"}
LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096)
FIGURES = ("Perplexity", "Divergence", "Cost and quality", "Error by block")
OF_IMAGES = ("Agreement", *FIGURES[1:])
TEXT_KEYS = tuple(f"text.{name}" for name in ("calibration", "evaluation", "samples", "length", "windows"))
IMAGE_KEYS = tuple(f"images.{name}" for name in ("calibration", "evaluation", "samples", "count"))
LEFT_OUT = {Modality.TEXT: (*IMAGE_KEYS, "text.evaluation", "text.windows", "text.length"),
            Modality.IMAGE: (*TEXT_KEYS, "images.evaluation", "images.count")}
"""Recipe keys that the free choice leaves out: those of the other kind of input, and those that stand above it."""
BESIDE = 6  # lines of error by block that can still be told apart


def draw() -> None:
    """The page."""
    st.title("What does a recipe cost?")
    model = chosen_model()
    reads = modality_of(model)  # refuses in words what is no model
    measured = "**perplexity** (exp of the mean negative log-likelihood)" if reads is Modality.TEXT else "**top-1 agreement**, accuracy"
    st.markdown(f"Choose recipes, put them on the queue, and compare {measured} and **KL divergence** from the float model, measured on the same "
                f"{'windows' if reads is Modality.TEXT else 'images'}.")
    tend()
    _ask(model)
    st.subheader("Queue")
    live_queue()
    stopped_runs(model)
    st.subheader("Results")
    _results(model)


def _ask(model: str) -> None:
    """The recipes that are wanted and the button that queues them."""
    presets, free, file = st.tabs(["Presets", "Free choice", "From a file"], key="ask", on_change="rerun", bind="query-params")
    recipes: list[Recipe] = []
    if presets.open:
        with presets:
            recipes = _presets(_base(model))
    if free.open:
        with free:
            recipes = _free(_base(model))
    if file.open:
        with file:
            recipes = _from_file()
    _queue_button(recipes)


def _base(model: str) -> dict[str, Any] | None:
    """Model, text or images, and seeds of presets and of the free choice; None while the text is missing."""
    if modality_of(model) is Modality.IMAGE:
        return _base_of_images(model)
    with st.container(border=True):
        cells = st.columns([3, 1, 1, 2], vertical_alignment="bottom")
        with cells[0]:
            text = evaluation_text("et")
        windows = cells[1].number_input("Windows", 0, 100_000, 4, key="w", bind="query-params", help="From the start of the text; 0 = all.")
        length = cells[2].selectbox("Length", LENGTHS, index=LENGTHS.index(512), key="l", bind="query-params",
                                    help="Tokens in a window; the papers use 2048. Each is fed alone, all but its first token are scored.")
        seeds = _seeds(cells[3])
        if text is None:
            st.info("Choose a text file (UTF-8, up to 20 MB).", icon=":material/upload_file:")
            return None
    return {"model": model, "text": {"evaluation": text, "windows": windows, "length": length}, "seeds": seeds}


def _base_of_images(model: str) -> dict[str, Any] | None:
    with st.container(border=True):
        cells = st.columns([4, 1, 2], vertical_alignment="bottom")
        source = cells[0].selectbox("Images", list(IMAGES), key="ei", accept_new_options=True, bind="query-params",
                                    help="Drawn shapes need no files; or type the path of a folder of images (one folder a class gives labels).")
        count = cells[1].number_input("How many", 0, 1_000_000, 512, key="ic", bind="query-params", help="The first of them; 0 = all of a folder.")
        seeds = _seeds(cells[2])
    try:
        parse_images(source or "")
    except RotvizError as error:
        st.error(str(error), icon=":material/error:")
        return None
    return {"model": model, "images": {"evaluation": source, "count": count}, "seeds": seeds}


def _seeds(cell: Any) -> list[int]:
    return sorted(cell.multiselect("Seeds", list(range(10)), [0], key="seeds", bind="query-params",
                                   help="Random rotations differ from draw to draw; a gain inside the spread of seeds is no gain."))


def _presets(base: dict[str, Any] | None) -> list[Recipe]:
    """A row of pills for each rotation method: every pill is a recipe."""
    images = base is not None and "images" in base  # learned rotations learn from a text
    methods = [m for m in ORDER if m in ROTATIONS] + [m for m in ROTATIONS if m not in ORDER and not (images and learns(ROTATIONS[m]))]
    chosen = {}
    for method in methods:
        words, pills = st.columns([2, 5], vertical_alignment="center")
        words.markdown(f"**{method}**", help=ROTATIONS[method].summary)
        start = ["W4A4"] if method in ORDER else []
        chosen[method] = pills.pills(method, list(PRESETS), selection_mode="multi", default=start, key=f"r-{method}", bind="query-params",
                                     label_visibility="collapsed")
    st.caption("W weights, A activations, KV cache, with their bits; what is not named stays in float. Weights: round to nearest, "
               "symmetric, clip by MSE search. Activations: asymmetric, token by token. Cache: asymmetric, head by head, clip 0.95. "
               "g16: a scale for every 16 numbers of activations and cache, and a step with a float minimum for every 32 weights. "
               "Rotations act in R1 to R4.")
    if base is None:
        return []
    if not base["seeds"]:
        st.info("Choose at least one seed.")
        return []
    return preset_recipes(chosen, base["seeds"], _without_seeds(base))


def _free(base: dict[str, Any] | None) -> list[Recipe]:
    """Every key of a recipe, once for each seed."""
    with st.container(border=True):
        reads = Modality.IMAGE if base and "images" in base else Modality.TEXT
        recipe = recipe_form("free", _without_seeds(base) if base else None, skip=("model", "seed", *LEFT_OUT[reads]))
    if recipe is None or base is None:
        return []
    with st.expander("The recipe as TOML"):
        st.code(recipe.to_toml(), language="toml")
    return [Recipe.from_dict({**recipe.to_dict(), "seed": seed}) for seed in base["seeds"]]


def _without_seeds(base: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in base.items() if key != "seeds"}


def _from_file() -> list[Recipe]:
    """A recipe as it stands in a file, with its own model and text."""
    recipe = uploaded_recipe("recipe-file")
    if recipe is None:
        st.caption("A recipe file says everything itself: the model and the text on this page are not used.")
        return []
    st.markdown(f"**{recipe.title}** of {recipe.model}, measured on {_source(recipe)}")
    st.code(recipe.to_toml(), language="toml")
    return [recipe]


def _source(recipe: Recipe) -> str:
    return recipe.text.evaluation if modality_of(recipe.model) is Modality.TEXT else recipe.images.evaluation


def _queue_button(recipes: Sequence[Recipe]) -> None:
    """How many runs, how long, and off they go."""
    done, waiting = already_done(recipes), on_the_way(recipes)
    left, right = st.columns([2, 3], vertical_alignment="center")
    again = bool(done) and right.toggle(f"Run again what has a result ({len(done)} of {len(recipes)})", False, key="again",
                                        help="The same recipe and code give the same numbers.")
    wanted = [r for r in recipes if r.fingerprint not in waiting and (again or r.fingerprint not in done)]
    runs = f"{len(wanted)} run{'' if len(wanted) == 1 else 's'}"
    left.button(f"Put {runs} on the queue" if wanted else "Put on the queue", type="primary", key="go", disabled=not wanted,
                on_click=_submit, args=(wanted,), icon=":material/playlist_add:")
    if wanted:
        right.caption(f"{runs}{', one after the other' if len(wanted) > 1 else ''}: {estimate(wanted)}.")
    elif waiting:
        right.caption(f"{len(waiting)} of these {'is' if len(waiting) == 1 else 'are'} on the queue.")
    elif recipes:
        right.caption("All of these have results below.")
    else:
        right.caption("No recipe is chosen yet.")


def _submit(recipes: Sequence[Recipe]) -> None:
    for recipe in recipes:
        submit(recipe)
    st.toast(f"{len(recipes)} on the queue", icon=":material/playlist_add_check:")


def _results(model: str) -> None:
    """Finished runs of this model that may be compared, as a table and as figures."""
    groups = by_measure(listed(status=Status.DONE, model=model))
    if not groups:
        st.info(f"No finished run of {model} yet. Runs appear here as they end; each says on which text and windows it was measured.")
        return
    records = _comparable(groups)
    picked = _table(records)
    images = classifies(records[0])
    names = OF_IMAGES if images else FIGURES
    tabs = dict(zip(names, st.tabs(list(names), key="fig-images" if images else "fig", on_change="rerun", bind="query-params")))
    if tabs[names[0]].open:
        with tabs[names[0]]:
            _first_figure(picked or records, images)
    if tabs["Divergence"].open:
        with tabs["Divergence"]:
            moved, top = ("class distribution", "class") if images else ("next-token distribution", "token")
            show(divergence_figure(picked or records), "divergence",
                 caption=f"How far the {moved} moved: 0 is the float model; the share is where both put the same {top} first.")
    if tabs["Cost and quality"].open:
        with tabs["Cost and quality"]:
            _cost(picked or records)
    if tabs["Error by block"].open:
        with tabs["Error by block"]:
            _blocks(picked or records[:BESIDE])


def _first_figure(records: list[RunRecord], images: bool) -> None:
    if images:
        show(agreement_figure(records), "agreement", caption="Images that a run puts into another class than the float model; whiskers are one "
                                                             "standard error. 0 is full top-1 agreement.")
    else:
        show(perplexity_figure(records), "perplexity",
             caption="Each bar starts at the float model's perplexity and ends at the run's; whiskers are one standard error.")


def _comparable(groups: dict[Measure, list[RunRecord]]) -> list[RunRecord]:
    """The runs of one protocol: perplexities of two are never mixed."""
    labels = measure_labels(groups)
    chosen = labels[0]
    if len(labels) > 1:
        chosen = st.selectbox("Protocol", labels, key="pr", bind="query-params", help="Only runs of one protocol may be compared.")
    measure = list(groups)[labels.index(chosen)]
    st.caption(f":material/straighten: {safe(measure.protocol)}. {reference_words(groups[measure])}")
    return groups[measure]


def _table(records: list[RunRecord]) -> list[RunRecord]:
    """The numbers; rows that are chosen go into the figures."""
    names = names_of(records)
    rows = table(records).drop(columns=["status", "model", "protocol", "created"])
    rows["recipe"] = [names[r.run_id] for r in records]
    event = st.dataframe(rows, key="results", hide_index=True, on_select="rerun", selection_mode="multi-row",
                         column_config=column_config(), height=min(38 + 35 * len(rows), 318), placeholder="–",
                         alt="Finished runs with their perplexity, divergence and cost")
    over, each = ("images", "an image") if classifies(records[0]) else ("windows", "a token")
    st.caption(f"Choose rows for the figures; none chosen = all. ± is one standard error over {over}. KL in nats {each}.")
    return [records[i] for i in event.selection.rows if i < len(records)]


def _cost(records: list[RunRecord]) -> None:
    cost = pick_name("Cost", COSTS, "cost")
    show(pareto_figure(records, cost), "pareto",
         caption="Lower and further left is better; the line joins the runs that no other beats on both axes.")


def _blocks(records: list[RunRecord]) -> None:
    measure = pick_name("Error", MEASURES, "err")
    if len(records) > BESIDE:
        st.caption(f"The first {BESIDE} of {len(records)} chosen runs are drawn.")
    show(residual_figure(records[:BESIDE], measure), "blocks",
         caption="Error of the residual stream after each block: solid with all earlier blocks quantized too, dotted with this block alone.")


draw()
