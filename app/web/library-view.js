// All documents: sorted and filtered by the service, read on as one scrolls.

import { Problem, allCollections, get, post, query, send } from "./api.js";
import { address, dialog, fill, h, reconcile, toast } from "./dom.js";
import { ago, bytes, count, counted, nameOf, time } from "./format.js";
import { store } from "./tasks.js";

const PAGE = 100;
const UNDO_SECONDS = 7;
const AT_ONCE = 4;
const amountOf = ({ documents }, status) => status ? documents[status] : Object.values(documents).reduce((sum, one) => sum + one, 0);
const STATUSES = { "": "Any status", ready: "Ready", processing: "Processing", queued: "Queued", failed: "Failed", cancelled: "Cancelled" };
const COLUMNS = [["title", "Document", "asc"], ["status", "Status", "asc"], ["pages", "Pages", "desc"], ["chunks", "Passages", "desc"],
  ["bytes", "Size", "desc"], ["created_at", "Added", "desc"]];

class DocumentRow extends HTMLElement {
  connectedCallback() {
    if (this.link) return;
    this.setAttribute("role", "row");
    this.check = h("input", { type: "checkbox" });
    this.link = h("a", {});
    this.more = h("span", { class: "muted small-text" });
    this.cells = Object.fromEntries(["status", "pages", "chunks", "bytes", "created_at"].map((name) => [name, h("span", { role: "cell", class: `cell ${name}` })]));
    this.append(h("span", { role: "cell", class: "cell check" }, this.check),
      h("span", { role: "cell", class: "cell document" }, this.link, this.more), ...Object.values(this.cells));
    if (this.waiting) this.show(this.waiting);
  }

  show(one) {
    if (!this.link) { this.waiting = one; return; }
    if (this.shown === one) return;
    this.shown = one;
    const name = nameOf(one);
    this.check.value = one.document_id;
    this.check.setAttribute("aria-label", `Select ${name}`);
    this.link.textContent = name;
    this.link.setAttribute("href", `#/document?id=${one.document_id}`);
    this.more.textContent = [name !== one.filename && one.filename, one.collection !== "default" && one.collection].filter(Boolean).join(" · ");
    fill(this.cells.status, h("span", { class: `pill ${one.status}`, title: one.error?.message }, one.error ? one.error.code.replaceAll("_", " ") : one.status));
    this.cells.pages.textContent = one.pages === null ? "" : count(one.pages);
    this.cells.chunks.textContent = one.chunks ? count(one.chunks) : "";
    this.cells.bytes.textContent = bytes(one.bytes);
    fill(this.cells.created_at, h("time", { datetime: one.created_at, title: time(one.created_at) }, ago(one.created_at)));
  }
}
customElements.define("document-row", DocumentRow);

