// All talk with the service. A key is kept for the session of this tab, and never in an address.

import { dialog, h } from "./dom.js";

const KEY = "pdf-ingest-key";
export const keyEvents = new EventTarget();

export class Problem extends Error {
  constructor(detail, { status = 0, code = "unreachable", retryable = true, retryAfter = 1, data = null } = {}) {
    super(detail);
    Object.assign(this, { status, code, retryable, retryAfter, data });
  }
}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;

export function forgetKey() {
  sessionStorage.removeItem(KEY);
  keyEvents.dispatchEvent(new Event("change"));
}

export function headers(more = {}) {
  const key = sessionStorage.getItem(KEY);
  return key === null ? more : { ...more, Authorization: `Bearer ${key}` };
}

export const UNREACHABLE = "The service does not answer. This page keeps asking.";

export async function send(method, path, { json, signal, ...options } = {}) {
  const body = json === undefined ? options.body : JSON.stringify(json);
  const more = json === undefined ? {} : { "Content-Type": "application/json" };
  for (;;) {
    const used = sessionStorage.getItem(KEY);
    let response;
    try {
      response = await fetch(path, { method, body, signal, headers: headers({ ...more, ...options.headers }) });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem(UNREACHABLE);
    }
    if (response.ok) return response;
    const problem = problemOf(response.status, await response.text(), response.headers.get("Retry-After"));
    if (problem.status !== 401) throw problem;
    await askForKey(used);
  }
}

export function problemOf(status, text, retryAfter) {
  let body = {};
  try { body = JSON.parse(text); } catch { /* not one of ours: a proxy's */ }
  const detail = body.detail ?? `The service answered ${status}.`;
  return new Problem(detail, { ...body, status, code: body.code ?? "unknown", retryAfter: Number(retryAfter) || 1 });
}

export async function get(path, options) {
  return (await send("GET", path, options)).json();
}

// In the order of their names, each with its documents by status.
export async function allCollections() {
  const found = [];
  for (let after = ""; after !== null;) {
    const page = await get(`/collections${query({ limit: 500, after })}`);
    found.push(...page.data);
    after = page.next;
  }
  return found;
}

export async function post(path, json, options) {
  return (await send("POST", path, { json, ...options })).json();
}

export function query(parameters) {
  const given = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== null && one !== undefined && one !== "") given.append(name, one);
    }
  }
  const text = given.toString();
  return text && `?${text}`;
}

let asking = null;

// One dialog for all requests that were refused; each of them tries again with what was typed.
export function askForKey(used) {
  if (sessionStorage.getItem(KEY) !== used) return Promise.resolve();
  asking ??= new Promise((resolve) => {
    const input = h("input", { type: "password", id: "key", autocomplete: "off", spellcheck: "false", required: true });
    const refused = used !== null && h("p", { class: "error", role: "alert" }, "This key is refused. Is it complete, and still valid?");
    const box = dialog("Key", { class: "small", oncancel: (event) => event.preventDefault() },
      h("form", { method: "dialog" },
        h("h2", {}, "This service wants a key"),
        refused || h("p", { class: "muted" }, "Whoever runs it can give you one."),
        h("label", { for: "key" }, "Key"), input,
        h("p", { class: "muted" }, "It is kept until you close this tab, and sent to this service only."),
        h("div", { class: "row end" }, h("button", { class: "primary" }, "Continue"))));
    box.addEventListener("close", () => {
      const typed = input.value.trim();
      if (typed) sessionStorage.setItem(KEY, typed);
      asking = null;
      keyEvents.dispatchEvent(new Event("change"));
      resolve();
    });
    input.focus();
  });
  return asking;
}

// Server-sent events with a key: EventSource cannot send one. Goes on for ever, connecting again when it must.
export async function follow(path, { onopen, onevent, onlost, signal }) {
  for (let pause = 250; !signal.aborted; pause = Math.min(pause * 2, 5000)) {
    try {
      const response = await send("GET", path, { signal });
      pause = 125;
      onopen();
      await readEvents(response.body, onevent);
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof Problem || error instanceof TypeError)) throw error;
    }
    onlost();
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

async function readEvents(body, onevent) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  const silence = () => setTimeout(() => reader.cancel(), 20000); // it says something every 5 s
  let timer = silence();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      clearTimeout(timer);
      timer = silence();
      const parts = (rest + value.replaceAll("\r", "")).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const data = part.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
        if (data) onevent(JSON.parse(data));
      }
    }
  } finally {
    clearTimeout(timer);
  }
}

export async function openOriginal(documentId, page) {
  const path = `/documents/${documentId}/file`;
  if (!hasKey()) {
    window.open(`${path}${page ? `#page=${page}` : ""}`, "_blank", "noopener");
    return;
  }
  const tab = window.open("", "_blank");
  try {
    const blob = await (await send("GET", path)).blob();
    const url = URL.createObjectURL(blob);
    if (tab) tab.location = `${url}${page ? `#page=${page}` : ""}`;
    setTimeout(() => URL.revokeObjectURL(url), 600000);
  } catch (error) {
    tab?.close();
    throw error;
  }
}

export async function download(documentId, filename) {
  const url = URL.createObjectURL(await (await send("GET", `/documents/${documentId}/file`)).blob());
  h("a", { href: url, download: filename }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}
