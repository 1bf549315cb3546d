// Is it well, what is it doing, how fast does it go.

import { Problem, get, query } from "./api.js";
import { fill, h } from "./dom.js";
import { ago, count, counted, seconds } from "./format.js";
import { sentence } from "./tasks-view.js";

const EVERY = 4000;
const SVG = "http://www.w3.org/2000/svg";
const DOWN = { broker: "The queue cannot be reached; work starts later.", embedder: "The embedder is out; searches are answered from words, and work waits.",
  file_store: "The file store is out; work waits.", workers: "Documents wait, and no worker takes them up.",
  tenant_role: "Keys that are bound to collections open nothing: run `pdf-ingest migrate`." };

class HealthView extends HTMLElement {
  connectedCallback() {
    this.append(h("h1", {}, "Health"), this.body = h("div", { class: "cards" }, h("div", { class: "skeleton" })));
    this.#load();
    this.timer = setInterval(() => document.hidden || this.#load(), EVERY);
  }

  disconnectedCallback() { clearInterval(this.timer); }

  async #load() {
    try {
      const [ready, stats, workers, errors] = await Promise.all([get("/readyz"), get("/stats"), get("/workers"),
        get(`/tasks${query({ status: "error", limit: 6 })}`)]);
      if (this.isConnected) this.#show(ready, stats, workers.data, errors.data);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (error.code === "scope_missing") {
        fill(this.body, h("section", { class: "card wide" }, h("h2", {}, "For administrators"), h("p", {}, "Seeing how the whole service is doing takes a key with the scope admin. Search, library and tasks work with yours.")));
        clearInterval(this.timer);
        return;
      }
      fill(this.body, h("section", { class: "card wide state bad", role: "alert" }, h("h2", {}, "Not well"), h("p", {}, error.message)));
    }
  }

  #show(ready, stats, workers, errors) {
    const waiting = stats.tasks.queued + stats.tasks.retrying;
    const recent = stats.pages_per_minute.slice(-5).reduce((sum, one) => sum + one, 0);
    const state = ready.degraded.length ? "Something is out" : workers.length ? "All is well" : "No worker answers";
    const isBad = state !== "All is well";
    fill(this.body,
      h("section", { class: `card wide state ${isBad ? "bad" : "good"}` }, h("h2", {}, state),
        ...ready.degraded.map((name) => h("p", {}, DOWN[name] ?? name)),
        ...ready.outages.map((one) => h("p", { class: "muted" }, `${one.service.replace("_", " ")}: ${one.reason} (since ${ago(one.since)})`)),
        ...(ready.pauses ?? []).map((one) => h("p", { class: "muted" }, `${one.reason} Work goes on in ${seconds(Math.max(0, new Date(one.until) - Date.now()) / 1000)}.`)),
        !workers.length && h("p", {}, "Uploads are taken and wait until a worker is started."),
        h("p", { class: "muted" }, `Embedder ${ready.degraded.includes("embedder") ? "out" : "answering"} · sandbox ${ready.sandbox}`)),
      card("Documents", figure(Object.values(stats.documents).reduce((sum, one) => sum + one, 0)), list(Object.entries(stats.documents).filter(([, amount]) => amount))),
      card("Queue", figure(waiting), h("p", { class: "muted" }, waiting ? `The oldest has waited ${seconds(stats.queue_oldest_seconds)}.` : "Nothing waits.")),
      card("Found by searches", figure(stats.chunks), h("p", { class: "muted" }, `passages on ${counted(stats.pages, "page")}`)),
      h("section", { class: "card wide" }, h("div", { class: "row spread wrap" }, h("h2", {}, "Pages a minute"), h("p", { class: "muted" }, `${counted(recent, "page")} in the last five minutes`)), chart(stats.pages_per_minute)),
      h("section", { class: "card wide" }, h("h2", {}, "Workers"), workers.length ? h("ul", { class: "plain" }, ...workers.map((one) =>
        h("li", { class: "row" }, h("span", { class: `dot ${one.task ? "busy" : ""}`, "aria-hidden": "true" }), h("span", { class: "grow" },
          one.task ? [h("a", { href: `#/document?id=${one.task.document_id}` }, one.task.filename), ` · ${sentence(one.task)}`] : "Idle"),
        h("span", { class: "muted small-text" }, `${one.host} · ${one.pid}`)))) : h("p", { class: "muted" }, "None answers.")),
      h("section", { class: "card wide" }, h("h2", {}, "Verdicts"), bars(stats.verdicts)),
      h("section", { class: "card wide" }, h("h2", {}, "Last errors"), errors.length ? h("ul", { class: "plain" }, ...errors.map((one) =>
        h("li", {}, h("a", { href: `#/document?id=${one.document_id}` }, one.filename || "A deleted document"), `: ${one.result.message} `, h("span", { class: "muted small-text" }, ago(one.finished_at))))) : h("p", { class: "muted" }, "None.")));
  }
}
customElements.define("health-view", HealthView);

const card = (title, ...children) => h("section", { class: "card" }, h("h2", {}, title), ...children);
const figure = (value) => h("p", { class: "figure" }, count(value));
const list = (pairs) => h("p", { class: "muted" }, pairs.map(([name, amount]) => `${count(amount)} ${name}`).join(" · ") || "None yet.");

function bars(verdicts) {
  const pairs = Object.entries(verdicts).sort((a, b) => b[1] - a[1]);
  if (!pairs.length) return h("p", { class: "muted" }, "None yet.");
  const most = pairs[0][1];
  return h("table", { class: "bars" }, h("tbody", {}, ...pairs.map(([code, amount]) => {
    const bar = h("i", { class: code === "success" ? "good" : "" });
    bar.style.width = `${Math.max(1, amount / most * 100)}%`;
    return h("tr", {}, h("th", { scope: "row" }, code.replaceAll("_", " ")), h("td", {}, bar), h("td", { class: "number" }, count(amount)));
  })));
}

function chart(minutes) {
  const most = Math.max(1, ...minutes);
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 600 90");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("class", "chart");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `Pages in each of the last 60 minutes, at most ${count(most)}`);
  minutes.forEach((amount, place) => {
    const bar = document.createElementNS(SVG, "rect");
    const height = amount ? Math.max(2, amount / most * 86) : 1;
    for (const [name, value] of Object.entries({ x: place * 10 + 1.5, y: 90 - height, width: 7, height, rx: 1.5, class: amount ? "" : "none" })) bar.setAttribute(name, value);
    svg.append(bar);
  });
  return svg;
}
