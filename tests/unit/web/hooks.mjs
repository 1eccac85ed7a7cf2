// Node's resolution of the imports below web/: scripts/app.js and scripts/api.js are the stub, nothing else leaves web/.

const STUB = new URL("./frontend_stub.mjs", import.meta.url).href;
const WEB = new URL("../../../web/", import.meta.url).href;
const SERVED = "/extensions/nvfp4-studio/";

/** Where the browser would look: web/ is served two folders below the frontend's root. */
function served(specifier, parent) {
  return new URL(specifier, `http://comfyui${SERVED}${parent.slice(WEB.length)}`).pathname;
}

export async function resolve(specifier, context, next) {
  if (!context.parentURL?.startsWith(WEB)) return next(specifier, context);
  const path = served(specifier, context.parentURL);
  if (path === "/scripts/app.js" || path === "/scripts/api.js") return { url: STUB, shortCircuit: true };
  if (/^\.\.?\//.test(specifier) && path.startsWith(SERVED)) return next(specifier, context);
  throw new Error(`${context.parentURL.slice(WEB.length)} imports ${specifier}, which is neither its own nor app.js or api.js`);
}
