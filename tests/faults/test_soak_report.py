"""What the figures of a soak show; the soak itself needs a real server."""

from __future__ import annotations

import pytest
from injection.soak import ALLOWED, Report


@pytest.mark.parametrize("name", ALLOWED)
def test_what_grows_after_the_warm_up_is_a_failure(name):
    flat = [9000] * 25
    report = Report(samples={name: [0] * 25 + flat + flat + flat})
    assert report.quarters() == {name: (9000, 9000)}
    assert report.failures == []
    grown = 9000 + ALLOWED[name] + 1
    report.samples[name][-25:] = [grown] * 25
    assert report.failures == [f"{name} grew from 9000 to {grown}"]
    assert f"FAILED {name} grew" in str(report)
