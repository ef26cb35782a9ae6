'use strict';
// The comparison's page. Names come from files and may hold anything: they become text nodes or attributes, never HTML.
// In order: helpers, protocol, table, plots, images (list, viewer, zoom, divider), keys.

const { report, digits, pictures, embedded, limit } = JSON.parse(document.getElementById('data').textContent);
const { protocol, models, images, summary } = report;
const reference = models[0];
const perImage = protocol.metrics.filter(metric => !metric.of_a_set);
let set = protocol.sets[0].name;

// ---- helpers

const at = id => document.getElementById(id);
const own = (object, key) => (object && Object.hasOwn(object, key) ? object[key] : null);

function make(tag, attributes = {}, ...children) {
  const space = ['svg', 'g', 'line', 'circle', 'text'].includes(tag) ? 'http://www.w3.org/2000/svg' : 'http://www.w3.org/1999/xhtml';
  const node = document.createElementNS(space, tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.filter(child => child !== null));
  return node;
}

function fill(select, labels, chosen = 0) {
  select.replaceChildren(...labels.map((label, index) => make('option', { value: index, selected: index === chosen }, label)));
}

const minus = text => text.replace('-', '−');
const number = (value, places) => (value === null ? '–' : minus(value.toFixed(places)));
const signed = (value, places) => (value > 0 ? '+' : '') + number(value, places);
const chance = p => (p < 0.001 ? 'p < 0.001' : `p = ${p.toFixed(3)}`);
const millions = value => (value >= 1e6 ? `${+(value / 1e6).toFixed(2)} M` : value >= 1e3 ? `${+(value / 1e3).toFixed(1)} k` : `${value}`);
const milliseconds = value => (value >= 100 ? value.toFixed(0) : `${+value.toPrecision(3)}`);
const arrow = metric => (metric.better === 'higher' ? '↑' : '↓');
const swatch = index => make('i', { class: `swatch c${index % 8}` });
const cost = (model, key) => own(model.cost, key);
const parameters = model => model.parameters && Object.values(model.parameters).reduce((sum, value) => sum + value, 0);
const figure = (model, metric) => summary[set][metric.key][model.name];

// ---- title, protocol, failures, footer

function definitions(list, rows) {
  for (const [term, ...lines] of rows) {
    list.append(make('dt', {}, term), make('dd', {}, ...lines.map(line => make('div', {}, line))));
  }
}

function describe(metric) {
  const told = ['crop_border', 'test_y_channel'];
  const options = Object.entries(metric.options).filter(([key]) => !told.includes(key)).map(([key, value]) => `, ${key} ${JSON.stringify(value)}`);
  return `${metric.label} ${arrow(metric)}: ${metric.space}, crop border ${metric.crop_border}${options.join('')}; ${metric.type}, ${metric.version}`;
}

