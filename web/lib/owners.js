// Which workflow's button queued a prompt: the one in view may have a node of the same id.

import { TOKEN_INPUT } from "./ticket.js";

/** `inView()` gives the workflow that is shown, `queue()` what ComfyUI answers to /queue. */
export function makeOwners(inView, queue) {
  const owners = new Map();
  return {
    /** Note that the workflow in view queued the prompt with this token. */
    async note(token) {
      const owner = inView();
      const { queue_running: running, queue_pending: pending } = await queue();
      const mine = ([, , prompt]) => Object.values(prompt).some(({ inputs }) => inputs[TOKEN_INPUT] === token);
      const found = [...running, ...pending].find(mine);
      if (found) owners.set(found[1], owner);
    },

    /** Whether what is told of a prompt is meant for the workflow in view; so is what nobody here queued. */
    isInView: (promptId) => !owners.has(promptId) || owners.get(promptId) === inView(),
  };
}
