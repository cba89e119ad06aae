"""Run the bot: ``python -m liquidation_bot``, or ``python examples/liquidation_bot``."""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run by its path: make the package's parent importable instead
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from liquidation_bot.cli import main

sys.exit(main())
