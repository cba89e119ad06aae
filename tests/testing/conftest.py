"""Every asynchronous test of this directory has a time limit."""

from __future__ import annotations

import asyncio
import functools
import inspect
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        is_here = isinstance(item, pytest.Function) and HERE in item.path.parents
        if is_here and inspect.iscoroutinefunction(item.obj):
            item.obj = with_time_limit(item.obj)


def with_time_limit(test):
    @functools.wraps(test)
    async def run(**fixtures):
        async with asyncio.timeout(20):
            await test(**fixtures)

    return run
