// ComfyUI's two scripts as far as an import needs them: what the pack registers is kept, everything else is absent.

export const registered = [];
export const app = { registerExtension: (extension) => registered.push(extension) };
export const api = {};
