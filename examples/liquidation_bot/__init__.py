"""A liquidation bot for Zest Protocol V1, as an example of ``ortege_watch``.

It follows the health of borrowers and writes a plan for each profitable liquidation.
README.md beside this file tells what it does and what it does not know.
"""
