// Step 5: converted files and the reports beside them.

import { newestOnly } from "../store.js";

/** Loads the list and the report of the file that is looked at. */
export function createResults({ store, client, textOf }) {
  async function refresh() {
    try {
      const { results } = await client.results();
      store.set({ results, resultsError: null });
      const { result, report, reportError } = store.state;
      const there = results.some(({ id }) => id === result);
      // It was asked for before it was there, or after it was deleted and before it was converted again.
      if (reportError && there) await open(result);
      // Another page deleted it.
      if (report && !there) await open(null);
    } catch (error) {
      store.set({ resultsError: textOf(error) });
    }
  }

  const report = newestOnly((id) => client.result(id));

  async function open(id) {
    store.set({ result: id, report: null, reportError: null });
    if (!id) return;
    try {
      const found = await report(id);
      if (found) store.set({ report: found });
    } catch (error) {
      store.set({ reportError: textOf(error) });
    }
  }

  async function remove(id) {
    await client.deleteResult(id);
    if (store.state.result === id) await open(null);
    await refresh();
  }

  return { refresh, open, remove };
}

/** The layers of the model's blocks, with the error that was measured in the place of the predicted one. */
export function measuredLayers(report) {
  return (report?.plan?.layers ?? []).filter(({ block }) => block).map((layer) => ({ ...layer, predicted: layer.error ?? null }));
}

/** The layers with the largest weight error first, at most `count`; those that were copied have none. */
export function worstLayers(report, count = 8) {
  return (report?.plan?.layers ?? [])
    .filter((layer) => Number.isFinite(layer.error?.sqnr_db))
    .sort((a, b) => a.error.sqnr_db - b.error.sqnr_db)
    .slice(0, count);
}
