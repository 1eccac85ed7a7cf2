// Measured errors of every layer in every format: what a budget needs. They are measured in ComfyUI's queue.

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

/** Starts a measurement and follows it by the texts that its node shows. */
export function createSensitivities({ store, client, clientId, textOf, measured }) {
  let prompt = null;

  async function measure(source, calibration, inputScale) {
    store.set({ measuring: { text: "" }, measureError: null });
    try {
      const inputs = { ...defaultsOf(await client.definition(NODE)), source, calibration, input_scale: inputScale };
      const token = await client.token(MEASURING);
      const node = { class_type: NODE, inputs: { ...inputs, name: "", overwrite: true, conversion_token: token } };
      const answer = await client.queue({ client_id: clientId(), prompt: { [MEASURING]: node } });
      prompt = { id: answer.prompt_id, name: calibration };
    } catch (error) {
      store.set({ measuring: null, measureError: textOf(error) });
    }
  }

  /** A text that a node shows; only the measurement's own is meant. */
  function live({ node, text }) {
    if (node === MEASURING) store.set({ measuring: { text } });
  }

  /** A prompt ended, with an error where there is one. */
  function ended(promptId, error) {
    if (promptId !== prompt?.id) return;
    const { name } = prompt;
    prompt = null;
    store.set({ measuring: null, measureError: error ? { message: error, details: "" } : null });
    if (error === undefined) measured(name);
  }

  const cancel = () => client.interrupt(prompt?.id);

  return { measure, live, ended, cancel };
}

/** Those that were measured on this source and can be used; where none tells its source, all. */
export function sensitivitiesOf(sensitivities, source) {
  const file = source?.split("/").at(-1);
  return sensitivities.filter((entry) => !entry.problem && [source, file].includes(entry.source));
}
