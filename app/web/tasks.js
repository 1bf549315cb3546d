// What becomes of every file: bytes on their way, then tasks as one stream of events tells them.

import { Problem, UNREACHABLE, askForKey, follow, get, headers, keyEvents, post, problemOf, query } from "./api.js";

const UPLOADS_AT_ONCE = 3;
const LISTED = 100;
const FINAL = new Set(["success", "error", "cancelled"]);

export const isOpen = (task) => !FINAL.has(task.status);

// `tasks`: the newest of each document. `uploads`: files that have no task yet, or never will have.
class Store extends EventTarget {
  tasks = new Map();
  uploads = [];
  isConnected = false;
  hasLoaded = false;
  error = null;
  #isChanged = false;
  #waiting = [];
  #sending = 0;
  #stop = null;

  start() {
    this.#stop?.abort();
    this.#stop = new AbortController();
    const { signal } = this.#stop;
    follow("/tasks/events", {
      signal,
      onopen: () => this.#connected(),
      onevent: (task) => this.take(task),
      onlost: () => {
        this.isConnected = false;
        this.changed();
      },
    });
    keyEvents.addEventListener("change", () => this.#restart(), { once: true, signal });
  }

  #restart() {
    this.tasks.clear();
    this.hasLoaded = false;
    this.start();
  }

  // What ended while nobody listened is in the lists; what is open comes on the stream.
  async #connected() {
    this.isConnected = true;
    for (const [id, task] of this.tasks) if (isOpen(task)) this.tasks.delete(id);
    this.changed();
    await this.load();
  }

  async load() {
    try {
      const lists = await Promise.all([["error"], ["success", "cancelled"], ["processing", "retrying", "queued"]].map((status) =>
        get(`/tasks${query({ status, latest: true, limit: LISTED })}`)));
      this.error = null;
      this.hasLoaded = true;
      for (const list of lists) for (const task of list.data) this.take(task);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      this.error = error;
    }
    this.changed();
  }

  take(task) {
    const known = this.tasks.get(task.document_id);
    const isOlder = known && (known.created_at > task.created_at
      || (known.task_id === task.task_id && !isOpen(known) && isOpen(task)));
    if (task.collection === null) this.tasks.delete(task.document_id);
    else if (!isOlder) this.tasks.set(task.document_id, task);
    else return;
    this.changed(task);
  }

  forget(documentId) {
    this.tasks.delete(documentId);
    this.changed();
  }

  // However many events come, everybody looks once a frame.
  changed(task) {
    if (task && !isOpen(task)) this.dispatchEvent(Object.assign(new Event("end"), { task }));
    if (this.#isChanged) return;
    this.#isChanged = true;
    const tell = () => {
      this.#isChanged = false;
      this.dispatchEvent(new Event("change"));
    };
    if (document.hidden) setTimeout(tell, 500);
    else requestAnimationFrame(tell);
  }

  get sending() {
    return this.uploads.filter((upload) => upload.state === "waiting" || upload.state === "sending");
  }

  add(files, fields = {}) {
    for (const file of files) {
      const upload = { id: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`, file, name: file.name, bytes: file.size,
        sent: 0, state: "waiting", fields, problem: null, accepted: null };
      this.uploads.unshift(upload);
      this.#waiting.push(upload);
    }
    this.#next();
    this.changed();
  }

  again(upload, fields = upload.fields) {
    Object.assign(upload, { state: "waiting", problem: null, sent: 0, fields, id: `${upload.id}+` });
    this.#waiting.push(upload);
    this.#next();
    this.changed();
  }

  dismiss(upload) {
    upload.request?.abort();
    upload.state = "dismissed";
    this.uploads = this.uploads.filter((one) => one !== upload);
    this.#waiting = this.#waiting.filter((one) => one !== upload);
    this.changed();
  }

  #next() {
    while (this.#sending < UPLOADS_AT_ONCE && this.#waiting.length) {
      this.#sending += 1;
      this.#send(this.#waiting.shift()).finally(() => {
        this.#sending -= 1;
        this.#next();
      });
    }
  }

  // A broken connection is tried again with the same Idempotency-Key: it stays one upload.
  async #send(upload) {
    for (let pause = 500; upload.state !== "dismissed"; pause = Math.min(pause * 2, 8000)) {
      upload.state = "sending";
      try {
        upload.accepted = await this.#sent(upload);
        break;
      } catch (error) {
        if (upload.state === "dismissed") return;
        upload.problem = error;
        if (error.status !== 0 && error.code !== "queue_full" && error.code !== "idempotency_key_in_work") {
          upload.state = "refused";
          this.changed();
          return;
        }
        this.changed();
        await new Promise((resolve) => setTimeout(resolve, Math.max(pause, error.status ? error.retryAfter * 1000 : 0)));
      }
    }
    if (upload.state === "dismissed") return;
    const { duplicate, task_id: taskId, status } = upload.accepted;
    upload.problem = null;
    if (duplicate && FINAL.has(status)) {
      upload.state = "duplicate";
    } else {
      this.uploads = this.uploads.filter((one) => one !== upload);
      get(`/tasks${query({ document_id: upload.accepted.document_id, latest: true })}`)
        .then((list) => list.data.forEach((task) => this.take(task)), () => {});
    }
    this.dispatchEvent(Object.assign(new Event("accepted"), { upload, taskId }));
    this.changed();
  }

  async #sent(upload) {
    for (;;) {
      const sent = headers({ "Idempotency-Key": upload.id });
      try {
        return await this.#request(upload, sent);
      } catch (error) {
        if (error.status !== 401) throw error;
        await askForKey(sent.Authorization?.slice(7) ?? null);
      }
    }
  }

  // Not fetch: that does not tell how much is sent.
  #request(upload, sent) {
    return new Promise((resolve, reject) => {
      const form = new FormData();
      for (const [name, value] of Object.entries(upload.fields)) form.append(name, value);
      form.append("file", upload.file, upload.name);
      const request = new XMLHttpRequest();
      upload.request = request;
      request.open("POST", "/documents");
      for (const [name, value] of Object.entries(sent)) request.setRequestHeader(name, value);
      request.upload.onprogress = ({ loaded, total }) => {
        upload.sent = total ? loaded / total : 0;
        this.changed();
      };
      request.onload = () => (request.status < 300 ? resolve(JSON.parse(request.responseText))
        : reject(problemOf(request.status, request.responseText, request.getResponseHeader("Retry-After"))));
      request.onerror = () => reject(new Problem(UNREACHABLE));
      request.onabort = () => reject(new Problem("Stopped."));
      request.send(form);
    });
  }
}

export const store = new Store();

export async function retry(documentId, password) {
  const accepted = await post(`/documents/${documentId}/retry`, password ? { password } : {});
  (await get(`/tasks${query({ document_id: documentId, latest: true })}`)).data.forEach((task) => store.take(task));
  return accepted;
}

export async function retryAll(code) {
  const { count } = await post("/documents/retry", { codes: [code] });
  await store.load();
  return count;
}

export async function cancel(taskId) {
  await post(`/tasks/${taskId}/cancel`);
}

export async function cancelWaiting() {
  return (await post("/tasks/cancel")).count;
}

// Files in what was dropped, folders looked through. Only PDFs are taken out of folders.
export async function filesOf(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files];
  const files = [];
  for (const entry of entries) await collect(entry, files, true);
  return files;
}

async function collect(entry, files, isNamed) {
  if (entry.isFile) {
    if (isNamed || /\.pdf$/i.test(entry.name)) files.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!part.length) return;
    for (const one of part) await collect(one, files, false);
  }
}