function writeProtocol() {
  const others = models.slice(1).map(model => model.name).join(', ');
  at('title').textContent = document.title = others ? `${reference.name} compared with ${others}` : reference.name;
  const day = new Date(report.created).toLocaleDateString('en-GB', { dateStyle: 'long', timeZone: 'UTC' });
  const sets = protocol.sets.map(({ name, count }) => `${name} (${count} images)`).join(', ');
  at('subtitle').textContent = `×${protocol.scale} super-resolution · ${sets} · ${day}`;
  const timing = protocol.timing;
  definitions(at('protocol'), [
    ['Metrics', ...protocol.metrics.map(describe)],
    ['Data', ...protocol.sets.map(({ name, count, lr, hash }) => `${name}: ${count} images, LR ${lr}, sha256 ${hash}`)],
    ['Machine', `${protocol.device}, ${protocol.precision}, seed ${protocol.seed}`],
    ['Costs', timing ? `LR ${timing.lr_size.join(' × ')}, batch 1 and ${timing.batch}, median of ${timing.repeats} after ${timing.warmup} of warm-up` : 'not measured'],
  ]);
  for (const model of models) {
    const list = make('dl');
    definitions(list, [
      ['Kind', [model.kind, model.model_type, model.source].filter(Boolean).join(', ')],
      ...Object.entries(model.parameters || {}).map(([net, count]) => [net, `${count.toLocaleString('en')} parameters`]),
      ...Object.entries(model.weights).map(([net, { path, sha256 }]) => [`${net} weights`, `${path}, sha256 ${sha256}`]),
      ...Object.entries(model.settings).map(([key, value]) => [key, JSON.stringify(value)]),
    ]);
    at('models').append(make('h3', {}, model.name), list);
  }
  const failures = [
    ...report.unreadable.map(entry => ['unreadable', entry]),
    ...models.flatMap(model => model.failed.map(entry => [model.name, entry])),
  ];
  at('failures').append(...failures.map(([who, entry]) => make('li', {}, `${entry.set}, ${entry.image}: ${who}: ${entry.reason}`)));
  if (!failures.length) at('failures').replaceWith(make('p', { class: 'muted' }, 'None.'));
  const versions = Object.entries(report.environment).map(pair => pair.join(' ')).join(', ');
  at('origin').append(make('code', {}, report.command), ` · ${report.created} · ${versions}`);
  at('pictures-note').textContent = embedded
    ? 'All pictures are inside this page, without loss; it can be moved and sent alone.'
    : `The pictures would take more than ${Math.round(limit / 2 ** 20)} MB inside this page, so it shows the files in pictures/: keep the two together.`;
}

// ---- table

function columns() {
  const batch = protocol.timing ? protocol.timing.batch : 'N';
  const plain = (label, note, value, write) => ({ label, note, value, write: model => [value(model) === null ? '–' : write(value(model))] });
  return [
    { label: 'Model', note: '', value: model => model.name, write: modelCell },
    ...protocol.metrics.map(metric => ({
      label: `${metric.label} ${arrow(metric)}`, note: metric.space, better: metric.better,
      value: model => figure(model, metric).mean, write: model => metricCell(model, metric),
    })),
    plain('Parameters', '', parameters, millions),
    plain('ms/image', 'batch 1', model => cost(model, 'ms_1'), milliseconds),
    plain('ms/image', `batch ${batch}`, model => cost(model, 'ms_n'), milliseconds),
    plain('Peak memory', 'MiB', model => cost(model, 'peak_mib'), value => value.toFixed(0)),
  ];
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
  const all = models.map(other => figure(other, metric).mean).filter(value => value !== null);
  const best = metric.better === 'higher' ? Math.max(...all) : Math.min(...all);
  // Compared as printed: what reads the same is marked the same.
  const isBest = mean !== null && models.length > 1 && number(mean, places) === number(best, places);
  const compared = model !== reference && difference !== null;
  return [
    make('span', { class: isBest ? 'best' : null, title: isBest ? 'best' : null }, number(mean, places)),
    low === null ? null : make('small', {}, `${number(low, places)} to ${number(high, places)}`),
    compared ? make('small', {}, signed(difference, places) + (p === null ? '' : `, ${chance(p)}`)) : null,
  ];
}

