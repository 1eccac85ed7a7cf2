// Step 1: the checkpoints of this ComfyUI, and the header of each that is looked at.

const AT_ONCE = 3;

/** Loads the list and, for what is in view, the headers; a file that changed is looked at again. */
export function createSources({ store, client, textOf }) {
  const waiting = [];
  let running = 0;

  const stampOf = (entry) => `${entry.bytes}-${entry.modified_ns}`;

  async function refresh() {
    store.set({ sourcesLoading: true });
    try {
      const { sources } = await client.sources();
      store.set({ sources, sourcesError: null, sourcesLoading: false });
    } catch (error) {
      store.set({ sourcesError: textOf(error), sourcesLoading: false });
    }
  }

  function keep(id, stamp, header) {
    store.set((state) => ({ headers: { ...state.headers, [id]: { ...header, stamp } } }));
  }

  async function look(entry) {
    const stamp = stampOf(entry);
    try {
      keep(entry.id, stamp, await client.source(entry.id));
    } catch (error) {
      keep(entry.id, stamp, { id: entry.id, convertible: false, problem: textOf(error).message });
    }
  }

  function next() {
    while (running < AT_ONCE && waiting.length) {
      running += 1;
      look(waiting.shift()).finally(() => {
        running -= 1;
        next();
      });
    }
  }

  /** Look at a file's header, unless it is known; `first` puts it in front of the others. */
  function describe(id, { first = false } = {}) {
    const entry = store.state.sources?.find((candidate) => candidate.id === id);
    if (!entry) return;
    if (entry.problem) {
      keep(id, stampOf(entry), { id, convertible: false, problem: entry.problem });
      return;
    }
    const queued = waiting.findIndex((candidate) => candidate.id === id);
    if (queued >= 0) {
      if (first) waiting.unshift(...waiting.splice(queued, 1));
      return;
    }
    if (store.state.headers[id]?.stamp === stampOf(entry)) return;
    keep(id, stampOf(entry), { id, pending: true });
    if (first) waiting.unshift(entry);
    else waiting.push(entry);
    next();
  }

  return { refresh, describe };
}

/** The file's name in an id. Below the folder's key ComfyUI lists files with the separators of its system. */
export const fileOf = (id) => String(id ?? "").split(/[\\/]/).at(-1);

/** The entries whose id has every word of the search, those of the search's order. */
export function matching(entries, search) {
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  return entries.filter(({ id }) => words.every((word) => id.toLowerCase().includes(word)));
}

/** The stored types of a checkpoint, most layers first: "FP8", "BF16 + FP32". */
export function typesOf(header, nameOf) {
  const counted = Object.entries(header.formats ?? {}).sort(([, a], [, b]) => b - a);
  return [...new Set(counted.slice(0, 2).map(([format]) => nameOf(format)))].join(" + ");
}
