"""Measure verifying and reading a signed request, and print the ratios.

The baseline is an HMAC and ``orjson.loads`` of the same body, with nothing checked. Also
compared is ``standardwebhooks``, which verifies another scheme with an HMAC and a timestamp: it keeps
no nonces, and reads the body with ``json.loads``. CPU time of this process; the rounds are
interleaved, and the baseline is also compared with itself: a run where that is outside
0.97 to 1.03 was disturbed.
``python tests/benchmarks/verifying.py [--quick] [--rounds N]``
"""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime

from command_line import check_installed, parser, rounds_of
from signed_calls import ALERT, CREDENTIALS, compare

from ortege_watch.watchbus import RequestVerifier, signed_headers

PATH = "/api/v1/watch/alert"
NOW = 1_700_000_000
INSTALL = "pip install -e . orjson standardwebhooks"
SECRET = CREDENTIALS.secret.encode()


def compare_verifiers(rounds: int) -> None:
    import orjson
    from standardwebhooks import Webhook

    for count in (1, 10, 100):
        body = json.dumps({"alert_info_list": [ALERT.to_wire()] * count}).encode()
        requests = [
            signed_headers(
                *(CREDENTIALS, "POST", PATH, body),
                timestamp=NOW * 1000,
                nonce=f"{number:032x}",
            )
            for number in range(2000 // (count + 9))
        ]

        def bare(body=body, requests=requests):
            for headers in requests:
                start = ";".join(list(headers.values())[1:4])
                message = f"{start};POST;{PATH};".encode() + body
                good = hmac.new(SECRET, message, hashlib.sha256).hexdigest()
                assert hmac.compare_digest(good, headers["X-Signature-signature"])
                assert len(orjson.loads(body)["alert_info_list"])

        def library(body=body, requests=requests):
            secrets = {CREDENTIALS.app_id: [CREDENTIALS.secret]}
            verifier = RequestVerifier(secrets, path=PATH, clock=lambda: NOW)
            for headers in requests:
                assert verifier.alerts(headers, body)

        webhook, sent_at = Webhook(SECRET), datetime.now(UTC)
        webhooks = [
            {
                "webhook-id": headers["X-Signature-nonce"],
                "webhook-timestamp": str(int(sent_at.timestamp())),
                "webhook-signature": webhook.sign(
                    headers["X-Signature-nonce"], sent_at, body.decode()
                ),
            }
            for headers in requests
        ]

        def other(body=body, webhook=webhook, webhooks=webhooks):
            for headers in webhooks:
                assert webhook.verify(body, headers)

        print(f"{count} alerts in a request")
        compared = {
            "hmac and orjson": bare,
            "again": bare,
            "library": library,
            "standardwebhooks": other,
        }
        compare(compared, rounds)


def main() -> None:
    options = parser(__doc__, rounds=41).parse_args()
    check_installed(INSTALL, "orjson", "standardwebhooks")
    compare_verifiers(rounds_of(options))


if __name__ == "__main__":
    main()
