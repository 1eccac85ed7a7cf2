// A page as far as the studio's steps need one to be built and read without a browser: elements, text, listeners.

class Element {
  attributes = new Map();
  childNodes = [];
  listeners = {};
  dataset = {};
  style = {};
  hidden = false;
  disabled = false;
  parent = null;
  #text = "";

  constructor(localName) {
    this.localName = localName;
    const names = () => new Set((this.getAttribute("class") ?? "").split(" ").filter(Boolean));
    this.classList = {
      contains: (name) => names().has(name),
      toggle: (name, wanted) => {
        const all = names();
        all[wanted ? "add" : "delete"](name);
        this.setAttribute("class", [...all].join(" "));
      },
    };
  }

  get id() {
    return this.getAttribute("id") ?? "";
  }

  set id(value) {
    this.setAttribute("id", value);
  }

  getAttribute(name) {
    return this.attributes.get(name) ?? null;
  }

  setAttribute(name, value) {
    this.attributes.set(name, value);
  }

  removeAttribute(name) {
    this.attributes.delete(name);
  }

  get firstChild() {
    return this.childNodes[0] ?? null;
  }

  get nextSibling() {
    const { childNodes } = this.parent;
    return childNodes[childNodes.indexOf(this) + 1] ?? null;
  }

  insertBefore(child, place) {
    child.remove();
    this.childNodes.splice(place ? this.childNodes.indexOf(place) : this.childNodes.length, 0, child);
    child.parent = this;
  }

  append(...children) {
    for (const child of children) this.insertBefore(typeof child === "string" ? textNode(child) : child, null);
  }

  replaceChildren(...children) {
    for (const child of [...this.childNodes]) child.remove();
    this.append(...children);
  }

  remove() {
    if (this.parent) this.parent.childNodes = this.parent.childNodes.filter((child) => child !== this);
    this.parent = null;
  }

  get textContent() {
    return this.#text + this.childNodes.map((child) => child.textContent).join("");
  }

  set textContent(text) {
    this.replaceChildren();
    this.#text = text;
  }

  addEventListener(type, listener) {
    this.listeners[type] = listener;
  }

  click() {
    return this.listeners.click({ target: this });
  }

  focus() {
    document.activeElement = this;
  }

  contains() {
    return false;
  }

  querySelector() {
    return null;
  }
}

function textNode(text) {
  const node = new Element("#text");
  node.textContent = text;
  return node;
}

/** The page that scripts find as `document`. */
export const document = {
  activeElement: null,
  createElement: (name) => new Element(name),
  createElementNS: (_, name) => new Element(name),
};

/** Every element below one, itself included, that is not hidden nor within a hidden one. */
export function seen(element) {
  return element.hidden ? [] : [element, ...element.childNodes.flatMap(seen)];
}

/** The text that a user reads. */
export const textOf = (element) => seen(element).map((part) => (part.childNodes.length ? "" : part.textContent)).filter(Boolean).join("\n");

/** The button with this text that a user sees, undefined where there is none. */
export const buttonOf = (element, label) => seen(element).find((part) => part.localName === "button" && part.textContent === label);
