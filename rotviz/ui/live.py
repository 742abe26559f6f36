"""The queue as it goes: fragments that redraw themselves every two seconds while there is work, and the buttons that cancel and resume.

A fragment reruns without the page, and so without the frame that turns errors into words: each catches its own. On every redraw it also
tends the queue, so that a worker that was killed is replaced while somebody watches.
"""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from rotviz.errors import RotvizError
from rotviz.jobs import queue
from rotviz.jobs.queue import RunStatus
from rotviz.reports.run_figures import learning_curves, progress_figure
from rotviz.reports.runs import duration
from rotviz.store.runs import RunRecord, Status, Store
from rotviz.ui.learning import learning_history, learning_words
from rotviz.ui.runs import headline, listed, safe, why_stopped

POLL = "2s"
SHOWN_WAITING = 8
SHOWN_STOPPED = 4


def live_queue() -> None:
    """The queue with a bar for each run, redrawn every two seconds while there is work; the page is redrawn when a run comes or ends."""
    under_way = tuple(r.run_id for r in _under_way())
    st.fragment(_queue, run_every=POLL if under_way else None)(under_way)


def live_run(run_id: str) -> None:
    """One unfinished run, as it goes."""
    st.fragment(_one, run_every=POLL)(run_id)


def stopped_runs(model: str) -> None:
    """The newest cancelled and failed runs of a model, why they stopped, and a button to go on."""
    found = [r for r in listed(model=model) if r.status in (Status.CANCELLED, Status.FAILED)]
    if not found:
        return
    with st.expander(f"Cancelled and failed ({len(found)})", icon=":material/restart_alt:"):
        for record in found[:SHOWN_STOPPED]:
            stopped_run(record)
        if len(found) > SHOWN_STOPPED:
            st.caption(f"{len(found) - SHOWN_STOPPED} more are on the page Runs.")


def stopped_run(record: RunRecord) -> None:
    """A cancelled or failed run in words, with the button that resumes it."""
    with st.container(border=True):
        st.markdown(headline(record))
        st.markdown(safe(why_stopped(record)))
        st.button("Resume", key=f"resume-{record.run_id}", icon=":material/play_arrow:", on_click=_attempt,
                  args=(queue.resume, record.run_id))


def _queue(seen: tuple[str, ...]) -> None:
    try:
        queue.tend()
        runs = _under_way()
        if tuple(r.run_id for r in runs) != seen:
            st.rerun()
        if not runs:
            st.caption("Nothing waits and nothing runs.")
            return
        for record in [r for r in runs if r.status is Status.RUNNING]:
            _running(queue.status(record.run_id))
        waiting = [r for r in runs if r.status is Status.QUEUED]
        for record in waiting[:SHOWN_WAITING]:
            _waiting(queue.status(record.run_id))
        if len(waiting) > SHOWN_WAITING:
            st.caption(f"{len(waiting) - SHOWN_WAITING} more wait behind these.")
        if len(waiting) > 1:
            st.button(f"Cancel all {len(waiting)} that wait", key="cancel-waiting", icon=":material/playlist_remove:", on_click=_cancel_all,
                      args=([r.run_id for r in waiting],))
    except RotvizError as error:
        st.error(str(error), icon=":material/error:")


def _one(run_id: str) -> None:
    try:
        queue.tend()
        found = queue.status(run_id)
        if found.record.over:
            st.rerun()
        (_running if found.record.status is Status.RUNNING else _waiting)(found)
    except RotvizError as error:
        st.error(str(error), icon=":material/error:")


def _running(found: RunStatus) -> None:
    record, event = found.record, found.event
    with st.container(border=True):
        _headed(record, "Stopping…" if record.cancel_requested else "Cancel", record.cancel_requested)
        words = event.event.message if event else "starting"
        left = f", about {duration(found.seconds_left)} left" if found.seconds_left else ""
        again = f" (attempt {record.attempts})" if record.attempts > 1 else ""
        st.progress(found.fraction, text=f"{found.fraction:.0%} · {words}{left}{again}")
        _learning(record.run_id)
        drawing = progress_figure(record.run_id)
        if drawing is not None:
            st.plotly_chart(drawing.figure, key=f"live-{record.run_id}", alt=drawing.alt, config={"displayModeBar": False})
            st.caption("Error of the residual stream with every block so far quantized, and of each block alone; "
                       "a line that shoots up early is a reason to cancel.")


def _learning(run_id: str) -> None:
    """The curves of a rotation that is being learned."""
    history = learning_history(run_id)
    curves = learning_curves(history)
    for column, (name, drawing) in zip(st.columns(max(len(curves), 1)), curves.items()):
        with column:
            st.plotly_chart(drawing.figure, key=f"learn-{name}-{run_id}", alt=drawing.alt, config={"displayModeBar": False})
    if curves:
        st.caption(learning_words(history))


def _waiting(found: RunStatus) -> None:
    with st.container(border=True):
        place = "next in line" if found.position == 1 else f"number {found.position} in line"
        _headed(found.record, "Cancel", False, place)


def _headed(record: RunRecord, label: str, disabled: bool, more: str = "") -> None:
    words, button = st.columns([5, 1], vertical_alignment="center")
    words.markdown(headline(record) + (f" · {more}" if more else ""))
    button.button(label, key=f"cancel-{record.run_id}", disabled=disabled, on_click=_attempt, args=(queue.cancel, record.run_id),
                  width="stretch")


def _attempt(action: Any, run_id: str) -> None:
    """A button's action; what goes wrong (another browser was quicker) becomes a short message."""
    try:
        action(run_id)
    except RotvizError as error:
        st.toast(str(error), icon=":material/error:")


def _cancel_all(run_ids: Sequence[str]) -> None:
    for run_id in run_ids:
        _attempt(queue.cancel, run_id)


def _under_way() -> list[RunRecord]:
    """Running runs, then waiting ones in the order in which they will start."""
    store = Store()
    found = [*store.list(status=Status.RUNNING), *store.list(status=Status.QUEUED)]
    return sorted(found, key=lambda r: (r.status is not Status.RUNNING, -r.priority, r.created))
