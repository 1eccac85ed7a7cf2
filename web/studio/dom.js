// Elements without a framework: built once, then changed in place, so that focus and scroll positions stay.

const SVG = "http://www.w3.org/2000/svg";
const PROPERTIES = new Set(["value", "checked", "disabled", "indeterminate", "hidden", "open"]);

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (PROPERTIES.has(name)) element[name] = value;
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/**
 * An HTML element. Attributes named on… are listeners; strings among the children are text, never HTML.
 * @returns {any}
 */
export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);

/**
 * An SVG element.
 * @returns {any}
 */
export const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

/** Set an element's text, only when it differs: screen readers announce live regions that are written again. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Set or remove an attribute. */
export function setAttribute(element, name, value) {
  if (value === null || value === undefined || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value === true ? "" : String(value));
}

/** Replace the children, unless they are the same ones already. */
export function setChildren(element, ...children) {
  const wanted = children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
  const same = wanted.length === element.childNodes.length && wanted.every((child, i) => element.childNodes[i] === child);
  if (!same) element.replaceChildren(...wanted);
}

/**
 * A function that keeps the children of `parent` in step with a list: an element per key, made once by
 * `create(item)`, which returns {element, update(item)}. An element that stays keeps its focus.
 */
export function keyedList(parent, keyOf, create) {
  const rows = new Map();
  return (items) => {
    const wanted = new Set(items.map(keyOf));
    for (const [key, row] of rows) {
      if (wanted.has(key)) continue;
      row.element.remove();
      rows.delete(key);
    }
    let place = parent.firstChild;
    for (const item of items) {
      const key = keyOf(item);
      if (!rows.has(key)) rows.set(key, create(item));
      const row = rows.get(key);
      row.update(item);
      if (row.element === place) place = place.nextSibling;
      else parent.insertBefore(row.element, place);
    }
  };
}

let ids = 0;

/** An id for labels and descriptions, unique on the page. */
export function uniqueId(word) {
  ids += 1;
  return `nvfp4-${word}-${ids}`;
}
