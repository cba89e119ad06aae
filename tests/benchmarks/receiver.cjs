// Receives pushes with Cube's JavaScript client: node receiver.cjs PORT COUNT.
// Prints what receivers.py prints. The packages come from $NODE_PATH.
"use strict";

const cube = require("@cubejs-client/core").default;
const WebSocketTransport = require("@cubejs-client/ws-transport");
const { AMOUNT, DIMENSIONS } = JSON.parse(process.env.MEMBERS);

const [port, count] = process.argv.slice(2).map(Number);
const transport = new WebSocketTransport({
  authorization: "token",
  apiUrl: `ws://127.0.0.1:${port}/`,
});
const client = cube("token", { transport });
const query = { measures: [AMOUNT], dimensions: DIMENSIONS, limit: 50000 };
const seen = [];
let cpu, faults;

function report(rows) {
  const used = process.cpuUsage(cpu);
  faults = process.resourceUsage().minorPageFault - faults;
  // Halves and integers below 2^53: the sum of these floats is exact.
  const sum = rows.reduce((sum, row) => sum + Number(row[AMOUNT]), 0);
  console.log(
    JSON.stringify({
      seen,
      cpu: (used.user + used.system) / 1e6,
      faults,
      rows: rows.length,
      sum: String(sum),
    }),
  );
  process.exit();
}

client.subscribe(query, {}, (error, result) => {
  if (error) throw error;
  const rows = result.rawData();
  seen.push([seen.length, Number(process.hrtime.bigint()) / 1e9]);
  if (seen.length === 1) {
    cpu = process.cpuUsage();
    faults = process.resourceUsage().minorPageFault;
  }
  if (seen.length === count) report(rows);
});
