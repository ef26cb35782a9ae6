// ---- images: the viewer

const FIT = { zoom: null, x: 0.5, y: 0.5 };
const AMPLIFICATIONS = [1, 2, 4, 8, 16, 32];
const stage = at('stage');
let mode = 'slider';
let view = { ...FIT }; // CSS pixels for each pixel of GT (null: what fits), and the picture's point in the middle
let divider = 50; // per cent of the frame

// What a pane can show.
const sources = [
  ...models.map((model, index) => ({ name: model.name, model, index, path: image => own(image.pictures, model.name) })),
  { name: 'GT', path: image => image.gt, isTruth: true },
  { name: 'LR, nearest', path: image => image.lr, isNearest: true },
];

const showsErrors = () => at('errors').getAttribute('aria-pressed') === 'true';
const amplification = () => AMPLIFICATIONS[at('amplification').value];

function pane(source) {
  const path = source.path(current);
  if (!path) {
    const failure = source.model.failed.find(entry => entry.set === set && entry.image === current.image);
    const words = `${source.name} failed here${failure ? `: ${failure.reason}` : '.'}`;
    return make('div', { class: 'pane' }, make('p', {}, words));
  }
  const show = (file, kind, alt) => make('img', { src: pictures[file], class: kind, alt, draggable: 'false' });
  const kind = source.isNearest ? 'nearest' : '';
  if (!showsErrors() || source.isTruth) {
    return make('div', { class: 'pane' }, make('div', { class: 'picture' }, show(path, kind, source.name)));
  }
  const error = show(path, `over ${kind}`, `error of ${source.name}`);
  const picture = make('div', { class: 'picture' }, show(current.gt, '', ''), error);
  picture.style.filter = `brightness(${amplification()})`;
  return make('div', { class: 'pane' }, picture);
}

function caption({ name, model, index }) {
  const value = metric => `${metric.label} ${number(valueOf(current, model, metric), digits[metric.key])}`;
  return make('div', { class: 'caption' }, model ? swatch(index) : null, make('b', {}, name), make('br'),
    ...(model ? perImage.map(metric => make('span', {}, value(metric))) : []));
}

function showPanes() {
  const isSlider = mode === 'slider';
  pointers.clear(); // the frames they held are gone
  stage.className = mode;
  for (const id of ['sides', 'divider', 'captions']) at(id).hidden = !isSlider;
  for (const name of ['slider', 'grid']) at(`mode-${name}`).setAttribute('aria-pressed', name === mode);
  if (isSlider) {
    const sides = [sources[at('left').value], sources[at('right').value]];
    const [left, right] = sides.map(pane);
    left.id = 'pane-left';
    const handle = make('div', { class: 'handle', 'aria-hidden': 'true' });
    stage.replaceChildren(make('div', { class: 'frame' }, right, left, handle));
    at('captions').replaceChildren(...sides.map(caption));
    moveDivider(divider);
  } else {
    const cell = source => make('figure', {}, make('div', { class: 'frame' }, pane(source)), caption(source));
    stage.replaceChildren(...sources.map(cell));
  }
  const note = `Error maps: |picture − GT| of each colour channel, × ${amplification()}; black: equal. GT stays GT.`;
  at('error-note').textContent = showsErrors() ? note : '';
  place();
}

/** Gives every frame its size and lays the pictures out in step, by the one view. */
function place() {
  if (!current) return;
  const [height, width] = current.size;
  for (const frame of stage.querySelectorAll('.frame')) {
    const room = Math.min(frame.parentElement.clientWidth / width, 0.72 * window.innerHeight / height);
    const fit = room > 1 ? Math.floor(room) : room; // enlarged by whole numbers, so that all pixels are equally large
    frame.style.width = `${Math.round(width * fit)}px`;
    frame.style.height = `${Math.round(height * fit)}px`;
    frame.classList.toggle('zoomed', view.zoom !== null);
    const zoom = view.zoom || fit;
    const offset = (side, extent, centre) => Math.round(side >= extent
      ? (side - extent) / 2 : Math.min(0, Math.max(side - extent, side / 2 - centre * extent)));
    for (const picture of frame.querySelectorAll('.picture')) {
      picture.classList.toggle('pixels', zoom > 1);
      picture.style.left = `${offset(frame.clientWidth, width * zoom, view.x)}px`;
      picture.style.top = `${offset(frame.clientHeight, height * zoom, view.y)}px`;
      picture.style.width = `${width * zoom}px`;
      picture.style.height = `${height * zoom}px`;
    }
    at('zoom').textContent = `${Math.round(zoom * 100)} %`;
  }
  const { width: side } = stage.querySelector('.frame').style;
  at('divider').style.width = side;
  at('captions').style.maxWidth = `max(${side}, 24rem)`;
}

