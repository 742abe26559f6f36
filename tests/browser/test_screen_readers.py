"""Every page on a desk in the light and on a phone in the dark: it is whole, no text is under 12 px, and axe-core has nothing serious to say.

Findings of axe's levels "serious" and "critical" fail, but for those inside Streamlit's own widgets, which no page can change. They are listed here
with the reason, and only for those very elements.
"""

import pytest
from fetch_axe import axe
from visits import MARKS, PAGES, TINY, healthy, path_of

pytestmark = MARKS

STREAMLIT = (
    ("list", "[data-testid=stSidebarNavItems]", "the navigation puts its sections into its list as <div>"),
    ("listitem", "[data-testid=stSidebarNavItems]", "and the links of a section into that <div>"),
    ("scrollable-region-focusable", ".katex-display", "st.latex scrolls a formula that is too wide, and takes no tab stop for it"),
)
"""(axe rule, CSS selector of the element, why no page can change it)."""

AXE = """async ([rules, known]) => {
    const options = {resultTypes: ['violations'], ...(rules ? {runOnly: {type: 'rule', values: rules}} : {})};
    const found = (await axe.run(document, options)).violations.filter(v => ['serious', 'critical'].includes(v.impact));
    const within = (target, selector) => document.querySelector(target)?.closest(selector);
    const excused = (rule, node) => known.some(([name, selector]) => name === rule && node.target.every(t => within(t, selector)));
    const words = (v, n) => `${v.id}: ${n.target} ${n.html.slice(0, 200)} ${n.failureSummary}`;
    return found.flatMap(v => v.nodes.filter(n => !excused(v.id, n)).map(n => words(v, n))) }"""
SMALL = """() => [...document.querySelectorAll('[data-testid=stMain] *, [data-testid=stSidebar] *')].filter(e => !e.closest('.katex')
    && [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) && e.getClientRects().length
    && getComputedStyle(e).visibility !== 'hidden' && parseFloat(getComputedStyle(e).fontSize) < 11.9)
    .map(e => e.outerHTML.slice(0, 120))"""


def findings(page, source, rules=None):
    """What axe finds, but for what is known of Streamlit's own widgets."""
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(source)
    return page.evaluate(AXE, [rules, [entry[:2] for entry in STREAMLIT]])


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(("width", "height", "scheme", "rules"), [(1280, 900, "light", None), (390, 844, "dark", ["color-contrast"])])
def test_every_page_on_a_desk_and_on_a_phone(visit, name, width, height, scheme, rules):
    page = visit(f"{path_of(name)}?{TINY}", width, height, scheme)
    healthy(page)
    assert page.evaluate(SMALL) == []
    try:
        checker = axe()
    except LookupError as error:
        pytest.skip(f"healthy and readable; not seen by axe: {error}")
    assert findings(page, checker, rules) == []
