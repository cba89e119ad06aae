"""Ask a Cube server over REST."""
