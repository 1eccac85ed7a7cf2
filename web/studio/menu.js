// What a loader's context menu offers: the way into the studio, and its steps as single commands.

import { loaderOf } from "../lib/loaders.js";
import { createGraph } from "./graph.js";
import { calibrationName } from "./model/calibrations.js";
import { fileOf } from "./model/sources.js";

/** The entries for a node; none when it loads no diffusion model. `ready()` gives the session. */
export function menuItemsOf(node, { t, host, ready }) {
  const loader = loaderOf(node);
  if (!loader) return [];

  async function openTab(step) {
    const session = await ready();
    session.selectSource(loader.source);
    session.go(step);
    host.openTab();
    return session;
  }

  async function calibrate() {
    const session = await openTab("calibration");
    const inserted = session.graph.insertCalibrate(node, calibrationName(loader.source));
    const name = inserted?.widgets.find((widget) => widget.name === "name")?.value;
    if (name) session.select({ calibration: name });
  }

  const addConvert = () => createGraph(host).addConvert(node, loader.source);

  async function useConverted() {
    const session = await ready();
    await session.results.refresh();
    const found = newestResultOf(session.store.state.results, loader.source);
    if (found) await session.useIn(node, found.loader);
    else host.toast("info", t("menu.noneConverted", { name: loader.widget.value }));
  }

  return [
    { content: t("menu.convert"), callback: () => openTab("plan") },
    { content: t("menu.addConvert"), callback: addConvert },
    { content: t("menu.calibrate"), callback: calibrate },
    { content: t("menu.use"), callback: useConverted },
  ];
}

/** The newest converted file of a source that a loader of its folder can open, else undefined. */
export function newestResultOf(results, source) {
  const [folder] = source.split("/");
  const file = fileOf(source);
  return results
    .filter((entry) => entry.source === source || (entry.source === file && entry.id.startsWith(`${folder}/`)))
    .sort((a, b) => b.modified_ns - a.modified_ns)[0];
}
