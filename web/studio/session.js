// The studio without a page: state, what can be done, and what the server tells.

import { createClient } from "./client.js";
import { COMPARISON, filledComparison, sourceOfResult } from "./comparison.js";
import { createGraph } from "./graph.js";
import { calibrationName, createCalibrations } from "./model/calibrations.js";
import { DEFAULTS, lastSource, recallChoices, rememberChoices } from "./model/choices.js";
import { createConversions } from "./model/conversions.js";
import { createPlans } from "./model/plans.js";
import { createResults } from "./model/results.js";
import { createSensitivities } from "./model/sensitivities.js";
import { createSources, fileOf } from "./model/sources.js";
import { createStore, debounced } from "./store.js";
import { filledTemplate, templateOf } from "./template.js";

export const STEPS = ["source", "calibration", "plan", "convert", "result"];
const EVENTS = {
  conversion: "nvfp4_studio.conversion",
  calibration: "nvfp4_studio.calibration",
  status: "nvfp4_studio.status",
  refresh: "nvfp4_studio.refresh",
};
const CONVERTED_BY = ["output_name", "overwrite"];
const PLANNED_BY = Object.keys(DEFAULTS).filter((name) => !CONVERTED_BY.includes(name));
const REFRESH_MS = 200;

const INITIAL = {
  step: "source",
  search: "",
  source: null,
  sources: null,
  headers: {},
  calibrations: null,
  statistics: {},
  live: {},
  options: null,
  choices: DEFAULTS,
  plan: null,
  planning: false,
  measuring: null,
  conversions: { running: [], queued: [], finished: [], interrupted: [] },
  cleared: [],
  results: [],
  result: null,
  report: null,
};