function writeTable() {
  const rows = new Map(models.map(model => [model, make('tr')]));
  const heads = columns().map((column, index) => {
    for (const [model, row] of rows) row.append(make(index ? 'td' : 'th', index ? {} : { scope: 'row' }, ...column.write(model)));
    const button = make('button', { onclick: () => sort(head, column) }, column.label, make('small', {}, column.note));
    const head = make('th', { scope: 'col' }, button);
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
  const body = at('results').tBodies[0];
  at('results').tHead.replaceChildren(make('tr', {}, ...heads));
  body.replaceChildren(...rows.values());
  const { count } = protocol.sets.find(({ name }) => name === set);
  at('results-note').textContent = `Means over the ${summary[set].common} of ${count} images that every model did, with 95 % bootstrap intervals`
    + (models.length > 1 ? `; below, the mean paired difference to ${reference.name} and p of a permutation test. ★ best.` : '.');
}

/** A stable order by value, nulls last whichever way. */
function sorted(items, value, descending) {
  const compare = (a, b) => (typeof a === 'string' ? a.localeCompare(b, 'en', { numeric: true }) : a - b);
  return [...items].sort((left, right) => {
    const [a, b] = [value(left), value(right)];
    if (a === null || b === null) return (a === null) - (b === null);
    return descending ? compare(b, a) : compare(a, b);
  });
}

// ---- plots

/** An axis from pixel `from` to pixel `to`: logarithmic where the values span more than a decade. */
function axis(values, from, to) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const log = low > 0 && high / low > 10;
  const margin = log ? 0 : (high - low || Math.abs(high) || 1) * 0.12;
  const [start, end] = log ? [low / 1.5, high * 1.5] : [low - margin, high + margin];
  const map = log ? Math.log : value => value;
  const ticks = [];
  if (log) {
    const mantissas = end / start > 500 ? [1] : [1, 2, 5];
    for (let power = Math.floor(Math.log10(start)); power <= Math.log10(end); power++) {
      ticks.push(...mantissas.map(mantissa => +`${mantissa}e${power}`));
    }
  } else {
    const rough = 10 ** Math.floor(Math.log10((end - start) / 4));
    const step = [1, 2, 5, 10].map(factor => factor * rough).find(size => (end - start) / size <= 6);
    for (let index = Math.ceil(start / step); index * step <= end; index++) ticks.push(+(index * step).toPrecision(12));
  }
  const place = value => from + (to - from) * (map(value) - map(start)) / (map(end) - map(start));
  return { ticks: ticks.filter(tick => tick >= start && tick <= end), place, log };
}

function plot(box, name, unit, value, write) {
  const metric = protocol.metrics[at('plot-metric').value];
  const shown = models.map((model, index) => ({ model, index, x: value(model), y: figure(model, metric).mean })).filter(({ y }) => y !== null);
  const points = shown.filter(({ x }) => x !== null);
  if (!points.length) return box.replaceChildren(make('p', { class: 'muted' }, `${name}: no figure to plot.`));
  const [width, height, left, right, top, bottom] = [Math.max(box.clientWidth, 260), 320, 52, 14, 30, 44];
  const x = axis(points.map(point => point.x), left, width - right);
  const y = axis(shown.map(point => point.y), height - bottom, top);
  const places = Math.min(digits[metric.key], 4);
  const line = (kind, x1, y1, x2, y2) => make('line', { class: kind, x1, y1, x2, y2 });
  const text = (kind, anchor, tx, ty, words) => make('text', { class: kind, 'text-anchor': anchor, x: tx, y: ty }, words);
  const svg = make('svg', { viewBox: `0 0 ${width} ${height}`, height, role: 'img', 'aria-label': `${metric.label} against ${name.toLowerCase()}, the figures are in the table` },
    text('title', 'start', 0, 14, `${metric.label} ${arrow(metric)} against ${name.toLowerCase()}`),
    ...y.ticks.flatMap(tick => [line('grid', left, y.place(tick), width - right, y.place(tick)), text('tick', 'end', left - 6, y.place(tick) + 4, minus(`${+tick.toFixed(places)}`))]),
    ...x.ticks.flatMap(tick => [line('grid', x.place(tick), top, x.place(tick), height - bottom), text('tick', 'middle', x.place(tick), height - bottom + 16, write(tick))]),
    line('axis', left, height - bottom, width - right, height - bottom),
    text('tick', 'end', width - right, height - 8, unit + (x.log ? ', logarithmic' : '')));
  box.replaceChildren(svg);
  for (const point of shown) {
    point.class = `c${point.index % 8}`;
    point.py = y.place(point.y);
    // A model without this cost is a level to compare with, not a point.
    point.px = point.x === null ? width - right : x.place(point.x);
    if (point.x === null) svg.append(make('g', { class: point.class }, line('level', left, point.py, width - right, point.py)));
  }
  const taken = points.map(({ px, py }) => ({ x: px - 6, y: py - 6, width: 12, height: 12 }));
  for (const point of points) svg.append(make('g', { class: point.class }, make('circle', { class: 'point', cx: point.px, cy: point.py, r: 6 })));
  for (const point of shown) {
    const name = point.model.name.length > 28 ? `${point.model.name.slice(0, 27)}…` : point.model.name;
    placeLabel(svg, text('label', 'start', 0, 0, name), point, taken, { left, right: width - 2, top, bottom: height - bottom });
  }
}

/** Puts a label beside its point, at the first place that is free and inside. */
function placeLabel(svg, label, { px, py, x }, taken, area) {
  svg.append(label);
  const beside = x === null ? [[-4, -5, 'end'], [-4, 14, 'end']] : [[10, 4, 'start'], [-10, 4, 'end']];
  const around = [-12, 20, -26, 34, -40, 48].flatMap(dy => [[0, dy, 'middle'], [4, dy, 'start'], [-4, dy, 'end']]);
  const free = box => box.x >= area.left && box.x + box.width <= area.right && box.y >= area.top - 8 && box.y + box.height <= area.bottom
    && taken.every(other => box.x > other.x + other.width || other.x > box.x + box.width || box.y > other.y + other.height || other.y > box.y + box.height);
  for (const [dx, dy, anchor] of [...beside, ...around, beside[0]]) {
    label.setAttribute('x', px + dx);
    label.setAttribute('y', py + dy);
    label.setAttribute('text-anchor', anchor);
    if (free(label.getBBox())) break;
  }
  taken.push(label.getBBox());
}

function drawPlots() {
  plot(at('plot-time'), 'Time', 'ms/image at batch 1', model => cost(model, 'ms_1'), milliseconds);
  plot(at('plot-parameters'), 'Parameters', 'parameters', parameters, millions);
}

// ---- images: the list

// What a pane can show. `over` is the picture whose difference to GT is the error map.
const sources = [
  ...models.map((model, index) => ({ name: model.name, model, index, path: image => own(image.pictures, model.name) })),
  { name: 'GT', path: image => image.gt, isTruth: true },
  { name: 'LR, nearest', path: image => image.lr, isNearest: true },
];
const orders = ['by name', 'worst first', 'best first', `largest loss to ${reference.name}`, `largest gain on ${reference.name}`];
let listed = [];
let current = null;

const valueOf = (image, model, metric) => own(own(image.values, model.name), metric.key);

function orderImages() {
  const order = Number(at('order').value);
  const model = models[at('order-model').value];
  const metric = perImage[at('order-metric').value];
  const compared = order > 2;
  const score = image => {
    const [mine, theirs] = [valueOf(image, model, metric), valueOf(image, reference, metric)];
    if (mine === null || (compared && theirs === null)) return null;
    return compared ? mine - theirs : mine;
  };
  const ofSet = sorted(images.filter(image => image.set === set), image => image.image, false);
  const bestFirst = order === 2 || order === 4;
  listed = order ? sorted(ofSet, score, bestFirst === (metric.better === 'higher')) : ofSet;
  at('strip').replaceChildren(...listed.map(image => {
    const value = metric ? score(image) : null;
    return make('button', { title: image.image, onclick: () => choose(image) },
      make('img', { src: pictures[image.lr], alt: '', loading: 'lazy' }), make('span', {}, image.image),
      make('span', { class: 'muted' }, value === null ? '–' : (compared ? signed : number)(value, digits[metric.key])));
  }));
  choose(listed.includes(current) && !order ? current : listed[0] || null);
}

function choose(image) {
  current = image;
  at('viewer').hidden = !image;
  at('no-images').hidden = Boolean(image);
  if (!image) return;
  const position = listed.indexOf(image);
  [...at('strip').children].forEach((thumb, index) => {
    if (index !== position) return thumb.removeAttribute('aria-current');
    thumb.setAttribute('aria-current', 'true');
    // Scrolls the list alone: scrollIntoView would move the page too.
    at('strip').scrollTop = thumb.offsetTop - (at('strip').clientHeight - thumb.offsetHeight) / 2;
  });
  at('image-name').textContent = `${image.image} · ${position + 1} of ${listed.length} · ${image.size[1]} × ${image.size[0]}`;
  at('previous').disabled = position === 0;
  at('next').disabled = position === listed.length - 1;
  view = { zoom: null, x: 0.5, y: 0.5 };
  showPanes();
}

function step(by) {
  const next = listed[listed.indexOf(current) + by];
  if (next) choose(next);
}

// ---- images: the viewer

const stage = at('stage');
let mode = 'slider';
let view = { zoom: null, x: 0.5, y: 0.5 }; // CSS pixels per pixel of GT (null: fit), and the picture's point in the middle
let divider = 50; // per cent
const showsErrors = () => at('errors').getAttribute('aria-pressed') === 'true';
const amplification = () => [1, 2, 4, 8, 16, 32][at('amplification').value];

function pane(source) {
  const path = source.path(current);
  if (!path) {
    const failure = source.model.failed.find(entry => entry.set === set && entry.image === current.image);
    return make('div', { class: 'pane' }, make('p', {}, `${source.name} failed here${failure ? `: ${failure.reason}` : '.'}`));
  }
  const img = (src, kind, alt) => make('img', { src: pictures[src], class: kind, alt, draggable: 'false', decoding: 'sync' });
  const picture = make('div', { class: 'picture' });
  const nearest = source.isNearest ? 'nearest' : '';
  if (showsErrors() && !source.isTruth) {
    picture.append(img(current.gt, '', ''), img(path, `over ${nearest}`, `error of ${source.name}`));
    picture.style.filter = `brightness(${amplification()})`;
  } else {
    picture.append(img(path, nearest, source.name));
  }
  return make('div', { class: 'pane' }, picture);
}

function caption(source) {
  const values = source.model ? perImage.map(metric => make('span', {}, `${metric.label} ${number(valueOf(current, source.model, metric), digits[metric.key])}`)) : [];
  return make('div', { class: 'caption' }, source.model ? swatch(source.index) : null, make('b', {}, source.name), make('br'), ...values);
}

function showPanes() {
  const isSlider = mode === 'slider';
  stage.className = mode;
  for (const id of ['sides', 'divider', 'captions']) at(id).hidden = !isSlider;
  for (const id of ['slider', 'grid']) at(`mode-${id}`).setAttribute('aria-pressed', id === mode);
  if (isSlider) {
    const sides = [sources[at('left').value], sources[at('right').value]];
    const [left, right] = sides.map(pane);
    left.id = 'pane-left';
    stage.replaceChildren(make('div', { class: 'frame' }, right, left, make('div', { class: 'handle', 'aria-hidden': 'true' })));
    at('captions').replaceChildren(...sides.map(caption));
  } else {
    stage.replaceChildren(...sources.map(source => make('figure', {}, make('div', { class: 'frame' }, pane(source)), caption(source))));
  }
  at('error-note').textContent = showsErrors()
    ? `Error maps: |picture − GT| of each colour channel, × ${amplification()}; black where they are equal. GT is shown as it is.` : '';
  place();
  moveDivider(divider);
}

/** Gives every frame its size and lays the pictures out in step, by the one view. */
function place() {
  if (!current) return;
  const [height, width] = current.size;
  for (const frame of stage.querySelectorAll('.frame')) {
    const room = Math.min(frame.parentElement.clientWidth / width, 0.72 * window.innerHeight / height);
    const fit = room > 1 ? Math.floor(room) : room; // pixels enlarge by whole numbers, so that all are equally large
    frame.style.width = `${Math.round(width * fit)}px`;
    frame.style.height = `${Math.round(height * fit)}px`;
    frame.classList.toggle('zoomed', view.zoom !== null);
    const zoom = view.zoom || fit;
    const offset = (side, extent, centre) => Math.round(side >= extent * zoom ? (side - extent * zoom) / 2
      : Math.min(0, Math.max(side - extent * zoom, side / 2 - centre * extent * zoom)));
    for (const picture of frame.querySelectorAll('.picture')) {
      picture.classList.toggle('pixels', zoom > 1);
      picture.style.left = `${offset(frame.clientWidth, width, view.x)}px`;
      picture.style.top = `${offset(frame.clientHeight, height, view.y)}px`;
      picture.style.width = `${width * zoom}px`;
      picture.style.height = `${height * zoom}px`;
    }
    at('zoom').textContent = `${Math.round(zoom * 100)} %`;
  }
  at('divider').style.width = stage.querySelector('.frame').style.width;
}

// ---- images: zoom and pan

/** Where the picture lies in its frame: what the pointer's place means. */
function geometry(frame) {
  const [height, width] = current.size;
  const picture = frame.querySelector('.picture');
  const zoom = picture ? picture.clientWidth / width : 1;
  return { frame: frame.getBoundingClientRect(), zoom, left: picture ? picture.offsetLeft : 0, top: picture ? picture.offsetTop : 0, width, height };
}

/** Zooms by a factor, or to a zoom, so that the picture stays where it is under a point of the frame (its middle by default). */
function zoomTo(change, frame = stage.querySelector('.frame'), px = frame.clientWidth / 2, py = frame.clientHeight / 2) {
  const now = geometry(frame);
  const zoom = Math.min(32, Math.max(0.1, change(now.zoom)));
  const [x, y] = [(px - now.left) / now.zoom, (py - now.top) / now.zoom]; // the pixel of GT under the point
  view = { zoom, x: (x + (now.frame.width / 2 - px) / zoom) / now.width, y: (y + (now.frame.height / 2 - py) / zoom) / now.height };
  place();
}

function panBy(frame, dx, dy) {
  const now = geometry(frame);
  // From where the picture is, not from where it was asked to be: it stops at its edges.
  view.x = (now.frame.width / 2 - now.left - dx) / (now.width * now.zoom);
  view.y = (now.frame.height / 2 - now.top - dy) / (now.height * now.zoom);
  place();
}

function fit() {
  view = { zoom: null, x: 0.5, y: 0.5 };
  place();
}

const powers = zoom => Math.log2(zoom);
const zoomIn = () => zoomTo(zoom => 2 ** (Math.floor(powers(zoom) + 0.01) + 1));
const zoomOut = () => zoomTo(zoom => 2 ** (Math.ceil(powers(zoom) - 0.01) - 1));
const zoomOne = () => zoomTo(() => 1);

const pointers = new Map();
let grabsDivider = false;

stage.addEventListener('pointerdown', event => {
  const frame = event.target.closest('.frame');
  if (!frame || event.button) return;
  frame.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, event);
  // A picture that fits cannot be panned, so that anywhere on it is a place to grab the divider.
  grabsDivider = mode === 'slider' && (event.target.matches('.handle') || view.zoom === null);
  if (grabsDivider) dragDivider(event, frame);
});

