// One conversion as a card: running with progress, waiting, ended, or interrupted.

import { h, setAttribute, setText } from "../dom.js";
import { fileOf } from "../model/sources.js";
import { button } from "./controls.js";
import { progressBar } from "./meters.js";

/** A conversion that runs: bytes, rate, remaining time, current layer, cancel. */
export function runningJob({ t, cancel }) {
  return (entry) => {
    const name = h("div", { class: "nvfp4-card-title" });
    const bar = progressBar(t("convert.progress"));
    const far = h("div", { class: "nvfp4-job-numbers" });
    const long = h("div", { class: "nvfp4-job-numbers" });
    const label = h("div", { class: "nvfp4-reason" });
    let current = entry;
    const stop = button(t("cancel"), () => cancel(current), { symbol: "times" });
    return {
      element: h("li", { class: "nvfp4-panel nvfp4-stack" }, name, bar.element, far, long, label, h("div", { class: "nvfp4-row" }, stop)),
      update(item) {
        current = item;
        const texts = runningTexts(t, item);
        setText(name, t("convert.into", { source: fileOf(item.source), target: fileOf(item.target) }));
        setText(far, texts[0]);
        setText(long, texts[1]);
        const what = t.told(item.label);
        setText(label, what);
        setAttribute(label, "title", what);
        bar.update(shareOf(item), texts.filter(Boolean).join(" · "));
      },
    };
  };
}

const SETTLED = 0.01;

/** How far it is, and how long it takes: ["43 % · 5.2 GB of 12.1 GB", "310 MB/s · 22 s left"]. */
export function runningTexts(t, { done, total, rate, remaining_s: remaining }) {
  const share = shareOf({ done, total });
  const far = `${t.percent(share)} · ${t("convert.of", { done: t.size(done), total: t.size(total) })}`;
  // The first tensors are small, so a rate from them alone would promise hours.
  const known = share >= SETTLED && rate > 0 && Number.isFinite(remaining);
  return [far, known ? `${t.rate(rate)} · ${t("convert.left", { time: t.duration(remaining) })}` : ""];
}

/** Share 0..1 of the bytes that are written. */
export const shareOf = ({ done, total }) => (total ? done / total : 0);

/** A conversion that waits in the queue. */
export function queuedJob({ t, cancel }) {
  return (entry) => {
    const name = h("div", { class: "nvfp4-card-title" });
    let current = entry;
    const stop = button(t("convert.unqueue"), () => cancel(current), { symbol: "times" });
    return {
      element: h("li", { class: "nvfp4-panel nvfp4-row nvfp4-spread" }, name, stop),
      update(item) {
        current = item;
        setText(name, item.output_name || fileOf(item.source));
      },
    };
  };
}

/** A conversion that the server's end, a crash or a full disk stopped, and that can go on where it was. */
export function interruptedJob({ t, resume, discard }) {
  return (entry) => {
    const name = h("div", { class: "nvfp4-card-title" });
    const detail = h("div", { class: "nvfp4-card-detail" });
    let current = entry;
    const go = button(t("convert.resume"), () => resume(current), { kind: "primary", symbol: "play" });
    const drop = button(t("convert.discard"), () => discard(current), { kind: "danger", symbol: "trash" });
    return {
      element: h("li", { class: "nvfp4-panel nvfp4-stack" }, name, detail, h("div", { class: "nvfp4-row" }, go, drop)),
      update(item) {
        current = item;
        setText(name, fileOf(item.target ?? item.source));
        go.hidden = !item.options;
        setText(detail, interruptedText(t, item));
      },
    };
  };
}

/** How far an interrupted conversion got, and how to go on where the page cannot: it was begun elsewhere, or changed. */
export function interruptedText(t, { done, total, options }) {
  const far = total ? t("convert.interruptedAt", { done: t("convert.of", { done: t.size(done), total: t.size(total) }) }) : "";
  return [far, !options && t("convert.resumeElsewhere")].filter(Boolean).join(" · ");
}

/** A conversion that ended: in success, by the user, or with an error sentence; `there` where its file still is. */
export function finishedJob({ t, open }) {
  return (entry) => {
    const name = h("div", { class: "nvfp4-card-title" });
    const detail = h("div", { class: "nvfp4-card-note" });
    let current = entry;
    const show = button(t("convert.showResult"), () => open(current), { symbol: "chart-bar" });
    return {
      element: h("li", { class: "nvfp4-panel nvfp4-stack" }, name, detail, show),
      update(item) {
        current = item;
        const good = !item.error && !item.cancelled;
        setText(name, fileOf(item.target ?? item.source));
        setText(detail, endedText(t, item));
        setAttribute(detail, "data-kind", item.error ? "error" : item.cancelled || item.skipped ? "info" : "success");
        show.hidden = !good || !item.there;
      },
    };
  };
}

/** How a conversion ended, in one sentence. */
export function endedText(t, { target, error, cancelled, skipped, seconds }) {
  if (error) return t.told(error);
  if (cancelled) return t("convert.cancelled");
  return skipped ? t("ended.there", { name: fileOf(target) }) : t("convert.done", { time: t.duration(seconds) });
}
