"""HTTP: requests as generators, one retry loop, and the driver on httpx."""