/** Everything that the tab, the menus and the events share. `storage` is the browser's localStorage. */
export function createSession({ host, t, storage, templateAddress }) {
  const store = createStore(INITIAL);
  const client = createClient(host.fetchApi);
  const graph = createGraph(host);

  /** An error as {message, details}, the message in the user's language where it is ours. */
  function textOf(error) {
    if (error.name !== "RequestError") return { message: t("error.unexpected"), details: String(error.stack ?? error) };
    return { message: error.status ? t.told(error.message) : t("error.offline"), details: error.details };
  }

  /** Do something; an error becomes a toast. */
  async function attempt(action) {
    try {
      return await action();
    } catch (error) {
      host.toast("error", textOf(error).message);
      return undefined;
    }
  }

  /** Change the choices of the source. */
  function select(patch) {
    const { source, choices } = store.state;
    const chosen = { ...choices, ...patch };
    store.set({ choices: chosen });
    if (!source) return;
    rememberChoices(storage, source, chosen);
    if (PLANNED_BY.some((name) => name in patch)) plans.refresh();
  }

  const shared = { store, client, t, textOf, select };
  const sources = createSources(shared);
  const plans = createPlans(shared);
  const calibrations = createCalibrations({ ...shared, arrived });
  const results = createResults(shared);
  const sensitivities = createSensitivities({ ...shared, clientId: host.clientId, look: () => conversions.refresh(), measured });
  const conversions = createConversions({ ...shared, clientId: host.clientId, measuring: sensitivities.found, ended });

  function selectSource(id) {
    if (id === store.state.source) return;
    const choices = recallChoices(storage, id);
    store.set({ source: id, choices, plan: null, planError: null });
    rememberChoices(storage, id, choices);
    sources.describe(id, { first: true });
    calibrations.open(choices.calibration);
    plans.refresh();
  }

  /** The file of the chosen calibration came into being. */
  function arrived(name) {
    calibrations.open(name);
    plans.refresh();
  }

  /** The errors of a source's layers are measured; another source may have been selected meanwhile. */
  async function measured(source, name) {
    await plans.options();
    const { source: selected, choices } = store.state;
    if (source === selected) select({ sensitivity: name });
    else {
      rememberChoices(storage, source, { ...recallChoices(storage, source), sensitivity: name });
      if (selected) rememberChoices(storage, selected, choices);
    }
    host.toast("success", t("plan.measured", { name }));
  }

  function go(step) {
    store.set({ step });
    if (step === "plan") plans.refresh();
    if (step === "convert") conversions.refresh();
    if (step === "result") results.refresh();
  }

  function openResult(id) {
    go("result");
    return results.open(id);
  }

  /** A conversion ended: tell it once, and look at what there is now. */
  function ended({ target, source, error, cancelled, skipped }) {
    const name = fileOf(target ?? source);
    if (error) host.toast("error", t("ended.failed", { name, error: t.told(error) }));
    else if (cancelled) host.toast("info", t("ended.cancelled", { name }));
    else if (skipped) host.toast("info", t("ended.there", { name }));
    else host.toast("success", t("ended.done", { name }));
    refreshSoon();
  }

  async function useResult(loader) {
    await host.app.refreshComboInNodes?.();
    const used = graph.useFile(loader);
    if (used) host.toast("success", t(used.added ? "result.added" : "result.set", { name: loader.value }));
  }

  /** Put a converted file into one loader. */
  async function useIn(node, { widget, value }) {
    await host.app.refreshComboInNodes?.();
    graph.setWidget(node, widget, value);
    host.changed();
    host.toast("success", t("result.set", { name: value }));
  }

  /** The example workflow with this source, for an empty canvas. */
  async function openTemplate() {
    const { source, headers } = store.state;
    const header = headers[source];
    const name = calibrationName(source);
    const answer = await fetch(templateAddress(templateOf(header)));
    const workflow = filledTemplate(await answer.json(), header.loader, source, name);
    await host.app.loadGraphData(workflow, true, true, name);
    select({ calibration: name });
  }

  /** The comparing example with the result that is looked at and its source, in a new workflow. */
  async function compareResult() {
    const { sources: all, source: chosen, result, report } = store.state;
    const id = sourceOfResult(all ?? [], report.plan.source, result, chosen);
    if (!id) {
      host.toast("info", t("result.noSource", { name: report.plan.source }));
      return;
    }
    const { loader, family } = await client.source(id);
    const answer = await fetch(templateAddress(COMPARISON));
    const qwen = Boolean(family?.startsWith("qwen-image"));
    const workflow = filledComparison(await answer.json(), loader, report.loader, qwen);
    await host.app.refreshComboInNodes?.();
    await host.app.loadGraphData(workflow, true, true, `${calibrationName(result)}-compare`);
  }

  async function refresh() {
    await Promise.all([sources.refresh(), calibrations.refresh(), conversions.refresh(), results.refresh(), plans.options()]);
    const { source, choices } = store.state;
    if (source) sources.describe(source, { first: true });
    if (choices.calibration) calibrations.open(choices.calibration);
    plans.refresh();
  }

  const refreshSoon = debounced(refresh, REFRESH_MS);

  /** First look: what the user worked on last, where that is still there. */
  async function begin() {
    await refresh();
    const last = store.state.source ?? lastSource(storage);
    if (!store.state.source && store.state.sources?.some(({ id }) => id === last)) selectSource(last);
    if (store.state.step === "source" && store.state.conversions.running.length) go("convert");
  }

  /** The queue changed; who looks at neither conversions nor a measurement needs not ask. */
  function lookAtQueue() {
    if (store.state.step === "convert" || store.state.measuring) conversions.refresh();
  }

  function listen() {
    host.on(EVENTS.conversion, ({ detail }) => conversions.live(detail));
    host.on(EVENTS.calibration, ({ detail }) => calibrations.live(detail));
    host.on(EVENTS.refresh, refreshSoon);
    host.on("reconnected", refreshSoon);
    host.on(EVENTS.status, ({ detail }) => sensitivities.live(detail));
    host.on("execution_success", () => calibrations.openSoon(store.state.choices.calibration));
    host.on("status", debounced(lookAtQueue, REFRESH_MS));
  }

  const headerOf = (id) => (store.state.headers[id]?.pending ? undefined : store.state.headers[id]);
  const actions = { select, selectSource, go, openResult, useResult, useIn, openTemplate, compareResult, attempt, refresh, begin, listen };
  return { host, t, store, client, graph, textOf, headerOf, sources, calibrations, plans, conversions, results, sensitivities, ...actions };
}
