// One filter to add: a field, a comparison, and a value, chosen from those that documents have or typed.

import { Problem, get, query } from "./api.js";
import { fill, h, icon } from "./dom.js";
import { count, counted } from "./format.js";

const MOST_KEYS = 500;
const MOST_VALUES = 50;
const COMPARISONS = { eq: "is", ne: "is not", gt: "is over", gte: "is at least", lt: "is under", lte: "is at most", in: "is one of", nin: "is none of" };
const ORDERS = ["gt", "gte", "lt", "lte"];
const TIME = "created_at"; // another in each document, which leaves nothing to count
const OWN = { filename: ["File name", "report.pdf"], pages: ["Pages", "12"], language: ["Language", "en"], created_at: ["Added", "2026-01-31T09:00:00Z"] };

// What was typed: a number, true, false or null where it looks like one; in quotes, a text.
function valueOf(text) {
  if (/^(true|false|null|".*"|-?\d+(\.\d+)?)$/s.test(text)) {
    try { return JSON.parse(text); } catch { /* 007, or a quote in it: a text */ }
  }
  return text;
}

const typedAs = (value) => (typeof value === "string" && (value === "" || valueOf(value.trim()) !== value) ? JSON.stringify(value) : String(value));

// What cannot be told apart once JavaScript has read it would find nothing.
const isExact = (value) => !Number.isInteger(value) || Number.isSafeInteger(value);

export function inWords(filter) {
  if (!COMPARISONS[filter.type]) return JSON.stringify(filter);
  return `${filter.key} ${COMPARISONS[filter.type]} ${Array.isArray(filter.value) ? filter.value.map(typedAs).join(", ") : typedAs(filter.value)}`;
}

async function counts(path) {
  try { return await get(path); } catch (error) {
    if (!(error instanceof Problem)) throw error;
    return { data: [], has_more: false };  // one can still type
  }
}

class FilterForm extends HTMLElement {
  connectedCallback() {
    this.field = h("select", { "aria-label": "Field", onchange: () => { this.isKept = true; this.#loadValues(); } });
    this.comparison = h("select", { "aria-label": "Comparison", onchange: () => this.#show() },
      ...Object.entries(COMPARISONS).map(([value, label]) => h("option", { value }, label)));
    this.value = h("input", { "aria-label": "Value", autocomplete: "off", maxlength: "1000", oninput: () => this.#show() });
    this.values = h("div", { class: "values", role: "group" });
    this.note = h("p", { class: "muted small-text", role: "status" });
    this.append(h("form", { onsubmit: (event) => { event.preventDefault(); this.#submit(); } },
      h("div", { class: "row wrap" }, this.field, this.comparison, this.value, h("button", { class: "primary" }, "Add"),
        h("button", { type: "button", class: "quiet icon-only", "aria-label": "Close", onclick: () => this.#end() }, icon("close"))),
      this.values, this.note));
    this.addEventListener("keydown", (event) => this.#keys(event));
    this.#showFields([], false);
  }

  // The keys of the documents that what was asked before leaves; the most frequent one is the first choice.
  async load(asked) {
    this.asked = asked;
    const keys = await counts(`/metadata${query({ ...asked, limit: MOST_KEYS })}`);
    if (asked !== this.asked || !this.isConnected) return;
    this.#showFields(keys.data, keys.has_more);
    await this.#loadValues();
  }

  #showFields(keys, hasMore) {
    const before = this.isKept && this.field.value; // also what was chosen while the keys were on their way
    this.isKept ||= keys.length > 0;
    fill(this.field,
      keys.length > 0 && h("optgroup", { label: "Metadata" }, ...keys.map(({ key, documents }) =>
        h("option", { value: key || "metadata." }, `${key || "metadata."} (${count(documents)})`)),
      hasMore && h("option", { disabled: true }, `Only the ${count(keys.length)} most frequent`)),
      h("optgroup", { label: "Of each document" }, ...Object.entries(OWN).map(([value, [label]]) => h("option", { value }, label))));
    if ([...this.field.options].some((one) => one.value === before)) this.field.value = before;
  }

  async #loadValues() {
    const key = this.field.value;
    const asking = this.asking = {};
    this.values.inert = true;
    const { data, has_more: hasMore } = key === TIME ? { data: [] } : await counts(`/metadata/values${query({ ...this.asked, key, limit: MOST_VALUES })}`);
    if (asking !== this.asking) return;
    this.values.inert = false;
    this.values.setAttribute("aria-label", `${OWN[key]?.[0] ?? key} of documents`);
    this.value.placeholder = OWN[key]?.[1] ?? (data.length ? typedAs(data[0].value) : "");
    this.offered = data.filter((one) => isExact(one.value));
    this.hasMore = hasMore;
    this.picked = new Set();
    this.#show();
  }

  get #takesMany() { return ["in", "nin"].includes(this.comparison.value); }

  #show() {
    const typed = (this.#takesMany ? this.value.value.split(",").pop() : this.value.value).trim().toLowerCase();
    if (!this.#takesMany) this.picked?.clear();
    const fitting = (this.offered ?? []).filter((one) => typedAs(one.value).toLowerCase().includes(typed)
      && !(ORDERS.includes(this.comparison.value) && typeof one.value === "boolean"));
    fill(this.values, ...fitting.map((one) => this.#choice(one)));
    this.note.textContent = this.hasMore ? `The ${counted(this.offered.length, "most frequent value")}. Any other can be typed.` : "";
    this.value.required = !(this.#takesMany && this.picked?.size);
  }

  #choice({ value, documents }) {
    const label = typedAs(value);
    return h("button", { type: "button", class: "value", title: label, "aria-label": `${label}, ${counted(documents, "document")}`,
      "aria-pressed": this.#takesMany && String(this.picked.has(value)),
      onclick: () => (this.#takesMany ? this.#pick(value, label) : this.#add(value)) },
    h("span", {}, label), h("span", { class: "amount" }, count(documents)));
  }

  // One of several; what was typed to find it has done its work.
  #pick(value, label) {
    this.picked[this.picked.has(value) ? "delete" : "add"](value);
    this.value.value = this.value.value.split(",").slice(0, -1).join(",");
    this.#show();
    [...this.values.children].find((one) => one.title === label)?.focus();
  }

  #submit() {
    const text = this.value.value.trim();
    if (!this.#takesMany) { this.#add(valueOf(text)); return; }
    const typed = text.split(",").map((one) => one.trim()).filter(Boolean).map(valueOf);
    this.#add([...new Set([...this.picked, ...typed])]);
  }

  #add(value) { this.#end({ type: this.comparison.value, key: this.field.value, value }); }

  #end(filter = null) { this.dispatchEvent(new CustomEvent("end", { detail: filter })); }

  // From the value down to those to choose from, and with the arrows from one to another.
  #keys(event) {
    if (event.key === "Escape") { this.#end(); return; }
    const choices = [...this.values.children];
    const here = choices.indexOf(document.activeElement);
    const by = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
    const isEntering = event.target === this.value && event.key === "ArrowDown";
    if (!by || (here < 0 && !isEntering)) return;
    (choices[here + by] ?? (here + by < 0 ? this.value : choices[here]))?.focus();
    event.preventDefault();
  }
}
customElements.define("filter-form", FilterForm);
