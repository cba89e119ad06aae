-- Two tables of one shape: stacks_contract_events is written to by the live tests,
-- stacks_contract_calls holds what is below and never changes. Two more for
-- examples/quick_bot.py.

CREATE TABLE stacks_contract_events (
    id bigserial PRIMARY KEY,
    tx_hash text NOT NULL,
    contract_id text NOT NULL,
    function_name text,
    sender_address text,
    asset_id text,
    amount numeric(38, 6),
    block_height bigint NOT NULL,
    success boolean,
    tx_date timestamptz NOT NULL
);

CREATE TABLE stacks_contract_calls (LIKE stacks_contract_events INCLUDING ALL);

CREATE TABLE stacks_dapp_zest_positions_net (
    lender_address text,
    asset_id text,
    total_supply numeric(38, 6),
    total_borrow numeric(38, 6),
    total_repaid numeric(38, 6)
);

CREATE TABLE stacks_oracle_prices (
    token text,
    price numeric(38, 6),
    tx_date timestamptz NOT NULL
);

INSERT INTO stacks_contract_calls (
    tx_hash, contract_id, function_name, sender_address, asset_id, amount,
    block_height, success, tx_date
) VALUES
    ('0x01', 'SP000.pox-4', 'delegate', 'SPA', 'STX', 1000.5, 150000, true, '2024-04-30 23:59:59.999Z'),
    ('0x02', 'SP000.pox-4', 'delegate', 'SPB', 'STX', 42.125, 150010, true, '2024-05-01 00:00:00Z'),
    ('0x03', 'SP000.pox-4', 'stack', 'SPA', 'STX', 9007199254740993, 150020, true, '2024-05-01 12:30:00.123Z'),
    ('0x04', 'SP000.POX-4', 'Stack', 'SPC', 'stx', 0.000001, 150030, false, '2024-05-01 23:59:59.999Z'),
    ('0x05', 'SP2Z.alex-vault', 'withdraw', 'SPC', 'ALEX', NULL, 150040, true, '2024-05-02 00:00:00Z'),
    ('0x06', 'SP2Z.alex-vault', 'supply', NULL, 'ALEX', 7, 150050, NULL, '2024-05-02 08:00:00Z'),
    ('0x07', 'SP1Y.arkadiko-swap', 'swap', 'SPD', 'DIKO', -3.5, 150060, true, '2024-05-03 00:00:00Z'),
    ('0x08', 'SP1Y.arkadiko-swap', 'swap', 'SPE', NULL, 0, 150070, false, '2024-05-06 10:00:00Z'),
    ('0x09', 'SP2V.borrow-helper-v1-3', 'borrow', 'SPF', 'sBTC', 0.25, 150080, true, '2024-05-31 23:30:00Z'),
    ('0x0a', 'SP2V.borrow-helper-v1-3', 'borrow', 'SPA', 'sBTC', 12.75, 150090, true, '2024-06-15 12:00:00Z'),
    ('0x0b', 'SP2V.borrow-helper-v1-3', 'repay', 'SPG', 'sBTC', 1000000, 150100, NULL, '2024-12-31 23:59:59Z'),
    ('0x0c', 'SP2V.borrow-helper-v1-3', NULL, NULL, NULL, NULL, 150110, NULL, '2025-01-01 00:00:00Z'),
    ('0x0d', 'SP9.naïve_"quote''s"-100%', '日本語', 'SPH', '💱', 1, 150120, true, '2025-02-28 23:00:00Z');
