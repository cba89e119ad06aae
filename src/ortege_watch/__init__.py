"""Ask an Ortege (Cube) server typed questions and stay subscribed to the answers.

Every public name stands in this module. A name loads its module when it is first
used (PEP 562): ``import ortege_watch`` itself loads nothing but this file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ortege_watch.errors import (
        ApiError,
        AuthenticationError,
        DeadlineExceeded,
        DecodeError,
        OrtegeWatchError,
        QueryError,
        QueryRejected,
        RateLimited,
        SubscriptionLost,
        TransportError,
    )

    __version__: str

__all__ = [
    "ApiError",
    "AuthenticationError",
    "DeadlineExceeded",
    "DecodeError",
    "OrtegeWatchError",
    "QueryError",
    "QueryRejected",
    "RateLimited",
    "SubscriptionLost",
    "TransportError",
    "__version__",
]

# Where each public name lives. A new name needs a line here, one above for the type
# checkers, and one in __all__; a test compares the three.
_HOMES = {
    "ApiError": "errors",
    "AuthenticationError": "errors",
    "DeadlineExceeded": "errors",
    "DecodeError": "errors",
    "OrtegeWatchError": "errors",
    "QueryError": "errors",
    "QueryRejected": "errors",
    "RateLimited": "errors",
    "SubscriptionLost": "errors",
    "TransportError": "errors",
}


# Hidden from type checkers: to them a name that is not imported above is an error.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Load a public name on its first use and keep it."""
        if name == "__version__":
            from importlib.metadata import version

            value = version("ortege-watch")
        elif name in _HOMES:
            from importlib import import_module

            value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        else:
            message = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(message)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
