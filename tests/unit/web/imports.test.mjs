// Importing a script does nothing but register the extension: ComfyUI loads every file below web/ as one of its own.

import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { register } from "node:module";
import test from "node:test";
import { registered } from "./frontend_stub.mjs";

register("./hooks.mjs", import.meta.url);

const web = new URL("../../../web/", import.meta.url);
const scripts = readdirSync(web, { recursive: true })
  .map((path) => path.replaceAll("\\", "/"))
  .filter((path) => path.endsWith(".js"))
  .sort();

// There is no document, no window and no LiteGraph here, so a script that touches the page at import fails.
test("every script can be imported where there is no page, and leaves no global behind", async () => {
  assert.ok(scripts.includes("nvfp4_studio.js"));
  const before = Reflect.ownKeys(globalThis);
  for (const path of scripts) {
    const count = registered.length;
    await import(new URL(path, web).href);
    if (path !== "nvfp4_studio.js") assert.equal(registered.length, count, `${path} registers an extension`);
  }
  assert.deepEqual(Reflect.ownKeys(globalThis), before);
});

test("the pack registers one extension", async () => {
  await import(new URL("nvfp4_studio.js", web).href);
  assert.deepEqual(
    registered.map(({ name }) => name),
    ["nvfp4-studio"],
  );
});
