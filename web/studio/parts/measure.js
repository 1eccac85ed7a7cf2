// The measurement of errors by layer: its button, how far it is, what it says against it, and how to be rid of a result.

import { h, setText } from "../dom.js";
import { calibrationName, usableChoices } from "../model/calibrations.js";
import { sensitivitiesOf } from "../model/sensitivities.js";
import { button, notice } from "./controls.js";

/**
 * {element, update(state)}; a measurement needs a calibration that kept some inputs of each layer. `leave` takes the
 * focus when a result is deleted: its button goes with it.
 */
export function measurePart({ t, store, host, plans, sensitivities, attempt }, leave) {
  const start = button(t("plan.measure"), run, { symbol: "gauge" });
  const stop = button(t("cancel"), () => attempt(sensitivities.cancel), { symbol: "times" });
  const erase = button(t("plan.deleteSensitivity"), remove, { kind: "danger", symbol: "trash" });
  const status = h("p", { class: "nvfp4-help", role: "status" });
  const problem = notice(t("details"));
  const element = h("div", { class: "nvfp4-stack" }, h("div", { class: "nvfp4-row" }, start, stop, erase, status), problem.element);

  function run() {
    const { source, options } = store.state;
    const { calibration, input_scale: chosen } = usableChoices(store.state);
    sensitivities.measure(source, calibration, chosen ?? options.defaults.input_scale);
  }

  async function remove() {
    const name = store.state.choices.sensitivity;
    if (!(await host.confirmDelete(t("plan.deleteSensitivityTitle"), t("plan.deleteSensitivityQuestion"), [name]))) return;
    await attempt(() => plans.removeSensitivity(name));
    leave();
  }

  function update(state) {
    const { measuring, measureError } = state;
    start.hidden = Boolean(measuring);
    start.disabled = state.statistics[usableChoices(state).calibration]?.detail !== "curvature";
    erase.hidden = !sensitivitiesOf(state.options.sensitivities, state.source).some(({ name }) => name === state.choices.sensitivity);
    stop.hidden = !measuring?.prompt_id;
    const waiting = start.disabled ? t("plan.measureNeeds") : "";
    const other = measuring && measuring.source !== state.source ? `${calibrationName(measuring.source)}: ` : "";
    setText(status, measuring ? other + (t.told(measuring.text) || t("plan.measureQueued")) : waiting);
    status.hidden = !status.textContent;
    problem.show("error", t.told(measureError?.message), measureError?.details);
  }

  return { element, update };
}
