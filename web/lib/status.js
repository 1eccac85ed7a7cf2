// A few lines of text at the end of a node, drawn the same way on the canvas and in Nodes 2.0.

const NAME = "nvfp4_status";
const LINE = 17;
const CHARACTER = 6.2;
const PADDING = 14;

/** Height in pixels of the text on a node of this width, long lines wrapped. */
export function heightOf(text, width) {
  const perLine = Math.max(20, Math.floor((width - 40) / CHARACTER));
  const lines = text.split("\n").reduce((sum, line) => sum + Math.max(1, Math.ceil(line.length / perLine)), 0);
  return lines * LINE + PADDING;
}

function addStatus(node) {
  const element = document.createElement("div");
  element.className = "nvfp4-status";
  element.setAttribute("role", "status");
  Object.assign(element.style, {
    whiteSpace: "pre-wrap",
    overflowWrap: "anywhere",
    overflowY: "auto",
    fontSize: "12px",
    lineHeight: `${LINE}px`,
    padding: "6px 10px",
    boxSizing: "border-box",
    borderRadius: "6px",
    color: "var(--input-text, #ddd)",
    background: "var(--comfy-input-bg, #222)",
    userSelect: "text",
  });
  const widget = node.addDOMWidget(NAME, NAME, element, {
    serialize: false,
    hideOnZoom: false,
    getValue: () => element.textContent,
    setValue: (text) => {
      element.textContent = text;
    },
    getMinHeight: () => heightOf(element.textContent, node.size?.[0] ?? 300),
  });
  widget.serialize = false;
  return widget;
}

const widgetOf = (node) => node.widgets?.find((candidate) => candidate.name === NAME);

/** The text that the node shows, "" where it shows none. */
export const statusOf = (node) => widgetOf(node)?.value ?? "";

/** Show `text` on the node; the first call adds the widget. The text is never read as HTML. */
export function showStatus(node, text) {
  const widget = widgetOf(node) ?? addStatus(node);
  const value = String(text);
  widget.value = value;
  widget.element.style.minHeight = `${heightOf(value, node.size?.[0] ?? 300)}px`;
  const wanted = node.computeSize?.();
  if (wanted && node.size && node.size[1] < wanted[1]) node.setSize?.([node.size[0], wanted[1]]);
  node.setDirtyCanvas?.(true, true);
}
