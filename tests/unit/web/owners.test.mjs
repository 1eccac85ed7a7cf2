// What a server tells of a prompt is shown in the workflow that queued it.

import assert from "node:assert/strict";
import test from "node:test";
import { makeOwners } from "../../../web/lib/owners.js";

const entry = (id, inputs) => [0, id, { 5: { class_type: "NVFP4Convert", inputs } }, {}, ["5"]];

test("of two workflows with nodes of the same id the one whose button queued the prompt is told", async () => {
  const [mine, copy] = [{}, {}];
  let inView = mine;
  const queue = { queue_running: [entry("p", {})], queue_pending: [entry("q", { conversion_token: "T" })] };
  const owners = makeOwners(() => inView, async () => queue);
  const noted = owners.note("T");
  inView = copy;
  await noted;
  assert.deepEqual(["p", "q", null].map(owners.isInView), [true, false, true]);
  inView = mine;
  assert.equal(owners.isInView("q"), true);
  await owners.note("over already");
});
