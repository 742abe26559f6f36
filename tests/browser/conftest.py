"""One server for all browser tests; every visit is a context of its own in the session's browser."""

import pytest
from lab import served, settled


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def address(home):
    with served(home) as found:
        yield found


@pytest.fixture
def visit(browser, address):
    """Open a page in a context of its own."""
    contexts = []

    def open_page(path, width=1280, height=900, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.goto(f"{address}/{path}")
        settled(page)
        return page

    yield open_page
    for context in contexts:
        context.close()
