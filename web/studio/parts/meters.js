// Small drawings of numbers: a progress bar, the bars of the noise schedule, two sizes side by side.

import { h, keyedList, setAttribute, setChildren, setText, svg } from "../dom.js";

/** A progress bar with an accessible value: {element, update(share, text)}. */
export function progressBar(label) {
  const bar = h("div", { class: "nvfp4-bar-fill" });
  const element = h(
    "div",
    { class: "nvfp4-bar", role: "progressbar", "aria-label": label, "aria-valuemin": "0", "aria-valuemax": "100" },
    bar,
  );
  return {
    element,
    update(share, text) {
      const percent = Math.round(100 * Math.min(1, Math.max(0, share)));
      bar.style.transform = `scaleX(${Math.min(1, Math.max(0, share))})`;
      setAttribute(element, "aria-valuenow", percent);
      setAttribute(element, "aria-valuetext", text);
    },
  };
}

/** A number with its name below: {element, update(value, title)}. */
export function tile(label) {
  const value = h("dd", {});
  const element = h("div", { class: "nvfp4-tile" }, h("dt", {}, label), value);
  return {
    element,
    update(text, title = null) {
      setText(value, text);
      setAttribute(element, "title", title);
    },
  };
}

const WIDTH = 320;
const HEIGHT = 64;
const SPACE = 4;

/** Bars of the noise schedule, low noise left; a bin that was never seen has a mark. `describe(bin)` names one. */
export function scheduleChart() {
  const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "nvfp4-chart", role: "img" });
  const update = (heights, counts, label, describe) => {
    drawing.setAttribute("aria-label", label);
    const step = WIDTH / heights.length;
    const bars = heights.map((height, i) => {
      const tall = height > 0 ? Math.max(3, height * (HEIGHT - 2)) : 3;
      const box = { x: i * step + SPACE / 2, y: HEIGHT - tall, width: step - SPACE, height: tall, rx: 2 };
      const title = svg("title", {}, describe(i, counts[i]));
      return svg("rect", { ...box, class: height > 0 ? "nvfp4-bin" : "nvfp4-bin-missing" }, title);
    });
    setChildren(drawing, bars);
  };
  return { element: drawing, update };
}

/** Bars that compare sizes: {element, update([{key, label, share, text, strong}])}. */
export function sizeBars() {
  const element = h("dl", { class: "nvfp4-sizes" });
  const rows = keyedList(
    element,
    ({ key }) => key,
    () => {
      const label = h("dt", {});
      const fill = h("span", { class: "nvfp4-size-fill" });
      const text = h("span", { class: "nvfp4-size-text" });
      const row = h("div", {}, label, h("dd", {}, h("span", { class: "nvfp4-size-track", "aria-hidden": "true" }, fill), text));
      return {
        element: row,
        update(item) {
          setText(label, item.label);
          setText(text, item.text);
          fill.style.transform = `scaleX(${Math.max(0.01, Math.min(1, item.share))})`;
          fill.dataset.strong = String(Boolean(item.strong));
        },
      };
    },
  );
  return { element, update: rows };
}
