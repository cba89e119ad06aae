"""The Cube server behind FakeCube: queries, tables, frames."""
