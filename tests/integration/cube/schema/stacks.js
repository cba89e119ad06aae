// The cube that the live tests write to. Members are named as Ortege names them.
cube('stacks_contract_events', {
  sql: 'SELECT * FROM stacks_contract_events',

  refreshKey: { every: '1 second' },

  measures: {
    count: { type: 'count' },
    asset_amount: { sql: 'amount', type: 'sum' },
    avg_amount: { sql: 'amount', type: 'avg' },
    max_block: { sql: 'block_height', type: 'max' },
    senders: { sql: 'sender_address', type: 'countDistinct' },
  },

  dimensions: {
    id: { sql: 'id', type: 'number', primaryKey: true, shown: true },
    tx_hash: { sql: 'tx_hash', type: 'string' },
    contract_id: { sql: 'contract_id', type: 'string' },
    function_name: { sql: 'function_name', type: 'string' },
    sender_address: { sql: 'sender_address', type: 'string' },
    asset_id: { sql: 'asset_id', type: 'string' },
    amount: { sql: 'amount', type: 'number' },
    block_height: { sql: 'block_height', type: 'number' },
    success: { sql: 'success', type: 'boolean' },
    tx_date: { sql: 'tx_date', type: 'time' },
    settled_at: { sql: `(${CUBE}.tx_date + interval '1 day')`, type: 'time' },
  },

  segments: {
    borrows: { sql: `${CUBE}.function_name = 'borrow'` },
  },
});

// The same over a table that no test writes to: what Cube counts can be compared
// with what SQL counts, whatever else goes on.
cube('stacks_contract_calls', {
  extends: stacks_contract_events,
  sql: 'SELECT * FROM stacks_contract_calls',
});

// The same over the table of the differential test, which fills it, with a second time.
cube('random_events', {
  extends: stacks_contract_events,
  sql: "SELECT *, tx_date + interval '90 minutes' AS seen_at FROM random_events",
  dimensions: {
    seen_at: {
      sql: 'seen_at',
      type: 'time',
      granularities: {
        fiscal_year: { interval: '1 year', offset: '3 months', title: 'Fiscal Year' },
        from_sunday: { interval: '1 week', offset: '-1 day' },
        twelve_days: { interval: '12 days', origin: '2024-05-02 06:00' },
        five_quarters: { interval: '1 year 3 months', origin: '2020-02' },
        odd_year: { interval: '1 year', origin: '2024-05-02' },
        later_half: { interval: '6 months', offset: '1 month 2 days' },
      },
    },
  },
});

// Every question takes two seconds, which is longer than Cube lets a caller wait.
cube('slow_events', {
  sql: 'SELECT 1 AS id, pg_sleep(2)',
  measures: {
    count: { type: 'count' },
  },
  dimensions: {
    id: { sql: 'id', type: 'number', primaryKey: true, shown: true },
  },
});

// What examples/quick_bot.py reads besides events.
cube('stacks_dapp_zest_positions_net', {
  sql: 'SELECT * FROM stacks_dapp_zest_positions_net',
  refreshKey: { every: '1 second' },
  measures: {
    total_supply: { sql: 'total_supply', type: 'sum' },
    total_borrow: { sql: 'total_borrow', type: 'sum' },
    total_repaid: { sql: 'total_repaid', type: 'sum' },
  },
  dimensions: {
    lender_address: { sql: 'lender_address', type: 'string' },
    asset_id: { sql: 'asset_id', type: 'string' },
  },
});

cube('stacks_oracle_prices', {
  sql: 'SELECT * FROM stacks_oracle_prices',
  refreshKey: { every: '1 second' },
  measures: {
    price: { sql: 'price', type: 'max' },
    count: { type: 'count' },
  },
  dimensions: {
    token: { sql: 'token', type: 'string' },
    tx_date: { sql: 'tx_date', type: 'time' },
  },
});
