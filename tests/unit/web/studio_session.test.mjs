// The studio's session over a server that answers from a table: measurements, conversions, and what is asked anew.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import { createClient } from "../../../web/studio/client.js";
import { DEFAULTS, lastSource, recallChoices, rememberChoices } from "../../../web/studio/model/choices.js";
import { createConversions } from "../../../web/studio/model/conversions.js";
import { createSensitivities, MEASURING, nameFor } from "../../../web/studio/model/sensitivities.js";
import { endedText, interruptedText } from "../../../web/studio/parts/jobs.js";
import { createSession } from "../../../web/studio/session.js";
import { createStore } from "../../../web/studio/store.js";
import { createTranslator } from "../../../web/studio/text.js";

const t = createTranslator({ en: JSON.parse(readFileSync(new URL("../../../locales/en/main.json", import.meta.url), "utf-8")) }, "en");

function storage() {
  const kept = new Map();
  return { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value) };
}

/** Answers by path; what was asked is kept in `asked`. */
function fakeServer(answers) {
  const asked = [];
  const fetchApi = async (path, { method = "GET", body } = {}) => {
    asked.push([method, path, ...(body ? [JSON.parse(body)] : [])]);
    const answer = answers[path];
    return { ok: answer !== undefined, status: answer === undefined ? 404 : 200, text: async () => JSON.stringify(answer ?? { error: "There is none." }) };
  };
  return { asked, fetchApi, client: createClient(fetchApi) };
}

const EMPTY = { running: [], queued: [], finished: [], interrupted: [] };

test("a conversion is cancelled by its own id, whether the page believes that it waits or runs", async () => {
  const { asked, client } = fakeServer({ "/jobs/p%201/cancel": { cancelled: true }, "/nvfp4_studio/conversions": { ...EMPTY, measuring: [] } });
  const store = createStore({ conversions: { ...EMPTY, queued: [{ prompt_id: "p 1", node: "n" }] } });
  const conversions = createConversions({ store, client, clientId: () => "c", textOf: String, measuring() {}, ended() {} });
  await conversions.cancel({ prompt_id: "p 1", node: "n" });
  assert.deepEqual(asked, [["POST", "/jobs/p%201/cancel", {}], ["GET", "/nvfp4_studio/conversions"]]);
  assert.deepEqual(store.state.conversions, EMPTY);
});

/** Sensitivities of a server that measures `queue`, with what became of each prompt in `history`. */
function measuringPage(history = {}) {
  const answers = Object.fromEntries(Object.entries(history).map(([id, status]) => [`/history/${id}`, { [id]: { status } }]));
  const server = fakeServer({ "/jobs/p/cancel": { cancelled: true }, ...answers });
  const store = createStore({ measuring: null, measureError: null });
  const page = { ...server, store, queue: [], measured: [] };
  const measured = async (...told) => page.measured.push(told);
  const textOf = ({ message }) => ({ message });
  page.look = async () => page.sensitivities.found(page.queue);
  page.sensitivities = createSensitivities({ store, client: server.client, clientId: () => "c", textOf, look: page.look, measured });
  return page;
}

const MEASURED = { prompt_id: "p", node: MEASURING, source: "checkpoints/m.safetensors", calibration: "c", name: "" };

test("a measurement of another page is shown, followed, cancelled by its id, and told when it has ended", async () => {
  const page = measuringPage({ p: { status_str: "success", messages: [] } });
  page.queue = [{ ...MEASURED, node: "5", prompt_id: "of the graph" }, MEASURED];
  page.sensitivities.live({ node: "5", text: "of the graph" });
  assert.equal(page.store.state.measuring, null);
  page.sensitivities.live({ node: MEASURING, text: "10% b.0" });
  await Promise.resolve();
  assert.equal(page.store.state.measuring.source, MEASURED.source);
  page.sensitivities.live({ node: MEASURING, text: "20% b.0" });
  await page.look();
  assert.deepEqual([page.store.state.measuring.prompt_id, page.store.state.measuring.text], ["p", "20% b.0"]);
  await page.sensitivities.cancel();
  assert.deepEqual(page.asked, [["POST", "/jobs/p/cancel", {}]]);
  page.queue = [];
  await page.look();
  assert.deepEqual([page.store.state.measuring, page.measured], [null, [[MEASURED.source, "c"]]]);
  page.sensitivities.live({ node: MEASURING, text: "late" });
  await Promise.resolve();
  assert.equal(page.store.state.measuring, null);
});

test("a measurement that failed says why; one that was cancelled or taken from the queue says nothing", async () => {
  const failed = ["execution_error", { exception_message: "No rows.\n" }];
  const cancelled = { status_str: "error", messages: [["execution_interrupted", {}]] };
  for (const [history, told] of [[{ p: { status_str: "error", messages: [failed] } }, "No rows."], [{ p: cancelled }, undefined]]) {
    const page = measuringPage(history);
    await page.sensitivities.found([MEASURED]);
    await page.sensitivities.found([]);
    assert.deepEqual([page.store.state.measuring, page.store.state.measureError?.message, page.measured], [null, told, []]);
  }
  const page = measuringPage();
  page.client.outcome = async () => undefined;
  await page.sensitivities.found([MEASURED]);
  await page.sensitivities.found([{ ...MEASURED, prompt_id: "next" }]);
  assert.deepEqual([page.store.state.measuring.prompt_id, page.store.state.measureError, page.measured], ["next", null, []]);
});

test("a measurement is named after its calibration, with its checkpoint where another one has that name", () => {
  const known = [{ name: "c", source: "fp8.safetensors" }, { name: "broken", source: null }];
  const named = (calibration) => nameFor(calibration, "checkpoints/bf16.safetensors", known);
  assert.deepEqual([named("c"), named("broken"), named("d")], ["c-bf16", "broken", "d"]);
  assert.equal(nameFor("c", "diffusion_models/fp8.safetensors", known), "c");
});

