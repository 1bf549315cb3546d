// Elements are made of names and texts only: nothing that comes from a PDF is ever read as markup.

export function h(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// Only these are its children from now on; what is nothing is left out.
export function fill(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
}

const PATHS = {
  search: "M11 4a7 7 0 1 0 4.2 12.6l4.1 4.1 1.4-1.4-4.1-4.1A7 7 0 0 0 11 4zm0 2a5 5 0 1 1 0 10 5 5 0 0 1 0-10z",
  close: "M6.4 5 5 6.4 10.6 12 5 17.6 6.4 19l5.6-5.6 5.6 5.6 1.4-1.4-5.6-5.6L19 6.4 17.6 5 12 10.6z",
  previous: "M15.4 5 17 6.6 11.6 12l5.4 5.4-1.6 1.6-7-7z",
  next: "M8.6 5 7 6.6l5.4 5.4L7 17.4 8.6 19l7-7z",
  open: "M14 4v2h2.6l-7 7 1.4 1.4 7-7V10h2V4zM5 6h6V4H5a1 1 0 0 0-1 1v14a1 1 0 0 0 1 1h14a1 1 0 0 0 1-1v-6h-2v5H6V6z",
  down: "M11 4h2v9.2l3.3-3.3 1.4 1.4L12 17l-5.7-5.7 1.4-1.4 3.3 3.3zM5 18h14v2H5z",
};

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", "icon");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

// The view and what is asked of it, as the address says: `#/search?q=why%3F`.
export function address() {
  const [, path, rest] = /^#\/([^?]*)\??(.*)$/s.exec(location.hash) ?? ["", "", "", ""];
  return { path, asked: new URLSearchParams(rest) };
}

// Make the children of `parent` those of `items`, each made once for its key: what stays keeps its focus.
export function reconcile(parent, items, keyOf, make) {
  const known = new Map([...parent.children].map((child) => [child.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    const child = known.get(key) ?? Object.assign(make(item), { key });
    known.delete(key);
    child.show?.(item);
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
  }
  for (const gone of known.values()) gone.remove();
}

export function toast(text, { action, onaction, seconds = 6 } = {}) {
  const box = document.getElementById("toasts");
  const end = () => element.remove();
  const element = h("div", { class: "toast" }, h("span", {}, text),
    action && h("button", { type: "button", class: "quiet", onclick: () => { end(); onaction(); } }, action));
  box.append(element);
  setTimeout(end, seconds * 1000);
}

// A dialog that gives the focus back to where it came from.
export function dialog(label, properties, ...children) {
  const before = document.activeElement;
  const element = h("dialog", { "aria-label": label, ...properties }, ...children);
  element.addEventListener("close", () => {
    element.remove();
    if (before?.isConnected) before.focus();
  });
  element.addEventListener("click", (event) => event.target === element && element.close());
  document.body.append(element);
  element.showModal();
  return element;
}

export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    toast(`${what} copied.`, { seconds: 3 });
  } catch {
    dialog(what, { class: "small" }, h("h2", {}, what), h("textarea", { rows: "8", readonly: true, class: "code" }, text),
      h("p", { class: "muted" }, "Select the text and copy it."));
  }
}
