// A list of which one thing is chosen: radio buttons drawn as cards, so the arrow keys work as everywhere.

import { h, keyedList, setAttribute, setChildren, setText, uniqueId } from "../dom.js";

/**
 * {element, update(items, chosen), focus(), reveal()}; an item is {key, title, detail, note, noteKind, badges}. The focus goes to
 * what is chosen, else to the first. `seen` hears the keys of the cards in view whenever they change.
 */
export function cardList(label, choose, seen = null) {
  const name = uniqueId("cards");
  const element = h("div", { class: "nvfp4-cards", role: "radiogroup", "aria-label": label });
  const view = seen && inView(seen);
  let chosenKey = null;

  function create({ key }) {
    const input = h("input", { type: "radio", name, value: key, onchange: () => choose(key) });
    const title = h("span", { class: "nvfp4-card-title" });
    const detail = h("span", { class: "nvfp4-card-detail" });
    const badges = h("span", { class: "nvfp4-badges" });
    const note = h("span", { class: "nvfp4-card-note" });
    const card = h("label", { class: "nvfp4-card" }, input, h("span", { class: "nvfp4-card-body" }, title, detail, badges, note));
    let shownBadges = "";
    view?.watch(card, key);
    return {
      element: card,
      input,
      update(item) {
        setText(title, item.title);
        setAttribute(title, "title", item.title);
        setText(detail, item.detail ?? "");
        setText(note, item.note ?? "");
        note.hidden = !item.note;
        setAttribute(note, "data-kind", item.noteKind);
        const wanted = (item.badges ?? []).join("|");
        if (wanted !== shownBadges) setChildren(badges, (item.badges ?? []).map((badge) => h("span", { class: "nvfp4-badge" }, badge)));
        shownBadges = wanted;
        badges.hidden = !wanted;
        input.checked = item.key === chosenKey;
      },
    };
  }

  const rows = keyedList(element, ({ key }) => key, create);
  return {
    element,
    update(items, chosen) {
      chosenKey = chosen;
      rows(items);
    },
    focus: () => (element.querySelector("input:checked") ?? element.querySelector("input"))?.focus(),
    reveal: () => element.querySelector("label:has(input:checked)")?.scrollIntoView({ block: "nearest" }),
  };
}

/** Tells `seen` the keys of the watched elements that the user can see: {watch(element, key)}. */
function inView(seen) {
  const keys = new WeakMap();
  const shown = new Set();
  const observer = new IntersectionObserver((changes) => {
    for (const { target, isIntersecting } of changes) {
      if (isIntersecting) shown.add(keys.get(target));
      else shown.delete(keys.get(target));
    }
    seen([...shown]);
  });
  return {
    watch(element, key) {
      keys.set(element, key);
      observer.observe(element);
    },
  };
}
