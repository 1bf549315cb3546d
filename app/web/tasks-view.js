// Three groups: what needs a person, what is running, what is done.

import { cancel, cancelWaiting, isOpen, retry, retryAll, store } from "./tasks.js";
import { fill, h, reconcile, toast } from "./dom.js";
import { ago, bytes, count, counted, seconds } from "./format.js";

const SHOWN = 100;
const PASSWORD = new Set(["encrypted"]);

const failed = (error) => toast(error.message);

function button(label, onclick, kind = "quiet") {
  return h("button", { type: "button", class: kind, onclick: async (event) => {
    const pressed = event.currentTarget;
    pressed.disabled = true;
    try { await onclick(); } catch (error) { failed(error); }
    pressed.disabled = false;
  } }, label);
}

function timeLeft(task) {
  const { pages_done: done, pages_total: total } = task.progress;
  if (task.status !== "processing" || !total || done < 3 || !task.started_at) return null;
  const left = (Date.now() - new Date(task.started_at)) / 1000 / done * (total - done);
  return left > 2 ? `${seconds(left)} left` : null;
}

const STAGES = { queued: "Queued", reading: "Reading", ocr: "Reading scanned pages", embedding: "Embedding", publishing: "Publishing" };

export function sentence(task) {
  const { stage, pages_done: done, pages_total: total } = task.progress;
  switch (task.status) {
    case "queued": return task.queue_position ? `Queued, place ${count(task.queue_position)}` : "Queued";
    case "retrying": return task.next_attempt_at && new Date(task.next_attempt_at) > Date.now()
      ? `Will be tried again in ${seconds((new Date(task.next_attempt_at) - Date.now()) / 1000)}` : "About to be tried again";
    case "processing": return [STAGES[stage], total && `page ${count(done)} of ${count(total)}`, timeLeft(task)].filter(Boolean).join(" · ");
    case "success": return [counted(task.result.pages, "page"), counted(task.result.chunks, "passage"),
      task.result.pages_failed.length && `${counted(task.result.pages_failed.length, "page")} not readable`, ago(task.finished_at)].filter(Boolean).join(" · ");
    case "cancelled": return `Cancelled ${ago(task.finished_at)}`;
    default: return task.result.message;
  }
}

// A row that is one file: bytes on their way first, then its task. It is updated in place.
class FileRow extends HTMLElement {
  connectedCallback() {
    if (this.name) return;
    this.classList.add("file-row");
    this.name = h("span", { class: "name" });
    this.about = h("span", { class: "about" });
    this.bar = h("progress", { max: 1, "aria-label": "Progress" });
    this.actions = h("div", { class: "actions" });
    this.append(h("span", { class: "dot", "aria-hidden": "true" }), h("div", { class: "grow" }, this.name, this.about, this.bar), this.actions);
    if (this.waiting) this.show(this.waiting);
  }

  show(one) {
    if (!this.name) { this.waiting = one; return; }
    const isUpload = "file" in one;
    const [text, fraction, kind] = isUpload ? this.#upload(one) : this.#task(one);
    this.name.textContent = isUpload ? one.name : one.filename;
    if (this.about.textContent !== text) this.about.textContent = text;
    this.bar.hidden = fraction === undefined;
    if (fraction === null) this.bar.removeAttribute("value");
    else if (fraction !== undefined) this.bar.value = fraction;
    this.dataset.kind = kind;
    const state = isUpload ? `${one.state}${one.id}` : `${one.task_id}${one.status}`;
    if (state === this.state) return;
    this.state = state;
    const hadFocus = this.actions.contains(document.activeElement);
    fill(this.actions, ...(isUpload ? this.#uploadActions(one) : this.#taskActions(one)));
    if (hadFocus) (this.actions.querySelector("input, button, a") ?? this).focus();
  }

  #upload(one) {
    switch (one.state) {
      case "waiting": return [`Waiting to be sent · ${bytes(one.bytes)}`, 0, "open"];
      case "sending": return [one.problem ? one.problem.message : `Sending · ${bytes(one.bytes * one.sent)} of ${bytes(one.bytes)}`, one.sent, "open"];
      case "duplicate": return ["This file is here already. Nothing was added.", undefined, "note"];
      default: return [one.problem.message, undefined, "failed"];
    }
  }

  #uploadActions(one) {
    const dismiss = (label) => button(label, () => store.dismiss(one));
    switch (one.state) {
      case "duplicate": return [h("a", { class: "button", href: `#/document?id=${one.accepted.document_id}` }, "Show the one that is there"), dismiss("Dismiss")];
      case "refused": return [one.problem.retryable && button("Try again", () => store.again(one)), dismiss("Dismiss")].filter(Boolean);
      default: return [dismiss("Cancel")];
    }
  }

