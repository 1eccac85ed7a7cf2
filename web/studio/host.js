// What the studio asks of ComfyUI's frontend: messages, dialogs, language, the server's events, the sidebar.

export const TAB = "nvfp4-studio";
const TOAST_MS = 6000;

/** `app` and `api` are the frontend's; nothing else of it is used. */
export function createHost(app, api) {
  const manager = () => app.extensionManager;

  return {
    app,
    fetchApi: (path, options) => api.fetchApi(path, options),
    address: (path) => api.apiURL(path),
    clientId: () => api.clientId,
    /** ComfyUI's language. It has no German and then says "en"; the pack has it. */
    locale() {
      const chosen = manager().setting.get("Comfy.Locale") || "en";
      const [first = "en"] = navigator.languages ?? [];
      return chosen === "en" && first.startsWith("de") ? first : chosen;
    },
    messages: async () => (await api.fetchApi("/i18n")).json(),

    toast(severity, detail) {
      manager().toast.add({ severity, summary: "NVFP4 Studio", detail, life: TOAST_MS });
    },

    /** A question before something is deleted; true where the user agreed. */
    async confirmDelete(title, message, items) {
      return Boolean(await manager().dialog.confirm({ title, message, type: "delete", itemList: items }));
    },

    /** A line of text, null where the user closed the dialog. */
    async ask(title, message, defaultValue) {
      const answer = await manager().dialog.prompt({ title, message, defaultValue });
      return answer?.trim() || null;
    },

    registerTab(tab) {
      manager().registerSidebarTab({ id: TAB, type: "custom", ...tab });
    },

    openTab() {
      manager().sidebarTab.activeSidebarTabId = TAB;
    },

    /** Listen to an event of the server or of the connection. */
    on(event, listener) {
      api.addEventListener(event, listener);
      return () => api.removeEventListener(event, listener);
    },

    /** Let the workflow's undo know that the graph was changed as one step. */
    changed() {
      app.canvas?.setDirty(true, true);
      manager().workflow?.activeWorkflow?.changeTracker?.checkState?.();
    },
  };
}
