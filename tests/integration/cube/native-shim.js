// Stands in for Cube's Rust add-on (@cubejs-backend/native), whose prebuilt binary is
// not in the npm registry. It has the few functions that REST and WebSockets need: the
// switch for log lines, the shape of rows and their times, and the last step of a
// result. 1.7.43 needs all of them, 0.35.81 only the first ones.
//
// What it cannot show:
// - Tesseract, the default query planner since 1.7.0. The older one runs instead. Both
//   differ in how they pad dates and escape LIKE.
// - /v1/cubesql and /v1/convert-query, which answer 500 here.
// - models in Python or with Jinja templates.

'use strict';

const native = require('@cubejs-backend/native');

const LEVELS = ['second', 'minute', 'hour', 'day', 'week', 'month', 'quarter', 'year'];

native.setupLogger = () => {};
native.resetLogger = () => {};
native.isFallbackBuild = () => true;
native.redactSqlLiterals = (sql) => sql;

function withoutJinja() {
  throw new Error('templates need the native add-on');
}
native.NativeInstance.prototype.newJinjaEngine = () => ({
  loadTemplate: withoutJinja,
  renderTemplate: withoutJinja,
});

// Times have three digits after the seconds and no zone.
function timeText(value) {
  if (value instanceof Date) return value.toISOString().slice(0, 23);
  if (typeof value !== 'string') return value;
  const parts = value.match(
    /^(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.(\d+))?(?:Z|[+-]\d\d:\d\d| UTC)?$/,
  );
  if (!parts) return value;
  const [, day, clock, fraction = ''] = parts;
  return `${day}T${clock}.${fraction.padEnd(3, '0').slice(0, 3)}`;
}

// The add-on holds every number as a 64-bit float: integers print as 1.0.
function numberText(number) {
  if (!Number.isFinite(number)) return 'null';
  if (!Number.isInteger(number)) return String(number);
  return Math.abs(number) < 1e16
    ? number.toFixed(1)
    : number.toExponential().replace('e+', 'e');
}

function valueText(value, type) {
  if (value === null || value === undefined) return 'null';
  const read = type === 'time' || value instanceof Date ? timeText(value) : value;
  return typeof read === 'number' ? numberText(read) : JSON.stringify(read);
}

const isHidden = (name) => new Error(`You requested hidden member: '${name}'.`);

// Returns [member, index of its column] for each column of the result, in order.
function membersOf({ query, annotation, aliasToMemberNameMap }, columns) {
  if (!columns.length) {
    const times = (query.timeDimensions || []).filter((each) => each.granularity);
    for (const name of [
      ...(query.measures || []),
      ...(query.dimensions || []),
      ...times.map((each) => each.dimension),
    ]) {
      if (typeof name === 'string' && !annotation[name]) throw isHidden(name);
    }
    return [];
  }
  const members = new Map();
  const finest = new Map(); // of a time dimension's granularities: [level, index]
  columns.forEach((alias, index) => {
    const name = aliasToMemberNameMap[alias];
    if (!name) throw new Error(`Member name not found for alias: '${alias}'`);
    if (!annotation[name]) throw isHidden(alias);
    members.set(name, index);
    const [cube, dimension, granularity] = name.split('.');
    const base = `${cube}.${dimension}`;
    if (granularity && !(query.dimensions || []).includes(base)) {
      const level = LEVELS.indexOf(granularity);
      const order = level < 0 ? LEVELS.length : level;
      if (!finest.has(base) || finest.get(base)[0] >= order) {
        finest.set(base, [order, index]);
      }
    }
  });
  // The deprecated name without the granularity has the finest one's values.
  for (const [base, [, index]] of finest) members.set(base, index);
  return [...members];
}

