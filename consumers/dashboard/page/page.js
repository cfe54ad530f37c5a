"use strict";
const [image, state, mark, age, table, hint] =
  ["image", "state", "mark", "age", "statistics", "hint"].map(id => document.getElementById(id));
const dark = matchMedia("(prefers-color-scheme: dark)"), wide = matchMedia("(min-width: 1000px)");
const WITHIN_PX = 10;
let frame = {status: "", stream: "", refresh_s: 2}, drawn = 0, pointer = null, spots = [], wake = () => {};

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function tick() {
  const seconds = Math.max(0, Math.round((Date.now() - drawn) / 1000));
  const lost = drawn ? seconds > 3 * frame.refresh_s + 2 : frame.status === "lost", stale = frame.status === "STALE";
  image.className = (frame.narrow ? "narrow" : "") + (lost ? " old" : "");
  state.className = lost || stale ? "old" : "";
  write(mark, lost ? "STALE: the dashboard does not answer. Is it running? Trying again." : stale ? "STALE: nothing new comes." : "");
  write(age, drawn ? `Image ${seconds} s old` : lost ? "" : "Connecting…");
  document.title = (lost || stale ? "(STALE) " : "") + (frame.stream ? frame.stream + " – " : "") + "Streaming Dashboard";
}

function show(next) {
  const svg = new DOMParser().parseFromString(next.svg, "image/svg+xml").documentElement;
  svg.setAttribute("role", "group");
  svg.setAttribute("aria-label", `Dashboard ${next.status}; its statistics follow as text`);
  image.replaceChildren(document.importNode(svg, true));
  spots = [...image.querySelectorAll("rect > title")].map(title => [title.parentElement, title.textContent]);
  for (const [element, text] of spots) {  // ours stays while the image is replaced, and comes up on a phone too
    element.querySelector("title").remove();
    element.setAttribute("aria-label", text);
  }
  table.replaceChildren();
  for (const [name, text] of next.statistics) {
    const row = table.insertRow(), head = row.appendChild(document.createElement("th"));
    head.scope = "row";
    head.textContent = name;
    row.insertCell().textContent = text;
  }
  document.documentElement.dataset.theme = next.theme;
  [frame, drawn] = [next, Date.now()];
  point();
}

function point() {
  let nearest = WITHIN_PX, text = "";
  if (pointer) for (const [element, its] of spots) {
    const box = element.getBoundingClientRect();
    const x = pointer.x - (box.left + box.right) / 2, y = pointer.y - (box.top + box.bottom) / 2;
    const away = Math.hypot(Math.max(Math.abs(x) - box.width / 2, 0), Math.max(Math.abs(y) - box.height / 2, 0));
    if (away + Math.hypot(x, y) / 1e5 <= nearest) [nearest, text] = [away + Math.hypot(x, y) / 1e5, its];
  }
  hint.hidden = !text;
  if (!text) return;
  write(hint, text);
  hint.style.left = Math.max(4, Math.min(pointer.x + 14, innerWidth - hint.offsetWidth - 4)) + "px";
  hint.style.top = (pointer.y + 24 + hint.offsetHeight > innerHeight ? pointer.y - hint.offsetHeight - 10 : pointer.y + 18) + "px";
}

async function load() {
  try {
    const narrow = !wide.matches, form = new URLSearchParams({theme: dark.matches ? "dark" : "light", form: narrow ? "narrow" : ""});
    const answer = await fetch("/frame.json?" + form, {cache: "no-store", signal: AbortSignal.timeout(15000)});
    if (!answer.ok) throw new Error(answer.statusText);
    const next = await answer.json(), marked = getSelection();  // text that somebody marks to copy it stays
    if (marked.isCollapsed || !(image.contains(marked.anchorNode) || table.contains(marked.anchorNode))) show({...next, narrow});
  } catch (error) {
    if (!drawn) frame.status = "lost";
  }
  tick();
}

for (const query of [dark, wide]) query.addEventListener("change", () => wake());
for (const name of ["pointermove", "pointerdown", "pointerleave"])
  document.addEventListener(name, event => { pointer = name === "pointerleave" ? null : {x: event.clientX, y: event.clientY}; point(); });
setInterval(tick, 1000);
(async () => {
  for (;;) {
    await load();
    await new Promise(done => { wake = done; setTimeout(done, Math.min(frame.refresh_s, 5) * 1000); });
  }
})();