  #task(task) {
    const { pages_done: done, pages_total: total } = task.progress;
    const fraction = task.status === "processing" ? (total ? done / total : null) : undefined;
    const kind = { success: "done", error: "failed", cancelled: "note" }[task.status] ?? "open";
    return [sentence(task), fraction, kind];
  }

  #taskActions(task) {
    const open = h("a", { class: "button", href: `#/document?id=${task.document_id}` }, "Open");
    if (isOpen(task)) return [button("Cancel", () => cancel(task.task_id))];
    if (task.status === "success") return [open];
    if (task.status === "error" && PASSWORD.has(task.result.code)) return [this.#passwordForm(task)];
    return [button("Try again", () => retry(task.document_id)), task.status === "error" && open].filter(Boolean);
  }

  #passwordForm(task) {
    const input = h("input", { type: "password", autocomplete: "off", placeholder: "Password", "aria-label": `Password of ${task.filename}`, required: true });
    return h("form", { class: "row", onsubmit: async (event) => {
      event.preventDefault();
      try { await retry(task.document_id, input.value); } catch (error) { failed(error); }
    } }, input, h("button", { class: "primary" }, "Unlock"));
  }
}
customElements.define("file-row", FileRow);

export const fileRow = () => h("file-row", { tabindex: "-1" });
export const keyOf = (one) => ("file" in one ? one.id.replace(/\++$/, "") : one.document_id);

class TasksView extends HTMLElement {
  connectedCallback() {
    this.lists = {};
    const group = (name, title, empty) => {
      const list = h("div", { class: "files" });
      const head = h("div", { class: "row wrap group-actions" });
      const none = h("p", { class: "muted none" }, empty);
      const amount = h("span", { class: "amount" });
      this.lists[name] = { list, head, none, amount };
      return h("section", { "aria-labelledby": `group-${name}` },
        h("div", { class: "row wrap spread" }, h("h2", { id: `group-${name}` }, title, " ", amount), head), list, none);
    };
    this.append(h("h1", {}, "Tasks"),
      group("attention", "Needs attention", "Nothing. Every file has come through."),
      group("running", "Running", "Nothing is being worked on. Drop PDFs anywhere on this page."),
      group("done", "Done", "Nothing yet."));
    this.update = () => this.show();
    store.addEventListener("change", this.update);
    this.timer = setInterval(this.update, 5000);
    this.show();
  }

  disconnectedCallback() {
    store.removeEventListener("change", this.update);
    clearInterval(this.timer);
  }

  show() {
    const tasks = [...store.tasks.values()].sort((a, b) => (a.created_at < b.created_at ? 1 : -1));
    const of = (test) => tasks.filter(test);
    const uploads = store.uploads;
    const groups = {
      attention: [...uploads.filter((one) => one.state === "refused" || one.state === "duplicate"), ...of((task) => task.status === "error")],
      running: [...store.sending, ...of(isOpen).sort(inTurn)],
      done: of((task) => task.status === "success" || task.status === "cancelled"),
    };
    for (const [name, items] of Object.entries(groups)) {
      const { list, none, amount } = this.lists[name];
      reconcile(list, items.slice(0, SHOWN), keyOf, fileRow);
      none.hidden = items.length > 0 || !store.hasLoaded;
      none.textContent = none.textContent || "";
      amount.textContent = items.length ? count(items.length) + (items.length >= SHOWN ? "+" : "") : "";
    }
    this.#kinds(groups.attention);
    this.#waiting(groups.running);
  }

  #kinds(items) {
    const kinds = new Map();
    for (const one of items) {
      const code = one.result?.code;
      if (code && !PASSWORD.has(code)) kinds.set(code, (kinds.get(code) ?? 0) + 1);
    }
    const many = [...kinds].filter(([, amount]) => amount > 1);
    reconcile(this.lists.attention.head, many, ([code, amount]) => `${code}${amount}`, ([code, amount]) =>
      button(`Try all ${count(amount)} “${code.replaceAll("_", " ")}” again`, async () => toast(`${counted(await retryAll(code), "document")} started again.`)));
  }

  #waiting(items) {
    const isMany = items.filter((one) => one.status === "queued" || one.status === "retrying").length > 1;
    reconcile(this.lists.running.head, isMany ? ["cancel"] : [], String, () =>
      button("Cancel all waiting", async () => toast(`${counted(await cancelWaiting(), "task")} cancelled.`)));
  }
}
customElements.define("tasks-view", TasksView);

function inTurn(a, b) {
  const place = (task) => (task.status === "queued" ? task.queue_position ?? Infinity : 0);
  return place(a) - place(b) || (a.created_at < b.created_at ? -1 : 1);
}

export { button };
