// Step 1: which checkpoint.

import { h, setText } from "../dom.js";
import { matching, typesOf } from "../model/sources.js";
import { cardList } from "../parts/cards.js";
import { notice, searchField } from "../parts/controls.js";
import { debounced } from "../store.js";
import { formatName } from "../text.js";

const SCROLL_MS = 100;

/** The list of checkpoints: {element, update(state)}. */
export function sourceStep({ t, store, sources, selectSource }) {
  const search = searchField(t("source.search"), (text) => store.set({ search: text }));
  const counted = h("p", { class: "nvfp4-help", role: "status" });
  const problem = notice(t("details"));
  let inView = [];
  const look = () => inView.forEach((id) => sources.describe(id));
  // Those that pass while the user scrolls are not looked at.
  const lookSoon = debounced(look, SCROLL_MS);
  const list = cardList(t("source.list"), selectSource, (ids) => {
    inView = ids;
    lookSoon();
  });
  const element = h("div", { class: "nvfp4-stack" }, h("p", { class: "nvfp4-lead" }, t("source.lead")), search.element, problem.element, counted, list.element);

  function cardOf(entry, header) {
    const [folder, ...rest] = entry.id.split("/");
    const known = header && !header.pending;
    const facts = [known && header.family_title, known && typesOf(header, formatName), t.size(entry.bytes)];
    const badges = [folder, known && header.all_in_one && t("source.allInOne")];
    return {
      key: entry.id,
      title: rest.join("/"),
      detail: facts.filter(Boolean).join(" · "),
      badges: badges.filter(Boolean),
      note: known ? t.told(header.problem) : "",
      noteKind: known && !header.convertible ? "warning" : "info",
    };
  }

  function update(state) {
    search.update(state.search);
    const shown = matching(state.sources ?? [], state.search);
    list.update(shown.map((entry) => cardOf(entry, state.headers[entry.id])), state.source);
    problem.show("error", state.sourcesError?.message ?? "", state.sourcesError?.details);
    setText(counted, countText(state, shown.length));
    look();
  }

  function countText(state, count) {
    if (!state.sources) return state.sourcesError ? "" : t("loading");
    return state.sources.length ? t("source.count", { count }) : t("source.none");
  }

  return { element, update };
}
