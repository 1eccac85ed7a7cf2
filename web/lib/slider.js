// Where a divider between two pictures stands, in percent from the left, and which pair is shown. No page needed.

const STEP = 2;
const LARGE_STEP = 10;

const within = (value, low, high) => Math.min(high, Math.max(low, value));

/** The divider's place under a pointer at `clientX`, for a box as getBoundingClientRect gives it. */
export function placeAt(clientX, box) {
  return box.width > 0 ? within(((clientX - box.left) / box.width) * 100, 0, 100) : 50;
}

/** The pair `by` further than `pair`, of `pairs`; after the last comes the first. */
export const pairAfter = (pair, by, pairs) => (pair + by + pairs) % pairs;

/**
 * The state {place, pair} after a key, of `pairs` pairs; null when the key means nothing here. With Ctrl, Alt or the
 * system's key it is the browser's or ComfyUI's.
 */
export function afterKey({ place, pair }, { key, shiftKey, ctrlKey, altKey, metaKey }, pairs) {
  if (ctrlKey || altKey || metaKey) return null;
  const step = shiftKey ? LARGE_STEP : STEP;
  const [less, more] = [place - step, place + step];
  const places = { ArrowLeft: less, ArrowDown: less, ArrowRight: more, ArrowUp: more, Home: 0, End: 100 };
  const turns = { PageUp: -1, PageDown: 1 };
  if (key in places) return { place: within(places[key], 0, 100), pair };
  if (key in turns) return { place, pair: pairAfter(pair, turns[key], pairs) };
  return null;
}

/** The path below ComfyUI's API of a picture that the server saved. */
export function viewPath({ filename, subfolder, type }) {
  return `/view?${new URLSearchParams({ filename, subfolder: subfolder ?? "", type })}`;
}

/** One pair's figures in words; `equal` says that nothing differs. */
export function caption({ number, psnr, ssim, haarpsi }, equal) {
  const figures =
    psnr === null ? equal : `PSNR ${psnr.toFixed(1)} dB, SSIM ${ssim.toFixed(4)}, HaarPSI ${haarpsi.toFixed(4)}`;
  return `${number}: ${figures}`;
}
