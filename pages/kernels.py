"""Kernels and cost: what a recipe saves in memory, what online rotations cost, and how fast this machine carries the kernels out.

The first two follow from a model's shape alone, so they are there for models that no machine at hand could load; nothing is loaded here.
A deployed run was measured: what its tensors weigh, part by part, stands beside what the shape predicts, and the last `rotviz bench deployment`
of this machine below it. The kernels are measured when the button is pressed: a kernel's floor is the time that this machine's own copy rate or
matrix rate allows,

    floor = max(bytes moved / copy rate, operations / matrix rate)          share = floor / measured time

and where there is no GPU, the Triton kernels are not measured, and the page says so.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
import torch

from rotviz.deployment.shelf import deployed_folder, described, is_deployed, kept_benchmark, refusal
from rotviz.device import resolve_device
from rotviz.errors import BadInput
from rotviz.kernels.bench import Ceilings, Row, measure
from rotviz.kernels.choice import kernels_missing
from rotviz.kernels.cost import SHAPES, Shape, memory_by_part, online_rotations
from rotviz.pipeline.recipe import Recipe
from rotviz.plots.memory_by_part import draw_memory_by_part
from rotviz.plots.roofline import draw_roofline
from rotviz.plots.words import number
from rotviz.reports.runs import classifies, title_of
from rotviz.store.runs import RunRecord, Status, Store
from rotviz.types import SLOT_WORDS, Granularity, QuantSpec, Slot
from rotviz.ui.choices import framed
from rotviz.ui.progress import progress
from rotviz.ui.show import show

OWN, FILE = "own numbers", "a config.json"
BITS = (16, 8, 4, 3)
GROUPS = (0, 128, 64, 32)
CONTEXTS = (512, 2048, 4096, 8192, 16_384, 32_768, 131_072)
FIELDS = {"width": "Width", "blocks": "Blocks", "heads": "Query heads", "kv_heads": "KV heads", "head_width": "Head width", "mlp": "MLP width",
          "vocabulary": "Vocabulary"}
WANTED, MEASURED = "kernels-wanted", "kernels-measured"
LISTED = 200
KERNEL_ROWS = 60  # about as many as a benchmark has, for the progress bar


def draw() -> None:
    """The page."""
    framed()
    st.title("What do bits save, and what do rotations cost?")
    shape = _shape()
    if shape is not None:
        st.caption(f"{shape.parameters / 1e9:.4g} billion parameters. Nothing is loaded: all of this follows from the shape.")
        context = _memory(shape)
        _rotations(shape, context)
    _deployed()
    _speed()
    _kernels()


def _shape() -> Shape | None:
    """The model's shape: a published one, numbers, or a configuration file; None while the file is missing."""
    name = st.selectbox("Model shape", [*SHAPES, OWN, FILE], index=list(SHAPES).index("Llama-3-8B"), key="ks", bind="query-params")
    if name == FILE:
        return _from_file()
    return _own() if name == OWN else SHAPES[name]


def _own() -> Shape:
    start = SHAPES["Llama-3-8B"]
    cells = st.columns(len(FIELDS))
    sizes = {field: int(cell.number_input(label, 1, 10_000_000, getattr(start, field), key=f"k-{field}", bind="query-params"))
             for cell, (field, label) in zip(cells, FIELDS.items())}
    return Shape(**sizes, tied=st.toggle("The output head is the embedding (tied)", start.tied, key="k-tied", bind="query-params"))


