// ---- plots: quality against cost, drawn at the size they have, so that letters stay readable on a phone

const HEIGHT = 320;
const EDGE = { left: 54, right: 14, top: 30, bottom: 44 };
const LONGEST_LABEL = 28;

/** An axis from pixel `from` to pixel `to`: logarithmic where the values span more than a decade. */
function axis(values, from, to) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const isLog = low > 0 && high / low > 10;
  const margin = (high - low || Math.abs(high) || 1) * 0.12;
  const [start, end] = isLog ? [low / 1.5, high * 1.5] : [low - margin, high + margin];
  const ticks = [];
  if (isLog) {
    const mantissas = end / start > 500 ? [1] : [1, 2, 5];
    for (let power = Math.floor(Math.log10(start)); power <= Math.log10(end); power++) {
      ticks.push(...mantissas.map(mantissa => Number(`${mantissa}e${power}`)));
    }
  } else {
    const rough = 10 ** Math.floor(Math.log10((end - start) / 4));
    const step = [1, 2, 5, 10].map(factor => factor * rough).find(size => (end - start) / size <= 6);
    for (let index = Math.ceil(start / step); index * step <= end; index++) ticks.push(+(index * step).toPrecision(12));
  }
  const map = isLog ? Math.log : value => value;
  const place = value => from + (to - from) * (map(value) - map(start)) / (map(end) - map(start));
  return { ticks: ticks.filter(tick => tick >= start && tick <= end), place, isLog };
}

const line = (kind, x1, y1, x2, y2) => make('line', { class: kind, x1, y1, x2, y2 });
const text = (kind, anchor, x, y, words) => make('text', { class: kind, 'text-anchor': anchor, x, y }, words);

/** Draws the chosen metric against a cost; `cost` gives a model's, `write` its words. */
function plot(box, name, unit, costOf, write) {
  const metric = protocol.metrics[at('plot-metric').value];
  const all = models.map((model, index) => ({ model, index, cost: costOf(model), mean: figure(model, metric).mean }));
  const shown = all.filter(({ mean }) => mean !== null);
  const points = shown.filter(point => point.cost !== null);
  const title = `${metric.label} ${arrow(metric)} against ${name}`;
  if (!points.length) return box.replaceChildren(make('p', { class: 'muted' }, `${title}: no figure to plot.`));

  const width = Math.max(box.clientWidth, 260);
  const area = { left: EDGE.left, right: width - EDGE.right, top: EDGE.top, bottom: HEIGHT - EDGE.bottom };
  const x = axis(points.map(point => point.cost), area.left, area.right);
  const y = axis(shown.map(point => point.mean), area.bottom, area.top);
  const svg = make('svg', { viewBox: `0 0 ${width} ${HEIGHT}`, height: HEIGHT, role: 'img', 'aria-label': title },
    text('title', 'start', 0, 14, title),
    ...y.ticks.flatMap(tick => [
      line('grid', area.left, y.place(tick), area.right, y.place(tick)),
      text('tick', 'end', area.left - 6, y.place(tick) + 4, minus(`${tick}`))]),
    ...x.ticks.flatMap(tick => [
      line('grid', x.place(tick), area.top, x.place(tick), area.bottom),
      text('tick', 'middle', x.place(tick), area.bottom + 16, write(tick))]),
    line('axis', area.left, area.bottom, area.right, area.bottom),
    text('tick', 'end', area.right, HEIGHT - 8, unit + (x.isLog ? ', logarithmic' : '')));
  box.replaceChildren(svg);

  for (const point of shown) {
    point.y = y.place(point.mean);
    // A model without this cost is a level to compare with, not a point.
    const isLevel = point.cost === null;
    point.x = isLevel ? area.right : x.place(point.cost);
    svg.append(make('g', { class: colour(point.index) }, isLevel
      ? line('level', area.left, point.y, area.right, point.y)
      : make('circle', { class: 'point', cx: point.x, cy: point.y, r: 6 })));
  }
  const taken = points.map(point => ({ x: point.x - 6, y: point.y - 6, width: 12, height: 12 }));
  for (const point of shown) placeLabel(svg, point, taken, area);
}

/** Puts a point's name beside it, at the first place that is inside and free. */
function placeLabel(svg, point, taken, area) {
  const { name } = point.model;
  const words = name.length > LONGEST_LABEL ? `${name.slice(0, LONGEST_LABEL - 1)}…` : name;
  const label = text('label', 'start', 0, 0, words);
  svg.append(label);
  const beside = point.cost === null ? [[-4, -5, 'end'], [-4, 14, 'end']] : [[10, 4, 'start'], [-10, 4, 'end']];
  const around = [-12, 20, -26, 34, -40, 48].flatMap(dy => [[0, dy, 'middle'], [4, dy, 'start'], [-4, dy, 'end']]);
  const isClear = (a, b) => a.x > b.x + b.width || b.x > a.x + a.width || a.y > b.y + b.height || b.y > a.y + a.height;
  const isFree = box => box.x >= area.left && box.x + box.width <= area.right && box.y >= area.top - 8
    && box.y + box.height <= area.bottom && taken.every(other => isClear(box, other));
  for (const [dx, dy, anchor] of [...beside, ...around, beside[0]]) {
    label.setAttribute('x', point.x + dx);
    label.setAttribute('y', point.y + dy);
    label.setAttribute('text-anchor', anchor);
    if (isFree(label.getBBox())) break;
  }
  taken.push(label.getBBox());
}

function drawPlots() {
  plot(at('plot-time'), 'time', 'ms/image at batch 1', model => cost(model, 'ms_1'), milliseconds);
  plot(at('plot-parameters'), 'parameters', 'parameters', parameters, quantity);
}
