"""The server's pages ask for the code that draws figures; nothing else that it sends is touched."""

import pytest
from starlette.applications import Starlette
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from rotviz.ui.asgi import STATIC, EarlyFigures, figure_code


@pytest.fixture(scope="module")
def client():
    routes = [Route("/", lambda _: FileResponse(STATIC / "index.html", media_type="text/html")),
              Route("/words", lambda _: HTMLResponse("<p>grüß Gott</p>")), Route("/data", lambda _: JSONResponse({"a": 1})),
              Route("/packed", lambda _: HTMLResponse(b"packed", headers={"content-encoding": "zstd-not"})),
              Route("/same", lambda _: Response(status_code=304, media_type="text/html"))]
    return TestClient(EarlyFigures(Starlette(routes=routes)))


def test_streamlit_keeps_the_code_where_it_is_looked_for():
    """Where a new Streamlit moves it, the first figure is half a second later: this test is how anybody notices."""
    assert (STATIC / figure_code()).is_file()


def test_a_page_asks_for_it_and_is_as_long_as_it_says(client):
    for path in ("/", "/words"):
        found = client.get(path)
        assert found.text.endswith(f'<script type="module">import("{figure_code()}")</script>\n')
        assert int(found.headers["content-length"]) == len(found.content)
        assert found.headers["link"] == f"<{figure_code()}>; rel=modulepreload; crossorigin"
    assert "grüß Gott" in client.get("/words").text


@pytest.mark.parametrize(("method", "path", "content"), [("GET", "/data", b'{"a":1}'), ("GET", "/packed", b"packed"), ("HEAD", "/", b""),
                                                          ("GET", "/same", b"")])
def test_nothing_else_is_touched(client, method, path, content):
    found = client.request(method, path)
    assert found.content == content
    assert "link" not in found.headers


def test_without_the_code_pages_are_sent_as_they_are(monkeypatch):
    monkeypatch.setattr("rotviz.ui.asgi.figure_code", lambda: None)
    plain = TestClient(EarlyFigures(Starlette(routes=[Route("/", lambda _: HTMLResponse("page"))]))).get("/")
    assert plain.text == "page"
    assert "link" not in plain.headers
