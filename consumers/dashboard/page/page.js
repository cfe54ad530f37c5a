const [image, state, mark, age, table, hint] =
  ["image", "state", "mark", "age", "statistics", "hint"].map(id => document.getElementById(id));
const dark = matchMedia("(prefers-color-scheme: dark)"), wide = matchMedia("(min-width: 1000px)");
let frame = {status: "WAITING", stream: "", refresh_s: 2}, drawn = Date.now(), held = false, pointer = null;

function tick() {
  const seconds = Math.round((Date.now() - drawn) / 1000);
  const lost = seconds > 3 * frame.refresh_s + 2, old = lost || frame.status === "STALE";
  image.className = (frame.narrow ? "narrow" : "") + (lost ? " old" : "");
  state.className = old ? "old" : "";
  const why = held ? "the image is not updated while text is selected." : "the dashboard does not answer. Is it running? Retrying.";
  const words = lost ? `STALE: ${why}` : old ? "STALE: no new records." : "";
  if (mark.textContent !== words) mark.textContent = words;  // screen readers read each assignment aloud
  age.textContent = image.firstChild ? `Image ${seconds} s old` : "Connecting…";
  document.title = (old ? "(STALE) " : "") + (frame.stream ? frame.stream + " – " : "") + "Streaming Dashboard";
}

function show(next) {
  const svg = new DOMParser().parseFromString(next.svg, "image/svg+xml").documentElement;
  image.replaceChildren(svg);
  table.replaceChildren();
  for (const words of next.statistics) {
    const row = table.insertRow();
    row.innerHTML = "<th scope=row></th><td></td>";
    words.forEach((text, cell) => row.cells[cell].textContent = text);
  }
  document.documentElement.dataset.theme = next.theme;
  [frame, drawn] = [next, Date.now()];
  point();
}

function point() {
  const text = pointer && document.elementFromPoint(...pointer)?.closest("rect[aria-label]")?.getAttribute("aria-label");
  hint.hidden = !text;
  if (!text) return;
  hint.textContent = text;
  const [x, y] = pointer, {offsetWidth: width, offsetHeight: height} = hint;
  hint.style.left = Math.max(4, Math.min(x + 14, innerWidth - width - 4)) + "px";
  hint.style.top = (y + 24 + height > innerHeight ? y - height - 10 : y + 18) + "px";
}

async function load() {
  const narrow = !wide.matches;
  const form = new URLSearchParams({theme: dark.matches ? "dark" : "light", form: narrow ? "narrow" : "wide"});
  try {
    const answer = await fetch("/frame.json?" + form, {signal: AbortSignal.timeout(15000)});
    const next = await answer.json();
    held = !getSelection().isCollapsed;  // a new image would end the selection of text
    if (!held) show({...next, narrow});
  } catch { held = false; }  // the age of the image shows the failure
  tick();
  setTimeout(load, Math.min(frame.refresh_s, 5) * 1000);
}

for (const name of ["pointermove", "pointerdown", "pointerleave"])
  document.addEventListener(name, event => { pointer = name === "pointerleave" ? null : [event.clientX, event.clientY]; point(); });
setInterval(tick, 1000);
load();
