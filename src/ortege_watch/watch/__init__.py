"""Staying subscribed: frames, the state machine, differences, delivery."""
