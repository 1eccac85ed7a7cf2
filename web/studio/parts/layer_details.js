// What is known of one layer: its decision in numbers, and the histogram of what went into it.

import { plotPath } from "../client.js";
import { h, keyedList, setAttribute, setText } from "../dom.js";
import { formatName } from "../text.js";

/** The numbers of a layer of the plan as [key of a text, words]; what is not known of it is left out. */
export function factsOf(layer, t) {
  const { sqnr_db: error, measured } = layer.predicted ?? {};
  const before = `${formatName(layer.source_format)} → ${formatName(layer.format)}`;
  return [
    ["format", layer.source_format === layer.format ? formatName(layer.format) : before],
    ["reason", t.told(layer.reason)],
    ["shape", layer.shape.map((size) => t.number(size)).join(" × ")],
    ["inputScale", Number.isFinite(layer.input_scale) && t.significant(layer.input_scale)],
    ["clipRate", Number.isFinite(layer.clip_rate) && t.percent(layer.clip_rate, 3)],
    [measured ? "measuredError" : "predictedError", Number.isFinite(error) && t.decibels(error)],
    ["rounding", layer.rounding],
    ["size", `${t.size(layer.bytes_before)} → ${t.size(layer.bytes_after)}`],
  ].filter(([, words]) => words);
}

/** A row of the table below the layer's own: {element, update({layer, calibration})}. */
export function layerDetails({ t, host }) {
  const list = h("dl", { class: "nvfp4-facts" });
  const facts = keyedList(list, ([key]) => key, ([key]) => {
    const words = h("dd", {});
    return {
      element: h("div", {}, h("dt", {}, t(`layer.${key}`)), words),
      update: ([, text]) => setText(words, text),
    };
  });
  const plot = h("img", { class: "nvfp4-plot", loading: "lazy" });
  const large = h("a", { target: "_blank", rel: "noopener", title: t("statistics.large") }, plot);
  const unseen = h("p", { class: "nvfp4-help" });
  const element = h("tr", { class: "nvfp4-layer-details" }, h("td", { colspan: "4" }, h("div", { class: "nvfp4-stack" }, list, large, unseen)));

  return {
    element,
    update({ layer, calibration }) {
      facts(factsOf(layer, t));
      large.hidden = !layer.histogram;
      unseen.hidden = layer.histogram;
      setText(unseen, t(calibration ? "layer.unseen" : "layer.uncalibrated"));
      if (!layer.histogram) return;
      const address = host.address(plotPath("calibration_plot", { name: calibration, layer: layer.module }));
      setAttribute(plot, "alt", t("layer.histogram", { name: layer.module }));
      setAttribute(plot, "src", address);
      setAttribute(large, "href", address);
    },
  };
}
