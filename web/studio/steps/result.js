// Step 5: what came out, how good it is, and the way into the workflow.

import { plotPath } from "../client.js";
import { h, keyedList, setChildren, setText } from "../dom.js";
import { tradedText } from "../model/plans.js";
import { measuredLayers, worstLayers } from "../model/results.js";
import { blockMap } from "../parts/block_map.js";
import { cardList } from "../parts/cards.js";
import { button, disclosure, notice, section, segments } from "../parts/controls.js";
import { tile } from "../parts/meters.js";
import { formatName } from "../text.js";

const PLOTS = ["error", "size", "activations"];

/** {element, update(state)}. */
export function resultStep(session) {
  const { t, store, results, host, attempt, useResult, compareResult } = session;
  const problem = notice(t("details"));
  const list = cardList(t("result.list"), (id) => results.open(id));
  const none = h("p", { class: "nvfp4-help" }, t("result.none"));
  const use = button(t("result.use"), () => useResult(store.state.report.loader), { kind: "primary", symbol: "check" });
  const compare = button(t("result.compare"), () => attempt(compareResult), { symbol: "images", title: t("result.compareHelp") });
  const erase = button(t("delete"), remove, { kind: "danger", symbol: "trash" });
  const report = reportView(session);
  const actions = h("div", { class: "nvfp4-row" }, use, compare, erase);
  const element = h("div", { class: "nvfp4-stack" }, h("p", { class: "nvfp4-lead" }, t("result.lead")), problem.element, none, list.element, actions, report.element);

  async function remove() {
    const id = store.state.result;
    if (!(await host.confirmDelete(t("result.deleteTitle"), t("result.deleteQuestion"), [id]))) return;
    await attempt(() => results.remove(id));
    list.focus();
  }

  function cardOf(entry) {
    const quality = Number.isFinite(entry.mean_sqnr_db) ? t("result.mean", { value: t.decibels(entry.mean_sqnr_db) }) : "";
    return {
      key: entry.id,
      title: entry.id.split("/").at(-1),
      detail: [t.size(entry.bytes), quality].filter(Boolean).join(" · "),
    };
  }

  let shown = null;

  function update(state) {
    list.update(state.results.map(cardOf), state.result);
    element.classList.toggle("nvfp4-short", Boolean(state.result)); // room for the report below
    if (state.result !== shown) list.reveal();
    shown = state.result;
    none.hidden = state.results.length > 0 || Boolean(state.resultsError);
    const failed = state.reportError ?? state.resultsError;
    problem.show("error", failed?.message ?? "", failed?.details);
    actions.hidden = !state.result;
    use.disabled = compare.disabled = !state.report?.loader;
    report.update(state);
  }

  return { element, update };
}

/** The report of one file. */
function reportView({ t, host }) {
  const size = tile(t("result.size"));
  const ratio = tile(t("result.ratio"));
  const mean = tile(t("result.meanError"));
  const worst = tile(t("result.worstError"));
  const facts = h("p", { class: "nvfp4-help" });
  const checked = notice(t("details"));
  const plots = h("div", { class: "nvfp4-stack" });
  const rows = h("tbody", {});
  const layers = keyedList(rows, (layer) => layer.name, createRow);
  const heads = ["layer", "format", "error"].map((name) => h("th", { scope: "col", class: `nvfp4-col-${name}` }, t(`table.${name}`)));
  const table = h("table", { class: "nvfp4-table" }, h("caption", { class: "nvfp4-hidden" }, t("result.worst")), h("thead", {}, h("tr", {}, heads)), rows);
  const worstSection = section(t("result.worst"), table);
  const repairs = h("ul", { class: "nvfp4-advice" });
  const warnings = h("ul", { class: "nvfp4-advice" });
  const repaired = disclosure(t("plan.repairs"), repairs);
  const colour = segments(t("map.colour"), [["format", t("map.format")], ["error", t("map.measured")]], (value) => drawMap(value));
  const map = blockMap({ t, describe, label: "map.resultLabel", hint: "map.resultHint" });
  const mapSection = section(t("map.title"), colour.element, map.element);
  const tiles = h("dl", { class: "nvfp4-tiles" }, size.element, ratio.element, mean.element, worst.element);
  const element = h("div", { class: "nvfp4-stack" }, tiles, checked.element, facts, warnings, mapSection, worstSection, plots, repaired);
  let shown = null;

  function createRow() {
    const name = h("span", { class: "nvfp4-layer-name" });
    const reason = h("span", { class: "nvfp4-reason" });
    const format = h("td", {});
    const error = h("td", { class: "nvfp4-number" });
    return {
      element: h("tr", { class: "nvfp4-layer" }, h("th", { scope: "row" }, name, reason), format, error),
      update(layer) {
        setText(name, layer.module ?? layer.name);
        setText(reason, t.told(layer.reason));
        setText(format, formatName(layer.format));
        setText(error, t.number(layer.error.sqnr_db, 1));
      },
    };
  }

  function describe({ name, format, reason, error }) {
    const value = Number.isFinite(error?.sqnr_db) ? t.decibels(error.sqnr_db) : "";
    return [name, formatName(format), value, t.told(reason)].filter(Boolean).join(" · ");
  }

  function drawMap(mode) {
    const inside = measuredLayers(shown);
    mapSection.hidden = inside.length === 0;
    colour.update(mode);
    map.update(inside, mode);
  }

  function plot(name, id) {
    const text = t(`result.plots.${name}`);
    const address = host.address(plotPath("result_plot", { id, name }));
    const image = h("img", { class: "nvfp4-plot", src: address, alt: text, loading: "lazy" });
    const large = h("a", { href: address, target: "_blank", rel: "noopener", title: t("statistics.large") }, image);
    return h("figure", { class: "nvfp4-figure" }, h("figcaption", {}, text), large);
  }

  function update({ report, result }) {
    element.hidden = !report;
    if (!report || report === shown) return;
    shown = report;
    const { summary, plan } = report;
    size.update(t.size(summary.output_bytes));
    ratio.update(Number.isFinite(summary.ratio) ? t.percent(summary.ratio) : "–");
    const decibels = (value) => (Number.isFinite(value) ? t.decibels(value) : "–");
    mean.update(decibels(summary.mean_sqnr_db), t("result.sqnrHelp"));
    worst.update(decibels(summary.worst_sqnr_db), summary.worst_layer ?? null);
    const bad = report.problems ?? [];
    if (bad.length) checked.show("warning", t("result.problems", { count: bad.length }), bad.map(t.told).join("\n"));
    else checked.show("success", report.verified_tensors ? t("result.verified", { count: report.verified_tensors }) : "");
    const calibration = plan.calibration ? t("result.calibrated", { name: plan.calibration }) : t("result.uncalibrated");
    const traded = tradedText(plan.layers.map(({ rounding }) => rounding), t);
    setText(facts, [t("result.from", { source: plan.source, recipe: plan.recipe }), calibration, traded].filter(Boolean).join(" "));
    setChildren(warnings, (plan.warnings ?? []).map((text) => h("li", {}, t.told(text))));
    warnings.hidden = !plan.warnings?.length;
    setChildren(repairs, (plan.repairs ?? []).map((text) => h("li", {}, t.told(text))));
    repaired.hidden = !plan.repairs?.length;
    const found = worstLayers(report);
    layers(found);
    drawMap("format");
    worstSection.hidden = found.length === 0;
    setChildren(plots, PLOTS.filter((name) => report.plots.includes(name)).map((name) => plot(name, result)));
  }

  return { element, update };
}
