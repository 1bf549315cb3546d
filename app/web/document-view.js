// One document: its pages, its passages, its runs.

import { Problem, download, get, openOriginal, query, send } from "./api.js";
import { dialog, fill, h, reconcile, toast } from "./dom.js";
import { bytes, count, counted, date, nameOf, pages, seconds, time } from "./format.js";
import { plain } from "./library-view.js";
import { openViewer } from "./pictures.js";
import { button, sentence } from "./tasks-view.js";
import { retry, store } from "./tasks.js";

const STAGES = ["reading", "ocr", "embedding", "storing"];
const PASSAGES = 50;

class DocumentView extends HTMLElement {
  connectedCallback() {
    this.append(h("p", {}, h("a", { href: "#/library", class: "back" }, "← Library")), this.body = h("div", {}, h("div", { class: "skeleton" })));
    this.onend = (event) => event.task.document_id === this.id_ && this.#load();
    store.addEventListener("end", this.onend);
    this.onchange = () => this.#showTask();
    store.addEventListener("change", this.onchange);
  }

  disconnectedCallback() {
    store.removeEventListener("end", this.onend);
    store.removeEventListener("change", this.onchange);
  }

  open(address) {
    const tab = address.get("tab") ?? "pages";
    if (address.get("id") === this.id_) { this.tab = tab; if (this.document) this.#show(); return; }
    Object.assign(this, { id_: address.get("id"), tab, document: null });
    this.#load();
  }

  async #load() {
    try {
      const [one, runs] = await Promise.all([get(`/documents/${this.id_}`), get(`/tasks${query({ document_id: this.id_, limit: 100 })}`)]);
      Object.assign(this, { document: one, runs: runs.data });
      this.#show();
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      fill(this.body, h("div", { class: "empty", role: "alert" }, h("h1", {}, error.status === 404 ? "This document is gone" : "It cannot be shown"), h("p", {}, error.message)));
    }
  }

