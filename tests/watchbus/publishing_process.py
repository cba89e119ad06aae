"""Publish alerts without end, until somebody kills this process: url, outbox, start."""

from __future__ import annotations

import sys
from itertools import count

from driving import alert

from ortege_watch import Retry
from ortege_watch.watchbus import AlertPublisher, Credentials

url, outbox, start = sys.argv[1], sys.argv[2], int(sys.argv[3])
credentials = Credentials("fake-app", "fake-watch-bus-secret")
with AlertPublisher(
    url, credentials, outbox=outbox, retry=Retry(attempts=1)
) as publisher:
    for number in count(start, 3):
        numbers = range(number, number + 3)
        print("offered", *numbers, flush=True)
        publisher.publish(map(alert, numbers))
        print("accepted", *numbers, flush=True)
