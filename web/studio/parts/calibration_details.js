// What a calibration holds: counts, coverage of layers and of the noise schedule, and whether it is enough.

import { plotPath } from "../client.js";
import { h, keyedList, setText } from "../dom.js";
import { binHeights } from "../model/calibrations.js";
import { disclosure, notice } from "./controls.js";
import { scheduleChart, tile } from "./meters.js";

/** {element, update(state)} for the chosen calibration; hidden where none is chosen. */
export function calibrationDetails({ t, host }) {
  const images = tile(t("statistics.images"));
  const steps = tile(t("statistics.steps"));
  const layers = tile(t("statistics.layers"));
  const change = tile(t("statistics.change"));
  const verdict = notice(t("details"));
  const problem = notice(t("details"));
  const chart = scheduleChart();
  const advice = h("ul", { class: "nvfp4-advice" });
  const advised = keyedList(advice, (text) => text, (text) => ({ element: h("li", {}, text), update() {} }));
  const summary = h("p", { class: "nvfp4-help" });
  const plot = h("img", { class: "nvfp4-plot", alt: t("statistics.plotText"), loading: "lazy" });
  const large = h("a", { target: "_blank", rel: "noopener", title: t("statistics.large") }, plot);
  const more = disclosure(t("statistics.more"), summary, large);
  const figure = h(
    "figure",
    { class: "nvfp4-figure" },
    h("figcaption", {}, t("statistics.schedule")),
    chart.element,
    h("div", { class: "nvfp4-axis", "aria-hidden": "true" }, h("span", {}, t("statistics.lowNoise")), h("span", {}, t("statistics.highNoise"))),
  );
  const tiles = h("dl", { class: "nvfp4-tiles" }, images.element, steps.element, layers.element, change.element);
  const body = h("div", { class: "nvfp4-stack" }, verdict.element, tiles, figure, advice, more);
  const element = h("div", { class: "nvfp4-panel" }, problem.element, body);

  let plotted = "";
  more.addEventListener("toggle", () => {
    if (more.open && plotted && plot.getAttribute("src") !== plotted) plot.src = plotted;
  });

  function update({ choices, statistics, live }) {
    const name = choices.calibration;
    const found = name ? statistics[name] : null;
    element.hidden = !found;
    if (!found) return;
    problem.show("error", found.problem ?? "");
    body.hidden = Boolean(found.problem);
    if (found.problem) return;
    const now = live[name];
    images.update(t.number(Math.max(found.samplings, now?.samplings ?? 0)));
    steps.update(t.number(Math.max(found.calls, now?.calls ?? 0)));
    layers.update(`${t.number(found.layers_observed)} / ${t.number(found.layers_total)}`);
    const largest = found.convergence.largest_change;
    change.update(largest === null ? "–" : t.percent(largest, 1), t("statistics.changeHelp"));
    const seen = found.schedule.filter((count) => count > 0).length;
    const bins = { seen, bins: found.schedule.length };
    chart.update(binHeights(found.schedule), found.schedule, t("statistics.scheduleText", bins), (bin, count) => {
      const range = `${t.number(bin / bins.bins, 2)}–${t.number((bin + 1) / bins.bins, 2)}`;
      return t("statistics.bin", { range, count });
    });
    const [first, ...others] = adviceOf(found, t("statistics.enough")).map(t.told);
    verdict.show(found.enough ? "success" : "info", first);
    advised(others);
    advice.hidden = others.length === 0;
    const { layer, amax } = found.largest ?? {};
    setText(summary, layer ? t("statistics.largest", { value: t.significant(amax), layer }) : "");
    plotted = large.href = host.address(plotPath("calibration_plot", { name, calls: String(found.calls) }));
    if (more.open && plot.getAttribute("src") !== plotted) plot.src = plotted;
  }

  return { element, update };
}

/** Sentences about a calibration, the most important first, none of them twice. */
export function adviceOf({ enough, recommendations, warnings, convergence }, enoughText) {
  const sentences = [enough && enoughText, ...warnings, ...recommendations, convergence.advice];
  return [...new Set(sentences.filter(Boolean))];
}