// ---- zoom and pan

/** Where a frame's picture lies, and how large a pixel of GT is: what a pointer's place means. */
function geometry(frame) {
  const picture = frame.querySelector('.picture') || stage.querySelector('.picture');
  const [height, width] = current.size;
  const { left, top } = frame.getBoundingClientRect();
  return { left, top, zoom: picture.offsetWidth / width, x: picture.offsetLeft, y: picture.offsetTop,
    middleX: frame.clientWidth / 2, middleY: frame.clientHeight / 2, width, height };
}

/** Zooms to what `change` makes of the zoom; the pixel at a point of the frame (its middle by default) stays there. */
function zoomTo(change, frame = stage.querySelector('.frame'), point = null) {
  const now = geometry(frame);
  const zoom = Math.min(32, Math.max(0.1, change(now.zoom)));
  const [x, y] = point ? [point.clientX - now.left, point.clientY - now.top] : [now.middleX, now.middleY];
  view = {
    zoom,
    x: ((x - now.x) / now.zoom + (now.middleX - x) / zoom) / now.width,
    y: ((y - now.y) / now.zoom + (now.middleY - y) / zoom) / now.height,
  };
  place();
}

function panBy(frame, dx, dy) {
  const now = geometry(frame);
  // From where the picture is, not from where it was asked to be: it stops at its edges.
  view.x = (now.middleX - now.x - dx) / (now.width * now.zoom);
  view.y = (now.middleY - now.y - dy) / (now.height * now.zoom);
  place();
}

function fit() {
  view = { ...FIT };
  place();
}

// Buttons and keys go to the next power of two.
const zoomIn = () => zoomTo(zoom => 2 ** (Math.floor(Math.log2(zoom) + 0.01) + 1));
const zoomOut = () => zoomTo(zoom => 2 ** (Math.ceil(Math.log2(zoom) - 0.01) - 1));
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
  if (grabsDivider && pointers.size === 1) dragDivider(event, frame);
});

stage.addEventListener('pointermove', event => {
  const before = pointers.get(event.pointerId);
  if (!before) return;
  const frame = event.target.closest('.frame');
  const other = [...pointers.values()].find(pointer => pointer.pointerId !== event.pointerId);
  if (other) {
    const distance = pointer => Math.hypot(pointer.clientX - other.clientX, pointer.clientY - other.clientY) || 1;
    const middle = { clientX: (event.clientX + other.clientX) / 2, clientY: (event.clientY + other.clientY) / 2 };
    zoomTo(zoom => zoom * distance(event) / distance(before), frame, middle);
  } else if (grabsDivider) {
    dragDivider(event, frame);
  } else {
    panBy(frame, event.clientX - before.clientX, event.clientY - before.clientY);
  }
  pointers.set(event.pointerId, event);
});

for (const end of ['pointerup', 'pointercancel']) {
  stage.addEventListener(end, event => pointers.delete(event.pointerId));
}

stage.addEventListener('wheel', event => {
  const frame = event.target.closest('.frame');
  if (!frame || !(event.ctrlKey || event.metaKey)) return; // without Ctrl the wheel scrolls the page
  event.preventDefault();
  const pixels = event.deltaY * (event.deltaMode ? 33 : 1); // some browsers count lines
  zoomTo(zoom => zoom * 2 ** (-Math.max(-100, Math.min(100, pixels)) / 200), frame, event);
}, { passive: false });

// ---- the divider

function dragDivider(event, frame) {
  const { left, width } = frame.getBoundingClientRect();
  moveDivider((event.clientX - left) / width * 100);
  at('divider').focus({ preventScroll: true }); // so that arrow keys go on from here
}

function moveDivider(percent) {
  divider = Math.min(100, Math.max(0, percent));
  at('divider').value = divider;
  at('pane-left').style.clipPath = `inset(0 ${100 - divider}% 0 0)`;
  stage.querySelector('.handle').style.left = `${divider}%`;
}
