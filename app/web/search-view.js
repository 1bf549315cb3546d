// One field. Results come as you type; the address holds all that was asked.

import { Problem, allCollections, get, openOriginal, send } from "./api.js";
import { copy, fill, h, icon, reconcile, toast } from "./dom.js";
import { inWords } from "./filter-form.js";
import { count, counted, decimal, nameOf, pages } from "./format.js";
import { openViewer } from "./pictures.js";
import { fileRow, keyOf } from "./tasks-view.js";
import { store } from "./tasks.js";

const PAUSE = 180;
const SAMPLES = ["annual-report.pdf", "salt-marsh-article.pdf", "wildbienen.pdf"];
const FIRST_SEARCH = "How much power did the turbines make from July to September?";
const MODES = { hybrid: "Meaning and words", vector: "Meaning", text: "Words" };
const PARTS = { words: "Words", vector: "Meaning", document: "Document", coverage: "Words covered", phrase: "Exact phrase" };

const isFilter = (text) => {
  try { return typeof JSON.parse(text) === "object"; } catch { return false; }
};

// Of its pages the one that has most of its lines.
function pageOf(hit) {
  const lines = new Map();
  for (const [page] of hit.boxes) lines.set(page, (lines.get(page) ?? 0) + 1);
  return [...lines].reduce((best, one) => (one[1] > best[1] ? one : best), [hit.page_start, 0])[0];
}

// The passage around the first words that were found, these marked. Marks count characters, not parts of them.
export function passage(hit, isWhole) {
  const whole = hit.text.replace(/\s+/g, " ").trim();
  const skipped = hit.heading && whole.startsWith(`${hit.heading} `) ? hit.heading.length + 1 : 0;
  const text = whole.slice(skipped);
  const characters = Array.from(hit.text);
  const place = (at) => characters.slice(0, at).join("").replace(/\s+/g, " ").trimStart().length - skipped;
  const marks = hit.marks.map(([begin, end]) => [place(begin), place(end)]).filter(([begin]) => begin >= 0);
  let from = 0;
  if (!isWhole && marks.length) {
    const [first] = marks[0];
    const sentence = text.lastIndexOf(". ", first) + 2;
    if (first > 160) from = sentence > 1 && first - sentence < 200 ? sentence : text.indexOf(" ", first - 120) + 1;
  }
  const parts = [from > 0 && "… "];
  for (const [begin, end] of marks) {
    parts.push(text.slice(from, begin), h("mark", {}, text.slice(begin, end)));
    from = end;
  }
  return [...parts, text.slice(from)];
}

class SearchView extends HTMLElement {
  static tag = "search-view";

