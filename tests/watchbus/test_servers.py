"""The applications under uvicorn and hypercorn, plain and mounted.

The client was written from the specification alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from independent import APP_ID, SECRET, Client
from serving import served, served_by_hypercorn
from signed import alert_object
from starlette.applications import Starlette
from starlette.routing import Mount

from ortege_watch.watchbus import (
    RequestVerifier,
    SQLiteProvider,
    SupportedEvent,
    alert_app,
    provider_app,
)


@contextmanager
def by_uvicorn(app: object) -> Iterator[str]:
    with served(app) as client:
        yield str(client.base_url)


@contextmanager
def by_hypercorn(app: object) -> Iterator[str]:
    pytest.importorskip("hypercorn")
    with served_by_hypercorn(app) as url:
        yield url


servers = pytest.mark.parametrize("server", [by_uvicorn, by_hypercorn])
prefixes = pytest.mark.parametrize("prefix", ["", "/at/a/prefix"])


def mounted(app: object, prefix: str) -> object:
    return Starlette(routes=[Mount(prefix, app=app)]) if prefix else app


@servers
@prefixes
def test_a_provider_is_served(server, prefix):
    entity = {
        "entity": "0x" + "ab" * 20,
        "chain_id": "56",
        "entity_type": "ERC20",
        "event_code": "x",
    }
    events = [SupportedEvent("x", ("ERC20",))]
    with (
        SQLiteProvider(None, events) as provider,
        server(mounted(provider_app({APP_ID: [SECRET]}, provider), prefix)) as url,
    ):
        client = Client(url)
        path = f"{prefix}/api/watch/subscribe"
        assert client.data(path, [entity]) == {"watch_result": [entity]}
        assert client.data(f"{prefix}/api/v1/watch/subscriptions/list")["total"] == 1
        assert client.error(path, [entity], signature="00" * 32)[1] == "000005"
        assert client.error(f"{prefix}/api/watch/other") == (404, "000001", "not found")
        assert client.error(path, "x" * 3_000_000)[0] == 413


@servers
@prefixes
def test_alerts_are_received(server, prefix):
    alerts = []
    path = f"{prefix}/api/v1/watch/alert"
    verifier = RequestVerifier({APP_ID: [SECRET]}, path=path)
    with server(mounted(alert_app(verifier, alerts.append), prefix)) as url:
        client = Client(url)
        assert client.data(path, {"alert_info_list": [alert_object()]}) is None
        assert client.data(path, [alert_object()]) is None  # it was handled before
        assert client.error(path, [], nonce="a" * 31)[2] == "nonce is illegal"
        assert client.error(f"{prefix}/other")[0] == 404
        assert client.error(path, "x" * 3_000_000)[0] == 413
    assert len(alerts) == 1
