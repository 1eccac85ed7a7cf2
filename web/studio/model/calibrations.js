// Step 2: stored calibrations, and the one that grows while the user samples.

import { debounced, newestOnly } from "../store.js";
import { fileOf } from "./sources.js";

const RELOAD_MS = 600;

/** Loads lists and statistics; live events carry counts, the statistics are asked for when a step was saved. */
export function createCalibrations({ store, client, textOf, select, arrived }) {
  const isThere = (name) => store.state.calibrations?.some((entry) => entry.name === name);

  async function refresh() {
    const before = store.state.calibrations;
    try {
      const { calibrations } = await client.calibrations();
      store.set({ calibrations, calibrationsError: null });
      const chosen = calibrations.find(({ name }) => name === store.state.choices.calibration);
      if (chosen && !before?.some(({ name }) => name === chosen.name)) arrived(chosen.name);
    } catch (error) {
      store.set({ calibrationsError: textOf(error) });
    }
  }

  const statistics = newestOnly((name) => client.calibration(name));

  async function open(name) {
    if (!isThere(name)) return;
    try {
      const found = await statistics(name);
      if (found) store.set((state) => ({ statistics: { ...state.statistics, [name]: found } }));
    } catch (error) {
      store.set((state) => ({ statistics: { ...state.statistics, [name]: { name, problem: textOf(error).message } } }));
    }
  }

  const openSoon = debounced(open, RELOAD_MS);
  const refreshSoon = debounced(refresh, RELOAD_MS);

  /** An event of the server, after each step of a sampling. */
  function live(detail) {
    store.set((state) => ({ live: { ...state.live, [detail.name]: { ...detail, seen: Date.now() } } }));
    // When a sampling has ended the file is larger, and influence may be there for the first time.
    if (!detail.running || !isThere(detail.name)) refreshSoon();
    if (store.state.choices.calibration === detail.name) openSoon(detail.name);
  }

  async function remove(name) {
    await client.deleteCalibration(name);
    store.set((state) => {
      const { [name]: _, ...statisticsOfOthers } = state.statistics;
      const { [name]: __, ...liveOfOthers } = state.live;
      return { statistics: statisticsOfOthers, live: liveOfOthers };
    });
    if (store.state.choices.calibration === name) select({ calibration: null });
    await refresh();
  }

  async function merge(names, into) {
    const { name } = await client.mergeCalibrations(names, into);
    await refresh();
    select({ calibration: name });
    await open(name);
  }

  return { refresh, open, openSoon, live, remove, merge };
}

/** A name for a source's calibration: its file name without folders and suffix. */
export function calibrationName(source) {
  return fileOf(source).replace(/\.[^.]+$/, "");
}

/** Share 0..1 of each noise bin against the fullest one, low noise first. */
export function binHeights(schedule) {
  const most = Math.max(...schedule, 1);
  return schedule.map((count) => count / most);
}

/** The chosen calibration where it has no file yet, else null. It may have one as long as the list is not loaded. */
export function comingCalibration({ choices: { calibration }, calibrations }) {
  const there = !calibrations || calibrations.some(({ name }) => name === calibration);
  return there ? null : calibration;
}

/** The choices as the server can take them: a calibration that is known to have no file yet is none. */
export function usableChoices(state) {
  return comingCalibration(state) === null ? state.choices : { ...state.choices, calibration: null };
}
