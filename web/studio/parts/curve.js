// Error against size of every budget that was tried: the chosen one is marked.

import { h, setText, svg } from "../dom.js";
import { section } from "./controls.js";

const WIDTH = 290;
const HEIGHT = 120;
const RADIUS = { budget: 2, recipe: 3.5, chosen: 4.5 };
const MARGIN = { left: 34, right: 8, top: 8, bottom: 20 };

/** The budgets of a plan's curve, the recipes with their names, and the one that was chosen. */
export function pointsOf(curve) {
  const kinds = { by_size: "budget", recipes: "recipe" };
  const points = Object.entries(kinds).flatMap(([key, kind]) => (curve?.[key] ?? []).map((point) => ({ ...point, kind })));
  if (curve?.chosen) points.push({ ...curve.chosen, kind: "chosen" });
  return points.filter((point) => Number.isFinite(point.bytes) && Number.isFinite(point.quality_db));
}

/** Where points lie in the drawing: x grows with the file, y with the quality. */
export function placed(points, { width, height, margin }) {
  const span = (values) => [Math.min(...values), Math.max(...values)];
  const [small, large] = span(points.map((point) => point.bytes));
  const [low, high] = span(points.map((point) => point.quality_db));
  const along = (value, from, to) => (to > from ? (value - from) / (to - from) : 0.5);
  return points.map((point) => ({
    point,
    x: margin.left + along(point.bytes, small, large) * (width - margin.left - margin.right),
    y: margin.top + (1 - along(point.quality_db, low, high)) * (height - margin.top - margin.bottom),
  }));
}

/** {element, update(plan)}; hidden where there is no plan or it has no curve. */
export function budgetCurve({ t }) {
  const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "nvfp4-chart", role: "img" });
  const note = h("p", { class: "nvfp4-help" });
  const element = section(t("curve.title"), drawing, note);
  let drawn = null;

  function update(plan) {
    const points = pointsOf(plan?.curve);
    element.hidden = points.length < 2;
    if (element.hidden || plan.curve === drawn) return;
    drawn = plan.curve;
    const places = placed(points, { width: WIDTH, height: HEIGHT, margin: MARGIN });
    const sorted = places.filter(({ point }) => point.kind === "budget").sort((a, b) => a.x - b.x);
    const line = svg("polyline", { points: sorted.map(({ x, y }) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" "), class: "nvfp4-curve" });
    const dots = places.map(({ point, x, y }) => {
      const title = [point.name, t.size(point.bytes), t.decibels(point.quality_db)].filter(Boolean).join(" · ");
      const look = { class: `nvfp4-dot nvfp4-dot-${point.kind}`, r: RADIUS[point.kind] };
      return svg("circle", { cx: x, cy: y, ...look }, svg("title", {}, title));
    });
    const names = places
      .filter(({ point }) => point.kind === "recipe")
      .map(({ point, x, y }) => svg("text", { x: Math.min(x + 6, WIDTH - 60), y: y - 5, class: "nvfp4-map-number" }, point.name));
    const sizes = points.map((point) => point.bytes);
    const errors = points.map((point) => point.quality_db);
    const text = (x, y, anchor, words) => svg("text", { x, y, "text-anchor": anchor, class: "nvfp4-map-number" }, words);
    const axis = [
      text(MARGIN.left, HEIGHT - 5, "start", t.size(Math.min(...sizes))),
      text(WIDTH - MARGIN.right, HEIGHT - 5, "end", t.size(Math.max(...sizes))),
      text(MARGIN.left - 5, MARGIN.top + 6, "end", t.number(Math.max(...errors), 0)),
      text(MARGIN.left - 5, HEIGHT - MARGIN.bottom, "end", t.number(Math.min(...errors), 0)),
    ];
    drawing.setAttribute("aria-label", t("curve.text", { count: sorted.length, size: t.size(plan.output_bytes) }));
    drawing.replaceChildren(line, ...dots, ...names, ...axis);
    setText(note, t("curve.help"));
  }

  return { element, update };
}
