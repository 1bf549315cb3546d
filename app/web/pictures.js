// Pages as pictures, fetched when they come into sight, a few at a time; and one of them large.

import { Problem, openOriginal, send } from "./api.js";
import { dialog, h, icon, toast } from "./dom.js";
import { nameOf, pages } from "./format.js";

const AT_ONCE = 3;
const KEPT = 120;
const kept = new Map();
const waiting = [];
let running = 0;

async function fetched(path, signal) {
  if (running >= AT_ONCE) await new Promise((resolve) => waiting.push(resolve));
  running += 1;
  try {
    signal?.throwIfAborted();
    for (let attempt = 0; ; attempt += 1) {
      try {
        return await (await send("GET", path, { signal })).blob();
      } catch (error) {
        if (!(error instanceof Problem) || !error.retryable || attempt === 4) throw error;
        await new Promise((resolve) => setTimeout(resolve, 400 * 2 ** attempt));
      }
    }
  } finally {
    running -= 1;
    waiting.shift()?.();
  }
}

async function pictureOf(path, signal) {
  const known = kept.get(path);
  if (known) {
    kept.delete(path);
    kept.set(path, known);
    return known;
  }
  const url = URL.createObjectURL(await fetched(path, signal));
  kept.set(path, url);
  if (kept.size > KEPT) {
    const [oldest, oldUrl] = kept.entries().next().value;
    kept.delete(oldest);
    URL.revokeObjectURL(oldUrl);
  }
  return url;
}

export function picturePath({ document_id: id, page, highlight, width }) {
  return `/documents/${id}/pages/${page}.png?width=${width}${highlight ? `&highlight=${highlight}` : ""}`;
}

const inSight = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) target.seen(isIntersecting);
}, { rootMargin: "300px" });

// `wanted`: document_id, page, highlight, width. A frame of a page's shape, so that nothing jumps.
class PagePicture extends HTMLElement {
  connectedCallback() { inSight.observe(this); }

  disconnectedCallback() {
    inSight.unobserve(this);
    this.fetching?.abort();
  }

  set wanted(wanted) {
    const path = picturePath(wanted);
    if (path === this.path) return;
    this.fetching?.abort();
    this.fetching = null;
    Object.assign(this, { path, label: wanted.label ?? `Page ${wanted.page}` });
    this.replaceChildren();
    this.classList.remove("has-picture", "has-failed");
    if (this.isConnected) {
      inSight.unobserve(this);
      inSight.observe(this);
    }
  }

  seen(isSeen) {
    if (isSeen && this.path && !this.fetching) this.load(this.path);
  }

  async load(path) {
    const fetching = new AbortController();
    this.fetching = fetching;
    try {
      const image = h("img", { alt: this.label, src: await pictureOf(path, fetching.signal) });
      await image.decode().catch(() => {});
      if (this.path !== path) return;
      this.replaceChildren(image);
      this.classList.add("has-picture");
    } catch (error) {
      if (fetching.signal.aborted || this.path !== path) return;
      this.classList.add("has-failed");
      this.replaceChildren(h("p", {}, error.message));
    }
  }
}
customElements.define("page-picture", PagePicture);

// `shown`: a list of {document_id, page, highlight, filename, title, heading}; the arrows go through it.
export function openViewer(shown, first) {
  let place = first;
  const picture = h("page-picture", { class: "large" });
  const title = h("h2", {});
  const where = h("p", { class: "muted", role: "status" });
  const original = () => openOriginal(shown[place].document_id, shown[place].page).catch((error) => toast(error.message));
  const go = (by) => {
    place = Math.min(Math.max(place + by, 0), shown.length - 1);
    show();
  };
  const previous = h("button", { type: "button", class: "quiet icon-only", "aria-label": "Previous", onclick: () => go(-1) }, icon("previous"));
  const next = h("button", { type: "button", class: "quiet icon-only", "aria-label": "Next", onclick: () => go(1) }, icon("next"));
  const show = () => {
    const one = shown[place];
    title.textContent = nameOf(one);
    where.textContent = [pages(one.page, one.page), one.heading, `${place + 1} of ${shown.length}`].filter(Boolean).join(" · ");
    picture.wanted = { ...one, width: 1400, label: `${nameOf(one)}, page ${one.page}` };
    previous.disabled = place === 0;
    next.disabled = place === shown.length - 1;
    frame.scrollTop = 0;
  };
  const frame = h("div", { class: "viewer-page", tabindex: "0", "aria-label": "Page" }, picture);
  const box = dialog("Page", { class: "viewer" },
    h("header", {}, h("div", { class: "grow" }, title, where), previous, next,
      h("button", { type: "button", class: "quiet", title: "Open the original (o)", onclick: original }, icon("open"), h("span", { class: "wide" }, "Original")),
      h("button", { type: "button", class: "quiet icon-only", "aria-label": "Close", onclick: () => box.close() }, icon("close"))),
    frame);
  box.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight") go(1);
    else if (event.key === "ArrowLeft") go(-1);
    else if (event.key === "o") original();
    else return;
    event.preventDefault();
  });
  show();
  frame.focus();
  return box;
}