/** A session over a server; `hear` is an event of it. */
function sessionOver(answers, kept = storage()) {
  const server = fakeServer(answers);
  const listeners = {};
  const toasts = [];
  const host = { fetchApi: server.fetchApi, on: (type, listener) => (listeners[type] = listener), toast: (...told) => toasts.push(told), clientId: () => "c" };
  const session = createSession({ host, t, storage: kept, templateAddress: String });
  session.listen();
  return { ...server, session, toasts, kept, hear: (type, detail) => listeners[type]({ detail }) };
}

test("what was measured is chosen for the source that was measured, not for the one that is looked at meanwhile", async () => {
  const history = { "/history/p": { p: { status: { status_str: "success", messages: [] } } } };
  const lists = { "/nvfp4_studio/recipes": {}, "/nvfp4_studio/sensitivities": { sensitivities: [] } };
  const { session, kept, toasts } = sessionOver({ ...history, ...lists });
  rememberChoices(kept, MEASURED.source, { ...DEFAULTS, recipe: "mine" });
  session.store.set({ source: "checkpoints/other.safetensors" });
  await session.sensitivities.found([MEASURED]);
  await session.sensitivities.found([]);
  assert.equal(session.store.state.choices.sensitivity, null);
  assert.deepEqual([recallChoices(kept, MEASURED.source).sensitivity, recallChoices(kept, MEASURED.source).recipe], ["c", "mine"]);
  assert.deepEqual([lastSource(kept), toasts.map(([kind]) => kind)], ["checkpoints/other.safetensors", ["success"]]);
  session.store.set({ source: MEASURED.source });
  await session.sensitivities.found([MEASURED]);
  await session.sensitivities.found([]);
  assert.equal(session.store.state.choices.sensitivity, "c");
});

test("a measured sensitivity is deleted and not chosen any more; one that is refused stays, and the user hears why", async () => {
  const answers = { "/nvfp4_studio/recipes": {}, "/nvfp4_studio/sensitivities": { sensitivities: [] } };
  const there = { name: "c", source: "m.safetensors" };
  const { session, asked, toasts } = sessionOver(answers);
  const { store, plans, attempt } = session;
  store.set({ choices: { ...DEFAULTS, sensitivity: "c" }, options: { sensitivities: [there] } });
  answers["/nvfp4_studio/sensitivities/delete"] = undefined;
  await attempt(() => plans.removeSensitivity("c"));
  assert.deepEqual([store.state.choices.sensitivity, store.state.options.sensitivities, toasts], ["c", [there], [["error", "There is none."]]]);
  answers["/nvfp4_studio/sensitivities/delete"] = { deleted: "c" };
  await plans.removeSensitivity("c");
  assert.deepEqual(asked[0], ["POST", "/nvfp4_studio/sensitivities/delete", { name: "c" }]);
  assert.deepEqual([store.state.choices.sensitivity, store.state.options.sensitivities], [null, []]);
  store.set({ choices: { ...DEFAULTS, sensitivity: "other" } });
  await plans.removeSensitivity("c");
  assert.equal(store.state.choices.sensitivity, "other");
});

test("an interrupted conversion says how far it is, and how to go on where the page cannot do it", () => {
  const elsewhere = "To go on, convert again with the same choices.";
  const entry = { done: 3_000_000_000, total: 12_000_000_000, options: null };
  assert.equal(interruptedText(t, entry), `Stopped after 3.0 GB of 12.0 GB · ${elsewhere}`);
  assert.equal(interruptedText(t, { ...entry, options: {} }), "Stopped after 3.0 GB of 12.0 GB");
  assert.equal(interruptedText(t, { done: 0, total: 0, options: null }), elsewhere);
});

test("a plan is asked for anew when its step is opened and when everything is refreshed", async (context) => {
  context.mock.timers.enable({ apis: ["setTimeout"] });
  const { session, asked } = sessionOver({ "/nvfp4_studio/plan": { layers: [] } });
  session.store.set({ source: MEASURED.source });
  const plans = () => (context.mock.timers.tick(1000), asked.filter(([, path]) => path === "/nvfp4_studio/plan").length);
  session.go("plan");
  assert.equal(plans(), 1);
  session.go("convert");
  assert.equal(plans(), 1);
  await session.refresh();
  assert.equal(plans(), 2);
});

test("a file that was there already is not told as converted", () => {
  const { session, toasts, hear } = sessionOver({});
  const entry = { state: "finished", prompt_id: "p", node: "n", target: "checkpoints/a.safetensors", error: null, cancelled: false, seconds: 0 };
  hear("nvfp4_studio.conversion", { ...entry, skipped: true });
  hear("nvfp4_studio.conversion", { ...entry, node: "m", skipped: false });
  assert.deepEqual(toasts.map(([kind, text]) => [kind, text.split(":")[0]]), [["info", "a.safetensors is there already and up to date"], ["success", "a.safetensors is converted and verified."]]);
  assert.deepEqual(session.store.state.conversions.finished.map((ended) => endedText(t, ended).split(" ")[0]), ["Finished", "a.safetensors"]);
});

test("a merged calibration is chosen by the name that the server gave it", async () => {
  const { session } = sessionOver({
    "/nvfp4_studio/calibrations/merge": { name: "merged" },
    "/nvfp4_studio/calibrations": { calibrations: [{ name: "merged" }] },
    "/nvfp4_studio/calibration": { name: "merged" },
  });
  await session.calibrations.merge(["a", "b"], "merged.safetensors");
  assert.equal(session.store.state.choices.calibration, "merged");
});
