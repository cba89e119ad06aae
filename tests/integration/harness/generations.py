"""The two generations of Cube's protocol, and the version that stands for each."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

PROJECT = Path(__file__).parents[1] / "cube"


@frozen
class Generation:
    """A version of Cube whose packages the tests install.

    Attributes:
        name: what the tests' ids and the folder of its packages are called.
        version: the version of Cube's server.
    """

    name: str
    version: str

    @property
    def folder(self) -> Path:
        """The folder with its ``package.json`` and ``package-lock.json``."""
        return PROJECT / self.name

    @property
    def classic(self) -> bool:
        """Whether frames are read without a schema, as until 1.5."""
        return self is CLASSIC


CLASSIC = Generation("classic", "0.35.81")
STRICT = Generation("strict", "1.7.43")
GENERATIONS = (CLASSIC, STRICT)
