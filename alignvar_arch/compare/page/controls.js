// ---- keys, controls, start

function setMode(next) {
  mode = next;
  showPanes();
}

function toggleErrors() {
  at('errors').setAttribute('aria-pressed', !showsErrors());
  showPanes();
}

function swap() {
  [at('left').value, at('right').value] = [at('right').value, at('left').value];
  showPanes();
}

const clicks = {
  previous: () => step(-1), next: () => step(1),
  'mode-slider': () => setMode('slider'), 'mode-grid': () => setMode('grid'),
  errors: toggleErrors, swap, 'zoom-in': zoomIn, 'zoom-out': zoomOut, 'zoom-fit': fit, 'zoom-one': zoomOne,
  'help-open': () => at('help').showModal(), 'help-close': () => at('help').close(),
};
const keys = {
  arrowleft: 'previous', arrowright: 'next', s: 'mode-slider', g: 'mode-grid', e: 'errors', x: 'swap',
  '+': 'zoom-in', '=': 'zoom-in', '-': 'zoom-out', 0: 'zoom-fit', 1: 'zoom-one', '?': 'help-open',
};

document.addEventListener('keydown', event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest('select, dialog')) return;
  // Where arrows already mean something, on the divider's control and in the table's box, they keep it.
  if (event.key.startsWith('Arrow') && event.target.closest('input, .scroll')) return;
  const id = own(keys, event.key.toLowerCase());
  if (!id || !(current || id === 'help-open')) return;
  event.preventDefault();
  clicks[id]();
});

function fill(select, labels, chosen = 0) {
  select.replaceChildren(...labels.map((label, index) => make('option', { value: index }, label)));
  select.value = chosen;
}

function showSet(name) {
  set = name;
  [...at('sets').children].forEach((button, index) => {
    button.setAttribute('aria-pressed', protocol.sets[index].name === set);
  });
  writeTable();
  drawPlots();
  orderImages();
}

function start() {
  writeProtocol();
  writeEnd();
  at('sets').append(...protocol.sets.map(({ name }) => make('button', { onclick: () => showSet(name) }, name)));
  at('sets').hidden = protocol.sets.length < 2;
  fill(at('plot-metric'), protocol.metrics.map(metric => `${metric.label} ${arrow(metric)}`));
  fill(at('order'), models.length > 1 ? orders : orders.slice(0, 3), orders.indexOf('worst first'));
  fill(at('order-model'), models.map(model => model.name));
  fill(at('order-metric'), perImage.map(metric => metric.label));
  fill(at('left'), sources.map(source => source.name));
  fill(at('right'), sources.map(source => source.name), models.length);
  fill(at('amplification'), AMPLIFICATIONS, AMPLIFICATIONS.indexOf(8));
  at('plot-metric').addEventListener('change', drawPlots);
  for (const id of ['order', 'order-model', 'order-metric']) at(id).addEventListener('change', orderImages);
  for (const id of ['left', 'right', 'amplification']) at(id).addEventListener('change', showPanes);
  for (const [id, act] of Object.entries(clicks)) at(id).addEventListener('click', act);
  at('divider').addEventListener('input', () => moveDivider(Number(at('divider').value)));
  window.addEventListener('resize', () => { drawPlots(); place(); });
  showSet(set);
}

start();