  #show() {
    const one = this.document;
    const isFailed = one.status === "failed" || one.status === "cancelled";
    this.task = h("p", { class: "muted", role: "status" });
    fill(this.body,
      h("header", { class: "document-head row wrap spread" },
        h("div", { class: "grow" }, h("h1", {}, nameOf(one)), h("p", { class: "muted" }, one.filename)),
        h("div", { class: "row wrap" },
          h("button", { type: "button", onclick: () => this.#work(() => openOriginal(this.id_)) }, "Open original"),
          button("Download", () => download(this.id_, one.filename), ""),
          h("button", { type: "button", onclick: () => this.#edit() }, "Edit"),
          button(isFailed ? "Try again" : "Ingest again", () => retry(this.id_), ""),
          h("button", { type: "button", class: "danger", onclick: () => this.#delete() }, "Delete"))),
      one.error && h("p", { class: "error" }, one.error.message),
      one.update?.error && h("p", { class: "error" }, `A newer version could not be ingested: ${one.update.error.message}`),
      this.task,
      h("dl", { class: "facts" }, ...facts(one).flatMap(([name, value]) => [h("div", {}, h("dt", {}, name), h("dd", {}, value))])),
      this.#tabs(), this.panel = h("div", { id: "panel", role: "tabpanel", "aria-labelledby": `tab-${this.tab}` }));
    this.#showTask();
    ({ pages: () => this.#pages(), passages: () => this.#passages(), runs: () => this.#runs() })[this.tab]?.();
  }

  #showTask() {
    const task = store.tasks.get(this.id_);
    if (this.task && task) this.task.textContent = task.finished_at ? "" : sentence(task);
  }

  #tabs() {
    const labels = { pages: `Pages (${count(this.document.pages ?? 0)})`, passages: `Passages (${count(this.document.chunks)})`, runs: `Runs (${count(this.runs.length)})` };
    const focused = this.body.querySelector("[role=tab]:focus")?.id;
    const row = h("div", { role: "tablist", class: "tabs", onkeydown: (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!by) return;
      const names = Object.keys(labels);
      this.#choose(names[(names.indexOf(this.tab) + by + names.length) % names.length]);
      document.getElementById(`tab-${this.tab}`).focus();
    } }, ...Object.entries(labels).map(([name, label]) => h("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": "panel",
      "aria-selected": String(name === this.tab), tabindex: name === this.tab ? "0" : "-1", onclick: () => this.#choose(name) }, label)));
    if (focused) queueMicrotask(() => document.getElementById(focused)?.focus());
    return row;
  }

  #choose(tab) {
    history.replaceState(null, "", `#/document?id=${this.id_}&tab=${tab}`);
    this.tab = tab;
    this.#show();
    document.getElementById(`tab-${tab}`).focus();
  }

  #pages() {
    const one = this.document;
    if (one.status !== "ready" || !one.pages) {
      fill(this.panel, h("p", { class: "muted" }, one.status === "ready" || one.error ? "There are no pages to show." : "Its pages are shown when it is ready."));
      return;
    }
    const shown = Array.from({ length: one.pages }, (_, index) => ({ ...one, page: index + 1 }));
    const notes = new Map([...one.pages_failed.map((page) => [page, "not readable"]), ...one.pages_without_text.map((page) => [page, "no text"])]);
    fill(this.panel, h("div", { class: "page-grid" }, ...shown.map((page, place) => {
      const picture = h("page-picture", { "aria-hidden": "true" });
      picture.wanted = { document_id: this.id_, page: page.page, width: 300 };
      return h("button", { type: "button", class: "page-button", "aria-label": `Page ${count(page.page)}`, onclick: () => openViewer(shown, place) },
        picture, h("span", { class: "muted small-text" }, [count(page.page), notes.get(page.page)].filter(Boolean).join(" · ")));
    })));
  }

  async #passages() {
    const list = h("div", { class: "passages" });
    const more = h("div", { class: "center" });
    fill(this.panel, list, more);
    const known = [];
    const load = async (after) => {
      const page = await get(`/documents/${this.id_}/chunks${query({ limit: PASSAGES, after })}`);
      known.push(...page.data);
      reconcile(list, known, (chunk) => chunk.chunk_id, (chunk) => this.#passage(chunk, known));
      fill(more, ...(page.next ? [button("More", () => load(page.next))] : known.length ? [] : [h("p", { class: "muted" }, "It has no passages a search could find.")]));
    };
    await this.#work(() => load());
  }

  #passage(chunk, known) {
    return h("article", { class: "chunk" },
      h("header", { class: "row wrap spread" },
        h("p", { class: "where" }, h("strong", {}, pages(chunk.page_start, chunk.page_end)), chunk.heading && h("span", { class: "heading" }, chunk.heading)),
        h("p", { class: "muted small-text" }, `№ ${count(chunk.ordinal + 1)} · ${counted(chunk.tokens, "token")}`,
          chunk.hidden_text && h("span", { class: "pill failed", title: "Some of it cannot be seen on the page." }, "hidden text"))),
      h("p", { class: "passage is-whole" }, chunk.text),
      h("button", { type: "button", class: "quiet small-text", onclick: () => openViewer(known.map((one) => ({ ...this.document, ...one, page: one.page_start, highlight: one.chunk_id })), known.indexOf(chunk)) }, "Show on the page"));
  }

  #runs() {
    fill(this.panel, h("div", { class: "runs" }, ...this.runs.map((run) => {
      const total = STAGES.reduce((sum, stage) => sum + (run.seconds[stage] ?? 0), 0);
      return h("article", { class: "chunk" },
        h("header", { class: "row wrap spread" }, h("p", {}, h("strong", {}, sentence(run)), run.is_served && h("span", { class: "pill ready" }, "served")),
          h("p", { class: "muted small-text" }, time(run.created_at))),
        h("p", { class: "muted small-text" }, [run.filename, bytes(run.bytes), counted(run.attempt, "attempt")].filter(Boolean).join(" · ")),
        total > 0 && h("div", { class: "stages", "aria-hidden": "true" }, ...STAGES.filter((stage) => run.seconds[stage]).map((stage) => {
          const part = h("i", { class: stage });
          part.style.flexGrow = String(run.seconds[stage] / total);
          return part;
        })),
        total > 0 && h("ul", { class: "legend" }, ...STAGES.filter((stage) => run.seconds[stage]).map((stage) =>
          h("li", {}, h("i", { class: stage }), `${stage} ${seconds(run.seconds[stage])}`))));
    })));
  }

  #edit() {
    const one = this.document;
    const title = h("input", { id: "edit-title", value: one.title ?? "", placeholder: one.filename, maxlength: "500" });
    const collection = h("input", { id: "edit-collection", value: one.collection, required: true, maxlength: "200" });
    const rows = h("div", { class: "pairs" });
    const pair = (key, value) => rows.append(h("div", { class: "row" }, h("input", { value: key, "aria-label": "Field", placeholder: "field" }),
      h("input", { value, "aria-label": "Value", placeholder: "value" }), h("button", { type: "button", class: "quiet", onclick: (event) => event.currentTarget.parentElement.remove() }, "Remove")));
    for (const [key, value] of Object.entries(one.metadata)) pair(key, typeof value === "string" && plain(value) === value ? value : JSON.stringify(value));
    const box = dialog("Edit", { class: "small" }, h("form", { onsubmit: async (event) => {
      event.preventDefault();
      const metadata = Object.fromEntries([...rows.children].map((row) => [...row.querySelectorAll("input")].map((input) => input.value.trim()))
        .filter(([key]) => key).map(([key, value]) => [key, plain(value)]));
      const change = { collection: collection.value.trim(), metadata, ...(title.value.trim() !== (one.title ?? "") && { title: title.value.trim() || null }) };
      await this.#work(async () => {
        this.document = await (await send("PATCH", `/documents/${this.id_}`, { json: change })).json();
        box.close();
        this.#show();
      });
    } }, h("h2", {}, "Edit"), h("label", { for: "edit-title" }, "Title"), title, h("label", { for: "edit-collection" }, "Collection"), collection,
    h("p", { class: "label" }, "Metadata"), rows, h("button", { type: "button", class: "quiet", onclick: () => { pair("", ""); rows.lastChild.firstChild.focus(); } }, "+ Field"),
    h("div", { class: "row end" }, h("button", { type: "button", class: "quiet", onclick: () => box.close() }, "Cancel"), h("button", { class: "primary" }, "Save"))));
    title.focus();
  }

  #delete() {
    const box = dialog("Delete", { class: "small" }, h("h2", {}, `Delete “${nameOf(this.document)}”?`), h("p", {}, "Its file and everything that was read from it are removed."),
      h("div", { class: "row end" }, h("button", { type: "button", class: "quiet", onclick: () => box.close() }, "Keep it"),
        h("button", { type: "button", class: "danger", onclick: () => this.#work(async () => {
          await send("DELETE", `/documents/${this.id_}`);
          store.forget(this.id_);
          box.close();
          location.hash = "#/library";
        }) }, "Delete")));
  }

  async #work(work) {
    try { await work(); } catch (error) { if (!(error instanceof Problem)) throw error; toast(error.message); }
  }
}
customElements.define("document-view", DocumentView);

function facts(one) {
  const language = one.language && new Intl.DisplayNames(undefined, { type: "language" }).of(one.language);
  const metadata = Object.entries(one.metadata).map(([key, value]) => `${key}: ${typeof value === "string" ? value : JSON.stringify(value)}`).join(", ");
  return [["Status", h("span", { class: `pill ${one.status}` }, one.status)], ["Collection", one.collection], ["Pages", one.pages !== null && count(one.pages)],
    ["Passages", count(one.chunks)], ["Size", bytes(one.bytes)], ["Language", language], ["Read by", one.engine], ["Added", date(one.created_at)], ["Metadata", metadata]].filter(([, value]) => value);
}
