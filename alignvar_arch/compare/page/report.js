'use strict';
// The comparison's page, in files that make one script: report.js (helpers, protocol, table), plots.js, images.js (the
// list), viewer.js (panes, zoom, divider), controls.js (keys, start).
// Names come from files and may hold anything: they become text nodes or attributes, never HTML.

const { report, digits, pictures, embedded, limit } = JSON.parse(document.getElementById('data').textContent);
const { protocol, models, images, summary } = report;
const reference = models[0];
const perImage = protocol.metrics.filter(metric => !metric.of_a_set);
let set = protocol.sets[0].name;

// ---- helpers

const at = id => document.getElementById(id);
const own = (object, key) => (object && Object.hasOwn(object, key) ? object[key] : null);

/** An element of HTML or SVG; attributes that begin with "on" are listeners, null leaves an attribute or child out. */
function make(tag, attributes = {}, ...children) {
  const isSvg = ['svg', 'g', 'line', 'circle', 'text'].includes(tag);
  const node = document.createElementNS(`http://www.w3.org/${isSvg ? '2000/svg' : '1999/xhtml'}`, tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (value !== null) node.setAttribute(name, value);
  }
  node.append(...children.filter(child => child !== null));
  return node;
}

const minus = text => text.replace('-', '−');
const number = (value, places) => (value === null ? '–' : minus(value.toFixed(places)));
const signed = (value, places) => (value > 0 ? '+' : '') + number(value, places);
const chance = p => (p < 0.001 ? 'p < 0.001' : `p = ${p.toFixed(3)}`);
const milliseconds = value => (value >= 100 ? value.toFixed(0) : `${+value.toPrecision(3)}`);
const quantity = value => {
  if (value >= 1e6) return `${+(value / 1e6).toFixed(2)} M`;
  return value >= 1e3 ? `${+(value / 1e3).toFixed(1)} k` : `${value}`;
};
const arrow = metric => (metric.better === 'higher' ? '↑' : '↓');
const colour = index => `c${index % 8}`;
const swatch = index => make('i', { class: `swatch ${colour(index)}` });
const cost = (model, key) => own(model.cost, key);
const parameters = model => model.parameters && Object.values(model.parameters).reduce((sum, value) => sum + value, 0);
const figure = (model, metric) => summary[set][metric.key][model.name];

/** A stable order by value, nulls last whichever way. */
function sorted(items, value, descending) {
  const compare = (a, b) => (typeof a === 'string' ? a.localeCompare(b, 'en', { numeric: true }) : a - b);
  return [...items].sort((left, right) => {
    const [a, b] = [value(left), value(right)];
    if (a === null || b === null) return (a === null) - (b === null);
    return descending ? compare(b, a) : compare(a, b);
  });
}

// ---- title, protocol, failures, footer

function define(list, rows) {
  for (const [term, ...lines] of rows) {
    list.append(make('dt', {}, term), make('dd', {}, ...lines.map(line => make('div', {}, line))));
  }
}

function describe(metric) {
  const told = ['crop_border', 'test_y_channel'];
  const others = Object.entries(metric.options).filter(([key]) => !told.includes(key));
  const options = others.map(([key, value]) => `, ${key} ${JSON.stringify(value)}`).join('');
  const how = `${metric.space}, crop border ${metric.crop_border}${options}`;
  return `${metric.label} ${arrow(metric)}: ${how}; ${metric.type}, ${metric.version}`;
}

function writeProtocol() {
  const others = models.slice(1).map(model => model.name).join(', ');
  at('title').textContent = document.title = others ? `${reference.name} compared with ${others}` : reference.name;
  const day = new Date(report.created).toLocaleDateString('en-GB', { dateStyle: 'long', timeZone: 'UTC' });
  const sets = protocol.sets.map(({ name, count }) => `${name} (${count} images)`).join(', ');
  at('subtitle').textContent = `×${protocol.scale} super-resolution · ${sets} · ${day}`;
  const { timing } = protocol;
  define(at('protocol'), [
    ['Metrics', ...protocol.metrics.map(describe)],
    ['Data', ...protocol.sets.map(({ name, count, lr, hash }) => `${name}: ${count} images, LR ${lr}, sha256 ${hash}`)],
    ['Machine', `${protocol.device}, ${protocol.precision}, batch ${protocol.batch}, seed ${protocol.seed}`],
    ['Costs', timing
      ? `LR ${timing.lr_size.join(' × ')}, batch 1 and ${timing.batch}, median of up to ${timing.repeats} `
        + `after ${timing.warmup} of warm-up`
      : 'not measured'],
  ]);
  for (const model of models) {
    const list = make('dl');
    const entries = (object, row) => Object.entries(object || {}).map(([key, value]) => row(key, value));
    define(list, [
      ['kind', [model.kind, model.model_type, model.source].filter(Boolean).join(', ')],
      ...entries(model.parameters, (net, count) => [net, `${count.toLocaleString('en')} parameters`]),
      ...entries(model.weights, (net, { path, sha256 }) => [`${net} weights`, `${path}, sha256 ${sha256}`]),
      ...entries(model.settings, (key, value) => [key, JSON.stringify(value)]),
    ]);
    at('models').append(make('h3', {}, model.name), list);
  }
}