  connectedCallback() {
    this.input = h("input", { type: "search", id: "query", placeholder: "Ask a question, or type some words", autocomplete: "off",
      spellcheck: "false", maxlength: "2000", "aria-label": "Search", "aria-describedby": "found", enterkeyhint: "search" });
    this.form = h("form", { role: "search", class: "search-form", onsubmit: (event) => { event.preventDefault(); this.#ask(true); } },
      icon("search"), this.input);
    this.filters = h("div", { class: "filters row wrap" });
    this.adding = h("div", {});
    this.found = h("p", { class: "muted found", id: "found", role: "status" });
    this.tools = h("div", { class: "row" });
    this.results = h("div", { class: "results" });
    this.welcome = h("div", { class: "welcome" });
    this.append(h("h1", { class: "visually-hidden" }, "Search"), this.form, this.filters, this.adding,
      h("div", { class: "row spread found-row" }, this.found, this.tools), this.results, this.welcome);
    this.input.addEventListener("input", () => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this.#ask(), PAUSE);
    });
    this.addEventListener("keydown", (event) => this.#keys(event));
    this.onend = () => { this.stats = this.collections = null; this.#showIdle(); };
    store.addEventListener("end", this.onend);
    this.update = () => this.#showFirst();
    store.addEventListener("change", this.update);
  }

  disconnectedCallback() {
    store.removeEventListener("end", this.onend);
    store.removeEventListener("change", this.update);
    this.asking?.abort();
    clearTimeout(this.typing);
  }

  // What the address says is what is asked.
  open(address) {
    const asked = {
      q: address.get("q") ?? "", collection: address.get("collection") ?? "", mode: address.get("mode") ?? "hybrid",
      documents: address.getAll("document"), where: address.getAll("where").filter(isFilter),
    };
    if (this.asked && JSON.stringify(asked) === JSON.stringify(this.asked)) return;
    const before = JSON.stringify(this.asked && this.#narrowing);
    this.asked = asked;
    if (JSON.stringify(this.#narrowing) !== before) this.adding.firstChild?.load(this.#narrowing);
    if (this.input.value.trim() !== asked.q) this.input.value = asked.q;
    if (document.activeElement === document.body || document.activeElement?.id === "main") this.input.focus();
    this.#showFilters();
    this.#run();
  }

  #go(change, isNew = true) {
    const next = { ...this.asked, ...change };
    const address = new URLSearchParams();
    if (next.q) address.set("q", next.q);
    if (next.collection) address.set("collection", next.collection);
    if (next.mode !== "hybrid") address.set("mode", next.mode);
    next.documents.forEach((one) => address.append("document", one));
    next.where.forEach((one) => address.append("where", one));
    const hash = `#/search${address.size ? `?${address}` : ""}`;
    if (hash === location.hash) return;
    history[isNew ? "pushState" : "replaceState"](null, "", hash);
    this.open(address);
  }

  // While one types the address follows; a pause of typing is no step for the back button.
  #ask(isSubmitted = false) {
    clearTimeout(this.typing);
    const q = this.input.value.trim();
    this.#go({ q }, isSubmitted || !this.asked.q || !q);
    if (isSubmitted) this.querySelector(".hit")?.focus();
  }

  get request() {
    const { q, collection, mode, documents } = this.asked;
    const filter = this.#filter;
    return { query: q, ...(collection && { collection }), ...(documents.length && { document_ids: documents }),
      ...(filter && { filter }), ...(mode !== "hybrid" && { mode }) };
  }

  get #filter() {
    const filters = this.asked.where.map((text) => JSON.parse(text));
    return filters.length > 1 ? { type: "and", filters } : filters[0];
  }

  // What leaves some documents only, as a list of metadata is asked for it.
  get #narrowing() {
    const { collection, documents } = this.asked;
    return { collection, document_ids: documents, filter: this.#filter && JSON.stringify(this.#filter) };
  }

  async #run() {
    this.asking?.abort();
    this.toggleAttribute("idle", !this.asked.q);
    if (!this.asked.q) {
      this.answer = null;
      fill(this.results);
      this.found.textContent = "";
      fill(this.tools);
      this.#showIdle();
      return;
    }
    fill(this.welcome);
    const asking = new AbortController();
    this.asking = asking;
    this.results.classList.add("is-stale");
    if (!this.answer) fill(this.results, ...[0, 1, 2].map(() => h("div", { class: "skeleton" })));
    try {
      const began = performance.now();
      const response = await send("POST", "/search", { signal: asking.signal,
        json: { ...this.request, group_by: "document", group_size: 3, limit: 12, explain: true, highlight: true } });
      const answer = await response.json();
      if (asking !== this.asking) return;
      this.answer = answer;
      this.#showResults(performance.now() - began);
    } catch (error) {
      if (error.name === "AbortError" || asking !== this.asking) return;
      if (!(error instanceof Problem)) throw error;
      this.answer = null;
      this.found.textContent = "";
      fill(this.results, h("div", { class: "empty" }, h("h2", {}, "The search failed"), h("p", {}, error.message),
        h("button", { type: "button", class: "primary", onclick: () => this.#run() }, "Search again")));
      if (error.status === 0) this.retrying = setTimeout(() => asking === this.asking && this.#run(), 2000);
    } finally {
      if (asking === this.asking) this.results.classList.remove("is-stale");
    }
  }

  get hits() { return this.answer?.data.flatMap((one) => one.hits) ?? []; }

  #showResults() {
    const { data, took_ms: took, degraded } = this.answer;
    const hits = this.hits;
    this.found.textContent = hits.length
      ? `${counted(hits.length, "passage")} in ${counted(data.length, "document")} · ${took < 10 ? decimal(took) : count(Math.round(took))} ms${
        degraded.includes("embedder") ? " · by words alone: the embedder is out" : ""}` : "";
    fill(this.tools, ...(hits.length ? [
      h("button", { type: "button", class: "quiet", onclick: () => copy(this.#curl(), "curl command") }, "curl"),
      h("button", { type: "button", class: "quiet", onclick: () => copy(this.#python(), "Python") }, "Python")] : []));
    this.#showFilters();
    if (!hits.length) {
      fill(this.results, h("div", { class: "empty", role: "status" }, h("h2", {}, "Nothing was found"),
        h("p", {}, "Try other words, a question, or fewer filters."),
        this.#isFiltered && h("button", { type: "button", class: "quiet", onclick: () => this.#go({ collection: "", documents: [], where: [] }) }, "Search everything")));
      return;
    }
    let place = 0;
    fill(this.results, ...data.map((one) => this.#group(one, () => place++)));
  }

  #group(one, nextPlace) {
    const isOnly = this.asked.documents.length === 1;
    const name = nameOf(one);
    return h("section", { class: "group", "aria-label": name },
      h("header", { class: "row spread" },
        h("div", { class: "grow" }, h("h2", {}, h("a", { href: `#/document?id=${one.document_id}` }, name)),
          h("p", { class: "muted small-text" }, [name !== one.filename && one.filename, counted(one.hits.length, "passage")].filter(Boolean).join(" · "))),
        !isOnly && h("button", { type: "button", class: "quiet", onclick: () => this.#go({ documents: [one.document_id] }) }, "Only here")),
      ...one.hits.map((hit) => this.#hit(hit, nextPlace())));
  }

  #hit(hit, place) {
    const text = h("p", { class: "passage" }, passage(hit));
    const why = this.#why(hit);
    const whole = h("button", { type: "button", class: "quiet small-text", "aria-expanded": "false", onclick: () => {
      const isWhole = text.classList.toggle("is-whole");
      fill(text, passage(hit, isWhole));
      whole.textContent = isWhole ? "Less" : "Whole passage";
      whole.setAttribute("aria-expanded", String(isWhole));
    } }, "Whole passage");
    requestAnimationFrame(() => { whole.hidden = text.scrollHeight <= text.clientHeight + 1 && !text.textContent.startsWith("… "); });
    const picture = h("page-picture", { "aria-hidden": "true" });
    picture.wanted = { document_id: hit.document_id, page: pageOf(hit), highlight: hit.chunk_id, width: 360 };
    const view = () => this.#view(place);
    return h("article", { class: "hit", tabindex: "0", "data-place": String(place),
      "aria-label": `${pages(hit.page_start, hit.page_end)}${hit.heading ? `, ${hit.heading}` : ""}` },
      h("div", { class: "grow" },
        h("p", { class: "where" }, h("strong", {}, pages(hit.page_start, hit.page_end)), hit.heading && h("span", { class: "heading" }, hit.heading)),
        text,
        h("div", { class: "row hit-actions" }, whole,
          h("details", { class: "why" }, h("summary", {}, h("span", { class: "meter", "aria-hidden": "true" }, meter(hit.score)), "Why this hit"), why))),
      h("button", { type: "button", class: "page-button", "aria-label": `Show page ${count(hit.page_start)} large`, onclick: view }, picture));
  }

  #why(hit) {
    const rows = Object.entries(PARTS).filter(([name]) => hit.explain && name in hit.explain).map(([name, label]) =>
      h("tr", {}, h("th", { scope: "row" }, label), h("td", {}, h("span", { class: "meter" }, meter(hit.explain[name], hit.score)))));
    const places = [hit.places?.vector && `place ${count(hit.places.vector)} by meaning`, hit.places?.words && `place ${count(hit.places.words)} by words`];
    return h("div", {},
      h("p", {}, `Score ${hit.score.toFixed(2)}`, ...places.filter(Boolean).map((text) => ` · ${text}`)),
      hit.matched.length > 0 && h("p", {}, "Words found: ", hit.matched.join(", ")),
      rows.length > 0 && h("table", {}, h("tbody", {}, rows)));
  }

  #view(place) {
    openViewer(this.hits.map((hit) => ({ ...hit, page: pageOf(hit), highlight: hit.chunk_id })), place);
  }

  #keys(event) {
    const hit = event.target.closest?.(".hit");
    if (event.target === this.input && event.key === "ArrowDown") this.querySelector(".hit")?.focus();
    else if (!hit || event.target !== hit) return;
    else if (event.key === "ArrowDown" || event.key === "j") this.#focusHit(hit, 1);
    else if (event.key === "ArrowUp" || event.key === "k") this.#focusHit(hit, -1);
    else if (event.key === "Enter") this.#view(Number(hit.dataset.place));
    else if (event.key === "o") {
      const one = this.hits[hit.dataset.place];
      openOriginal(one.document_id, pageOf(one)).catch((error) => toast(error.message));
    } else return;
    event.preventDefault();
  }

  #focusHit(hit, by) {
    const hits = [...this.querySelectorAll(".hit")];
    (hits[hits.indexOf(hit) + by] ?? (by < 0 ? this.input : hit)).focus();
  }

  get #isFiltered() {
    return Boolean(this.asked.collection || this.asked.documents.length || this.asked.where.length);
  }

  async #statsOnce() {
    try { this.stats ??= await get("/stats"); } catch (error) { if (!(error instanceof Problem)) throw error; }
    return this.stats;
  }

  async #collectionsOnce() {
    try { this.collections ??= await allCollections(); } catch (error) { if (!(error instanceof Problem)) throw error; }
    return this.collections;
  }

  async #showFilters() {
    const collections = await this.#collectionsOnce();
    if (!this.isConnected || !collections) return;
    const hadFocus = this.filters.contains(document.activeElement) && document.activeElement.id;
    const { collection, mode, documents, where } = this.asked;
    const amount = Object.fromEntries(collections.map((one) => [one.name, one.documents.ready]));
    const isCounted = !documents.length && !where.length; // what other filters leave of each is not known
    const labelled = (name, documents) => (isCounted ? `${name} (${count(documents)})` : name);
    const names = collections.map((one) => one.name);
    if (collection && !names.includes(collection)) names.push(collection);
    const total = collections.reduce((sum, one) => sum + one.documents.ready, 0);
    const choice = h("select", { id: "in-collection", "aria-label": "Collection", onchange: (event) => this.#go({ collection: event.target.value }) },
      h("option", { value: "" }, labelled("All collections", total)),
      ...names.map((name) => h("option", { value: name, selected: name === collection }, labelled(name, amount[name] ?? 0))));
    const how = h("select", { id: "by-mode", "aria-label": "Search by", onchange: (event) => this.#go({ mode: event.target.value }) },
      ...Object.entries(MODES).map(([value, label]) => h("option", { value, selected: value === mode }, label)));
    const chips = [
      ...documents.map((id) => this.#chip(this.#nameOfDocument(id), () => this.#go({ documents: documents.filter((one) => one !== id) }))),
      ...where.map((text) => this.#chip(inWords(JSON.parse(text)), () => this.#go({ where: where.filter((one) => one !== text) })))];
    fill(this.filters, choice, how, ...chips,
      h("button", { type: "button", class: "quiet", id: "add-filter", hidden: this.adding.hasChildNodes(), onclick: () => this.#addFilter() }, "+ Filter"));
    if (hadFocus) document.getElementById(hadFocus)?.focus();
  }

  #nameOfDocument(id) {
    const found = this.answer?.data.find((one) => one.document_id === id);
    return `In “${found ? nameOf(found) : "one document"}”`;
  }

  #chip(label, remove) {
    return h("span", { class: "chip" }, label, h("button", { type: "button", "aria-label": `Remove filter: ${label}`, onclick: remove }, icon("close")));
  }

  #addFilter() {
    const form = h("filter-form", { onend: ({ detail: filter }) => {
      form.remove();
      this.#showFilters();
      this.input.focus();
      if (filter) this.#go({ where: [...this.asked.where, JSON.stringify(filter)] });
    } });
    fill(this.adding, form);
    this.#showFilters();
    form.field.focus();
    form.load(this.#narrowing);
  }

  #curl() {
    const body = JSON.stringify(this.request).replaceAll("'", "'\\''");
    return `curl -s ${location.origin}/search -H 'Content-Type: application/json' \\\n    -d '${body}'`;
  }

  #python() {
    return `import httpx\n\nrequest = json.loads(${JSON.stringify(JSON.stringify(this.request))})\n`.replace("import httpx", "import json\n\nimport httpx")
      + `answer = httpx.post("${location.origin}/search", json=request).json()\nfor hit in answer["data"]:\n`
      + `    print(hit["filename"], hit["page_start"], hit["text"])\n`;
  }

  // Without a question: how much there is, or a first step.
  async #showIdle() {
    if (this.asked?.q || !this.isConnected) return;
    const stats = await this.#statsOnce();
    if (this.asked?.q || !this.isConnected || !stats) return;
    const total = Object.values(stats.documents).reduce((sum, one) => sum + one, 0);
    if (total) {
      this.trying ||= this.welcome.querySelector(".first") !== null && store.sending.length > 0;
      fill(this.welcome, h("p", { class: "muted" }, [counted(stats.documents.ready, "document"), counted(stats.pages, "page"),
        counted(stats.chunks, "passage")].join(" · ")),
        stats.documents.failed > 0 && h("p", {}, h("a", { href: "#/tasks" }, `${counted(stats.documents.failed, "document")} ${stats.documents.failed === 1 ? "needs" : "need"} attention`)));
      return;
    }
    if (this.welcome.querySelector(".first")) return;
    fill(this.welcome, h("div", { class: "first" },
      h("h2", {}, "Nothing to search yet"),
      h("p", {}, "Drop PDFs or folders anywhere on this page. Every file ends in a clear verdict, and you find its words on the page they stand on."),
      h("div", { class: "row wrap center" },
        h("button", { type: "button", class: "primary", onclick: () => document.getElementById("add").click() }, "Choose PDFs"),
        h("button", { type: "button", onclick: (event) => this.#trySamples(event.currentTarget) }, "Try three samples"))));
  }

  async #trySamples(pressed) {
    pressed.disabled = true;
    try {
      const files = await Promise.all(SAMPLES.map(async (name) =>
        new File([await (await send("GET", `/web/samples/${name}`)).blob()], name, { type: "application/pdf" })));
      store.add(files, { collection: "samples" });
    } catch (error) {
      pressed.disabled = false;
      toast(error.message);
      return;
    }
    this.first = new Set(SAMPLES);
    const search = () => {
      const ended = [...store.tasks.values()].filter((task) => task.collection === "samples" && task.status === "success");
      if (ended.length < SAMPLES.length) return;
      store.removeEventListener("change", search);
      this.first = null;
      this.stats = this.collections = null;
      if (!this.isConnected || this.asked.q) return;
      this.input.value = FIRST_SEARCH;
      this.#ask();
    };
    store.addEventListener("change", search);
  }

  // The samples on their way, in the place where they were asked for.
  #showFirst() {
    if (!this.first || this.asked.q) return;
    if (!this.list?.isConnected) fill(this.welcome, this.list = h("div", { class: "files" }));
    const known = [...store.sending, ...[...store.tasks.values()].filter((task) => task.collection === "samples")];
    reconcile(this.list, known, (one) => one.filename ?? one.name ?? keyOf(one), fileRow);
  }
}
customElements.define("search-view", SearchView);

function meter(value, most = 1) {
  const bar = h("i", {});
  bar.style.width = `${Math.round(Math.min(1, Math.max(0, value / (most || 1))) * 100)}%`;
  return bar;
}
