// The studio's steps as a user meets them: what is said, what can be pressed, what is hidden.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import { createSession } from "../../../web/studio/session.js";
import { DEFAULTS } from "../../../web/studio/model/choices.js";
import { planOptions } from "../../../web/studio/parts/plan_options.js";
import { convertStep } from "../../../web/studio/steps/convert.js";
import { planStep } from "../../../web/studio/steps/plan.js";
import { resultStep } from "../../../web/studio/steps/result.js";
import { createTranslator } from "../../../web/studio/text.js";
import { buttonOf, document, textOf } from "./page_stub.mjs";

const localeOf = (name) => JSON.parse(readFileSync(new URL(`../../../locales/${name}/main.json`, import.meta.url), "utf-8"));
const MESSAGES = { en: localeOf("en"), de: localeOf("de") };
const SOURCE = "checkpoints/sd3.safetensors";
const OPTIONS = {
  recipes: [],
  roundings: {},
  input_scales: {},
  layouts: [],
  text_encoders: {},
  pre_quants: {},
  kernels: {},
  sensitivities: [],
  defaults: {},
};
const LAYER = { bytes_after: 5, shape: [2, 2], reason: "rule", format: "nvfp4", allowed: ["nvfp4", "fp8"], kind: "q" };
const PLAN = {
  output_bytes: 910,
  source_bytes: 1000,
  speed: { predicted: 0.91, basis: "image", rows: 4096, image_rows: 4096, gpu: "a GPU" },
  summary: { error: { sqnr_db: 21.6, of: "weights", is: "" }, roundings: {} },
  layers: [{ ...LAYER, name: "b.0.q", module: "b.0.q", block: "b.0" }, { ...LAYER, name: "b.1.q", module: "b.1.q", block: "b.1" }],
  warnings: [],
  repairs: [],
};
const REFUSED = { message: "Recipe qwen-image-v4 quantizes no layer." };

/** A session whose server answers by path: {status, answer}; what is asked for is not there else. */
function sessionOf(answers = {}, { language = "en", host = {} } = {}) {
  globalThis.document = document;
  const t = createTranslator(MESSAGES, language);
  const asked = [];
  const toasts = [];
  const fetchApi = async (path, { body } = {}) => {
    asked.push([path, body && JSON.parse(body)]);
    const { status = 200, answer } = answers[path] ?? { status: 404, answer: { error: "There is none." } };
    return { ok: status === 200, status, text: async () => JSON.stringify(answer) };
  };
  const storage = { getItem: () => null, setItem() {} };
  const page = { fetchApi, clientId: () => "c", toast: (...told) => toasts.push(told), ...host };
  const session = createSession({ host: page, t, storage, templateAddress: String });
  session.store.set({ source: SOURCE, options: OPTIONS });
  return { session, asked, toasts };
}

/** A step that follows the session's state, as the tab's do. */
function shown(step, session) {
  const view = step(session);
  session.store.subscribe(view.update);
  view.update(session.store.state);
  return view.element;
}

test("a refused plan takes the plan of other choices off the screen, and leaves layers pinned by hand to be released", async () => {
  const { session } = sessionOf();
  const step = shown(planStep, session);
  session.store.set({ plan: PLAN, planError: null });
  await Promise.resolve();
  assert.match(textOf(step), /91 % of the source[^]*0\.91 times[^]*21\.6 dB[^]*Block map[^]*b\.1/);
  session.store.set({ planError: REFUSED });
  await Promise.resolve();
  assert.match(textOf(step), /quantizes no layer/);
  assert.doesNotMatch(textOf(step), /91 %|0\.91|21\.6 dB|Block map|b\.1/);
  session.store.set({ choices: { ...DEFAULTS, pins: { "b.0.q": "fp8" } } });
  await Promise.resolve();
  assert.match(textOf(step), /b\.0/);
  assert.doesNotMatch(textOf(step), /91 %|Block map|b\.1/);
  session.store.set({ planError: null });
  await Promise.resolve();
  assert.match(textOf(step), /91 %[^]*b\.1/);
});

test("a refused plan cannot be converted, and Convert says why", async () => {
  const { session } = sessionOf();
  const step = shown(convertStep, session);
  assert.equal(buttonOf(step, "Convert to NVFP4").disabled, false);
  session.store.set({ planError: REFUSED });
  await Promise.resolve();
  assert.equal(buttonOf(step, "Convert to NVFP4").disabled, true);
  assert.match(textOf(step), /quantizes no layer/);
  session.store.set({ plan: PLAN, planError: null });
  await Promise.resolve();
  assert.equal(buttonOf(step, "Convert to NVFP4").disabled, false);
  assert.doesNotMatch(textOf(step), /quantizes no layer/);
});