function writeEnd() {
  const failures = [
    ...report.unreadable.map(entry => ['unreadable', entry]),
    ...models.flatMap(model => model.failed.map(entry => [model.name, entry])),
  ];
  const line = ([who, entry]) => make('li', {}, `${entry.set}, ${entry.image}: ${who}: ${entry.reason}`);
  at('failures').append(...(failures.length ? failures.map(line) : [make('li', {}, 'None.')]));
  const versions = Object.entries(report.environment).map(pair => pair.join(' ')).join(', ');
  at('origin').append(make('code', {}, report.command), ` · ${report.created} · ${versions}`);
  at('pictures-note').textContent = embedded
    ? 'All pictures are inside this page, without loss; it can be moved and sent alone.'
    : `The pictures would take more than ${Math.round(limit / 2 ** 20)} MB inside this page, so it shows the files in `
      + 'pictures/: keep the two together.';
}

// ---- table

function columns() {
  const batch = protocol.timing ? protocol.timing.batch : 'N';
  const plain = (label, note, value, text) => (
    { label, note, value, write: model => [value(model) === null ? '–' : text(value(model))] });
  return [
    { label: 'Model', note: '', value: model => model.name, write: modelCell },
    ...protocol.metrics.map(metric => ({
      label: `${metric.label}\u00a0${arrow(metric)}`,
      note: metric.space + fewer(metric),
      better: metric.better,
      value: model => figure(model, metric).mean,
      write: model => metricCell(model, metric),
    })),
    plain('Parameters', '', parameters, quantity),
    plain('ms/image', 'batch 1', model => cost(model, 'ms_1'), milliseconds),
    plain('ms/image', `batch ${batch}`, model => cost(model, 'ms_n'), milliseconds),
    plain('Peak memory', 'MiB', model => cost(model, 'peak_mib'), value => value.toFixed(0)),
  ];
}

/** Images in a metric's means, where that is not all that every model did: it is undefined for the others. */
function fewer(metric) {
  const n = Math.max(...models.map(model => figure(model, metric).n));
  return n === summary[set].common ? '' : `, n = ${n}`;
}

function modelCell(model) {
  const failed = model.failed.filter(entry => entry.set === set).length;
  return [
    swatch(models.indexOf(model)), model.name,
    model === reference && models.length > 1 ? make('small', {}, 'reference') : null,
    failed ? make('small', { class: 'bad' }, `${failed} failed`) : null,
  ];
}

function metricCell(model, metric) {
  const { mean, low, high, difference, p } = figure(model, metric);
  const places = digits[metric.key];
  const means = models.map(other => figure(other, metric).mean).filter(value => value !== null);
  const best = metric.better === 'higher' ? Math.max(...means) : Math.min(...means);
  // Compared as printed: what reads the same is marked the same.
  const isBest = mean !== null && models.length > 1 && number(mean, places) === number(best, places);
  const isCompared = model !== reference && difference !== null;
  return [
    make('span', { class: isBest ? 'best' : null, title: isBest ? 'best' : null }, number(mean, places)),
    low === null ? null : make('small', {}, `${number(low, places)} to ${number(high, places)}`),
    isCompared ? make('small', {}, signed(difference, places) + (p === null ? '' : `, ${chance(p)}`)) : null,
  ];
}

function writeTable() {
  const body = at('results').tBodies[0];
  const rows = new Map(models.map(model => [model, make('tr')]));
  const heads = columns().map((column, index) => {
    for (const [model, row] of rows) {
      row.append(make(index ? 'td' : 'th', { scope: index ? null : 'row' }, ...column.write(model)));
    }
    const words = [make('span', {}, column.label), make('small', {}, column.note)];
    const head = make('th', { scope: 'col' }, make('button', { onclick: () => sort(head, column) }, ...words));
    return head;
  });
  // The first press puts the best, or the smallest, on top; the next one turns the order round.
  function sort(head, column) {
    const before = head.getAttribute('aria-sort');
    const descending = before ? before === 'ascending' : column.better === 'higher';
    heads.forEach(other => other.removeAttribute('aria-sort'));
    head.setAttribute('aria-sort', descending ? 'descending' : 'ascending');
    body.append(...sorted(models, column.value, descending).map(model => rows.get(model)));
  }
  at('results').tHead.replaceChildren(make('tr', {}, ...heads));
  body.replaceChildren(...rows.values());
  const { count } = protocol.sets.find(({ name }) => name === set);
  const compared = `; below, the mean paired difference to ${reference.name} and p of a permutation test. ★ best.`;
  at('results-note').textContent = `Means over the ${summary[set].common} (of ${count}) images that every model did, `
    + `with 95 % bootstrap intervals${models.length > 1 ? compared : '.'}`;
}
