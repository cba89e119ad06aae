"""An application for several workers: ``RECEIVED`` names the file of its stores.

With ``RECEIVED`` empty it has the default stores.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from signed import APP_ID, PATH, SECRET

from ortege_watch.watchbus import (
    AlertInbox,
    RequestVerifier,
    SQLiteHandled,
    SQLiteNonces,
    alert_app,
)


def handler(alert) -> None:
    pass


received = os.environ["RECEIVED"]
nonces = SQLiteNonces(received) if received else None
inbox = AlertInbox(SQLiteHandled(received)) if received else None
verifier = RequestVerifier({APP_ID: [SECRET]}, path=PATH, nonces=nonces)
app = alert_app(verifier, handler, inbox=inbox)
