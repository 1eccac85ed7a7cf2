// The one-shot token travels in a hidden widget: into the one prompt that the button queues, never into a workflow.

export const TOKEN_INPUT = "conversion_token";

/** A widget that holds a token until the next partial execution; `queued` hears the token when the server took it. */
export function makeTicket(queued) {
  let token;
  let given;
  let armed = false;
  return {
    name: TOKEN_INPUT,
    type: "nvfp4_ticket",
    value: "",
    hidden: true,
    serialize: false,
    options: { hidden: true },
    computeSize: () => [0, -4],
    draw() {},
    put(value) {
      token = value;
    },
    // An ordinary Run tells that it is no partial execution: then the token stays where it is.
    beforeQueued(context) {
      given = undefined;
      armed = token !== undefined && context?.isPartialExecution !== false;
    },
    serializeValue() {
      if (!armed) return undefined;
      given = token;
      token = undefined;
      armed = false;
      return given;
    },
    // Called for prompts that the server did not refuse.
    afterQueued() {
      if (given !== undefined) queued(given);
      given = undefined;
    },
  };
}
