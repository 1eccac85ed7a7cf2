// The state of the tab: one object, changed by patches, told once per turn to whoever draws it.

/** A store: `state`, `set(patch)`, `subscribe(listener)` -> function that ends the subscription. */
export function createStore(initial) {
  let state = initial;
  let scheduled = false;
  const listeners = new Set();

  function tell() {
    scheduled = false;
    for (const listener of [...listeners]) listener(state);
  }

  return {
    get state() {
      return state;
    },
    set(patch) {
      state = { ...state, ...(typeof patch === "function" ? patch(state) : patch) };
      if (scheduled) return;
      scheduled = true;
      queueMicrotask(tell);
    },
    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}

/** A function that runs `action` after `milliseconds` without a further call. */
export function debounced(action, milliseconds) {
  let timer;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...values), milliseconds);
  };
}

/**
 * Runs an asynchronous action so that only the newest call's answer counts: an answer that was overtaken is dropped.
 * @template T
 * @param {(...values: any[]) => Promise<T>} action
 * @returns {(...values: any[]) => Promise<T | undefined>} undefined where the answer was overtaken
 */
export function newestOnly(action) {
  let newest = 0;
  return async (...values) => {
    newest += 1;
    const mine = newest;
    try {
      const answer = await action(...values);
      return mine === newest ? answer : undefined;
    } catch (error) {
      if (mine === newest) throw error;
      return undefined;
    }
  };
}
