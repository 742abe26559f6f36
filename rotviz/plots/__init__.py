"""One file a figure: numpy in, a `Drawing` (figure, words, table) out. No torch, no Streamlit, no state.

    from rotviz.plots.spikes import draw_spikes
    drawing = draw_spikes(values, tokens)      # values [T, D], tokens: T strings
    drawing.figure, drawing.alt, drawing.table

What the figures share: `frame` (axes, margins, shared ranges), `heat` (color scales), `palette` (who has which color),
`pool` (making arrays small without losing a spike), `words` (tokens and numbers as text), `export` (SVG, PNG, CSV).
Ranges (`y_range`, `color_max`, ...) are always in the data's own units, on log axes too.
"""
