"""The web server: one page, one WebSocket, and who may reach them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import FastAPI, WebSocket
from fastapi.responses import PlainTextResponse
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unimodel.world.play.address import LOOPBACK_NAMES, is_loopback
from unimodel.world.play.hub import Hub
from unimodel.world.play.place import Lobby

PAGE = Path(__file__).parent / "page"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def build_app(lobby: Lobby, token: str, host: str = "127.0.0.1") -> FastAPI:
    """The application that lets whoever knows `token` into `lobby`; `host` is the address it will be reached at.

    It closes the lobby at its end.
    """
    hub = Hub(lobby, token)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await lobby.open()
        sweeper = asyncio.create_task(hub.sweep())
        try:
            yield
        finally:
            sweeper.cancel()
            await lobby.close()

    # No description of the interface, and no pages that would show one.
    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    @app.websocket("/ws")
    async def socket(websocket: WebSocket) -> None:
        await hub.serve(websocket)

    app.state.hub = hub
    app.mount("/", StaticFiles(directory=PAGE, html=True))
    app.add_middleware(Door, only_loopback=is_loopback(host))
    return app


class Door:
    """Turns away requests that other pages make a browser send, and sets headers on every answer.

    On loopback only loopback names are answered to, so that a name that is made to point here (DNS rebinding) is not;
    and everywhere a browser's Origin must be the very host that it asks.
    """

    def __init__(self, app: ASGIApp, *, only_loopback: bool) -> None:
        self._app, self._only_loopback = app, only_loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if not self.admits(Headers(scope=scope)):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008, "reason": ""})
            else:
                await PlainTextResponse("This address, or the page that asked, is not answered.", 403)(
                    scope, receive, send
                )
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers)

    def admits(self, headers: Headers) -> bool:
        """Whether a request with these headers is answered."""
        host, origin = headers.get("host", ""), headers.get("origin")
        try:
            name = urlsplit(f"//{host}").hostname or ""
            asked_from = urlsplit(origin).netloc if origin is not None else host
        except ValueError:
            return False
        return asked_from == host and (not self._only_loopback or name in LOOPBACK_NAMES)
