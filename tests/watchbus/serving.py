"""ASGI applications on loopback, served by uvicorn or hypercorn in a thread."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn


@contextmanager
def served(app: object, **settings: object) -> Iterator[httpx.Client]:
    """Serve an application on loopback; give a client that talks to it."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, **{"lifespan": "on", "ws": "none", "log_config": None, **settings}
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    port = listener.getsockname()[1]
    try:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30
        ) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@contextmanager
def served_by_hypercorn(app: object) -> Iterator[str]:
    """Serve an application on loopback with hypercorn; give its address."""
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    listener = socket.create_server(("127.0.0.1", 0))
    config = Config()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    config.bind = [f"fd://{listener.detach()}"]  # hypercorn closes it
    config.errorlog = logging.getLogger("hypercorn")
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve(app, config, shutdown_trigger=stop.wait))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield url
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