class LibraryView extends HTMLElement {
  connectedCallback() {
    this.documents = [];
    this.selected = new Set();
    this.hiddenIds = new Set();
    this.name = h("input", { type: "search", placeholder: "Filter by name or title", "aria-label": "Filter by name or title",
      oninput: () => { clearTimeout(this.typing); this.typing = setTimeout(() => this.#go({ name: this.name.value.trim() }, false), 200); } });
    this.collection = h("select", { "aria-label": "Collection", onchange: () => this.#go({ collection: this.collection.value }) });
    this.status = h("select", { "aria-label": "Status", onchange: () => this.#go({ status: this.status.value }) });
    this.note = h("p", { class: "muted", role: "status" });
    this.rows = h("div", { role: "rowgroup", class: "rows", onchange: (event) => this.#select(event.target) });
    this.head = h("div", { role: "row", class: "head" });
    this.end = h("div", { class: "end" });
    this.bar = h("div", { class: "selection", role: "toolbar", "aria-label": "Selected documents", hidden: true });
    this.append(h("div", { class: "row wrap spread" }, h("h1", {}, "Library"), this.note),
      h("div", { class: "filters row wrap" }, this.name, this.collection, this.status),
      h("div", { class: "documents", role: "table", "aria-label": "Documents" }, h("div", { role: "rowgroup" }, this.head), this.rows), this.end, this.bar);
    this.watcher = new IntersectionObserver(([{ isIntersecting }]) => isIntersecting && this.next && this.#more(), { rootMargin: "600px" });
    this.watcher.observe(this.end);
    this.onend = () => { clearTimeout(this.refreshing); this.refreshing = setTimeout(() => this.#refresh(), 800); };
    store.addEventListener("end", this.onend);
  }

  disconnectedCallback() {
    this.watcher.disconnect();
    store.removeEventListener("end", this.onend);
    clearTimeout(this.typing);
    clearTimeout(this.refreshing);
    this.asking?.abort();
  }

  open(address) {
    this.asked = { name: address.get("name") ?? "", collection: address.get("collection") ?? "", status: address.get("status") ?? "",
      sort: address.get("sort") ?? "created_at", order: address.get("order") ?? "desc" };
    if (document.activeElement !== this.name) this.name.value = this.asked.name;
    this.#showHead();
    this.#showChoices();
    this.selected.clear();
    this.#showSelection();
    this.#load();
  }

  #go(change, isNew = true) {
    const next = { ...this.asked, ...change };
    if (next.sort === "created_at" && next.order === "desc") next.sort = next.order = "";
    history[isNew ? "pushState" : "replaceState"](null, "", `#/library${query(next)}`);
    this.open(address().asked);
  }

  #showHead() {
    const { sort, order } = this.asked;
    const all = h("input", { type: "checkbox", "aria-label": "Select all that are shown", onchange: () => {
      for (const row of this.rows.children) {
        row.check.checked = all.checked;
        this.selected[all.checked ? "add" : "delete"](row.check.value);
      }
      this.#showSelection();
    } });
    const focused = this.head.contains(document.activeElement) ? document.activeElement.dataset.sort : null;
    fill(this.head, h("span", { role: "columnheader", class: "cell check" }, all), ...COLUMNS.map(([key, label, first]) => {
      const isSorted = key === sort;
      return h("span", { role: "columnheader", class: `cell ${key === "title" ? "document" : key}`, "aria-sort": isSorted ? (order === "asc" ? "ascending" : "descending") : "none" },
        h("button", { type: "button", "data-sort": key, onclick: () => this.#go({ sort: key, order: isSorted ? (order === "asc" ? "desc" : "asc") : first }) },
          label, isSorted && h("span", { "aria-hidden": "true" }, order === "asc" ? " ↑" : " ↓")));
    }));
    if (focused) this.head.querySelector(`[data-sort="${focused}"]`)?.focus();
  }

  async #showChoices() {
    const { collection, status } = this.asked;
    fill(this.status, ...Object.entries(STATUSES).map(([value, label]) => h("option", { value, selected: value === status }, label)));
    try { this.collections = await allCollections(); } catch (error) { if (!(error instanceof Problem)) throw error; }
    fill(this.collection, h("option", { value: "" }, "All collections"), ...(this.collections ?? []).map((one) =>
      h("option", { value: one.name, selected: one.name === collection }, `${one.name} (${count(amountOf(one))})`)));
    this.#showNote();
  }

  #showNote() {
    const { collection, status, name } = this.asked;
    const shown = (this.collections ?? []).filter((one) => !collection || one.name === collection);
    const total = name ? null : shown.reduce((sum, one) => sum + amountOf(one, status), 0);
    this.note.textContent = !this.hasLoaded ? "" : this.next ? (total ? counted(total, "document") : `more than ${counted(this.documents.length, "document")}`)
      : counted(this.documents.length - this.hiddenIds.size, "document");
  }

  async #load(isQuiet = false) {
    this.asking?.abort();
    const asking = this.asking = new AbortController();
    this.loading = null;
    if (!isQuiet) this.rows.classList.add("is-stale");
    try {
      const wanted = Math.min(500, isQuiet ? Math.max(PAGE, this.documents.length) : PAGE);
      const list = await get(`/documents${query({ ...this.asked, limit: wanted })}`, { signal: asking.signal });
      if (asking !== this.asking) return;
      if (isQuiet && this.documents.length > wanted) {  // what is beyond is as it was
        const fresh = new Map(list.data.map((one) => [one.document_id, one]));
        this.documents = this.documents.map((one) => fresh.get(one.document_id) ?? one);
      } else {
        this.documents = list.data;
        this.next = list.next;
      }
      this.hasLoaded = true;
      this.#show();
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof Problem)) throw error;
      fill(this.end, h("div", { class: "empty", role: "alert" }, h("p", {}, error.message), h("button", { type: "button", onclick: () => this.#load() }, "Try again")));
    } finally {
      if (asking === this.asking) this.rows.classList.remove("is-stale");
    }
  }

  #refresh() { if (this.isConnected) { this.#load(true); this.#showChoices(); } }

  async #more() {
    if (this.loading) return;
    const { asking, next } = this;
    this.loading = get(`/documents${query({ ...this.asked, limit: PAGE, after: next })}`, { signal: asking.signal });
    try {
      const list = await this.loading;
      if (asking !== this.asking) return;
      this.documents.push(...list.data);
      this.next = list.next;
      this.#show();
    } catch (error) {
      if (error.name !== "AbortError") toast(error.message);
    } finally {
      this.loading = null;
    }
    this.watcher.unobserve(this.end);  // still in sight? then it tells again
    this.watcher.observe(this.end);
  }

  #show() {
    const shown = this.documents.filter((one) => !this.hiddenIds.has(one.document_id));
    reconcile(this.rows, shown, (one) => one.document_id, () => h("document-row", {}));
    const isFiltered = this.asked.name || this.asked.collection || this.asked.status;
    fill(this.end, ...(shown.length ? (this.next ? [h("p", { class: "muted center" }, "Loading more …")] : [])
      : [h("div", { class: "empty" }, h("h2", {}, isFiltered ? "No document matches" : "No documents yet"),
        h("p", {}, isFiltered ? "Change the filters above." : "Drop PDFs or folders anywhere on this page."))]));
    this.#showNote();
  }

  #select(box) {
    this.selected[box.checked ? "add" : "delete"](box.value);
    this.#showSelection();
  }

  #showSelection() {
    const amount = this.selected.size;
    this.bar.hidden = amount === 0;
    if (!amount) { this.rows.querySelectorAll("input:checked").forEach((box) => { box.checked = false; }); return; }
    if (this.bar.firstChild) { this.bar.firstChild.textContent = `${count(amount)} selected`; return; }
    const action = (label, work, kind = "") => h("button", { type: "button", class: kind, onclick: () => work([...this.selected]) }, label);
    fill(this.bar, h("strong", {}, `${count(amount)} selected`),
      action("Try again", (ids) => this.#retry(ids)), action("Move …", (ids) => this.#move(ids)), action("Metadata …", (ids) => this.#metadata(ids)),
      action("Delete", (ids) => this.#delete(ids), "danger"), action("Clear", () => this.#clear(), "quiet"));
  }

  #clear() {
    this.selected.clear();
    this.#showSelection();
  }

  // Nothing is deleted before there is no way back: who closes the page meanwhile keeps the documents.
  #delete(ids) {
    ids.forEach((id) => this.hiddenIds.add(id));
    this.#clear();
    this.#show();
    const back = () => { clearTimeout(timer); ids.forEach((id) => this.hiddenIds.delete(id)); this.#show(); };
    const timer = setTimeout(async () => {
      try {
        for (let from = 0; from < ids.length; from += 100) await post("/documents/delete", { document_ids: ids.slice(from, from + 100) });
        ids.forEach((id) => store.forget(id));
        const gone = new Set(ids);
        this.documents = this.documents.filter((one) => !gone.has(one.document_id));
        ids.forEach((id) => this.hiddenIds.delete(id));
        this.#refresh();
      } catch (error) { back(); toast(error.message); }
    }, UNDO_SECONDS * 1000);
    toast(`${counted(ids.length, "document")} deleted.`, { action: "Undo", onaction: back, seconds: UNDO_SECONDS - 0.5 });
  }

  async #retry(ids) {
    this.#clear();
    await this.#doing(async () => {
      let amount = 0;
      for (let from = 0; from < ids.length; from += 500) amount += (await post("/documents/retry", { document_ids: ids.slice(from, from + 500) })).count;
      toast(amount ? `${counted(amount, "document")} started again.` : "None of these has failed.");
      store.load();
    });
  }

  #move(ids) {
    const input = h("input", { id: "move-to", list: "collections", required: true, maxlength: "200", autocomplete: "off" });
    this.#form(`Move ${counted(ids.length, "document")}`, [h("label", { for: "move-to" }, "To the collection"), input,
      h("datalist", { id: "collections" }, ...(this.collections ?? []).map((one) => h("option", { value: one.name })))],
    "Move", () => this.#change(ids, () => ({ collection: input.value.trim() })));
  }

  #metadata(ids) {
    const key = h("input", { id: "meta-key", required: true, placeholder: "year", autocomplete: "off" });
    const value = h("input", { id: "meta-value", placeholder: "2025 (empty removes the field)", autocomplete: "off" });
    this.#form(`Metadata of ${counted(ids.length, "document")}`, [h("label", { for: "meta-key" }, "Field"), key, h("label", { for: "meta-value" }, "Value"), value],
      "Save", () => this.#change(ids, (one) => {
        const { [key.value.trim()]: _, ...metadata } = one.metadata;
        return { metadata: value.value.trim() ? { ...metadata, [key.value.trim()]: plain(value.value.trim()) } : metadata };
      }));
  }

