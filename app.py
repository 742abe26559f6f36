"""The router: one explicit list of pages. Start it with `make run` or `python -m rotviz app`."""

import streamlit as st

from rotviz.ui.frame import run

PAGES = {
    "See": [
        st.Page("pages/overview.py", title="Overview", icon=":material/monitor_heart:", default=True),
        st.Page("pages/outliers.py", title="Outliers", icon=":material/show_chart:"),
        st.Page("pages/massive_tokens.py", title="Massive tokens", icon=":material/token:"),
        st.Page("pages/microscope.py", title="Token microscope", icon=":material/biotech:"),
        st.Page("pages/figures.py", title="Figures of papers", icon=":material/auto_graph:"),
    ],
    "Rotate": [
        st.Page("pages/rotate.py", title="Rotate", icon=":material/sync:"),
        st.Page("pages/verdict.py", title="Does it help here?", icon=":material/balance:"),
        st.Page("pages/lens.py", title="Rotation lens", icon=":material/motion_photos_on:"),
        st.Page("pages/learn.py", title="Learn a rotation", icon=":material/model_training:"),
        st.Page("pages/doctor.py", title="Architecture doctor", icon=":material/stethoscope:"),
    ],
    "Measure": [
        st.Page("pages/evaluate.py", title="Evaluate", icon=":material/speed:"),
        st.Page("pages/runs.py", title="Runs", icon=":material/list_alt:"),
        st.Page("pages/compare.py", title="Compare", icon=":material/compare_arrows:"),
        st.Page("pages/hurts.py", title="Which layer hurts?", icon=":material/healing:"),
        st.Page("pages/budget.py", title="Bit budget", icon=":material/tune:"),
        st.Page("pages/weights.py", title="Weights", icon=":material/grid_on:"),
        st.Page("pages/kernels.py", title="Kernels and cost", icon=":material/memory:"),
    ],
    "Teach": [
        st.Page("pages/lessons.py", title="Lessons", icon=":material/school:"),
        st.Page("pages/speaker_notes.py", title="Speaker notes", icon=":material/record_voice_over:"),
    ],
}

run(PAGES)
