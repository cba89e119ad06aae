"""Use the installed wheel the way a program would: only its public names."""

from __future__ import annotations

import ortege_watch

for name in ortege_watch.__all__:
    getattr(ortege_watch, name)
print(f"ortege-watch {ortege_watch.__version__} works from its wheel")
