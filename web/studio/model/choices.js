// What was chosen last for each source, kept in the browser.

const KEY = "nvfp4_studio.choices";
const KEPT_SOURCES = 40;

/**
 * What a source starts with. `null` for a list's choice means that the server's default holds; a layer that is pinned
 * to null is one that the recipe pins and the user released.
 */
export const DEFAULTS = Object.freeze({
  calibration: null,
  recipe: "auto",
  input_scale: null,
  rounding: null,
  layout: null,
  text_encoder: null,
  pre_quant: null,
  gain: false,
  budget: "",
  sensitivity: null,
  kernels: null,
  pins: {},
  output_name: "",
  overwrite: false,
});

const TYPES = { budget: "string", output_name: "string", recipe: "string", gain: "boolean", overwrite: "boolean" };

function read(storage) {
  try {
    const kept = JSON.parse(storage.getItem(KEY) ?? "{}");
    return kept && typeof kept === "object" && !Array.isArray(kept) ? kept : {};
  } catch {
    return {}; // unreadable or forbidden storage is an empty one
  }
}

/** Only known fields of the right type: the storage may hold what another version wrote. */
export function checkedChoices(kept) {
  const chosen = { ...DEFAULTS, pins: {} };
  if (!kept || typeof kept !== "object") return chosen;
  for (const name of Object.keys(DEFAULTS)) {
    const value = kept[name];
    if (name === "pins") {
      const pins = Object.entries(value ?? {}).filter(([, policy]) => policy === null || typeof policy === "string");
      chosen.pins = Object.fromEntries(pins);
    } else if (TYPES[name] ? typeof value === TYPES[name] : value === null || typeof value === "string") {
      chosen[name] = value;
    }
  }
  return chosen;
}

/** The choices of a source, or the defaults. */
export function recallChoices(storage, source) {
  return checkedChoices(read(storage)[source]);
}

/** Keep the choices of a source; the source that was chosen longest ago is forgotten first. */
export function rememberChoices(storage, source, choices) {
  const { [source]: _, ...others } = read(storage);
  const kept = [...Object.entries(others), [source, choices]].slice(-KEPT_SOURCES);
  try {
    storage.setItem(KEY, JSON.stringify(Object.fromEntries(kept)));
  } catch {
    // full or forbidden storage: the choices then last as long as the page
  }
}

/** The source that was worked on last, or null. */
export function lastSource(storage) {
  return Object.keys(read(storage)).at(-1) ?? null;
}
