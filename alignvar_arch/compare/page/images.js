// ---- images: the list of a set's, in the order asked for

const orders = ['by name', 'worst first', 'best first',
  `largest loss to ${reference.name}`, `largest gain on ${reference.name}`];
let listed = [];
let current = null;

const valueOf = (image, model, metric) => own(own(image.values, model.name), metric.key);

function orderImages() {
  const order = Number(at('order').value);
  const isCompared = order > 2;
  // The reference loses nothing to itself.
  if (isCompared && at('order-model').value === '0') at('order-model').value = 1;
  const model = models[at('order-model').value];
  const metric = perImage[at('order-metric').value] || null; // none where all are of a set
  const score = image => {
    if (!metric) return null;
    const [mine, theirs] = [valueOf(image, model, metric), valueOf(image, reference, metric)];
    if (mine === null || (isCompared && theirs === null)) return null;
    return isCompared ? mine - theirs : mine;
  };
  const isBestFirst = order === 2 || order === 4;
  const byName = sorted(images.filter(image => image.set === set), image => image.image, false);
  listed = order && metric ? sorted(byName, score, isBestFirst === (metric.better === 'higher')) : byName;
  const write = isCompared ? signed : number;
  at('strip').replaceChildren(...listed.map(image => make('button',
    { title: image.image, onclick: () => choose(image) },
    make('img', { src: pictures[image.lr], alt: '', loading: 'lazy' }),
    make('span', {}, image.image),
    make('span', { class: 'muted' }, write(score(image), own(digits, metric && metric.key))))));
  choose(!order && listed.includes(current) ? current : listed[0] || null);
}

function choose(image) {
  current = image;
  at('viewer').hidden = !image;
  at('no-images').hidden = Boolean(image);
  if (!image) return;
  const position = listed.indexOf(image);
  const strip = at('strip');
  [...strip.children].forEach((thumb, index) => thumb.setAttribute('aria-current', index === position));
  const thumb = strip.children[position];
  // Scrolls the list alone: scrollIntoView would move the page too.
  strip.scrollTop = thumb.offsetTop - (strip.clientHeight - thumb.offsetHeight) / 2;
  const [height, width] = image.size;
  at('image-name').textContent = `${image.image} · ${position + 1} of ${listed.length} · ${width} × ${height}`;
  at('previous').disabled = position === 0;
  at('next').disabled = position === listed.length - 1;
  view = { ...FIT };
  showPanes();
}

function step(by) {
  const next = listed[listed.indexOf(current) + by];
  if (next) choose(next);
}
