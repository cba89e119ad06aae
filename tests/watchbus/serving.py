"""ASGI applications on loopback, served by uvicorn in a thread."""

from __future__ import annotations

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