stage.addEventListener('pointermove', event => {
  const before = pointers.get(event.pointerId);
  if (!before) return;
  const frame = event.target.closest('.frame');
  const other = [...pointers.values()].find(({ pointerId }) => pointerId !== event.pointerId);
  if (other) {
    const distance = pointer => Math.hypot(pointer.clientX - other.clientX, pointer.clientY - other.clientY) || 1;
    const { left, top } = frame.getBoundingClientRect();
    const middle = [(event.clientX + other.clientX) / 2 - left, (event.clientY + other.clientY) / 2 - top];
    zoomTo(zoom => zoom * distance(event) / distance(before), frame, ...middle);
  } else if (grabsDivider) {
    dragDivider(event, frame);
  } else {
    panBy(frame, event.clientX - before.clientX, event.clientY - before.clientY);
  }
  pointers.set(event.pointerId, event);
});

for (const end of ['pointerup', 'pointercancel']) stage.addEventListener(end, event => pointers.delete(event.pointerId));

stage.addEventListener('wheel', event => {
  const frame = event.target.closest('.frame');
  if (!frame || !(event.ctrlKey || event.metaKey)) return; // without Ctrl the wheel scrolls the page
  event.preventDefault();
  const { left, top } = frame.getBoundingClientRect();
  zoomTo(zoom => zoom * 2 ** (-Math.sign(event.deltaY) * Math.min(Math.abs(event.deltaY), 100) / 200), frame, event.clientX - left, event.clientY - top);
}, { passive: false });

