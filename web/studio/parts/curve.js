// Error against size of every budget that was tried: the chosen one is marked.

import { h, setText, svg } from "../dom.js";
import { section } from "./controls.js";

const WIDTH = 290;
const HEIGHT = 120;
const MARGIN = { left: 34, right: 8, top: 8, bottom: 20 };

const pointsOf = (curve) => (Array.isArray(curve) ? curve : (curve?.points ?? [])).filter((p) => Number.isFinite(p.bytes) && Number.isFinite(p.error_db));

/** Where points lie in the drawing: x grows with the file, y with the quality. */
export function placed(points, { width, height, margin }) {
  const span = (values) => [Math.min(...values), Math.max(...values)];
  const [small, large] = span(points.map((point) => point.bytes));
  const [low, high] = span(points.map((point) => point.error_db));
  const along = (value, from, to) => (to > from ? (value - from) / (to - from) : 0.5);
  return points.map((point) => ({
    point,
    x: margin.left + along(point.bytes, small, large) * (width - margin.left - margin.right),
    y: margin.top + (1 - along(point.error_db, low, high)) * (height - margin.top - margin.bottom),
  }));
}

/** {element, update(state)}; hidden while the plan has no curve. */
export function budgetCurve({ t }) {
  const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "nvfp4-chart", role: "img" });
  const note = h("p", { class: "nvfp4-help" });
  const element = section(t("curve.title"), drawing, note);
  let drawn = null;

  function update({ plan }) {
    const points = pointsOf(plan.curve);
    element.hidden = points.length < 2;
    if (element.hidden || plan.curve === drawn) return;
    drawn = plan.curve;
    const places = placed(points, { width: WIDTH, height: HEIGHT, margin: MARGIN });
    const sorted = [...places].sort((a, b) => a.x - b.x);
    const line = svg("polyline", { points: sorted.map(({ x, y }) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" "), class: "nvfp4-curve" });
    const dots = places.map(({ point, x, y }) => {
      const title = [point.name, t.size(point.bytes), t.decibels(point.error_db)].filter(Boolean).join(" · ");
      const chosen = point.chosen || point.bytes === plan.output_bytes;
      return svg("circle", { cx: x, cy: y, r: chosen ? 4.5 : 2.5, class: chosen ? "nvfp4-dot-chosen" : "nvfp4-dot" }, svg("title", {}, title));
    });
    const sizes = points.map((point) => point.bytes);
    const errors = points.map((point) => point.error_db);
    const text = (x, y, anchor, words) => svg("text", { x, y, "text-anchor": anchor, class: "nvfp4-map-number" }, words);
    const axis = [
      text(MARGIN.left, HEIGHT - 5, "start", t.size(Math.min(...sizes))),
      text(WIDTH - MARGIN.right, HEIGHT - 5, "end", t.size(Math.max(...sizes))),
      text(MARGIN.left - 5, MARGIN.top + 6, "end", t.number(Math.max(...errors), 0)),
      text(MARGIN.left - 5, HEIGHT - MARGIN.bottom, "end", t.number(Math.min(...errors), 0)),
    ];
    drawing.setAttribute("aria-label", t("curve.text", { count: points.length, size: t.size(plan.output_bytes) }));
    drawing.replaceChildren(line, ...dots, ...axis);
    setText(note, t("curve.help"));
  }

  return { element, update };
}
