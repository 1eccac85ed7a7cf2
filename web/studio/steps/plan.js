// Step 3: what becomes of every layer, and what the file will weigh, before anything is written.

import { h, keyedList, setAttribute, setChildren, setText } from "../dom.js";
import { comingCalibration } from "../model/calibrations.js";
import { currentPlan, formatCounts, pinnableLayers, qualityText, roundedText, speedText } from "../model/plans.js";
import { blockMap, formatClass } from "../parts/block_map.js";
import { checkField, disclosure, notice, searchField, section, segments } from "../parts/controls.js";
import { budgetCurve } from "../parts/curve.js";
import { layerTable } from "../parts/layer_table.js";
import { sizeBars } from "../parts/meters.js";
import { planOptions } from "../parts/plan_options.js";
import { formatName } from "../text.js";

/** Totals, controls, block map and table: {element, update(state)}. */
export function planStep(session) {
  const { t, store, plans, host } = session;
  const view = { by: "block", colour: "format", search: "", pinnedOnly: false };
  const change = (patch) => {
    Object.assign(view, patch);
    update(store.state);
  };
  const problem = notice(t("details"));
  const totals = planTotals(t);
  const options = planOptions(session);
  const curve = budgetCurve(session);
  const colour = segments(t("map.colour"), [["format", t("map.format")], ["error", t("map.error")]], (value) => change({ colour: value }));
  const describe = (layer) => [layer.name, formatName(layer.format), errorOf(layer), t.size(layer.bytes_after)].filter(Boolean).join(" · ");
  const reveal = (layer) => table.reveal(layer, view.by);
  const map = blockMap({ t, describe, open: reveal, label: "map.label", hint: "map.hint" });
  const by = segments(t("table.groupBy"), [["block", t("table.byBlock")], ["type", t("table.byType")]], (value) => change({ by: value }));
  const search = searchField(t("table.search"), (text) => change({ search: text }));
  const pinnedOnly = checkField(t("table.pinnedOnly"), (checked) => change({ pinnedOnly: checked }));
  const table = layerTable({ t, host, pin: plans.pin });
  const mapSection = section(t("map.title"), colour.element, map.element);
  const tableSection = section(t("table.title"), h("div", { class: "nvfp4-row nvfp4-spread" }, by.element, pinnedOnly.element), search.element, table.element);
  const controls = section(t("plan.controls"), options.element, curve.element);
  const body = h("div", { class: "nvfp4-stack" }, totals.element, controls, mapSection, tableSection);
  const waiting = h("p", { class: "nvfp4-help", role: "status" }, t("plan.waiting"));
  const element = h("div", { class: "nvfp4-stack" }, h("p", { class: "nvfp4-lead" }, t("plan.lead")), problem.element, waiting, body);

  function errorOf(layer) {
    const value = layer.predicted?.sqnr_db;
    return Number.isFinite(value) ? t.decibels(value) : "";
  }

  function update(state) {
    const { convertible, problem: refused } = state.headers[state.source] ?? {};
    const failed = convertible === false ? { message: t.told(refused) } : (state.planError ?? state.optionsError);
    problem.show("error", failed?.message ?? "", failed?.details);
    options.update(state);
    waiting.hidden = Boolean(state.plan) || Boolean(failed);
    const plan = currentPlan(state);
    const layers = pinnableLayers(state);
    for (const part of [totals.element, mapSection]) part.hidden = !plan;
    tableSection.hidden = !plan && layers.length === 0;
    body.setAttribute("aria-busy", String(state.planning));
    curve.update(plan);
    by.update(view.by);
    if (state.plan) table.update({ layers, pins: state.choices.pins, calibration: state.plan.calibration, ...view });
    if (!plan) return;
    totals.update(state);
    colour.update(view.colour);
    map.update(plan.layers, view.colour);
  }

  return { element, update };
}

/** Size before and after, formats, predicted speed, warnings and repairs. */
function planTotals(t) {
  const sizes = sizeBars();
  const legend = h("ul", { class: "nvfp4-legend", "aria-label": t("plan.formats") });
  const entries = keyedList(legend, ([format]) => format, ([format]) => {
    const text = h("span", {});
    return {
      element: h("li", {}, h("span", { class: `nvfp4-swatch ${formatClass({ format })}`, "aria-hidden": "true" }), text),
      update: ([, count]) => setText(text, `${formatName(format)} ${t.number(count)}`),
    };
  });
  const summary = h("p", { class: "nvfp4-total", role: "status" });
  const speed = h("p", {});
  const quality = h("p", {});
  const rounded = h("p", { class: "nvfp4-help" });
  const warnings = h("ul", { class: "nvfp4-advice" });
  const repairs = h("ul", { class: "nvfp4-advice" });
  const repaired = disclosure(t("plan.repairs"), repairs);
  const element = h("div", { class: "nvfp4-panel nvfp4-stack" }, summary, sizes.element, h("div", {}, speed, quality, rounded), legend, warnings, repaired);

  function update({ plan, choices, calibrations, statistics }) {
    const ratio = plan.output_bytes / plan.source_bytes;
    setText(summary, t("plan.ratio", { percent: t.percent(ratio), size: t.size(plan.output_bytes) }));
    setText(speed, plan.speed ? speedText(plan.speed, t) : "");
    setAttribute(speed, "title", t.told(plan.speed?.predicted_is));
    setText(quality, qualityText(plan, t));
    setAttribute(quality, "title", t.told(plan.summary.error.is));
    setText(rounded, roundedText(plan, choices.rounding, statistics[plan.calibration]?.detail, t));
    const coming = comingCalibration({ choices, calibrations });
    const most = Math.max(plan.source_bytes, plan.output_bytes);
    sizes.update([
      { key: "source", label: t("plan.before"), share: plan.source_bytes / most, text: t.size(plan.source_bytes) },
      { key: "output", label: t("plan.after"), share: plan.output_bytes / most, text: t.size(plan.output_bytes), strong: true },
    ]);
    entries(formatCounts(plan.layers));
    const told = [coming && t("calibration.noSamples", { name: coming }), ...plan.warnings.map(t.told)].filter(Boolean);
    setChildren(warnings, told.map((text) => h("li", {}, text)));
    warnings.hidden = told.length === 0;
    setChildren(repairs, plan.repairs.map((text) => h("li", {}, t.told(text))));
    repaired.hidden = plan.repairs.length === 0;
  }

  return { element, update };
}