def _from_file() -> Shape | None:
    file = st.file_uploader("config.json of a model on the hub", type="json", key="k-file")
    if file is None:
        st.info("Choose the config.json of any decoder model; its weights are not needed.", icon=":material/upload_file:")
        return None
    try:
        config = json.loads(file.getvalue())
    except ValueError as error:
        raise BadInput(f"{file.name} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise BadInput(f"{file.name} holds no configuration: a JSON object is needed")
    return Shape.from_config(config)


def _memory(shape: Shape) -> int:
    """Memory by part; the context that was chosen."""
    st.subheader("Memory")
    cells = st.columns(4)
    weights = cells[0].selectbox("Weight bits", BITS, index=BITS.index(4), key="kw", bind="query-params")
    group = cells[1].selectbox("Weights a scale", GROUPS, key="kg", format_func=lambda g: str(g) if g else "an output channel", bind="query-params")
    activations = cells[2].selectbox("Activation bits", BITS, index=BITS.index(4), key="ka", bind="query-params")
    cache = cells[3].selectbox("KV cache bits", BITS, index=BITS.index(4), key="kk", bind="query-params")
    cells = st.columns(4, vertical_alignment="bottom")
    context = cells[0].selectbox("Context, tokens", CONTEXTS, index=CONTEXTS.index(8192), key="kc", bind="query-params")
    sequences = int(cells[1].number_input("Sequences", 1, 100_000, 1, key="kn", bind="query-params", help="How many are served together."))
    prefill = cells[2].toggle("Prefill", False, key="kp", bind="query-params",
                              help="The whole context goes through a block at once; otherwise one token a sequence (decode).")
    r1 = shape.tied and cells[3].toggle("R1 acts", True, key="kr1", bind="query-params",
                                        help="It gives a head that is tied to the embedding a matrix of its own.")
    parts = memory_by_part(
        shape, QuantSpec(weights, True, Granularity.GROUP if group else Granularity.CHANNEL, group), QuantSpec(activations, False),
        QuantSpec(cache, False, Granularity.HEAD), context=context, in_flight=context if prefill else 1, sequences=sequences, r1=r1)
    show(draw_memory_by_part([p.name for p in parts], np.array([p.float16 for p in parts], float), np.array([p.recipe for p in parts], float),
                             names=("16 bits", f"W{weights}A{activations}KV{cache}")), "memory",
         caption="Counted, not measured, with the float32 scales (and zeros, for activations and cache) that the codes need. Weights symmetric; "
                 "embedding and output head stay in 16 bits. 3 bits take half a byte, as 4 do. Scores of attention are not counted.")
    return context


def _rotations(shape: Shape, context: int) -> None:
    """The online rotations' share of the forward pass."""
    st.subheader("Online rotations")
    found = online_rotations(shape, context)
    st.table(pd.DataFrame([{
        "slot": f"{o.slot}: {SLOT_WORDS[Slot(o.slot)]}", "rows a token": f"{o.rows:,} of {o.width:,}",
        "million multiply-adds a token": number(o.operations / 1e6), "share of the forward pass": f"{o.share:.2%}"}
        for o in found]).set_index("slot"))
    st.caption(f"Counted with butterflies for the powers of two, at a context of {context:,} tokens. R1 and R2 are folded into the weights and cost "
               "nothing. Operations are not time: a rotation that makes a trip of its own through memory takes longer than its share.")


def _deployed() -> None:
    """A stored run in bits: what it weighs, or how to make it."""
    st.subheader("A run in bits")
    runs = {record.run_id: record for record in Store().list(Status.DONE, limit=LISTED) if not classifies(record)}
    if not runs:
        st.info("No run has been finished here. Put one in line on the page Evaluate; then it can be packed.", icon=":material/inventory_2:")
        st.page_link("pages/evaluate.py", label="Evaluate", icon=":material/speed:")
        return
    ids, linked = list(runs), st.query_params.get("kr")
    run_id = st.selectbox("Run", ids, index=ids.index(linked) if linked in ids else 0, key="kernels-run",
                          format_func=lambda i: f"{title_of(runs[i])} of {runs[i].model} · {i}" + (" · deployed" if is_deployed(i) else ""))
    if run_id != linked and (linked or run_id != ids[0]):
        st.query_params["kr"] = run_id  # not bound: a bound box puts its label into the link, and the label changes
    description = described(run_id)
    if description is None:
        _offer(runs[run_id])
        return
    parts, folder = description["bytes"], deployed_folder(run_id)
    predicted, measured = (np.array([part[what] for part in parts], float) for what in ("predicted", "measured"))
    show(draw_memory_by_part([part["name"] for part in parts], predicted, measured, names=("predicted", "measured")), "deployed",
         caption=f"Measured on the deployed model's tensors, {description['dtype']} where they stay in float, with a KV cache of "
                 f"{description['context']:,} tokens. Predicted from its shape: floats in 16 bits, no biases, no channel sums of the integer "
                 "product. R1 gives the head a matrix of its own also where the model ties it to the embedding.")
    st.code(f"from pathlib import Path\nfrom rotviz.deployment.folder import load\n\ndeployed = load(Path({str(folder)!r}))", language="python")


def _offer(record: RunRecord) -> None:
    """How a run that is not deployed yet can be."""
    recipe = Recipe.from_dict(record.recipe)
    obstacle = refusal(recipe)
    if obstacle:
        st.info(f"This run cannot be packed: {obstacle}.", icon=":material/block:")
        return
    st.markdown("Packed weights, activations quantized on the fly, a KV cache of codes, in a folder that stands on its own:")
    st.code(f"python -m rotviz deploy {record.run_id}", language="bash")
    st.caption("The weights are quantized again: seconds for a small model, as long as the run where they are learned. This page then shows what "
               "the model weighs.")


def _speed() -> None:
    """The last benchmark of a deployed model on this machine."""
    st.markdown("**Tokens a second beside the float model**")
    record = kept_benchmark()
    if record is None:
        st.info("Not measured on this machine yet: `python -m rotviz bench deployment` deploys, weighs and times a model, and this page shows what "
                "it found.", icon=":material/speed:")
        return
    st.dataframe(pd.DataFrame([{
        "recipe": f"{row['title']} of {row['recipe']['model']}", "bits": kind, "MB": number(row["model_bytes"][who] / 1e6),
        "prefill, tokens/s": number(row["median"][who]["prefill"]), "decode, tokens/s": number(row["median"][who]["decode"]),
        "decode with CUDA graphs, tokens/s": _or_not_measured(row["median"][who].get("replayed"))}
        for row in record["rows"] for who, kind in (("reference", row["dtype"]), ("deployed", row["bits"]))]), hide_index=True,
        key="deployment-rows", alt="Memory and tokens a second of deployed models beside their float models")
    first = record["rows"][0]
    st.caption(f"{record['environment']['device']}: medians of "
               f"{len(first['rounds'])} alternating rounds, a prompt of {first['prompt']} tokens, {first['tokens']} decoded. {first['not_measured']}")


def _or_not_measured(value: float | None) -> str:
    return "not measured" if value is None else number(value)


def _kernels() -> None:
    """What this machine was measured to do."""
    st.subheader("Kernels on this machine")
    missing = _missing(resolve_device("auto"))
    if missing:
        st.info(missing, icon=":material/memory:")
    st.button("Measure the references" if missing else "Measure", key="kgo", icon=":material/speed:", on_click=_want)
    if st.session_state.pop(WANTED, False):
        st.session_state[MEASURED] = _measured()
    if MEASURED in st.session_state:
        _rows(*st.session_state[MEASURED])


def _missing(device: torch.device) -> str | None:
    """Why the Triton kernels cannot be measured here and what can, or None."""
    if device.type != "cuda":
        return ("This machine shows no GPU, so the Triton kernels are not measured here. What can be measured is their references in torch on the "
                "CPU. On a GPU server: python -m rotviz bench kernels --json.")
    why = kernels_missing(device)
    return why and f"No operation's Triton kernel runs on this GPU: {why}. Their references in torch do, and are what is measured here."


def _want() -> None:
    st.session_state[WANTED] = True


def _measured() -> tuple[Ceilings, list[Row]]:
    with progress("Measuring") as say:
        ceilings, *rows = _watched(say)
    return ceilings, rows


def _watched(say: Callable[[float, str], None]) -> Iterator[Ceilings | Row]:
    for i, found in enumerate(measure(resolve_device("auto"), repeats=5)):
        say(i / KERNEL_ROWS, found.kernel if isinstance(found, Row) else "copy and matrix rate")
        yield found


def _rows(ceilings: Ceilings, rows: list[Row]) -> None:
    who = "triton" if any(r.seconds["triton"] is not None for r in rows) else "torch"
    left, right = st.columns(2)
    left.metric("Copy rate", f"{ceilings.copy_bytes / 1e9:,.4g} GB/s")
    right.metric(f"Matrix rate, {ceilings.dtype}", f"{ceilings.matrix_operations / 1e12:,.3g} TFLOP/s")
    timed = [r for r in rows if r.seconds[who] is not None]
    show(draw_roofline([r.kernel for r in timed], [r.size for r in timed], np.array([2.0 * r.multiply_adds for r in timed]),
                       np.array([float(r.bytes) for r in timed]), np.array([r.seconds[who] for r in timed]), copy_rate=ceilings.copy_bytes,
                       matrix_rate=ceilings.matrix_operations), "roofline",
         caption="Each point is a kernel at one size." if who == "triton" else "Each point is a reference in torch, not a Triton kernel.")
    st.dataframe(pd.DataFrame([_line(r) for r in rows]), hide_index=True, key="kernel-rows")


def _line(row: Row) -> dict[str, Any]:
    times = {f"{name}, µs": "not measured" if s is None else number(s * 1e6) for name, s in row.seconds.items() if name in ("torch", "triton")}
    others = ", ".join(f"{name} {number(s * 1e6)} µs" for name, s in row.seconds.items() if name not in ("torch", "triton") and s is not None)
    return {"kernel": row.kernel, "size": row.size, "MB moved": number(row.bytes / 1e6), **times,
            "share of the ceiling": "not measured" if row.share is None else f"{row.share:.0%}", "beside": others}


draw()
