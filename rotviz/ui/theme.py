"""What the theme's options (.streamlit/config.toml) cannot say: less air above the page and in the sidebar, so that a laptop shows both, and words
that stand out: Streamlit gives captions a contrast of 4:1 and white on light blue (buttons, tags) in the dark; 4.5:1 is the least for small text."""

import streamlit as st

STYLE = """<style>
[data-testid="stMainBlockContainer"] {padding-top: 3.2rem; padding-bottom: 3rem;}
[data-testid="stSidebarHeader"] {height: 2.6rem; margin-bottom: 0; padding-top: 0.4rem;}
[data-testid="stSidebarNavItems"] {padding-top: 0;}
[data-testid="stSidebarNavSeparator"] {margin: 0.3rem 0;}
[data-testid="stSidebarUserContent"] {padding-top: 0.3rem; padding-bottom: 1rem;}
[data-testid="stSidebarUserContent"] [data-testid="stVerticalBlock"] {gap: 0.35rem;}
[data-testid="stCaptionContainer"], [data-testid="stCaptionContainer"] * {color: inherit;}
[data-testid="stCaptionContainer"] {opacity: 0.8;}
[data-testid="stBaseButton-primary"]:not(:disabled), [data-testid="stBaseButton-primary"]:not(:disabled) * {color: light-dark(#FFFFFF, #10161D);}
[data-testid="stMultiSelect"] span[title] {color: light-dark(#FFFFFF, #10161D);}
@media (min-width: 700px) {[data-testid="stMainBlockContainer"] {padding-left: 3rem; padding-right: 3rem;}}
</style>"""


def apply_theme() -> None:
    """Put the style on the page."""
    st.html(STYLE)
