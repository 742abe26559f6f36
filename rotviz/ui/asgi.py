"""The app as an ASGI application: Streamlit on app.py, made ready for its first visitor while it starts, with pages that ask for Plotly at once.

Streamlit loads the code that draws figures (4.7 MB) when the first figure has arrived: after the page's own code has been loaded, a connection
opened and the script run. The browser has the time to read and run that code before: a line at the end of the page tells it to. Where Streamlit
keeps the code under another name the line is left out, and figures come as they would have.
"""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import streamlit as st
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

APP = Path(__file__).resolve().parents[2] / "app.py"
STATIC = Path(st.__file__).parent / "static"
CHUNK = "static/js/PlotlyChart.*.js"


def figure_code() -> str | None:
    """Where the code that draws figures is, relative to a page."""
    names = sorted(path.relative_to(STATIC).as_posix() for path in STATIC.glob(CHUNK))
    return f"./{names[0]}" if names else None


class EarlyFigures:
    """Adds the line to every page that is sent whole and as it is."""

    def __init__(self, app: ASGIApp) -> None:
        self.app, self.code = app, figure_code()
        self.line = f'<script type="module">import("{self.code}")</script>\n'.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET" or not self.code:
            return await self.app(scope, receive, send)
        page = False

        async def longer(message: Message) -> None:
            nonlocal page
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                page = (message["status"] == 200 and headers.get("content-type", "").startswith("text/html")
                        and "content-encoding" not in headers and "content-length" in headers)
                if page:
                    headers.append("link", f"<{self.code}>; rel=modulepreload; crossorigin")
                    headers["content-length"] = str(int(headers["content-length"]) + len(self.line))
            elif page and not message.get("more_body"):
                message = {**message, "body": message.get("body", b"") + self.line}
            await send(message)

        await self.app(scope, receive, longer)


def get_ready() -> None:
    """Import what the first page's first figures need, and draw them."""
    import pyarrow  # noqa: F401  what Streamlit sends tables with

    from rotviz.ui import first_minute, frame  # noqa: F401

    first_minute.comparison_figure()
    first_minute.stream_figure()


@asynccontextmanager
async def started(_: st.App) -> AsyncIterator[None]:
    """Get ready beside the server: it answers meanwhile."""
    threading.Thread(target=get_ready, daemon=True).start()
    yield


app = st.App(APP, lifespan=started, middleware=[Middleware(EarlyFigures)])
