// What the pack takes from ComfyUI's frontend. The server offers the two scripts, so they are on no disk here; where
// the published types are narrower than the frontend, they are widened.

declare module "*/scripts/app.js" {
  import type { ComfyApp, ComfyExtension, DOMWidget, DOMWidgetOptions } from "@comfyorg/comfyui-frontend-types";
  type LGraphNode = Parameters<NonNullable<ComfyExtension["loadedGraphNode"]>>[0];

  /** A node of ComfyUI: with the class name of its definition, HTML widgets, and what its execution showed. */
  interface ComfyNode extends LGraphNode {
    comfyClass: string;
    addDOMWidget<T extends HTMLElement, V extends object | string>(
      name: string,
      type: string,
      element: T,
      options?: DOMWidgetOptions<V>,
    ): DOMWidget<T, V>;
    onExecuted?(output: Record<string, any>): void;
  }

  interface Extension extends ComfyExtension {
    nodeCreated?(node: ComfyNode): void;
    getNodeMenuItems?(node: ComfyNode): ReturnType<NonNullable<ComfyExtension["getNodeMenuItems"]>>;
    onNodeOutputsUpdated?(outputs: Record<string, Record<string, any>>): void;
  }

  export const app: Omit<ComfyApp, "registerExtension"> & { registerExtension(extension: Extension): void };
}

declare module "*/scripts/api.js" {
  import type { ComfyApi } from "@comfyorg/comfyui-frontend-types";
  type Listener = (event: CustomEvent<any>) => void;
  interface OwnEvents {
    addEventListener(type: `nvfp4_studio.${string}`, listener: Listener): void;
    removeEventListener(type: `nvfp4_studio.${string}`, listener: Listener): void;
  }
  export const api: OwnEvents & ComfyApi;
}
