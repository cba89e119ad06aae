"""The cubes and members that Ortege is known to have, as empty tables."""

from __future__ import annotations

from ortege_watch.testing._table import DimensionType, Table

_TYPES: dict[str, DimensionType] = {
    "tx_date": "time",
    "timedate": "time",
    "asset_price": "number",
    "decimals": "number",
}


def _table(name: str, dimensions: str, **measures: str) -> Table:
    types: dict[str, DimensionType] = {
        dimension: _TYPES.get(dimension, "string") for dimension in dimensions.split()
    }
    return Table(name, measures=measures, dimensions=types)


def known_tables() -> list[Table]:
    """Make the tables anew, without rows.

    The names are those in public use; types and aggregates are a guess that fits them.
    """
    return [
        _table(
            "stacks_contract_events",
            "contract_id function_name sender_address tx_date",
            asset_amount="sum",
            count="count",
        ),
        _table(
            "stacks_contract_calls",
            "contract_id function_name event_type tx_date sender_address "
            "asset_event_type asset_id asset_recipient",
            fee="sum",
            asset_amount="sum",
        ),
        _table(
            "stacks_dapp_zest_positions",
            "sender_address asset_id tx_type asset_price",
            adjusted_amount="sum",
        ),
        _table(
            "stacks_dapp_zest_positions_net",
            "lender_address asset_id",
            total_supply="sum",
            total_supply_usd="sum",
            total_borrow="sum",
            total_borrow_usd="sum",
            total_repaid="sum",
            total_repaid_usd="sum",
        ),
        _table("stacks_oracle_prices", "token tx_date", price="max"),
        _table("stacks_tokens", "name symbol decimals contract_id"),
        _table("prices", "symbol timedate", avg_price="avg"),
    ]
