"""A liquidation bot for Zest Protocol V1, as an example of ``ortege_watch``.

It keeps the health of borrowers up to date and writes a plan for each liquidation that
would pay. See README.md beside this file for what it does, and what it does not claim.
"""
