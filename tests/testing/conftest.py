"""A test that waits for what never comes fails, instead of waiting for ever."""

from __future__ import annotations

import asyncio
import functools
import inspect
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        ours = isinstance(item, pytest.Function) and HERE in item.path.parents
        if ours and inspect.iscoroutinefunction(item.obj):
            item.obj = in_time(item.obj)


def in_time(test):
    @functools.wraps(test)
    async def run(**fixtures):
        async with asyncio.timeout(20):
            await test(**fixtures)

    return run
