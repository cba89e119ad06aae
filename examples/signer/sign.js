// Sign a plan of the liquidation bot as it is, offline: see README.md.
'use strict';

const fs = require('node:fs');
const { parseArgs } = require('node:util');
const {
  deserializeCV,
  deserializeTransaction,
  getAddressFromPrivateKey,
  makeContractCall,
  serializeCV,
  wireToPostCondition,
} = require('@stacks/transactions');

const USAGE =
  'usage: STACKS_PRIVATE_KEY=… node sign.js PLAN.json --nonce NUMBER --fee MICROSTX';
const CONDITIONS = ['eq', 'gt', 'gte', 'lt', 'lte'];
const NONE = '0x09';
const ASSET = /^[^.:]+\.[^.:]+::[^.:]+$/;

class Refused extends Error {}

function refuseUnless(holds, message) {
  if (!holds) throw new Refused(message);
}

const shown = value => JSON.stringify(value) ?? 'nothing';

function readArguments() {
  let given;
  try {
    given = parseArgs({
      options: { nonce: { type: 'string' }, fee: { type: 'string' } },
      allowPositionals: true,
    });
  } catch (error) {
    throw new Refused(`${error.message}; ${USAGE}`);
  }
  const { nonce, fee } = given.values;
  refuseUnless(given.positionals.length === 1, `expected one plan; ${USAGE}`);
  for (const [name, value] of [['nonce', nonce], ['fee', fee]]) {
    const isNumber = /^\d{1,18}$/.test(value ?? '');
    refuseUnless(isNumber, `--${name} must be a whole number, got ${shown(value)}; ${USAGE}`);
  }
  return { path: given.positionals[0], nonce: BigInt(nonce), fee: BigInt(fee) };
}

function readKey() {
  const key = process.env.STACKS_PRIVATE_KEY ?? '';
  // The key itself is in no message.
  refuseUnless(
    /^[0-9a-f]{64}(01)?$/i.test(key),
    'STACKS_PRIVATE_KEY must have 64 hex digits, or 66 that end with 01',
  );
  return key;
}

function readPlan(path) {
  try {
    return JSON.parse(fs.readFileSync(path, 'utf8'));
  } catch (error) {
    throw new Refused(`cannot read the plan ${path}: ${error.message}`);
  }
}

function readValue({ name, hex }) {
  refuseUnless(
    typeof hex === 'string' && /^0x([0-9a-f]{2})+$/.test(hex),
    `argument ${shown(name)} is not filled: hex is ${shown(hex)}`,
  );
  let value;
  try {
    value = deserializeCV(hex);
  } catch (error) {
    throw new Refused(`argument ${shown(name)} is no Clarity value: ${error.message}`);
  }
  refuseUnless(
    `0x${serializeCV(value)}` === hex,
    `argument ${shown(name)} has bytes after its Clarity value`,
  );
  return value;
}

// What a plan leaves to the signer is `none` until it is filled in.
function checkInserts({ complete, signer_inserts: inserts, arguments: values }) {
  refuseUnless(typeof complete === 'boolean', `complete must be true or false, got ${shown(complete)}`);
  if (complete) return;
  const names = Object.keys(inserts ?? {});
  refuseUnless(names.length > 0, 'the plan is not complete, and does not say what is missing');
  for (const name of names) {
    const argument = values.find(each => each.name === name);
    refuseUnless(
      argument !== undefined && argument.hex !== NONE,
      `argument ${shown(name)} is not filled, it needs ${inserts[name]}`,
    );
  }
}

