// The frame around the views: addresses, keys, what is dropped, and whether the service answers.

import { forgetKey, hasKey, keyEvents } from "./api.js";
import { address, dialog, h, toast } from "./dom.js";
import { count, counted } from "./format.js";
import { filesOf, isOpen, store } from "./tasks.js";
import "./search-view.js";
import "./tasks-view.js";
import "./library-view.js";
import "./document-view.js";
import "./health-view.js";

const VIEWS = { search: "Search", tasks: "Tasks", library: "Library", document: "Document", health: "Health" };
const main = document.getElementById("main");
let shown = null;

function route() {
  const { path, asked } = address();
  const name = VIEWS[path] ? path : "search";
  const isNew = shown?.localName !== `${name}-view`;
  if (isNew) {
    shown = document.createElement(`${name}-view`);
    main.replaceChildren(shown);
    document.title = name === "search" ? "pdf-ingest" : `${VIEWS[name]} · pdf-ingest`;
    for (const link of document.querySelectorAll(".top nav a")) {
      const isHere = link.hash === `#/${name === "document" ? "library" : name}`;
      link.toggleAttribute("aria-current", isHere);
      if (isHere) link.setAttribute("aria-current", "page");
    }
    window.scrollTo(0, 0);
    if (document.activeElement === document.body || !document.activeElement?.isConnected) main.focus({ preventScroll: true });
  }
  shown.open?.(asked);
}
window.addEventListener("hashchange", route);
window.addEventListener("popstate", route);

function add(files) {
  if (!files.length) {
    toast("There is no PDF in it.");
    return;
  }
  const { path, asked } = address();
  const collection = path === "library" && asked.get("collection");
  store.add(files, collection ? { collection } : {});
  toast(`${counted(files.length, "file")} on the way.`, path === "tasks" ? { seconds: 3 }
    : { action: "Show", onaction: () => { location.hash = "#/tasks"; } });
}

document.getElementById("add").addEventListener("click", () => {
  const input = h("input", { type: "file", multiple: true, accept: "application/pdf,.pdf" });
  input.addEventListener("change", () => add([...input.files]));
  input.click();
});

const drop = document.getElementById("drop");
let depth = 0;
const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
addEventListener("dragenter", (event) => { if (hasFiles(event)) { event.preventDefault(); depth += 1; drop.hidden = false; } });
addEventListener("dragover", (event) => { if (hasFiles(event)) event.preventDefault(); });
addEventListener("dragleave", (event) => { if (hasFiles(event)) { depth -= 1; drop.hidden = depth > 0 ? false : true; } });
addEventListener("drop", async (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  depth = 0;
  drop.hidden = true;
  add(await filesOf(event.dataTransfer));
});
addEventListener("paste", (event) => { if (event.clipboardData?.files.length) add([...event.clipboardData.files]); });
addEventListener("beforeunload", (event) => { if (store.sending.length) event.preventDefault(); });

const SHORTCUTS = [["/", "Search"], ["?", "These shortcuts"], ["↓ ↑ or j k", "Next and previous hit"], ["Enter", "Show the page of a hit large"],
  ["← →", "Go through the pages of the hits"], ["o", "Open the original PDF"], ["Esc", "Close"]];

function help() {
  if (document.querySelector("dialog[open]")) return;
  const box = dialog("Keyboard shortcuts", { class: "small" }, h("h2", {}, "Keyboard shortcuts"),
    h("dl", { class: "keys" }, ...SHORTCUTS.flatMap(([key, what]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)])),
    h("p", { class: "muted" }, "The API behind this page: ", h("a", { href: "/docs" }, "/docs")),
    h("div", { class: "row end" }, h("button", { type: "button", class: "primary", onclick: () => box.close() }, "Close")));
}
document.getElementById("help").addEventListener("click", help);

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target.closest?.("input:not([type=checkbox]), textarea, select")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.key === "/") {
    if (address().path !== "search") location.hash = "#/search";
    setTimeout(() => document.getElementById("query")?.select());
  } else if (event.key === "?") help();
  else return;
  event.preventDefault();
});

const badge = document.getElementById("badge");
const lost = document.getElementById("lost");
const forget = document.getElementById("forget-key");
forget.addEventListener("click", forgetKey);

function showState() {
  const open = [...store.tasks.values()].filter(isOpen).length + store.sending.length;
  badge.hidden = open === 0;
  badge.textContent = open ? `${count(open)}${open >= 200 ? "+" : ""}` : "";
  forget.hidden = !hasKey();
}

// A restart of the service takes a second or two: only what lasts is worth a word.
let silence = null;
store.addEventListener("change", () => {
  showState();
  if (store.isConnected) {
    clearTimeout(silence);
    silence = null;
    lost.hidden = true;
  } else {
    silence ??= setTimeout(() => {
      lost.textContent = "The service does not answer. Nothing is lost; this page goes on when it is back.";
      lost.hidden = false;
    }, 1500);
  }
});
keyEvents.addEventListener("change", () => {
  showState();
  shown = null;
  route();
});

showState();
store.start();
route();