// ---- images: the divider

function dragDivider(event, frame) {
  const { left, width } = frame.getBoundingClientRect();
  moveDivider((event.clientX - left) / width * 100);
  at('divider').focus({ preventScroll: true }); // so that arrow keys go on from here
}

function moveDivider(percent) {
  divider = Math.min(100, Math.max(0, percent));
  at('divider').value = divider;
  if (mode !== 'slider' || !current) return;
  at('pane-left').style.clipPath = `inset(0 ${100 - divider}% 0 0)`;
  stage.querySelector('.handle').style.left = `${divider}%`;
}

// ---- keys and controls

function setMode(next) {
  mode = next;
  if (current) showPanes();
}

function toggleErrors() {
  at('errors').setAttribute('aria-pressed', !showsErrors());
  showPanes();
}

function swap() {
  [at('left').value, at('right').value] = [at('right').value, at('left').value];
  showPanes();
}

const keys = {
  ArrowLeft: () => step(-1), ArrowRight: () => step(1), s: () => setMode('slider'), g: () => setMode('grid'),
  e: toggleErrors, x: swap, '+': zoomIn, '=': zoomIn, '-': zoomOut, 0: fit, 1: zoomOne,
};

document.addEventListener('keydown', event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest('select, dialog')) return;
  if (event.key === '?') return at('help').showModal();
  // Where arrows already mean something, in the divider's control and in the table's box, they keep it.
  if (event.key.startsWith('Arrow') && event.target.closest('input, .scroll')) return;
  const act = own(keys, event.key.length === 1 ? event.key.toLowerCase() : event.key);
  if (!act || !current) return;
  event.preventDefault();
  act();
});

