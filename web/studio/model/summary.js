// What a conversion would do: the choices that it is queued with, by name and value.

import { comingCalibration } from "./calibrations.js";
import { textEncoderOf } from "./plans.js";

/** Source, recipe and calibration, and whatever else is not as the server would have it: [[label, words]]. */
export function summaryOf({ source, choices, calibrations, options }, t) {
  const { recipe, calibration, budget, pins } = choices;
  const coming = comingCalibration({ choices, calibrations });
  const told = (name, value) => (value !== null && value !== options?.defaults[name] ? value : "");
  const pinned = Object.values(pins).filter((policy) => policy !== null).length;
  return [
    [t("steps.source"), source],
    [t("plan.recipe"), recipe === "auto" ? t("plan.auto") : recipe],
    [t("convert.pinned"), pinned ? t("table.layers", { count: pinned }) : ""],
    [t("plan.budget"), budget.trim()],
    [t("convert.calibration"), coming ? t("calibration.noSamples", { name: coming }) : (calibration ?? t("calibration.none"))],
    [t("plan.inputScale"), told("input_scale", choices.input_scale)],
    [t("plan.rounding"), told("rounding", choices.rounding)],
    [t("plan.preQuant"), told("pre_quant", choices.pre_quant)],
    [t("plan.gain"), choices.gain ? "✓" : ""],
    [t("plan.layout"), told("layout", choices.layout) && t(`plan.layouts.${choices.layout}`)],
    [t("plan.textEncoder"), told("text_encoder", textEncoderOf(choices))],
  ].filter(([, words]) => words);
}