// Returns [name, its JSON by row's number] for each column that is sent.
function sentColumns(transform, names, values) {
  const { annotation, query, queryType } = transform;
  const members = membersOf(transform, names);
  const sent = members.map(([name, index]) => {
    const { type } = annotation[name] || {};
    return [name, (row) => valueText(values[index][row], type)];
  });
  if (!names.length) return sent;
  const [time] = query.timeDimensions || [];
  if (queryType === 'compareDateRangeQuery') {
    const range = JSON.stringify(time.dateRange.join(' - '));
    sent.push(['compareDateRange', () => range]);
  }
  if (queryType === 'blendingQuery') {
    const index = new Map(members).get(`${time.dimension}.${time.granularity}`);
    sent.push([
      `time.${time.granularity}`,
      (row) => (index === undefined ? 'null' : valueText(values[index][row], 'time')),
    ]);
  }
  return sent;
}

const list = (texts) => `[${texts.join(',')}]`;

function dataText(transform, raw) {
  const { members: names, columns: values } = JSON.parse(Buffer.from(raw).toString());
  const sent = sentColumns(transform, names, values);
  const rows = Array.from({ length: values.length ? values[0].length : 0 }, (_, n) => n);
  const members = JSON.stringify(sent.map(([name]) => name));
  if (transform.resType === 'compact') {
    const dataset = rows.map((row) => list(sent.map(([, text]) => text(row))));
    return `{"members":${members},"dataset":${list(dataset)}}`;
  }
  if (transform.resType === 'columnar') {
    const columns = sent.map(([, text]) => list(rows.map(text)));
    return `{"members":${members},"columns":${list(columns)}}`;
  }
  return list(rows.map((row) => {
    const pairs = sent.map(([name, text]) => `${JSON.stringify(name)}:${text(row)}`);
    return `{${pairs.join(',')}}`;
  }));
}

const withoutNulls = (value) => JSON.parse(
  JSON.stringify(value, (key, each) => (each === null && key ? undefined : each)),
);

const RESULT_KEYS = [
  'query', 'lastRefreshTime', 'refreshKeyValues', 'usedPreAggregations',
  'transformedQuery', 'requestId', 'annotation', 'dataSource', 'dbType', 'extDbType',
  'external', 'slowQuery', 'total',
];

function resultText(transform, raw, result) {
  const pairs = RESULT_KEYS
    .filter((key) => result[key] !== undefined && result[key] !== null)
    .map((key) => {
      const value = key === 'query' ? withoutNulls(result[key]) : result[key];
      return `"${key}":${JSON.stringify(value)}`;
    });
  return `{${[...pairs, `"data":${dataText(transform, raw)}`].join(',')}}`;
}

function pivotQuery(queryType, queries) {
  const pivot = withoutNulls(queries[0]);
  const union = (key) => [...new Set(queries.flatMap((query) => query[key] || []))];
  if (queryType === 'blendingQuery') {
    for (const key of ['measures', 'dimensions']) {
      pivot[key] = union(key);
      if (!pivot[key].length) delete pivot[key];
    }
    const times = queries.map((query) => (query.timeDimensions || [])[0] || {});
    const granularity = times.map((time) => time.granularity).find(Boolean);
    if (granularity) pivot.timeDimensions = [{ dimension: 'time', granularity }];
  } else if (queryType === 'compareDateRangeQuery') {
    pivot.dimensions = ['compareDateRange', ...(pivot.dimensions || [])];
  }
  pivot.queryType = queryType;
  return pivot;
}

native.getFinalQueryResult = async (transform, raw, result) => Buffer.from(
  resultText(transform, raw, result),
);

native.getFinalQueryResultMulti = async (transforms, raws, response) => {
  const { queryType, results, slowQuery } = response;
  const texts = transforms.map((each, n) => resultText(each, raws[n], results[n]));
  const pivot = pivotQuery(queryType, results.map((result) => result.query));
  return Buffer.from(
    `{"queryType":${JSON.stringify(queryType)},"results":${list(texts)},`
    + `"pivotQuery":${JSON.stringify(pivot)},"slowQuery":${Boolean(slowQuery)}}`,
  );
};
