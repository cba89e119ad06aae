"""Mistakes that a type checker must find: each line says which error it expects.

``# E: code`` or ``# E: words of the message``. This file is never run.
"""

from __future__ import annotations

import ortege_watch
from ortege_watch import ApiError


def an_unknown_name_is_not_a_public_one() -> None:
    ortege_watch.Qeury  # E: attr-defined


def an_error_needs_its_status() -> None:
    ApiError("no")  # E: Missing named argument "status"
