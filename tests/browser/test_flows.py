"""The app in a real Chromium: what a visitor does, on a tiny model, with a server and a worker of its own."""

import os
import re
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from lab import chromium, served, settled
from visits import MARKS, TINY, healthy

from rotviz.store.runs import Status, Store

pytestmark = MARKS


def test_the_first_request_may_be_a_deep_link(visit):
    """Runs first in this file: the server has seen nobody yet, and the frame is there all the same."""
    page = visit(f"rotate?{TINY}&b=1")
    healthy(page)
    assert page.get_by_role("link", name="Outliers").is_visible()


@pytest.mark.parametrize("name", ["runs", "rotate"])
def test_the_first_request_of_a_plain_streamlit_run_may_be_a_deep_link(name, browser, tmp_path):
    """Streamlit alone takes pages/ for pages of its own until the router has run once."""
    with served(tmp_path, plain=True) as address:
        page = browser.new_page()
        page.goto(f"{address}/{name}?{TINY}")
        settled(page)
        page.get_by_role("link", name="Outliers", exact=True).wait_for()  # Streamlit by itself would write "outliers"
        healthy(page)
        page.close()


def test_choices_stay_across_pages_and_in_the_link(visit, browser):
    page = visit(f"outliers?{TINY}&b=0&s=down_in")
    for name in ("Rotate", "Massive tokens", "Overview", "Outliers"):
        page.get_by_role("link", name=name, exact=True).first.click()
        page.wait_for_url(re.compile("/" if name == "Overview" else name.lower().replace(" ", "_")))
        settled(page)
        healthy(page)
    assert "m=tiny-llama" in page.url and "s=down_in" in page.url and "b=0" in page.url
    again = visit(page.url.split("/", 3)[3])
    assert again.locator("h1").first.inner_text() == page.locator("h1").first.inner_text()
    assert "down_in" in again.locator("[data-testid='stMain']").inner_text()


def test_an_unknown_model_is_refused_in_words(visit):
    page = visit("outliers?m=smolm2-135m")
    words = page.locator("[data-testid='stAlert']").first.inner_text()
    assert "smolm2-135m" in words and "smollm2-135m" in words
    assert page.locator("[data-testid='stException']").count() == 0


def test_a_prompt_in_any_script(visit):
    page = visit(f"massive_tokens?{TINY}&t=prompt&prompt=Gr%C3%BC%C3%9Fe%20aus%20M%C3%BCnchen.%20%E4%BD%A0%E5%A5%BD")
    healthy(page)
    assert "M" in page.locator("[data-testid='stMain']").inner_text()


def test_queue_watch_and_open_a_run(visit, home):
    page = visit("evaluate?m=tiny-llama&w=1&l=64")
    page.get_by_role("button", name=re.compile("queue", re.I)).first.click()
    store = Store(home)
    wait(lambda: store.count() >= 3 and all(r.over for r in store.list()), page)
    assert {r.status for r in store.list()} == {Status.DONE}
    page.reload()
    settled(page)
    healthy(page)
    assert page.locator(".js-plotly-plot").count() >= 1
    record = store.list()[0]
    page = visit("evaluate?m=tiny-llama&fig=Error+by+block")
    page.get_by_role("radio", name="massive").click()
    page.wait_for_url(re.compile("err=massive"))  # the link carries the value, not its words
    opened = visit(f"runs?run={record.run_id}")
    healthy(opened)
    assert record.run_id in opened.locator("[data-testid='stMain']").inner_text()


def test_ten_visitors_do_not_mix(address):
    """Each has a block and a site of its own; what a page says belongs to its own link."""
    def one(index):
        block, site = index % 2, ["attn_in", "mlp_in", "down_in", "o_in", "key"][index % 5]
        with chromium() as browser:
            page = browser.new_page()
            page.goto(f"{address}/outliers?{TINY}&b={block}&s={site}")
            settled(page)
            words = page.locator("[data-testid='stMain']").inner_text()
            return f"block {block}" in words.lower() and site in words

    with ThreadPoolExecutor(5) as pool:
        assert all(pool.map(one, range(10)))


def test_a_killed_server_loses_no_run(browser, tmp_path):
    """The run goes on in the worker while the server is gone, and its record is there for the next one."""
    with served(tmp_path) as address:
        page = browser.new_page()
        page.goto(f"{address}/evaluate?m=tiny-llama&w=40&l=512")
        settled(page)
        page.get_by_role("button", name=re.compile("queue", re.I)).first.click()
        store = Store(tmp_path)
        wait(lambda: store.count(Status.RUNNING) == 1, page)
        for number in subprocess.run(["pgrep", "-f", f"server.port={address.rsplit(':', 1)[1]}"], capture_output=True, text=True).stdout.split():
            os.kill(int(number), signal.SIGKILL)
        wait(lambda: all(r.over for r in store.list()), None)
    assert {r.status for r in store.list()} == {Status.DONE}


def wait(condition, page, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        if page is None:
            time.sleep(0.2)
        else:
            page.wait_for_timeout(200)
