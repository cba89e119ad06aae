// Starts a Cube server, as it is but for its native add-on (native-shim.js). Everything
// that differs between two servers of the tests comes from the environment; see
// harness/cube_server.py.

const fs = require('fs');
const net = require('net');
require('./native-shim.js');
const { CubejsServer } = require('@cubejs-backend/server');

// Cube listens on every interface and has no option for it. A test server has no
// business outside of this machine, so the port is bound to loopback.
const { listen } = net.Server.prototype;
net.Server.prototype.listen = function listenOnLoopback(port, ...rest) {
  return listen.call(this, port, '127.0.0.1', ...rest);
};

// The tests hold the other end of stdin: however they end, this process ends too.
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));

const server = new CubejsServer({
  telemetry: false,
  // Models cannot read the environment.
  repositoryFactory: () => ({
    dataSchemaFiles: async () => [{
      fileName: 'stacks.js',
      content: fs.readFileSync('schema/stacks.js', 'utf8')
        .replaceAll('1 second', `${process.env.TEST_REFRESH_SECONDS} second`),
    }],
  }),
  processSubscriptionsInterval: Number(process.env.TEST_TICK_MILLISECONDS),
  // A token may be limited to one contract, as a real deployment limits its users:
  // what a subscription shows tells which token the server holds for it.
  queryRewrite: (query, { securityContext }) => {
    if (securityContext && securityContext.contract) {
      query.filters.push({
        member: 'stacks_contract_events.contract_id',
        operator: 'equals',
        values: [securityContext.contract],
      });
    }
    return query;
  },
  orchestratorOptions: {
    // "Continue wait" after one second, so that a two-second query shows it.
    continueWaitTimeout: 1,
  },
});

// 0.35.81 makes an orchestrator for each of the requests that come at once after a start,
// and their in-memory queues share one state: all of these requests get "Continue wait"
// for ever [seen]. So the only orchestrator is made before the port is open. 1.7.43 makes
// one in any case.
server.core.getOrchestratorApi({ requestId: 'first' })
  .then(() => server.listen())
  .then(({ version, port }) => {
    console.log(`Cube ${version} is listening on ${port}`);
  })
  .catch((error) => {
    console.error(error);
    process.exit(1);
  });
