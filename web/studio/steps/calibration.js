// Step 2: statistics of the model's activations, collected while the user generates images.

import { h, setText } from "../dom.js";
import { calibrationName, comingCalibration } from "../model/calibrations.js";
import { calibrationDetails } from "../parts/calibration_details.js";
import { mergePanel } from "../parts/merge.js";
import { cardList } from "../parts/cards.js";
import { button, checkField, notice, section, selectField } from "../parts/controls.js";
import { templateOf } from "../template.js";

const NONE = "";

/** The workflow's part, the list, and the statistics of the chosen calibration: {element, update(state)}. */
export function calibrationStep(session) {
  const { t, store, calibrations, graph, host, select, attempt } = session;
  const inWorkflow = workflowPart(session);
  const problem = notice(t("details"));
  const list = cardList(t("calibration.list"), (name) => {
    select({ calibration: name || null });
    calibrations.open(name);
  });
  const details = calibrationDetails(session);
  const merge = mergePanel(session, () => merging.focus());
  const restart = button(t("calibration.restart"), () => remove("restart"), { symbol: "refresh" });
  const merging = button(t("calibration.merge"), () => merge.toggle(), { symbol: "plus-circle" });
  const erase = button(t("delete"), () => remove("delete"), { kind: "danger", symbol: "trash" });
  const actions = h("div", { class: "nvfp4-row" }, restart, merging, erase);
  const element = h(
    "div",
    { class: "nvfp4-stack nvfp4-short" },
    h("p", { class: "nvfp4-lead" }, t("calibration.lead")),
    inWorkflow.element,
    section(t("calibration.stored"), problem.element, list.element, details.element, actions, merge.element),
  );

  async function remove(what) {
    const name = store.state.choices.calibration;
    const agreed = await host.confirmDelete(t(`calibration.${what}Title`), t(`calibration.${what}Question`), [name]);
    if (agreed) await attempt(() => calibrations.remove(name));
    if (agreed && what === "restart") select({ calibration: name });
    if (agreed) list.focus();
  }

  function cardOf(entry) {
    const live = store.state.live[entry.name];
    const collecting = graph.calibrateNodes().some(({ name, active, connected }) => active && connected && name === entry.name);
    return {
      key: entry.name,
      title: entry.name,
      detail: [t.size(entry.bytes), live && t("calibration.samplings", { count: live.samplings })].filter(Boolean).join(" · "),
      badges: [collecting && t("calibration.collecting"), entry.influence && t("calibration.hasInfluence")].filter(Boolean),
    };
  }

  function update(state) {
    inWorkflow.update(state);
    const none = { key: NONE, title: t("calibration.none"), detail: t("calibration.noneDetail") };
    const wanted = state.choices.calibration;
    const stored = state.calibrations ?? [];
    const chosen = stored.some(({ name }) => name === wanted);
    const missing = comingCalibration(state);
    const coming = missing ? [{ key: missing, title: missing, detail: t("calibration.coming") }] : [];
    list.update([none, ...coming, ...stored.map(cardOf)], wanted ?? NONE);
    details.update(state);
    restart.hidden = !chosen;
    erase.hidden = !chosen;
    merging.hidden = stored.length < 2;
    merge.update(state);
    problem.show("error", state.calibrationsError?.message ?? "", state.calibrationsError?.details);
  }

  return { element, update };
}

/** Where the workflow stands, by whether it has the source's loader and by the calibrate nodes behind it. */
function stageOf(there, found) {
  if (!there) return "noLoader";
  if (found.length === 0) return "notStarted";
  const active = found.filter((entry) => entry.active);
  if (active.length === 0) return "paused";
  return active.some(({ connected }) => connected) ? "active" : "unconnected";
}

