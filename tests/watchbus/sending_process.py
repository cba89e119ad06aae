"""Enqueue alerts without end while run() sends them: url, outbox, first number."""

from __future__ import annotations

import sys
import threading
from itertools import count

from driving import alert

from ortege_watch import Retry
from ortege_watch.watchbus import AlertPublisher, Credentials

url, outbox, start = sys.argv[1], sys.argv[2], int(sys.argv[3])
credentials = Credentials("fake-app", "fake-watch-bus-secret")
with AlertPublisher(
    url, credentials, outbox=outbox, retry=Retry(attempts=1, base=0.01, cap=0.05)
) as publisher:
    threading.Thread(target=publisher.run, daemon=True).start()
    for number in count(start, 3):
        numbers = range(number, number + 3)
        print("offered", *numbers, flush=True)
        publisher.enqueue(map(alert, numbers))
        print("accepted", *numbers, flush=True)