function checkCondition(condition, index) {
  const { type, address, condition: code, amount, asset } = condition;
  const what = `post-condition ${index + 1}`;
  refuseUnless(
    ['stx-postcondition', 'ft-postcondition'].includes(type),
    `${what} has an unknown type: ${shown(type)}`,
  );
  refuseUnless(
    typeof address === 'string' && /^S[0-9A-Z]+(\.[\w-]+)?$/.test(address),
    `${what} has no address: ${shown(address)}; start the bot with --liquidator ADDRESS`,
  );
  refuseUnless(CONDITIONS.includes(code), `${what} has an unknown condition: ${shown(code)}`);
  refuseUnless(
    /^\d{1,20}$/.test(amount) && BigInt(amount) < 2n ** 64n,
    `${what} has an invalid amount: ${shown(amount)}`,
  );
  refuseUnless(
    type === 'stx-postcondition' || ASSET.test(asset),
    `${what} has an invalid asset: ${shown(asset)}`,
  );
}

function checkPlan(plan, sender, now) {
  const { contract, arguments: values, post_condition_mode: mode } = plan?.call ?? {};
  refuseUnless(Array.isArray(values) && typeof contract === 'string', 'this is not a plan');
  const until = plan.valid_until;
  refuseUnless(Number.isSafeInteger(until), `valid_until must be seconds, got ${shown(until)}`);
  refuseUnless(
    now <= until,
    `the plan was valid until ${until}, ${Math.ceil(now - until)} s ago: make a new one`,
  );
  refuseUnless(mode === 'deny', `post_condition_mode must be "deny", got ${shown(mode)}`);
  checkInserts(plan.call);
  plan.call.post_conditions.forEach(checkCondition);
  const addresses = plan.call.post_conditions.map(each => each.address);
  refuseUnless(
    addresses.includes(sender),
    `the plan is for another liquidator: none of ${addresses.join(', ')} is ${sender}, ` +
      'the address of the key (a key of 64 digits has another address than with 01)',
  );
}

// What was signed, in the plan's words.
function readBack(transaction) {
  const { payload, postConditions } = deserializeTransaction(transaction.serialize());
  return {
    hex: payload.functionArgs.map(each => `0x${serializeCV(each)}`),
    conditions: postConditions.values.map(wireToPostCondition),
  };
}

function same(signed, planned) {
  const keys = ['type', 'address', 'condition', 'amount', 'asset'];
  return keys.every(key => String(signed[key]) === String(planned[key]));
}

async function sign(key) {
  const { path, nonce, fee } = readArguments();
  const plan = readPlan(path);
  const network = /^S[PM]/.test(plan?.call?.contract ?? '') ? 'mainnet' : 'testnet';
  const sender = getAddressFromPrivateKey(key, network);
  checkPlan(plan, sender, Date.now() / 1000);
  const { contract, function: functionName, arguments: values } = plan.call;
  const [contractAddress, contractName] = contract.split('.');
  const transaction = await makeContractCall({
    contractAddress,
    contractName,
    functionName,
    functionArgs: values.map(readValue),
    postConditionMode: 'deny',
    postConditions: plan.call.post_conditions,
    nonce,
    fee,
    network,
    senderKey: key,
  });
  transaction.verifyOrigin();
  const { hex, conditions } = readBack(transaction);
  refuseUnless(
    hex.join() === values.map(each => each.hex).join() &&
      conditions.length === plan.call.post_conditions.length &&
      conditions.every((each, index) => same(each, plan.call.post_conditions[index])),
    'the signed transaction differs from the plan: nothing is printed',
  );
  const signed = {
    plan: plan.id,
    sender,
    txid: `0x${transaction.txid()}`,
    transaction: `0x${transaction.serialize()}`,
  };
  process.stdout.write(`${JSON.stringify(signed)}\n`);
}

// Signing needs no network: what would ask one for a nonce or a fee must fail.
globalThis.fetch = () => {
  throw new Refused('this script uses no network');
};

async function main() {
  let key = '';
  try {
    key = readKey();
    await sign(key);
  } catch (error) {
    const known = error instanceof Refused;
    const text = `${known ? '' : 'unexpected error: '}${error.message}`;
    process.stderr.write(`sign.js: ${key ? text.replaceAll(key, '<key>') : text}\n`);
    process.exitCode = known ? 2 : 1;
  }
}

main();
