// Measured errors of every layer in every format: what a budget needs. They are measured in ComfyUI's queue.

import { calibrationName } from "./calibrations.js";
import { fileOf } from "./sources.js";

/** The node's id in the queued prompt; see NODE_ID of the conversions. */
export const MEASURING = "nvfp4_studio_measure";
const NODE = "NVFP4Sensitivity";

/** What a node's widgets start with, from its definition in /object_info. */
export function defaultsOf(definition) {
  const inputs = { ...definition.input.required, ...definition.input.optional };
  return Object.fromEntries(
    Object.entries(inputs).map(([name, [type, options]]) => {
      const choices = Array.isArray(type) ? type : options?.options;
      return [name, options?.default ?? choices?.[0] ?? ""];
    }),
  );
}

/** What the result is called: as its calibration, unless that is the name of another checkpoint's measurement. */
export function nameFor(calibration, source, sensitivities) {
  const taken = sensitivities.some((entry) => entry.name === calibration && entry.source && !isOf(entry, source));
  return taken ? `${calibration}-${calibrationName(source)}` : calibration;
}

/**
 * Starts a measurement and follows it, whichever page started it: the server tells what is measured (`look` asks it),
 * the texts that the node shows tell how far it is, and ComfyUI's history how it ended.
 */
export function createSensitivities({ store, client, clientId, textOf, look, measured }) {
  async function measure(source, calibration, inputScale) {
    store.set({ measuring: { source, text: "" }, measureError: null });
    try {
      const name = nameFor(calibration, source, store.state.options.sensitivities);
      const inputs = { ...defaultsOf(await client.definition(NODE)), source, calibration, name, input_scale: inputScale };
      const token = await client.token(MEASURING);
      const node = { class_type: NODE, inputs: { ...inputs, overwrite: true, conversion_token: token } };
      const answer = await client.queue({ client_id: clientId(), prompt: { [MEASURING]: node } });
      store.set((state) => ({ measuring: { ...state.measuring, name, prompt_id: answer.prompt_id } }));
    } catch (error) {
      store.set({ measuring: null, measureError: textOf(error) });
      return;
    }
    await look();
  }

  let looking = null;

  /** A text that a node shows; only the measurement's own is meant. */
  function live({ node, text }) {
    if (node !== MEASURING) return;
    const { measuring } = store.state;
    if (measuring) store.set({ measuring: { ...measuring, text } });
    else looking ??= look().finally(() => (looking = null));
  }

  /** What the server measures now and next, of any page; the one that was followed may have ended. */
  async function found(entries) {
    const { measuring: before } = store.state;
    if (before && !before.prompt_id) return; // on its way to the queue
    const [first] = entries.filter(({ node }) => node === MEASURING);
    if (first?.prompt_id !== before?.prompt_id) {
      store.set({ measuring: first ? { ...first, name: first.name || first.calibration, text: "" } : null });
    }
    if (before && !entries.some((entry) => entry.prompt_id === before.prompt_id)) await settle(before);
  }

  /** One that was removed from the queue has no outcome. */
  async function settle({ prompt_id: id, source, name }) {
    try {
      const outcome = await client.outcome(id);
      const [, error] = outcome?.messages.find(([kind]) => kind === "execution_error") ?? [];
      if (error) store.set({ measureError: { message: error.exception_message.trim(), details: "" } });
      else if (outcome?.status_str === "success") await measured(source, name);
    } catch (error) {
      store.set({ measureError: textOf(error) });
    }
  }

  async function cancel() {
    await client.cancel(store.state.measuring.prompt_id);
    await look();
  }

  return { measure, live, found, cancel };
}

const isOf = (entry, source) => [source, fileOf(source)].includes(entry.source);

/** Those that were measured on this source and can be used; where none tells its source, all. */
export function sensitivitiesOf(sensitivities, source) {
  return sensitivities.filter((entry) => !entry.problem && isOf(entry, source));
}