function showSet(name) {
  set = name;
  [...at('sets').children].forEach((button, index) => button.setAttribute('aria-pressed', protocol.sets[index].name === set));
  writeTable();
  drawPlots();
  orderImages();
}

function start() {
  writeProtocol();
  at('sets').append(...protocol.sets.map(({ name }) => make('button', { onclick: () => showSet(name) }, name)));
  at('sets').hidden = protocol.sets.length < 2;
  const names = models.map(model => model.name);
  fill(at('plot-metric'), protocol.metrics.map(metric => `${metric.label} ${arrow(metric)}`));
  fill(at('order'), models.length > 1 ? orders : orders.slice(0, 3));
  fill(at('order-model'), names);
  fill(at('order-metric'), perImage.map(metric => metric.label));
  fill(at('left'), sources.map(source => source.name), 0);
  fill(at('right'), sources.map(source => source.name), models.length);
  fill(at('amplification'), ['1', '2', '4', '8', '16', '32'], 3);
  at('plot-metric').addEventListener('change', drawPlots);
  for (const id of ['order', 'order-model', 'order-metric']) at(id).addEventListener('change', orderImages);
  for (const id of ['left', 'right', 'amplification']) at(id).addEventListener('change', showPanes);
  at('divider').addEventListener('input', () => moveDivider(Number(at('divider').value)));
  const clicks = {
    previous: () => step(-1), next: () => step(1), 'mode-slider': () => setMode('slider'), 'mode-grid': () => setMode('grid'),
    errors: toggleErrors, swap, 'zoom-in': zoomIn, 'zoom-out': zoomOut, 'zoom-fit': fit, 'zoom-one': zoomOne,
    'help-open': () => at('help').showModal(), 'help-close': () => at('help').close(),
  };
  for (const [id, act] of Object.entries(clicks)) at(id).addEventListener('click', act);
  window.addEventListener('resize', () => { drawPlots(); place(); });
  showSet(set);
}

start();
