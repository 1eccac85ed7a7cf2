// The studio in the page: made once, drawn whenever its sidebar tab is open.

import { menuItemsOf } from "./menu.js";
import { createHost } from "./host.js";
import { createSession } from "./session.js";
import { createTab } from "./tab.js";
import { createTranslator } from "./text.js";

/** `base` is the address of the pack's web folder; its last folder but one is the pack's name in ComfyUI. */
export function openStudio(app, api, base) {
  const host = createHost(app, api);
  const pack = decodeURIComponent(base.pathname.split("/").filter(Boolean).at(-1));
  let tab = null;
  let messages = null;

  function addStyles() {
    const link = document.createElement("link");
    link.rel = "stylesheet";
    link.href = new URL("studio/studio.css", base).href;
    document.head.append(link);
  }

  function templateAddress(name) {
    return api.apiURL(`/workflow_templates/${encodeURIComponent(pack)}/${name}.json`);
  }

  async function open() {
    const t = createTranslator(await messages, host.locale());
    const session = createSession({ host, t, storage: globalThis.localStorage, templateAddress });
    session.listen();
    return { session, begun: session.begin() };
  }

  let opening = null;
  /** The session opens when it is first needed: a page whose tab is never opened asks the server for nothing. */
  const opened = () => (opening ??= open());

  /** The session, after its first look at what there is. */
  async function ready() {
    const { session, begun } = await opened();
    await begun;
    return session;
  }

  /** ComfyUI may call this again for the same element. The lists fill while the tab is shown. */
  async function render(container) {
    container.classList.add("nvfp4-host");
    const { session } = await opened();
    if (!container.isConnected || container.firstElementChild?.classList.contains("nvfp4-studio")) return;
    tab?.destroy();
    tab = createTab(session);
    container.replaceChildren(tab.element);
  }

  function destroy() {
    tab?.destroy();
    tab = null;
  }

  return {
    async setup() {
      addStyles();
      messages = host.messages().catch(() => ({}));
      const t = createTranslator(await messages, host.locale());
      this.t = t;
      host.registerTab({ title: "NVFP4 Studio", icon: "pi pi-microchip", tooltip: "NVFP4 Studio", render, destroy });
      this.menuItems = (node) => menuItemsOf(node, { t, host, ready });
    },
    menuItems: (_node) => [],
    t: createTranslator({}, "en"),
  };
}
