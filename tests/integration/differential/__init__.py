"""Random queries, asked of FakeCube and of a real server, with the answers compared."""