  #form(title, fields, label, work) {
    const box = dialog(title, { class: "small" }, h("form", { onsubmit: (event) => { event.preventDefault(); box.close(); work(); } },
      h("h2", {}, title), ...fields, h("div", { class: "row end" }, h("button", { type: "button", class: "quiet", onclick: () => box.close() }, "Cancel"), h("button", { class: "primary" }, label))));
    box.querySelector("input").focus();
  }

  async #change(ids, changeOf) {
    this.#clear();
    await this.#doing(async () => {
      const left = [...ids];
      const one = async () => {
        for (let id = left.pop(); id; id = left.pop()) {
          const known = this.documents.find((other) => other.document_id === id) ?? await get(`/documents/${id}`);
          const changed = await (await send("PATCH", `/documents/${id}`, { json: changeOf(known) })).json();
          this.documents = this.documents.map((other) => (other.document_id === id ? changed : other));
        }
      };
      await Promise.all(Array.from({ length: AT_ONCE }, one));
      toast(`${counted(ids.length, "document")} changed.`);
    });
  }

  async #doing(work) {
    try { await work(); } catch (error) { if (!(error instanceof Problem)) throw error; toast(error.message); }
    this.#refresh();
  }
}
customElements.define("library-view", LibraryView);

export function plain(text) {
  try { return JSON.parse(text); } catch { return text; }
}