/** Where the workflow stands: no loader, a loader, collecting, paused; and the one thing to do next. */
function workflowPart({ t, graph, select, calibrations, headerOf, openTemplate, attempt, store }) {
  let wantedDetail = null;
  const detail = selectField(t("calibration.detail"), (value) => {
    wantedDetail = value;
    setDetail();
  });
  const probe = (checked) => current().forEach(({ node }) => graph.setWidget(node, "influence", checked));
  const influence = checkField(t("calibration.influence"), probe, t("calibration.influenceHelp"));
  const sentence = h("p", { role: "status" });
  const counts = h("p", { class: "nvfp4-live" });
  const start = button(t("calibration.start"), insert, { kind: "primary", symbol: "play" });
  const pause = button(t("calibration.pause"), () => pauseAll(true), { symbol: "pause" });
  const resume = button(t("calibration.resume"), () => pauseAll(false), { kind: "primary", symbol: "play" });
  const show = button(t("calibration.show"), () => graph.show(current()[0].node), { symbol: "eye" });
  const template = button(t("calibration.template"), fromTemplate, { kind: "primary", symbol: "file-plus" });
  const loader = button(t("calibration.addLoader"), addLoader, { symbol: "plus" });
  const element = section(
    t("calibration.workflow"),
    sentence,
    counts,
    detail.element,
    influence.element,
    h("div", { class: "nvfp4-row" }, start, resume, pause, show, template, loader),
  );

  /** The calibrate nodes behind this source's loaders. */
  function current() {
    const nodes = graph.calibrateNodes();
    const behind = graph.loadersOf(store.state.source).map(graph.calibrateBehind);
    return nodes.filter(({ node }) => behind.includes(node));
  }

  function choose(name) {
    select({ calibration: name });
    calibrations.open(name);
  }

  function insert() {
    const name = calibrationName(store.state.source);
    const node = graph.insertCalibrate(graph.loadersOf(store.state.source)[0], name, wantedDetail);
    if (node) choose(node.widgets.find((widget) => widget.name === "name").value);
    store.set({});
  }

  function setDetail() {
    for (const { node } of current()) graph.setWidget(node, "detail", wantedDetail);
  }

  async function fromTemplate() {
    await attempt(openTemplate);
    if (wantedDetail !== null) setDetail();
    calibrations.open(store.state.choices.calibration);
  }

  function addLoader() {
    const node = graph.addLoader(headerOf(store.state.source).loader);
    if (node) insert();
  }

  function pauseAll(paused) {
    for (const { node } of current()) graph.setPaused(node, paused);
    store.set({});
  }

  function update(state) {
    const there = graph.loadersOf(state.source).length > 0;
    const found = current();
    const widgetOf = (name) => found[0]?.node.widgets.find((candidate) => candidate.name === name);
    const stage = stageOf(there, found);
    setText(sentence, t(`calibration.${stage}`, { name: found[0]?.name ?? "" }));
    const live = found.map(({ name }) => state.live[name]).find(Boolean);
    const seen = live && `${t("calibration.samplings", { count: live.samplings })} · ${t.number(live.calls)} ${t("statistics.steps")}`;
    setText(counts, live && stage === "active" ? seen : "");
    counts.hidden = !counts.textContent;
    element.dataset.stage = stage;
    influence.element.hidden = !widgetOf("influence");
    influence.update(widgetOf("influence")?.value === true);
    start.hidden = stage !== "notStarted";
    pause.hidden = stage !== "active";
    resume.hidden = stage !== "paused";
    show.hidden = found.length === 0;
    template.hidden = there || !graph.isEmpty() || !templateOf(headerOf(state.source));
    loader.hidden = there || !headerOf(state.source)?.loader;
    const widget = widgetOf("detail");
    const details = widget?.options.values ?? state.options?.details ?? [];
    detail.element.hidden = details.length === 0 || (!widget && start.hidden && template.hidden && loader.hidden);
    const level = widget?.value ?? wantedDetail ?? state.options?.defaults.detail;
    detail.update(details.map((value) => [value, value]), level, t("calibration.detailHelp"));
  }

  return { element, update };
}