/** What ComfyUI answers where the convert node's own check refuses: the same for each input that the check reads. */
function refusalOf(sentence) {
  const error = (name) => ({
    type: "custom_validation_failed",
    message: "Custom validation failed for node",
    details: `${name} - ${sentence}`,
    extra_info: { input_name: name },
  });
  const errors = ["source", "output_name"].map(error);
  const told = { type: "prompt_outputs_failed_validation", message: "Prompt outputs failed validation", details: "", extra_info: {} };
  return { status: 400, answer: { error: told, node_errors: { nvfp4_studio: { errors, dependent_outputs: [], class_type: "NVFP4Convert" } } } };
}

const TOKEN = { "/nvfp4_studio/conversion_token": { answer: { token: "t" } } };
const LEAVES = "The output name 'my ../evil file' leaves its folder: use a plain name such as my-model.";

test("Convert says the node's own sentence against a name, once, in the user's language, until something else is chosen", async () => {
  const answers = { ...TOKEN, "/prompt": refusalOf(LEAVES) };
  for (const [language, start, sentence] of [
    ["en", "Convert to NVFP4", LEAVES],
    ["de", "In NVFP4 konvertieren", "Name der neuen Datei: 'my ../evil file' verlässt den Ordner; nimm einen einfachen Namen wie my-model."],
  ]) {
    const { session } = sessionOf(answers, { language });
    const step = shown(convertStep, session);
    await buttonOf(step, start).click();
    assert.equal(textOf(step).split("\n").filter((line) => line === sentence).length, 1);
    session.store.set({ results: [] });
    await Promise.resolve();
    assert.ok(textOf(step).includes(sentence));
    session.select({ output_name: "good" });
    await Promise.resolve();
    assert.ok(!textOf(step).includes(sentence));
  }
});

test("what ComfyUI itself says against an input is shown with the input", async () => {
  const refusal = refusalOf("");
  refusal.answer.node_errors.nvfp4_studio.errors = [{ type: "value_not_in_list", message: "Value not in list", details: "rounding: 'x' not in ['auto']", extra_info: {} }];
  const { session } = sessionOf({ ...TOKEN, "/prompt": refusal });
  await assert.rejects(session.conversions.start(SOURCE, DEFAULTS), { message: "Value not in list: rounding: 'x' not in ['auto']", status: 400 });
});

test("converted files are listed at full height until one is opened", async () => {
  const { session } = sessionOf();
  const step = shown(resultStep, session);
  assert.equal(step.classList.contains("nvfp4-short"), false);
  session.store.set({ result: "checkpoints/a.safetensors" });
  await Promise.resolve();
  assert.equal(step.classList.contains("nvfp4-short"), true);
  session.store.set({ result: null });
  await Promise.resolve();
  assert.equal(step.classList.contains("nvfp4-short"), false);
});

test("a recipe's name that is refused is asked for again as it was typed", async () => {
  const answers = { "/nvfp4_studio/recipes/save": { status: 400, answer: { error: "Too long." } } };
  const questions = [];
  const typed = ["../mine", "mine"];
  const ask = async (title, message, value) => {
    questions.push(value);
    if (questions.length === 2) answers["/nvfp4_studio/recipes/save"] = { answer: { id: "mine" } };
    return typed.shift() ?? null;
  };
  const { session, toasts } = sessionOf(answers, { host: { ask } });
  const told = new Promise((resolve) => (session.host.toast = (...toast) => toasts.push(toast) === 2 && resolve()));
  buttonOf(shown(planOptions, session), "Save as recipe…").click();
  await told;
  assert.deepEqual(questions, ["", "../mine"]);
  assert.deepEqual(toasts, [["error", "Too long."], ["success", "Saved as mine."]]);
});

test("ended conversions can be cleared from the page; one that ends later is shown", async () => {
  const { session } = sessionOf();
  const step = shown(convertStep, session);
  const ended = (name) => ({ prompt_id: name, node: "n", source: SOURCE, target: `checkpoints/${name}`, error: "No rows." });
  const show = (...finished) => (session.store.set({ conversions: { running: [], queued: [], interrupted: [], finished } }), Promise.resolve());
  await show(ended("first"));
  assert.match(textOf(step), /Ended[^]*first/);
  buttonOf(step, "Clear").click();
  await Promise.resolve();
  assert.doesNotMatch(textOf(step), /Ended|first/);
  assert.equal(buttonOf(step, "Clear"), undefined);
  await show(ended("second"), ended("first"));
  assert.match(textOf(step), /Ended[^]*second/);
  assert.doesNotMatch(textOf(step), /first/);
});
