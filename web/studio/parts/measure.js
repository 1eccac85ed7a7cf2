// The measurement of errors by layer: its button, how far it is, and what it says against it.

import { h, setText } from "../dom.js";
import { calibrationName, usableChoices } from "../model/calibrations.js";
import { button, notice } from "./controls.js";

/** {element, update(state)}; a measurement needs a calibration that kept some inputs of each layer. */
export function measurePart({ t, store, sensitivities, attempt }) {
  const start = button(t("plan.measure"), run, { symbol: "gauge" });
  const stop = button(t("cancel"), () => attempt(sensitivities.cancel), { symbol: "times" });
  const status = h("p", { class: "nvfp4-help", role: "status" });
  const problem = notice(t("details"));
  const element = h("div", { class: "nvfp4-stack" }, h("div", { class: "nvfp4-row" }, start, stop, status), problem.element);

  function run() {
    const { source, options } = store.state;
    const { calibration, input_scale: chosen } = usableChoices(store.state);
    sensitivities.measure(source, calibration, chosen ?? options.defaults.input_scale);
  }

  function update(state) {
    const { measuring, measureError } = state;
    start.hidden = Boolean(measuring);
    start.disabled = state.statistics[usableChoices(state).calibration]?.detail !== "curvature";
    stop.hidden = !measuring?.prompt_id;
    const waiting = start.disabled ? t("plan.measureNeeds") : "";
    const other = measuring && measuring.source !== state.source ? `${calibrationName(measuring.source)}: ` : "";
    setText(status, measuring ? other + (t.told(measuring.text) || t("plan.measureQueued")) : waiting);
    status.hidden = !status.textContent;
    problem.show("error", t.told(measureError?.message), measureError?.details);
  }

  return { element, update };
}
